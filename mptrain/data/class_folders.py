"""Training and test folders that hold one folder of files per class.

Owns: which classes there are, and which of them can be used. Must not: know what kind of files they hold, or open one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mptrain.errors import DataError
from mptrain.interfaces import BadFiles

Files = Mapping[str, Sequence[str]]
"""The files of each class, both sorted by name."""


def class_files(
    roots: tuple[Path, Path], kind: str, files_in: Callable[[Path], Sequence[str]], bad_files: BadFiles
) -> tuple[Files, Files]:
    """Return the training and the test files in `roots`, of the same classes; `kind` names the files, in the plural.

    Raises DataError when a folder is missing or the two have other classes, or when a class has no files (which
    data.on_error=skip leaves out of both instead).
    """
    train, test = ({name: files_in(root / name) for name in _class_names(root, kind)} for root in roots)
    if train.keys() != test.keys():
        odd = sorted(train.keys() ^ test.keys())
        raise DataError(
            f"data.root: {roots[0]} and {roots[1]} have different classes ({', '.join(odd[:5])}); "
            "give both the same folders"
        )
    for root, files in zip(roots, (train, test), strict=True):
        for name in (name for name, found in files.items() if not found):
            bad_files.report(
                DataError(
                    f"data.root: {root / name} holds no {kind}; add some, remove the class's folders, or leave the "
                    "class out with data.on_error=skip"
                )
            )
    usable = [name for name in train if train[name] and test[name]]
    if not usable:
        raise DataError(f"data.root: no class has {kind} in both {roots[0]} and {roots[1]}")
    return {name: train[name] for name in usable}, {name: test[name] for name in usable}


def identity_of(name: str, roots: tuple[Path, Path], train: Files, test: Files) -> dict[str, Any]:
    """Return what says that the data are the same: how many, and the checksums of the files' names, in order.

    Contents are not read: ImageNet's would take minutes.
    """
    counts = {split: sum(map(len, files.values())) for split, files in (("train", train), ("test", test))}
    checksums = [_names_sha256(*split) for split in zip(roots, (train, test), strict=True)]
    return {"name": name, **counts, "classes": len(train), "names_sha256": checksums}


def _names_sha256(root: Path, files: Files) -> str:
    digest = hashlib.sha256()
    for name, paths in files.items():
        for path in paths:
            digest.update(f"{name}/{Path(path).relative_to(root / name)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _class_names(folder: Path, kind: str) -> list[str]:
    """Return the names of the classes in order; hidden folders are none."""
    if not folder.is_dir():
        raise DataError(
            f"data.root: there is no folder {folder.absolute()}; give a folder for training and one for test, each "
            f"with one folder of {kind} per class"
        )
    names = sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    if not names:
        raise DataError(f"data.root: {folder} holds no folders; give it one folder of {kind} per class")
    return names
