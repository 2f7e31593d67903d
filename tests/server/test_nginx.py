"""The documented front, `deploy/nginx.conf`, where nginx is to be had."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.processes import ROOT

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_nginx_accepts_its_configuration(tmp_path: Path) -> None:
    assert NGINX is not None
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run(
        [*made, "-out", str(certificate), "-keyout", str(key)], check=True, capture_output=True
    )
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    here = tmp_path / "nginx.conf"
    here.write_text(text.replace("/etc/sightline", str(tmp_path)))
    checked = subprocess.run(
        [NGINX, "-t", "-c", str(here), "-g", f"pid {tmp_path}/pid; error_log stderr;"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert "warn" not in checked.stderr
