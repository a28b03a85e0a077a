"""Finds the first bit in which a run that was cut and resumed differs from the one that was not.

Owns: the order of the comparisons, which is that of cause and effect, and the words for what was found. Must not: run
anything, or import torch.

    repeated   the whole run against the cut one, up to the cut: do two runs agree at all?
    restored   what the cut run saved against what the resumed one restored
    begun      what the whole and the resumed run begin the step after the cut with
    steps      these two, step by step
    ended      these two, at the end
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

COMPONENTS: Mapping[str, str] = {
    "loader": "batches",
    "random": "random state",
    "schedule": "learning rate",
    "scaler": "loss scale",
    "loss": "losses",
    "model": "weights",
    "buffers": "model buffers",
    "optimizer": "optimizer",
    "ema": "weight average",
    "storage": "low-precision storage",
    "position": "position in the data",
    "account": "counts and metrics",
    "evaluation": "evaluations",
    "unsaved": "unsaved buffers",
}
"""What is compared -> what it is called."""

_OF_A_ROW = {"batches": "loader", "random": "random", "lr": "schedule", "loss_scale": "scaler", "loss": "loss"}
"""Fields of an attempted step -> component, causes first."""
_OF_A_STATE = ("model", "buffers", "optimizer", "ema", "scaler", "storage", "random", "position", "account")

Stage = Literal["repeated", "restored", "begun", "steps", "ended"]


@dataclass(frozen=True)
class Difference:
    """The first difference of one component."""

    stage: Stage
    component: str
    name: str = ""
    """Which part of it."""
    more: int = 0
    """How many others of its parts differ at the same moment."""
    attempt: int | None = None
    """The attempted step that shows it."""

    def named(self) -> str:
        """Return what of the component differs."""
        return f"{self.name}{f' and {self.more} more' if self.more else ''}"

    def __str__(self) -> str:
        named = self.named()
        when = {
            "repeated": f"differs before any cut{self._at()}",
            "restored": "not restored",
            "begun": "differs before the first step after the cut",
            "steps": f"differs{self._at()}",
            "ended": "differs at the end",
        }[self.stage]
        return f"{when}: {named}" if named else when

    def _at(self) -> str:
        return f" at attempted step {self.attempt}" if self.attempt else ""


@dataclass
class Comparison:
    """What was compared, and the first difference of each component."""

    steps: int
    cut: int
    compared: dict[str, str] = field(default_factory=dict)
    """Component -> of what, in words."""
    differences: dict[str, Difference] = field(default_factory=dict)
    """By component, in the order of their finding: the first one is the cause, the others follow from it."""

    @property
    def cause(self) -> Difference | None:
        """Return the first difference that matters: a buffer that no checkpoint holds may differ without effect."""
        return next((found for found in self.differences.values() if found.component != "unsaved"), None)

    def verdict(self) -> str:
        """Return what was found in one sentence."""
        if self.cause is not None:
            return _explained(self.cause, self.differences.get("unsaved"))
        said = (
            f"cut after attempted step {self.cut} and resumed in a new process, the run is bit-equal to the whole one"
        )
        if unsaved := self.differences.get("unsaved"):
            said += (
                f"; the model buffer {_quoted(unsaved)} is in no checkpoint (persistent=False) and differed, without "
                "an effect on these steps"
            )
        return said


def compare(whole: Mapping[str, Any], cut: Mapping[str, Any], resumed: Mapping[str, Any]) -> Comparison:
    """Return how the traces of the three runs (see `verify_trace.py`) differ."""
    made = Comparison(whole["steps"], whole["cut"])
    at = made.cut
    made.compared = _compared(cut["rows"], cut["states"]["cut"])
    _note(made, _rows("repeated", [row for row in whole["rows"] if row["attempted"] <= at], cut["rows"]))
    _note(made, _states("repeated", whole["states"]["cut"], cut["states"]["cut"], attempt=at))
    if made.cause is not None:
        return made  # two runs that differ anyhow say nothing of a cut
    made.compared = _compared(resumed["rows"], whole["states"]["end"], with_unsaved=True)
    if resumed["evaluations"]:
        made.compared["evaluation"] = f"{len(resumed['evaluations'])} after the cut"
    if cut["phases"]["saved"] == resumed["phases"]["restored"]:  # else precision.phases changes formats in between
        _note(made, _states("restored", cut["states"]["saved"], resumed["states"]["restored"]))
    _note(made, _states("begun", whole["states"]["next"], resumed["states"]["next"], with_unsaved=True))
    _note(made, _rows("steps", [row for row in whole["rows"] if row["attempted"] > at], resumed["rows"]))
    _note(made, _states("ended", whole["states"]["end"], resumed["states"]["end"], with_unsaved=True))
    _note(made, _evaluations(whole["evaluations"], resumed["evaluations"]))
    return made


def _note(made: Comparison, found: Iterator[Difference]) -> None:
    for difference in found:
        made.differences.setdefault(difference.component, difference)


def _rows(stage: Stage, first: list[Mapping[str, Any]], second: list[Mapping[str, Any]]) -> Iterator[Difference]:
    for one, other in zip(first, second, strict=False):
        for key, component in _OF_A_ROW.items():
            yield from _difference(stage, component, one[key], other[key], attempt=one["attempted"])
        yield from _difference(stage, "model", one["weights"], other["weights"], attempt=one["attempted"])
    if len(first) != len(second):
        end = f"{len(first)} attempts without the cut, {len(second)} with it"
        yield Difference(stage, "account", end)


def _states(
    stage: Stage,
    first: Mapping[str, Mapping[str, str]],
    second: Mapping[str, Mapping[str, str]],
    *,
    attempt: int | None = None,
    with_unsaved: bool = False,
) -> Iterator[Difference]:
    for component in (*_OF_A_STATE, *(["unsaved"] if with_unsaved else [])):
        yield from _difference(stage, component, first[component], second[component], attempt=attempt)


def _evaluations(first: list[Mapping[str, Any]], second: list[Mapping[str, Any]]) -> Iterator[Difference]:
    """Compare the evaluations that both runs made: the resumed one made the last ones."""
    for one, other in zip(first[len(first) - len(second) :], second, strict=False):
        for difference in _difference("ended", "evaluation", one["metrics"], other["metrics"], attempt=None):
            step = f"{difference.name} after {one['applied_steps']} applied steps"
            yield Difference("ended", "evaluation", step, difference.more)
    if len(second) > len(first):
        yield Difference("ended", "evaluation", f"{len(second)} of them after the cut, {len(first)} in all without it")


def _difference(
    stage: Stage,
    component: str,
    first: Mapping[str, str] | str,
    second: Mapping[str, str] | str,
    *,
    attempt: int | None,
) -> Iterator[Difference]:
    if first == second:
        return
    if isinstance(first, str) or isinstance(second, str):
        yield Difference(stage, component, attempt=attempt)
        return
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    yield Difference(stage, component, names[0], len(names) - 1, attempt)


def _compared(
    rows: list[Mapping[str, Any]], state: Mapping[str, Mapping[str, str]], *, with_unsaved: bool = False
) -> dict[str, str]:
    """Return how much of each component there is to compare; components that a run has not are left out."""
    found = {component: f"{len(rows)} steps" for component in _OF_A_ROW.values()}
    for component in (*_OF_A_STATE, *(["unsaved"] if with_unsaved else [])):
        if state[component] and component not in found:
            found[component] = f"{len(state[component])} values"
    return found


def _quoted(difference: Difference) -> str:
    return f"'{difference.name}'" + (f" (and {difference.more} more)" if difference.more else "")


def _explained(cause: Difference, unsaved: Difference | None) -> str:
    """Return a difference with what it means."""
    name = COMPONENTS[cause.component]
    if cause.stage == "repeated":
        return (
            f"not deterministic even without a cut: {name}: {cause}; look for what depends on the time, the process, "
            "or a generator without a seed"
        )
    if cause.stage == "steps":
        return f"{name}: {cause}: {_HIDDEN[cause.component]}{_suspect(unsaved)}"
    if cause.stage == "begun":
        return f"{name}: {cause}: it was restored, and what runs before the step changed it in one run only"
    if cause.stage == "ended":
        return f"{name}: {cause}, though every step was equal"
    return f"not restored: {name}: {cause.named()}"


def _suspect(unsaved: Difference | None) -> str:
    if unsaved is None:
        return ""
    return f"; the model buffer {_quoted(unsaved)} is in no checkpoint (persistent=False) and differs"


_HIDDEN: Mapping[str, str] = {
    "loader": "the dataset or a transform keeps state that is in no checkpoint, such as a generator of its own",
    "random": "all generators were restored, and something draws from one in one of the runs only",
    "schedule": "the learning rate is not a function of the steps done alone",
    "scaler": "the loss scaler keeps state that is in no checkpoint",
    "loss": "the model or the task keeps state that is in no checkpoint: data, random state and everything restored "
    "are equal",
    "model": "the optimizer or a hook keeps state that is in no checkpoint: the loss and everything restored are equal",
    "account": "the number of attempts differs",
}
