"""A thousand bad inputs, the same ones each time, and proof that what they are held to can be broken."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from mptrain.registry import MODELS
from tests.fuzz.__main__ import batches
from tests.fuzz.case import Case, Damage
from tests.fuzz.damage import DAMAGES, STATE_VALUES, BombOnLoad, inflict
from tests.fuzz.search import search
from tests.fuzz.strategies import KINDS
from tests.fuzz.world import Find, World

CASES = 1000
VALUES = {"bytes": "\x00[", "line": "junk", "json": 7, "state": "nan", "name": "other", "text": "[", "link": "nowhere"}
"""Damage takes -> one such value."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Where the world is."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def world(root):
    """A folder with saved runs, which every case finds as the first one did."""
    torch.set_num_threads(1)
    return World(root)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_refused_in_words(world, kind):
    cases = CASES * KINDS[kind][0] // 100
    done = search(world, kind, cases, seed=0)
    if done.finds:
        pytest.fail("\n\n".join(f"{find}\n{find.case.to_json()}" for find in done.finds.values()))
    assert done.cases >= cases
    # Input that is always refused at the door, or always good, would try nothing.
    assert done.codes[0] >= 0.1 * cases
    assert done.cases - done.codes[0] >= 0.1 * cases


def test_the_kinds_make_up_all_cases():
    assert sum(share for share, _ in KINDS.values()) == 100
    planned = list(batches(20_000, seed=5))
    assert sum(cases for _, cases, _ in planned) == 20_000
    assert len({seed for _, _, seed in planned}) == len(planned)


PLUGIN = """\
import sys
import time
from pathlib import Path
from torch import nn
from mptrain.config.schema import ModelConfig
from mptrain.errors import ConfigError, MptrainError
from mptrain.registry import MODELS

class Odd(MptrainError):
    exit_code = 77

@MODELS.register("{name}", config=ModelConfig, description="x")
def build(config, spec):
    {body}
    return nn.Linear(8, 4)
"""
BREACHES = {
    "pass": None,
    "raise ConfigError('no')": None,
    "raise ValueError": "a traceback",
    "raise Odd('odd')": "exit code 77",
    "Path('../other').write_text('x')": "touched outside",
    "Path('gpt.yaml').write_text('x')": "touched outside",
    "Path('gpt.yaml').unlink()": "touched outside",
    "Path('new').mkdir()": "touched outside",
    "sys.stderr.write('a\\x07')": "not printable",
    "raise KeyboardInterrupt": "without an error line",
    "time.sleep(60)": "took more than",
}


@pytest.mark.parametrize("body", BREACHES)
def test_a_broken_rule_is_found(world, body, tmp_path, monkeypatch):
    """Each rule is broken by a plugin; nothing of mptrain is replaced."""
    monkeypatch.setattr("tests.fuzz.world.SECONDS", 1.0)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"breaks_rule_{list(BREACHES).index(body)}"
    (tmp_path / f"{name}.py").write_text(PLUGIN.format(name=name, body=body))
    case = Case("override", ("check", "--build", "small.yaml", f"plugins=[{name}]", f"model={name}"))
    try:
        if BREACHES[body] is None:
            assert world.check(case) in (0, 2)
        else:
            with pytest.raises(Find, match=BREACHES[body]):
                world.check(case)
    finally:
        MODELS._entries.pop(name, None)
        sys.modules.pop(name, None)
    assert world.check(Case("override", ("check", "small.yaml"))) == 0  # the next case finds the folder whole


class TestDamage:
    """What is done to a saved run is really done."""

    @pytest.fixture
    def run_dir(self, world, root, tmp_path):
        return Path(shutil.copytree(root / "saved" / "small" / "a", tmp_path / "run" / "a"))

    @staticmethod
    def _state(folder):
        return {
            str(path.relative_to(folder)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
            for path in sorted(folder.rglob("*"))
        }

    @pytest.mark.parametrize("what", DAMAGES)
    def test_each_sort_changes_a_file(self, run_dir, what, tmp_path):
        (tmp_path / "targets").mkdir()
        before = self._state(run_dir)
        inflict(Damage(what, 64 * 5, 1001, VALUES.get(DAMAGES[what].takes)), run_dir, tmp_path / "targets")
        assert self._state(run_dir) != before

    def test_a_seal_fits_the_damaged_file(self, run_dir, tmp_path):
        inflict(Damage("change state", 64, 3, "one", sealed=True), run_dir, tmp_path)
        for manifest in run_dir.rglob("manifest.json"):
            for name, record in json.loads(manifest.read_text())["files"].items():
                assert record["bytes"] == manifest.with_name(name).stat().st_size

    @pytest.mark.parametrize("name", STATE_VALUES)
    def test_each_value_can_be_saved(self, name, tmp_path):
        torch.save(STATE_VALUES[name](), tmp_path / "x.pt")

    def test_the_bomb_goes_off_where_code_is_run(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        torch.save(BombOnLoad(), "x.pt")
        torch.load("x.pt", weights_only=False)
        assert Path("ran_by_loading").exists()


def test_a_case_survives_its_own_text():
    damage = Damage("insert bytes", 1, 2, "\x00\xff", sealed=True)
    case = Case("resume", ("run", "\udcff", "a\nb"), b"\x00\xfe", (damage,))
    assert Case.from_json(case.to_json()) == case
