"""The few environment variables that count, and how they read."""

import os

import pytest

from mptrain import environment


@pytest.mark.parametrize(("value", "expected"), [(None, False), ("", False), ("0", True), ("1", True)])
def test_no_color_counts_when_it_is_not_empty(monkeypatch: pytest.MonkeyPatch, value: str | None, expected: bool):
    monkeypatch.delenv("NO_COLOR", raising=False)
    if value is not None:
        monkeypatch.setenv("NO_COLOR", value)
    assert environment.no_color() is expected


@pytest.mark.parametrize(
    ("value", "expected"), [("", False), ("false", False), ("0", False), ("true", True), ("1", True)]
)
def test_in_ci(monkeypatch: pytest.MonkeyPatch, value: str, expected: bool):
    monkeypatch.setenv("CI", value)
    assert environment.in_ci() is expected


@pytest.mark.parametrize(("value", "expected"), [("dumb", True), ("xterm", False), ("", False)])
def test_dumb_terminal(monkeypatch: pytest.MonkeyPatch, value: str, expected: bool):
    monkeypatch.setenv("TERM", value)
    assert environment.dumb_terminal() is expected


@pytest.mark.parametrize(("before", "after"), [(None, ":4096:8"), (":16:8", ":16:8")])
def test_cublas_workspace_is_set_once(monkeypatch: pytest.MonkeyPatch, before: str | None, after: str):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", before or "")
    if before is None:
        del os.environ["CUBLAS_WORKSPACE_CONFIG"]  # monkeypatch puts back what was there before the test
    environment.set_cublas_workspace()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == after
