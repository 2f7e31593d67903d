"""Celery's configuration. The broker's address and the tasks' key come from the settings."""

from celery.schedules import crontab
from kombu import Exchange, Queue

task_ignore_result = True

# A task of a killed worker is delivered again: every task is idempotent.
task_acks_late = True
task_reject_on_worker_lost = True
worker_prefetch_multiplier = 1

task_default_queue = "default"
task_queues = (
    Queue("default", Exchange("default"), routing_key="default"),
    Queue("audit", Exchange("audit"), routing_key="audit"),
)
task_routes = {"audit.*": {"queue": "audit", "routing_key": "audit"}}
task_publish_retry = False

broker_connection_retry_on_startup = True
broker_connection_max_retries = None
worker_consumer = "webapp.worker.consumer:SealedConsumer"
worker_hijack_root_logger = False
worker_send_task_events = False
worker_enable_remote_control = False
worker_redirect_stdouts = False
enable_utc = True
timezone = "UTC"

beat_scheduler = "webapp.worker.beat:Scheduler"
# Fixed times: they come however often beat is restarted.
beat_schedule = {
    "audit-partitions": {"task": "audit.make_partitions", "schedule": crontab(minute="17")},
    "grants": {"task": "grants.expire", "schedule": crontab()},
    "keys": {"task": "keys.record", "schedule": crontab()},
    "log": {"task": "ledger.seal", "schedule": 5.0},
    "notices": {"task": "notices.send", "schedule": crontab()},
    "simulations": {"task": "rules.simulate", "schedule": crontab()},
    "old-simulations": {"task": "rules.forget_simulations", "schedule": crontab()},
    "old-notices": {"task": "notices.forget", "schedule": crontab(minute="47")},
}
