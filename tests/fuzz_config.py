"""Random and mutated configs against the loader: `python -m tests.fuzz_config [--seconds N] [--seed N]`.

Anything but a valid config, a ConfigError or a DataError is a find: the input is printed and the exit code is 1.
Also checked: every problem is one printable line, and a valid config survives the round trip through its own YAML.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from mptrain.catalog import annotated_yaml, load_config, to_yaml
from mptrain.errors import ConfigError, DataError
from tests.config.files import PLAIN

SEEDS = [
    PLAIN,
    PLAIN + "precision: {mode: fp16, loss_scale: {kind: dynamic, growth_interval: 10}}\nema: 0.99\nseed: 3\n",
    PLAIN + "debug:\n  plant:\n    - {what: inf_grad, at: 5}\n    - {what: oom, at: 9}\nlog: {every: 10}\n",
    "extends: base.yaml\noptimizer: adamw\ntrain: {epochs: null, max_steps: 5, early_stop: {patience: 2}}\n",
    "extends: [base.yaml, ./base.yaml]\nmodel: &m {name: mlp, hidden: [64, 64]}\n",
]
PIECES = [
    *(
        "\t",
        "\n",
        " ",
        "  ",
        ":",
        ": ",
        "- ",
        "-",
        "[",
        "]",
        "{",
        "}",
        ",",
        "'",
        '"',
        "#",
        "&a",
        "*a",
        "*m",
        "<<: *m",
        "!!int",
        "!",
    ),
    *(
        "|",
        ">",
        "%",
        "@",
        "?",
        "---\n",
        "...\n",
        "null",
        "~",
        "true",
        "yes",
        ".nan",
        "-.inf",
        "1e999",
        "1e-3",
        "0x",
        "08",
    ),
    *("\\", '"\\UFFFFFFFF"', '"\\uD800"', '"\\0"', "\x00", "\x07", "\x7f", "\x85", "\u2028", "\ufeff", "\U0001f600"),
    *(
        "9" * 400,
        "-" + "9" * 19,
        "[" * 60,
        "{a: " * 60,
        "name",
        "extends: x.yaml\n",
        "extends: base.yaml\n",
        "plugins: []\n",
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
]
KEYS = [
    "optimizer",
    "optimizer.lr",
    "precision",
    "precision.loss_scale",
    "train.epochs",
    "debug.plant.0.at",
    "debug.plant",
]
KEYS += ["model", "model.hidden.0", "ema", "name", "seed", "a.b.c", "", ".", "extends", "train.early_stop", "plugins"]


def mutate(rng: random.Random, text: str) -> str:
    """Return `text` with a few random cuts, copies and insertions."""
    for _ in range(rng.randint(1, 6)):
        start, end = sorted(rng.randint(0, len(text)) for _ in range(2))
        end = min(end, start + 30)
        insert = rng.choice(
            ["", text[start:end] * 2, rng.choice(PIECES), rng.choice(PIECES), chr(rng.randint(0, 0x2FF))]
        )
        text = text[:start] + insert + text[end if rng.random() < 0.5 else start :]
    return text


def make_case(rng: random.Random) -> tuple[bytes, list[str]]:
    """Return the bytes of a config file and overrides for it."""
    kinds: list[Callable[[], bytes]] = [
        lambda: mutate(rng, rng.choice(SEEDS)).encode("utf-8", "surrogatepass"),
        lambda: "".join(rng.choices(PIECES, k=rng.randint(1, 40))).encode("utf-8", "surrogatepass"),
        lambda: rng.randbytes(rng.randint(0, 200)),
        lambda: rng.choice(SEEDS).encode(),
    ]
    content = rng.choices(kinds, weights=[6, 2, 1, 3])[0]()
    overrides = [f"{rng.choice(KEYS)}={rng.choice(PIECES)}" for _ in range(rng.choice([0, 0, 1, 3]))]
    return content, [mutate(rng, text) if rng.random() < 0.3 else text for text in overrides]


def try_case(folder: Path, content: bytes, overrides: list[str]) -> bool:
    """Load one case and check what comes out; return whether it was a valid config."""
    path = folder / "case.yaml"
    path.write_bytes(content)
    try:
        loaded = load_config(path, overrides)
    except (ConfigError, DataError) as error:
        for problem in getattr(error, "problems", [str(error)]):
            assert problem.isprintable(), f"a problem is not one printable line: {problem!r}"
        return False
    for text in (to_yaml(loaded.config), annotated_yaml(loaded)):
        path.write_text(text, encoding="utf-8")
        assert load_config(path).config == loaded.config, "the config did not survive its own YAML"
    return True


def main() -> int:
    """Run until the time is up or something is found; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cases = valid = 0
    end = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "base.yaml").write_text(PLAIN)
        while time.monotonic() < end:
            # Each case has its own seed, so that a find is repeated alone: --seed N.
            seed = options.seed + cases
            content, overrides = make_case(random.Random(seed))
            cases += 1
            try:
                valid += try_case(folder, content, overrides)
            except Exception:
                traceback.print_exc()
                print(f"found with --seed {seed}: {content!r} {overrides!r}", file=sys.stderr)
                return 1
    print(f"{cases} cases, {valid} of them valid, nothing found (seeds {options.seed} to {options.seed + cases - 1})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
