"""Which modules a rule means, and what the rules of `precision.overrides` answer for each.

Owns: the matching syntax and the refusal of rules that contradict one another or match nothing. Must not: change a
model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from mptrain.config.precision import OverrideConfig, Role
from mptrain.config.wording import nearest, shorten
from mptrain.errors import ConfigError

ROLES: tuple[Role, ...] = ("input", "weight", "grad_output")


@dataclass(frozen=True)
class Answer:
    """What the rules say of one module."""

    dtype: str | None
    """Format of the whole module; None where only roles are answered."""
    roles: Mapping[Role, str]
    """Operand -> format, where a rule names the operand."""
    rule: str
    """The rule that answered, in words."""


def match_modules(model: nn.Module, pattern: str, *, key: str) -> dict[str, nn.Module]:
    """Return the modules of `model` that `pattern` means, by name: a glob, `re:` a regular expression, `type:` a class.

    Raises ConfigError, naming the config `key`, for a pattern that matches nothing or is no regular expression.
    """
    named = {name: module for name, module in model.named_modules() if name}
    if pattern.startswith("re:"):
        try:
            expression = re.compile(pattern[3:])
        except re.error as error:
            raise ConfigError(f"{key}: {pattern!r} is not a regular expression ({error})") from None
        found = {name: module for name, module in named.items() if expression.search(name)}
    elif pattern.startswith("type:"):
        wanted = pattern[5:]
        found = {n: m for n, m in named.items() if any(base.__name__ == wanted for base in type(m).__mro__)}
    else:
        found = {name: module for name, module in named.items() if fnmatchcase(name, pattern)}
    if not found:
        raise ConfigError(f"{key}: {pattern!r} matches no module; {_suggestion(pattern, named)}")
    return found


def _suggestion(pattern: str, named: Mapping[str, nn.Module]) -> str:
    types = sorted({type(module).__name__ for module in named.values()})
    if pattern.startswith("type:"):
        near = nearest(pattern[5:], types)
        return f"did you mean 'type:{near}'?" if near else f"this model has {shorten(', '.join(types), 200)}"
    near = nearest(pattern, named)
    return f"did you mean {near!r}?" if near else f"it has {shorten(', '.join(named), 200)} (see `mptrain plan`)"


def resolve_overrides(model: nn.Module, rules: Sequence[OverrideConfig]) -> dict[str, Answer]:
    """Return the answer for every module that a rule means, itself or through a module around it.

    Raises ConfigError, all at once, for rules that match nothing and for two rules that answer one module differently.
    """
    problems: list[str] = []
    given: dict[str, dict[Role, tuple[str, int]]] = {}
    whole: dict[str, int] = {}
    contradictions: dict[tuple[int, int], list[str]] = {}
    for index, rule in enumerate(rules):
        try:
            meant = meant_by(model, index, rule)
        except ConfigError as error:
            problems += error.problems
            continue
        for name in meant:
            answers = given.setdefault(name, {})
            for role in (rule.role,) if rule.role else ROLES:
                dtype, other = answers.setdefault(role, (rule.dtype, index))
                if dtype != rule.dtype:
                    pair = contradictions.setdefault((other, index), [])
                    pair += [name] if name not in pair else []
            if rule.role is None:
                whole.setdefault(name, index)
    for (first, second), names in contradictions.items():
        problems.append(
            f"precision.overrides: {_words(rules, first)} and {_words(rules, second)} answer differently for "
            f"{shorten(', '.join(names), 120)}; make their matches disjoint"
        )
    if problems:
        raise ConfigError(problems)
    return {name: _answer(name, answers, whole, rules) for name, answers in given.items()}


def meant_by(model: nn.Module, index: int, rule: OverrideConfig) -> list[str]:
    """Return the modules that the `index`-th rule means: what it matches, and all inside; raises as `match_modules`."""
    matched = match_modules(model, rule.match, key=f"precision.overrides[{index}]")
    names = dict.fromkeys(matched)
    for name in matched:
        names.update(dict.fromkeys(inner for inner, _ in model.named_modules() if inner.startswith(f"{name}.")))
    return list(names)


def _answer(
    name: str, answers: Mapping[Role, tuple[str, int]], whole: Mapping[str, int], rules: Sequence[OverrideConfig]
) -> Answer:
    if name in whole:
        rule = rules[whole[name]]
        return Answer(rule.dtype, {}, _words(rules, whole[name]))
    indices = dict.fromkeys(index for _, index in answers.values())
    roles = {role: dtype for role, (dtype, _) in answers.items()}
    return Answer(None, roles, " and ".join(_words(rules, index) for index in indices))


def _words(rules: Sequence[OverrideConfig], index: int) -> str:
    rule = rules[index]
    role = f" {rule.role}" if rule.role else ""
    return f"rule {index + 1} ({rule.match!r}{role} -> {rule.dtype})"
