# mypy: ignore-errors
# It runs in the environment of the original stack.
"""Print the seconds in which the original stack's models load a page of rules many times."""

import sys
import timeit
from pathlib import Path

from original import RulePage

page, rules, times = Path(sys.argv[1]).read_bytes(), int(sys.argv[2]), int(sys.argv[3])
if len(RulePage.model_validate_json(page).items) != rules:
    sys.exit("the page is not what it should be")
sys.stdout.write(f"{timeit.timeit(lambda: RulePage.model_validate_json(page), number=times)}\n")
