"""gunicorn's worker: it reads requests and sends answers without a thread that waits for them."""
