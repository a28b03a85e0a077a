"""The folder that the command line's tests run in."""

import sys
from pathlib import Path

import pytest

import mptrain.catalog  # noqa: F401  (what it registers is not a plugin's)
from mptrain.registry import DATASETS, MODELS, SCHEDULES, TASKS
from tests.cli.small_run import CONFIG


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with small.yaml in it, as the current one; plugins imported from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    registries = (MODELS, DATASETS, TASKS, SCHEDULES)
    before = [set(registry._entries) for registry in registries]
    modules = set(sys.modules)
    Path("small.yaml").write_text(CONFIG)
    yield tmp_path
    for registry, names in zip(registries, before, strict=True):
        for name in set(registry._entries) - names:
            del registry._entries[name]
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
