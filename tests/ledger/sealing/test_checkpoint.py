"""The text of checkpoints: one form of each, and nothing else."""

import pytest

from webapp.ledger.sealing.checkpoint import (
    Checkpoint,
    CheckpointError,
    decode_base64,
    parse_checkpoint,
)
from webapp.ledger.sealing.merkle import EMPTY_ROOT, MAX_SIZE

# The example of c2sp.org/tlog-checkpoint.
SPECIFIED = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
ROOT = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="


def test_specified_example_is_parsed_and_written_alike() -> None:
    checkpoint = parse_checkpoint(SPECIFIED)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20_852_163)
    assert checkpoint.text == SPECIFIED


def test_extension_lines_of_others_are_kept() -> None:
    assert parse_checkpoint(SPECIFIED + "more\n").extensions == ("more",)
    assert parse_checkpoint(SPECIFIED + "more\n").text == SPECIFIED + "more\n"


def test_empty_tree_has_the_hash_of_nothing() -> None:
    assert parse_checkpoint(Checkpoint("log", 0, EMPTY_ROOT).text).root == EMPTY_ROOT
    with pytest.raises(CheckpointError):
        Checkpoint("log", 0, bytes(32))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "log\n1\n",
        f"log\n1\n{ROOT}",
        f"\n1\n{ROOT}\n",
        f"lo g\n1\n{ROOT}\n",
        f"lo+g\n1\n{ROOT}\n",
        f"{'l' * 256}\n1\n{ROOT}\n",
        f"cosignature/v1\n1\n{ROOT}\n",
        f"log\n01\n{ROOT}\n",
        f"log\n-1\n{ROOT}\n",
        f"log\n+1\n{ROOT}\n",
        f"log\n1 \n{ROOT}\n",
        f"log\n1_0\n{ROOT}\n",
        f"log\n\u0661\n{ROOT}\n",
        f"log\n\n{ROOT}\n",
        f"log\n{MAX_SIZE + 1}\n{ROOT}\n",
        f"log\n{'9' * 5_000}\n{ROOT}\n",
        f"log\n1\n{ROOT[:-1]}\n",
        f"log\n1\n{ROOT} \n",
        f"log\n1\n{ROOT[:-2]}J=\n",
        f"log\n1\n{ROOT[4:]}\n",
        f"log\n1\n{ROOT}\n\n",
        f"log\n1\n{ROOT}\n\nmore\n",
        f"log\n1\n{ROOT}\n" + "more\n" * 17,
    ],
)
def test_malformed_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError):
        parse_checkpoint(text)


@pytest.mark.parametrize("text", ["A", "AA", "AA=", "AB==", "AAA", "AA==\n", "A-==", "AA==AA=="])
def test_base64_has_one_form(text: str) -> None:
    with pytest.raises(CheckpointError):
        decode_base64(text)
