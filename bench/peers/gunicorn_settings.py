"""Stock gunicorn with as many workers and threads as the product's, for the peers."""

import os
import runpy
from pathlib import Path

_product = runpy.run_path(str(Path(__file__).parents[2] / "gunicorn.conf.py"))

bind = f"127.0.0.1:{os.environ['PORT']}"
worker_class = "gthread"
workers = _product["workers"]
threads = _product["threads"]
keepalive = _product["keepalive"]
control_socket_disable = True  # several of them run beside each other
