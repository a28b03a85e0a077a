"""Every file of recipes/: valid, opening with what it is, and with commands that do what they say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mptrain.catalog import load_config
from mptrain.sweep.plan import Plan, make_plan
from mptrain.sweep.request import read_request

ROOT = Path(__file__).parents[2]
FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "recipes").rglob("*.yaml"))
SWEEPS = [file for file in FILES if "\nvariants:" in (ROOT / file).read_text()]
FOLDERS = {file.parent for file in FILES}


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def plan(*arguments: str) -> Plan:
    request = read_request(arguments)
    return make_plan(request.configs, request.axes, common=request.common)


def commands(text: str, name: str) -> list[list[str]]:
    """Return the arguments of each command of that name in a page."""
    return [shlex.split(line, comments=True) for line in re.findall(rf"^ *{name} (.*)$", text, re.M)]


def test_there_are_as_many_as_one_thinks() -> None:
    assert len(SWEEPS) >= 17
    assert len(FOLDERS) >= 12


@pytest.mark.parametrize("path", SWEEPS, ids=str)
def test_every_run_of_every_sweep_is_valid(path: Path) -> None:
    found = plan(str(path))
    assert found.notices == ()  # no variant twice
    assert {run.run_id.rpartition("_")[2] for run in found.runs} == {"seed-0", "seed-1", "seed-2"}
    head = path.read_text().split("\n\n")[0]
    (command,) = re.findall(r"^#   run: +(mptrain sweep .*)$", head, re.M)
    assert command.startswith(f"mptrain sweep {path} --jobs 2 --output-dir runs/")


def test_every_config_is_valid_and_opens_with_what_it_is() -> None:
    for file in set(FILES) - set(SWEEPS):
        load_config(file)
        first, *rest = file.read_text().splitlines()
        assert first == "# yaml-language-server: $schema=../../mptrain/config/run.schema.json"
        assert any("expect:" in line for line in rest)


@pytest.mark.parametrize("folder", sorted(FOLDERS), ids=str)
def test_commands_of_the_readmes_name_what_exists_and_are_valid(folder: Path) -> None:
    text = (folder / "README.md").read_text().replace("\\\n", "")
    for config, *overrides in commands(text, "mptrain run"):
        load_config(Path(config), overrides)
    swept = {name for arguments in commands(text, "mptrain sweep") for name in arguments if name.endswith(".yaml")}
    if re.search(rf'^for file in {folder}/\*\.yaml; do\n  mptrain sweep "\$file" ', text, re.M):
        swept |= {str(file) for file in folder.glob("*.yaml")}
    assert swept == {str(file) for file in SWEEPS if file.parent == folder}
    for module in re.findall(r"python -m recipes\.(\w+)", text):
        assert Path("recipes", f"{module}.py").exists()
