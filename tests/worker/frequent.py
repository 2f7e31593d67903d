"""`celery -A tests.worker.frequent.celery`: the product, whose beat sends a task each moment."""

from celery.schedules import schedule

from wsgi import celery

celery.conf.beat_schedule = {
    "often": {**celery.conf.beat_schedule["grants"], "schedule": schedule(0.2)}
}
