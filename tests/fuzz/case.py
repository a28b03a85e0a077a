"""One input of the fuzzer: files, damage to a saved run, and a command line. A plain value, so that it can be repeated.

Owns: the values and their JSON text. Must not: draw them, or do anything with them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

CONFIG_FILE = "case.yaml"
"""The file that a case's config text is written to, in the current folder."""
CHECKPOINT = "{checkpoint %d}"
"""In a command: the n-th folder, modulo their number, that lies in the run's folder of checkpoints."""


@dataclass(frozen=True)
class Damage:
    """One thing done to one file of a saved run; numbers choose among what is there, modulo how much there is."""

    what: str
    """Key of `damage.DAMAGES`."""
    which: int
    """The file, or folder."""
    where: int = 0
    """The place in it: a byte, a line, a key, or another file."""
    value: Any = None
    """What is put there; JSON, bytes as Latin-1 text."""
    sealed: bool = False
    """Write the file's new size and checksum into its manifest, so that more than the checksum is tried."""


@dataclass(frozen=True)
class Case:
    """One input."""

    kind: str
    """Key of `strategies.KINDS`."""
    command: tuple[str, ...]
    """What follows `mptrain` on the command line."""
    config: bytes | None = None
    """Content of CONFIG_FILE."""
    damages: tuple[Damage, ...] = ()
    """What happens to the saved run before the command."""

    def to_json(self) -> str:
        """Return the case as one line of ASCII."""
        config = None if self.config is None else self.config.decode("latin-1")
        return json.dumps(asdict(self) | {"config": config})

    @staticmethod
    def from_json(text: str) -> Case:
        """Return the case that `to_json` wrote."""
        raw = json.loads(text)
        config = None if raw["config"] is None else raw["config"].encode("latin-1")
        damages = tuple(Damage(**damage) for damage in raw["damages"])
        return Case(raw["kind"], tuple(raw["command"]), config, damages)
