"""docs/: the table of modes is the code's, names from elsewhere are those answered, every YAML example is valid."""

import re
from pathlib import Path

import pytest
import yaml

from mptrain.config.migration import MODE_NAMES
from mptrain.precision.modes import MODES, Mode
from tests.trainer.runs import config, merged

DOCS = Path(__file__).parents[1] / "docs"
PRECISION = (DOCS / "precision.md").read_text()
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{index}")
    for page in sorted(DOCS.glob("*.md"))
    for index, block in enumerate(re.findall(r"^ *```yaml\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE))
]


def _row(mode: Mode) -> str:
    """Return a mode's row of the table in docs/precision.md."""
    works_on = f"{mode.stored} weights and state" if mode.pure else f"{mode.stored} weights"
    operands = "as computed"
    if mode.gemm:
        scale = "tensor" if mode.gemm.scaling == "tensor" else f"block of {mode.gemm.block_size}"
        operands = f"{mode.gemm.input}, gradients {mode.gemm.grad_output_for_weight}; one scale per {scale}"
    cells = (
        f"`{mode.name}`",
        mode.stored,
        mode.computed,
        mode.accumulated,
        "FP32 master weights" if mode.master else works_on,
        mode.loss_scale,
        operands,
    )
    return f"| {' | '.join(cells)} |"


def test_the_table_of_modes_is_the_code_s():
    table = [
        line for line in PRECISION.splitlines() if re.match(r"\| `[a-z]+\d+[a-z-]*` \| \w+ \| \w+ \| \w+ \|", line)
    ]
    assert table == [_row(mode) for mode in MODES.values()]


def test_names_from_elsewhere_become_what_the_page_says():
    section = PRECISION.partition("## Names from elsewhere")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) == 4
    for theirs, ours in rows[:3]:
        names = re.findall(r"`([^`]+)`", theirs)
        assert [MODE_NAMES[name][1] for name in names] == re.findall(r"`([^`]+)`", ours)
        assert {MODE_NAMES[name][0] for name in names} == {theirs.split("`")[0].strip()}


@pytest.mark.parametrize("block", BLOCKS)
def test_yaml_examples_are_valid(block):
    config(merged({"precision": {"mode": "auto"}}, yaml.safe_load(block)))


def test_there_are_examples():
    assert sum(block.id.startswith("precision-") for block in BLOCKS) >= 3
