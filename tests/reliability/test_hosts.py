"""The short form of `make hosts`: a promotion and a partition, on eight hosts, under load."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from reliability.hosts.enclosure import NoHosts, require_hosts
from tests.processes import ROOT

pytestmark = pytest.mark.slow(seconds=40)

WITHIN = 540
FAULTS = ("lagging standby promoted", "web | everybody")
NOTHING_WRONG = (
    "Lost 0, doubled 0, unrecorded 0, contradictory 0, unrequested 0, errors 0, wrong bodies 0,"
    " unexpected refusals 0,"
)
NOTHING_MISSING = "numbers without an event 0, events left in files 0, quarantined 0."


def test_promotion_and_partition_between_hosts_lose_no_record(tmp_path: Path) -> None:
    try:
        require_hosts()
    except NoHosts as error:
        pytest.skip(f"not run: no hosts can be made here: {error}")
    only = [word for fault in FAULTS for word in ("--only", fault)]
    command = [sys.executable, "-m", "reliability.hosts", "--small", "--accesses", "0"]
    ran = subprocess.run(
        [*command, "--faults", str(len(FAULTS)), *only, "--no-document", "--logs", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    said = " ".join(ran.stdout.split())
    assert NOTHING_WRONG in said, said
    assert NOTHING_MISSING in said, said
    acknowledged = re.search(r"of which ([\d,]+) were acknowledged with a receipt", said)
    assert acknowledged is not None
    assert int(acknowledged[1].replace(",", "")) > 0
