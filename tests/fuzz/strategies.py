"""What the fuzzer draws: config texts, overrides, arguments, damage to a run's folder, and cases made of them.

Owns: the strategies. Must not: touch a file but to read the repository's configs, or know how a case is judged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.config.files import PLAIN
from tests.fuzz.case import CHECKPOINT, CONFIG_FILE, Case, Damage
from tests.fuzz.damage import DAMAGES, STATE_VALUES
from tests.fuzz.schema_trees import SCHEMA, WRONG, definition, leaves, trees

CONFIGS = Path(__file__).parents[2] / "configs"
_SEEDS: tuple[str, ...] = (
    *(path.read_text(encoding="utf-8") for path in sorted(CONFIGS.glob("*.yaml"))),
    PLAIN,
    PLAIN + "precision: {mode: fp16, loss_scale: {kind: dynamic, growth_interval: 10}}\nema: 0.99\nseed: 3\n",
    PLAIN + "debug:\n  plant:\n    - {what: inf_grad, at: 5}\n    - {what: oom, at: 9}\nlog: {every: 10}\n",
    "extends: mlp.yaml\noptimizer: adamw\ntrain: {epochs: null, max_steps: 5, early_stop: {patience: 2}}\n",
    "extends: [mlp.yaml, ./mlp.yaml]\nmodel: &m {name: mlp, hidden: [64, 64]}\n",
)
_PIECES: tuple[str, ...] = (
    *("\t", "\n", " ", "  ", ":", ": ", "- ", "-", "[", "]", "{", "}", ",", "'", '"', "#", "&a", "*a", "*m"),
    *("<<: *m", "!!int", "!", "|", ">", "%", "@", "?", "---\n", "...\n", "%YAML 9.9\n---\n", "\r", "\r\n"),
    *("null", "~", "true", "yes", ".nan", "-.inf", "1e999", "1e-3", "0x", "08", "1_000", "12:30:45", "2001-01-01"),
    *("\\", '"\\UFFFFFFFF"', '"\\uD800"', '"\\0"', "\x00", "\x07", "\x7f", "\x85", "\u2028", "\ufeff", "\U0001f600"),
    *("9" * 400, "-" + "9" * 19, "[" * 60, "{a: " * 60, "- " * 60, "[" * 5000, "x" * 5000, "a: b: c"),
    *(
        "name",
        "extends: x.yaml\n",
        f"extends: {CONFIG_FILE}\n",
        "extends: mlp.yaml\n",
        "plugins: []\n",
        "plugins: [x]\n",
    ),
    *(
        "train:",
        "model: 7\n",
        "data: {}\n",
        "optimizer: [1]\n",
        "0: 1\n",
        "precision: bf16\n",
        "precision.loss_scale: 1\n",
    ),
)

_numbers = st.integers(0, 2**16)
_rarely = st.integers(1, 12).map(lambda number: number == 12)


# Config text ----------------------------------------------------------------------------------------------------------
@st.composite
def edited(draw: st.DrawFn, text: str, most: int = 5) -> str:
    """Draw `text` with a few cuts, copies and insertions."""
    for _ in range(draw(st.integers(1, most))):
        start = draw(_numbers) % (len(text) + 1)
        cut = text[start : start + draw(st.integers(0, 30))]
        piece = st.one_of(st.just(""), st.just(cut * 2), st.sampled_from(_PIECES), st.characters())
        text = text[:start] + draw(piece) + text[start + len(cut) if draw(st.booleans()) else start :]
    return text


@st.composite
def whole_trees(draw: st.DrawFn) -> str:
    """Draw a valid config with a few sections replaced by drawn ones."""
    tree = dict(yaml.safe_load(draw(st.sampled_from(_SEEDS))))
    properties = SCHEMA["properties"]
    for section in draw(st.lists(st.sampled_from(sorted(properties)), unique=True, max_size=3)):
        if section not in ("plugins", "extends"):
            tree[section] = draw(trees(properties[section], one_in=40))
    return str(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


config_texts: st.SearchStrategy[bytes] = st.one_of(
    whole_trees().map(_encoded),
    st.sampled_from(_SEEDS).flatmap(edited).map(_encoded),
    whole_trees().flatmap(lambda text: edited(text, most=2)).map(_encoded),
    st.lists(st.sampled_from(_PIECES), min_size=1, max_size=30).map("".join).map(_encoded),
    st.binary(max_size=200),
)


# Overrides ------------------------------------------------------------------------------------------------------------
_ALL_KEYS = [(path, schema) for path, schema in leaves(SCHEMA) if path not in ("plugins", "extends")]
_NO_KEYS = ("", ".", "a.b.c", "extends", "plugins", "debug.plant.0.at", "model.hidden.0", "model.hidden.9", "..", "=")


def _value(value: Any) -> str:
    """Return a value on one line; JSON is YAML."""
    return json.dumps(value, ensure_ascii=False).replace("NaN", ".nan").replace("Infinity", ".inf")


@st.composite
def overrides(draw: st.DrawFn, keys: list[tuple[str, Mapping[str, Any]]] = _ALL_KEYS, one_in: int = 8) -> str:
    """Draw one override of one of `keys`, now and then of none, or not in its form."""
    path, schema = draw(st.sampled_from(keys))
    text = f"{path}={_value(draw(trees(schema, one_in=one_in)))}"
    if draw(_rarely):
        text = f"{draw(st.sampled_from(_NO_KEYS))}={draw(st.sampled_from(_PIECES))}"
    return _argument(draw(edited(text, most=2)) if draw(_rarely) else text)


def _argument(text: str) -> str:
    """Return `text` as a system can hand it to a program: an argument ends at NUL, and begins no option here."""
    return text.replace("\0", "").removeprefix("--help")


# What a short run may be asked for: nothing that a user would have to wait for, such as compilation, a large network or
# thousands of loader processes.
_SLOW = ("train.compile", "data.num_workers", "model.name", "data.name", "train.accumulate")
_RUN_SECTIONS: Mapping[str, Mapping[str, Any]] = {
    "model": definition("model.mlp"),
    "data": definition("data.synthetic"),
    **{key: SCHEMA["properties"][key] for key in ("task", "optimizer", "schedule", "train", "precision", "checkpoint")},
    **{key: SCHEMA["properties"][key] for key in ("log", "ema", "debug", "seed", "name", "device")},
}
_RUN_KEYS = [
    (path, schema)
    for section, inside in _RUN_SECTIONS.items()
    for path, schema in [(section, inside), *leaves(inside, section)]
    if path not in (*_SLOW, "model", "data", "train")
]


# Arguments ------------------------------------------------------------------------------------------------------------
_ODD_NAMES = (
    "",
    ".",
    "..",
    "../x",
    "/",
    "a/b",
    "é",
    "\udcff",
    "\u2028",
    "-",
    "x" * 300,
    "a\nb",
    "~",
    "*",
    "nul",
    "CON",
)
_run_ids = st.one_of(st.sampled_from(("b", "a", "c.d-e_f", *_ODD_NAMES)), st.text(max_size=5).map(_argument))
_output_dirs = st.sampled_from(("out", "out/deeper", "small.yaml", "small.yaml/x", "x" * 300, "a\nb", "\udcff"))
_checkpoints = st.integers(0, 2).map(lambda number: CHECKPOINT % number)
_resumes = st.one_of(
    st.sampled_from(("auto", "auto", "{run}", "{run}/checkpoints", "{run}/config.yaml", "runs", ".", "small.yaml")),
    _checkpoints,
    st.sampled_from(("auto", "{run}")),
    st.sampled_from(_ODD_NAMES),
)
_flags = st.lists(st.sampled_from(("--json", "--quiet")), unique=True)


@st.composite
def run_commands(draw: st.DrawFn) -> tuple[str, ...]:
    """Draw a new, short run of the small config."""
    words = ["run", "small.yaml", "--max-steps", "2", *draw(_flags)]
    words += draw(st.lists(overrides(_RUN_KEYS, one_in=5), max_size=3))
    if draw(_rarely):
        words += ["--run-id", draw(_run_ids)]
    if draw(_rarely):
        words += ["--output-dir", draw(_output_dirs)]
    if draw(_rarely):
        words += ["--resume", draw(_resumes)]
    if draw(_rarely):
        words += ["--dry-run"]
    return tuple(words)


@st.composite
def resume_commands(draw: st.DrawFn) -> tuple[str, ...]:
    """Draw a continuation of the saved run."""
    words = ["run", "small.yaml", "--resume", draw(_resumes), *draw(_flags)]
    words += ["--run-id", "a"] if draw(st.booleans()) else []
    if draw(_rarely):
        words += [draw(overrides(_RUN_KEYS))]
    return tuple(words)


@st.composite
def reading_commands(draw: st.DrawFn) -> tuple[str, ...]:
    """Draw a command that reads the saved run."""
    name = draw(st.sampled_from(("eval", "eval", "export", "sample")))
    run_dir = draw(st.sampled_from(_ODD_NAMES)) if draw(_rarely) else "{run}"
    words = [name, run_dir, *(["--best"] if draw(st.booleans()) else []), *(["--json"] if draw(st.booleans()) else [])]
    if name == "export":
        words += ["--output", draw(st.sampled_from(("out", "out/weights", "small.yaml/x", ".", "", "x" * 300)))]
        words += ["--dtype", draw(st.sampled_from(("fp32", "fp16", "bf16")))]
    elif name == "sample":
        words += ["--tokens", "3", "--prompt", draw(st.one_of(st.just("abc"), st.text(max_size=4).map(_argument)))]
    elif draw(_rarely):
        words += ["--predictions", draw(st.sampled_from(("out", "out/p.jsonl", ".", "", "small.yaml/x")))]
    if draw(_rarely) and name != "export":
        words += [draw(overrides(_RUN_KEYS))]
    return tuple(words)


# Damage ---------------------------------------------------------------------------------------------------------------
_json_values = st.one_of(st.sampled_from([value for value in WRONG if value == value]), _numbers, st.text(max_size=3))
_LINES = (
    *("", "{}", "[]", "null", "1", "junk", '{"type": "train"}', '{"type": 1}', "\0" * 50, "[" * 100_000, "9" * 5000),
    *("NaN", '{"attempted_step": NaN}', '{"type": "eval", "applied_steps": "2"}', "x" * 1_000_000, "\u2028", "\udcff"),
    *('{"type": "train", "attempted_steps": null}', '{"attempted_step": []}', '"\\ud800"'),
)
_NAMES = (
    *("..", "../x", "step-99999999", "step-x", "step-00000000", "step-00000006", "model.pt", "a\nb", ".saving-x"),
    *(f".{name}.tmp" for name in ("config.yaml", "env.json", "plan.json", "run.json", "metrics.jsonl", "events.jsonl")),
    *(".result.json.tmp", ".saving-step-00000006", ".saving-old-step-00000002", "lock", ".lock", "manifest.json"),
)
_damage_values: Mapping[str, st.SearchStrategy[Any]] = {
    "bytes": st.one_of(st.binary(max_size=20), st.sampled_from((b"\0", b"\n", b"{", b"\xff\xfe", b"[" * 100_000)))
    .map(lambda content: content.decode("latin-1")),
    "line": st.sampled_from(_LINES),
    "json": _json_values,
    "state": st.sampled_from(sorted(STATE_VALUES)),
    "name": st.sampled_from(_NAMES),
    "text": st.sampled_from(_PIECES),
    "link": st.sampled_from(("same", "nowhere", "itself", "folder")),
}  # fmt: skip


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """Draw one damage to a file of the saved run."""
    anything = st.sampled_from(sorted(DAMAGES))
    what = draw(st.one_of(anything, st.sampled_from(("change state", "change manifest")), anything))
    takes = DAMAGES[what].takes
    value = draw(_damage_values[takes]) if takes else None
    return Damage(what, draw(_numbers), draw(_numbers), value, sealed=draw(st.integers(1, 4)) > 1)


# Cases ----------------------------------------------------------------------------------------------------------------
@st.composite
def _config_cases(draw: st.DrawFn) -> Case:
    command = (draw(st.sampled_from(("check", "show"))), CONFIG_FILE)
    return Case("config", command, draw(config_texts))


@st.composite
def _override_cases(draw: st.DrawFn) -> Case:
    file = draw(st.sampled_from(("small.yaml", "mlp.yaml", "resnet.yaml", "gpt.yaml", "nowhere.yaml", ".", "")))
    words = draw(st.lists(overrides(), min_size=1, max_size=3))
    return Case("override", (draw(st.sampled_from(("check", "show"))), file, *words))


def _saved_cases(kind: str, commands: st.SearchStrategy[tuple[str, ...]]) -> st.SearchStrategy[Case]:
    found = st.lists(damages(), max_size=2).map(tuple)
    return st.builds(lambda command, damage: Case(kind, command, None, damage), commands, found)


KINDS: Mapping[str, tuple[int, Callable[[], st.SearchStrategy[Case]]]] = {
    "config": (35, _config_cases),
    "override": (25, _override_cases),
    "run": (10, lambda: run_commands().map(lambda command: Case("run", command))),
    "resume": (12, lambda: _saved_cases("resume", resume_commands())),
    "reading": (18, lambda: _saved_cases("reading", reading_commands())),
}
"""Kind of case -> its share of all cases in percent (a run costs ten times a check), and its strategy."""
