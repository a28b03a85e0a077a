"""Writes tar shards of images for tests."""

import io
import json
import tarfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

SIZE = (20, 16)


def png(value: int) -> bytes:
    """Return a picture whose colour tells which one it is."""
    out = io.BytesIO()
    Image.new("RGB", SIZE, (value, 2 * value, 255 - value)).save(out, "png")
    return out.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], **options: Any) -> Path:
    """Write members of the given names and bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sample(number: int, classes: int = 4, *, as_json: bool = False) -> list[tuple[str, bytes]]:
    """Return the members of sample `number`, whose class is its number modulo `classes`."""
    label = number % classes
    told = (".json", json.dumps({"label": label}).encode()) if as_json else (".cls", f"{label}\n".encode())
    return [(f"{number:06}.png", png(number)), (f"{number:06}{told[0]}", told[1])]


def write_shards(root: Path) -> None:
    """Write 21 training samples in three uneven shards, and 10 test samples in two."""
    for split, bounds in (("train", (0, 10, 11, 21)), ("test", (30, 34, 40))):
        for number, (first, end) in enumerate(pairwise(bounds)):
            members = [m for i in range(first, end) for m in sample(i, as_json=i % 3 == 0)]
            write_tar(root / f"{split}-{number:03}.tar", members)
