"""Damage to the files of a saved run, chosen among what is found in its folder.

Owns: what is done to a file. Must not: know the checkpoint's format beyond a manifest that lists files with their
sizes and checksums, or write outside the run's folder and the folder of link targets that it is given.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests.fuzz.case import Damage

MANIFEST = "manifest.json"
TORCH_SUFFIX = ".pt"


class BombOnLoad:
    """Writes a file where a loader runs code."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return os.system, ("echo ran > ran_by_loading",)


def _nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


STATE_VALUES: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "text": lambda: "x",
    "bytes": lambda: b"x",
    "negative": lambda: -1,
    "zero": lambda: 0,
    "one": lambda: 1,
    "huge": lambda: 2**70,
    "large": lambda: 2**40,
    "fraction": lambda: 0.5,
    "nan": lambda: float("nan"),
    "true": lambda: True,
    "empty list": list,
    "empty mapping": dict,
    "nested": lambda: _nested(200),
    "number keys": lambda: {1: 2, None: 3},
    "scalar tensor": lambda: torch.tensor(1.0),
    "empty tensor": lambda: torch.empty(0),
    "other shape": lambda: torch.ones(3, 5),
    "nan tensor": lambda: torch.full((4,), float("nan")),
    "byte tensor": lambda: torch.zeros(16, dtype=torch.uint8),
    "bool tensor": lambda: torch.tensor(True),
    "complex tensor": lambda: torch.ones(4, dtype=torch.complex64),
    "sparse tensor": lambda: torch.eye(4).to_sparse(),
    "meta tensor": lambda: torch.empty(4, device="meta"),
    "parameter": lambda: torch.nn.Parameter(torch.ones(4)),
    "bomb": BombOnLoad,
}
"""What a value in a part of a checkpoint is replaced by."""


def inflict(damage: Damage, run_dir: Path, targets: Path) -> None:
    """Do `damage` to one of the files under `run_dir`; nothing where there is none of its sort."""
    kind = DAMAGES[damage.what]
    found = [path for path in sorted(run_dir.rglob("*")) if kind.fits(path)]
    if not found:
        return
    path = found[damage.which % len(found)]
    kind.do(path, damage, found, targets)
    if damage.sealed:
        _seal(path)


def _choice(damage: Damage) -> int:
    """Return a number that is independent of which file was chosen."""
    return damage.which // 64


def _seal(path: Path) -> None:
    """Write the size and checksum of `path` where the manifest beside it has them."""
    manifest = path.with_name(MANIFEST)
    if not (manifest.is_file() and path.is_file()):  # a pipe would be waited for
        return
    try:
        content = json.loads(manifest.read_bytes())
        record = content["files"][path.name]
        data = path.read_bytes()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return  # there is no such record, or it is damaged itself
    if isinstance(record, dict):
        record |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        manifest.write_text(json.dumps(content))


# Any file -------------------------------------------------------------------------------------------------------------
def _truncate(path: Path, damage: Damage, *_: Any) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: damage.where % (len(data) + 1)])


def _flip(path: Path, damage: Damage, *_: Any) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[damage.where % len(data)] ^= 1 << _choice(damage) % 8
        path.write_bytes(data)


def _insert(path: Path, damage: Damage, *_: Any) -> None:
    data = path.read_bytes()
    at = damage.where % (len(data) + 1)
    path.write_bytes(data[:at] + damage.value.encode("latin-1") + data[at:])


def _replace(path: Path, damage: Damage, *_: Any) -> None:
    path.write_bytes(damage.value.encode("latin-1"))


def _remove(path: Path, *_: Any) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _rename(path: Path, damage: Damage, *_: Any) -> None:
    name = Path(damage.value).name
    if name and name != ".." and not os.path.lexists(path.with_name(name)):
        path.rename(path.with_name(name))


def _copy(path: Path, damage: Damage, *_: Any) -> None:
    """Put a copy, of a folder the whole, beside the original: a foreign file, or a checkpoint of no such step."""
    target = path.with_name(Path(damage.value).name)
    if target.name and target.name != ".." and not os.path.lexists(target):
        with contextlib.suppress(shutil.Error):  # of a pipe or a broken link in it: the rest is copied
            (shutil.copytree if path.is_dir() else shutil.copy)(path, target)


def _swap(path: Path, damage: Damage, found: list[Path], *_: Any) -> None:
    other = found[damage.where % len(found)]
    ours, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(ours)


def _make_other_kind(path: Path, *_: Any) -> None:
    """Put a folder where a file was, or the other way round."""
    was_folder = path.is_dir()
    _remove(path)
    path.touch() if was_folder else path.mkdir()


def _link(path: Path, damage: Damage, _: list[Path], targets: Path) -> None:
    """Put a link out of the run's folder in the place of a file or folder: to the same content, nowhere, or itself."""
    target = targets / ("missing" if damage.value == "nowhere" else "linked")
    if damage.value in ("same", "folder") and os.path.lexists(target):
        return  # a link leads there already
    if damage.value == "itself":
        target = path
    elif damage.value == "same":
        shutil.move(path, target)
    elif damage.value == "folder":
        target.mkdir()
        (target / "kept").touch()
    if os.path.lexists(path):
        _remove(path)
    path.symlink_to(target)


def _plant(path: Path, damage: Damage, _: list[Path], targets: Path) -> None:
    """Put a link to nothing, a folder or a file in the way of a file that is yet to be written."""
    place = path / Path(damage.value).name
    if not place.name or place.name == ".." or os.path.lexists(place):
        return
    if damage.where % 4 == 0:
        place.mkdir()
    elif damage.where % 4 == 1:
        place.touch()
    else:
        place.symlink_to(targets / "missing")


def _pipe(path: Path, *_: Any) -> None:
    """Put a pipe, which whoever opens it waits for, in the place of a file."""
    path.unlink()
    os.mkfifo(path)


# Text -----------------------------------------------------------------------------------------------------------------
def _change_lines(path: Path, damage: Damage, *_: Any) -> None:
    """Add, replace, repeat, tear or interleave a line."""
    lines = path.read_bytes().splitlines(keepends=True)
    at = damage.where % (len(lines) + 1)
    new = damage.value.encode("utf-8", "surrogateescape")
    old = lines[at] if at < len(lines) else b""
    changes = (
        [new + b"\n"],
        [new + b"\n", old],
        [old, old],
        [old[: len(old) // 2] + new],
        [old[: len(old) // 2] + old + old[len(old) // 2 :]],
    )
    lines[at : at + 1] = changes[_choice(damage) % len(changes)]
    path.write_bytes(b"".join(lines))


def _change_text(path: Path, damage: Damage, *_: Any) -> None:
    text = path.read_text(encoding="utf-8")
    at = damage.where % (len(text) + 1)
    path.write_bytes((text[:at] + damage.value + text[at + _choice(damage) % 10 :]).encode("utf-8", "surrogatepass"))


# Values in JSON and in torch's files ----------------------------------------------------------------------------------
def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key or index) of every value below `value`."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(pairs):
        yield value, key
        yield from _places(child)


def _changed(tree: Any, damage: Damage, value: Any) -> Any:
    """Return `tree` with one of its values replaced, taken away, or given another key; or `value` in its place."""
    places = list(_places(tree))
    choice = _choice(damage)
    if not places or choice % 16 == 0:
        return value
    container, key = places[damage.where % len(places)]
    if choice % 4 == 1:
        del container[key]
    elif choice % 4 == 2 and isinstance(container, dict):
        container["../x" if choice % 8 == 2 else "other"] = container.pop(key)
    else:
        container[key] = value
    return tree


def _change_json(path: Path, damage: Damage, *_: Any) -> None:
    try:
        tree = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return  # damaged before
    path.write_text(json.dumps(_changed(tree, damage, damage.value)), encoding="utf-8")


def _change_state(path: Path, damage: Damage, *_: Any) -> None:
    try:
        tree = torch.load(path, weights_only=True)
    except Exception:
        return  # damaged before
    torch.save(_changed(tree, damage, STATE_VALUES[damage.value]()), path)


# --
def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _is_any(path: Path) -> bool:
    return _is_file(path) or (path.is_dir() and not path.is_symlink())


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _ends_with(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.suffix in suffixes and _is_file(path)


class _Kind(NamedTuple):
    fits: Callable[[Path], bool]
    do: Callable[..., None]
    takes: str | None = None
    """Which strategy draws the damage's value."""


DAMAGES: dict[str, _Kind] = {
    "truncate": _Kind(_is_file, _truncate),
    "flip a bit": _Kind(_is_file, _flip),
    "insert bytes": _Kind(_is_file, _insert, "bytes"),
    "replace content": _Kind(_is_file, _replace, "bytes"),
    "remove": _Kind(_is_any, _remove),
    "rename": _Kind(_is_any, _rename, "name"),
    "copy": _Kind(_is_any, _copy, "name"),
    "copy a folder": _Kind(_is_folder, _copy, "name"),
    "swap": _Kind(_is_file, _swap),
    "swap parts": _Kind(_ends_with(TORCH_SUFFIX), _swap),
    "other kind": _Kind(_is_any, _make_other_kind),
    "link": _Kind(_is_any, _link, "link"),
    "plant": _Kind(_is_folder, _plant, "name"),
    "pipe": _Kind(_is_file, _pipe),
    "change lines": _Kind(_ends_with(".jsonl"), _change_lines, "line"),
    "change config": _Kind(_ends_with(".yaml"), _change_text, "text"),
    "change json": _Kind(_ends_with(".json"), _change_json, "json"),
    "change manifest": _Kind(lambda path: path.name == MANIFEST and _is_file(path), _change_json, "json"),
    "change state": _Kind(_ends_with(TORCH_SUFFIX), _change_state, "state"),
}
"""Everything that can happen to a file."""
