"""The documented front of several hosts, `deploy/haproxy.cfg`, where HAProxy is to be had."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.processes import ROOT

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


@pytest.mark.skipif(HAPROXY is None, reason="HAProxy is not installed")
def test_haproxy_accepts_its_configuration(tmp_path: Path) -> None:
    assert HAPROXY is not None
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run(
        [*made, "-out", str(certificate), "-keyout", str(key)], check=True, capture_output=True
    )
    (tmp_path / "tls.pem").write_text(certificate.read_text() + key.read_text())
    text = (ROOT / "deploy" / "haproxy.cfg").read_text()
    here = tmp_path / "haproxy.cfg"
    named_here = text.replace("web-1:", "127.0.0.1:").replace("web-2:", "127.0.0.2:")
    here.write_text(named_here.replace("/etc/sightline", str(tmp_path)))
    checked = subprocess.run(
        [HAPROXY, "-c", "-f", str(here)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr
