"""The command `flask demo access`, with a running server and worker."""

from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest

from tests.demo.conftest import Place
from tests.processes import run_web, run_worker

pytestmark = pytest.mark.slow


def test_demo_access_prints_the_access_and_its_event(place: Place, tmp_path: Path) -> None:
    with (
        run_worker(place.environment, tmp_path / "worker.log"),
        run_web(place.environment, tmp_path / "web.log") as web,
    ):
        port = str(urlsplit(web.url).port)
        assert place.run("seed", "--port", port).exit_code == 0
        made = [place.run("access", "--json"), place.run("access", "--json")]
        shown = place.run("access")
    reports = [orjson.loads(result.stdout) for result in made]
    assert [result.exit_code for result in (*made, shown)] == [0, 0, 0]
    for report in reports:
        assert report["status"] == 200
        assert report["event"]["id"] == report["receipt"]
        assert report["event"]["actor"]["email"] == "engineer@sightline.example"
        assert report["event"]["surface"] == "admin.rules.list"
        assert report["event"]["reason"]["code"] == "incident"
        assert report["event"]["outcome"] == "served"
        assert report["event"]["rows"] == 5
    assert reports[0]["receipt"] != reports[1]["receipt"]
    assert "status   200" in shown.stdout
    assert '"outcome": "served"' in shown.stdout


def test_demo_access_without_file_or_server_is_refused(place: Place) -> None:
    before = place.run("access")
    assert before.exit_code == 1
    assert "run `flask demo seed`" in before.stderr
    assert place.run("seed", "--port", "1").exit_code == 0
    silent = place.run("access")
    assert silent.exit_code == 1
    assert "Nothing of ours answers at http://127.0.0.1:1" in silent.stderr
