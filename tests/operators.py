"""Who runs the commands of tests."""

import os
import pwd
from socket import gethostname

_USER = pwd.getpwuid(os.geteuid()).pw_name
OPERATOR = f"operator:{_USER}"
ACCOUNT = f"{_USER}@{gethostname()}"

WHY = ("--reason", "maintenance")
"""Why they read tenants' data."""
