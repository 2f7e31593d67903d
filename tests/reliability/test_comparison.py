"""What a run reads from the web processes' logs."""

from pathlib import Path

from reliability.faults.comparison import read_waits

LOG = """
2026-11-30T09:02:16.063728Z [info     ] request   audit_ms=12.5 method=GET x_request_id=run.1.2
{"method":"GET","x_request_id":"run.1.3","audit_ms":2031.0,"event":"request"}
{"method":"GET","x_request_id":"run.1.4","event":"request"}
2026-11-30T09:02:16.063728Z [info     ] request   audit_ms=7.0 method=GET
"""


def test_waits_of_requests_are_read_from_lines_for_people_and_lines_in_json(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    log.write_text(LOG)
    assert read_waits(log) == {"run.1.2": 0.0125, "run.1.3": 2.031}
