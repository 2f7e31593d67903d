"""The product's gunicorn for its limit, without the hooks and the logs that only it needs."""

import os
import runpy
from pathlib import Path

_product = runpy.run_path(str(Path(__file__).parents[2] / "gunicorn.conf.py"))

bind = f"127.0.0.1:{os.environ['PORT']}"
worker_class = _product["worker_class"]
workers = _product["workers"]
threads = _product["threads"]
preload_app = _product["preload_app"]
keepalive = _product["keepalive"]
control_socket_disable = _product["control_socket_disable"]
