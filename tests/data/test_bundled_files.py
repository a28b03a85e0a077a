"""What comes with the package is whole, documented, licensed, and small enough."""

import lzma
from importlib import resources
from pathlib import Path

import pytest

from mptrain.data import bundled_files
from mptrain.data.bundled_files import SHA256, read_bundled, read_bundled_arrays
from mptrain.errors import DataError

FOLDER = Path(str(resources.files("mptrain.data"))) / "bundled"
PACKAGE = FOLDER.parent.parent
MAX_WHEEL_BYTES = 25_000_000


def test_every_file_is_listed_documented_and_licensed():
    data = {path.name for path in FOLDER.iterdir()} - {"README.md"}
    licences = {name for name in data if name.endswith("-LICENSE.txt")}
    assert data - licences == set(SHA256)
    readme = (FOLDER / "README.md").read_text()
    for name in data:
        assert f"`{name}`" in readme
    for name in SHA256:
        assert f"| {(FOLDER / name).stat().st_size:,} |" in readme


@pytest.mark.parametrize("name", sorted(SHA256))
def test_every_file_is_whole(name):
    assert read_bundled(name)


def test_the_package_stays_small():
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert sum(path.stat().st_size for path in files) < MAX_WHEEL_BYTES


def test_a_damaged_or_missing_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "bundled").mkdir()
    monkeypatch.setattr(bundled_files.resources, "files", lambda package: tmp_path)
    name = "fashion_mnist_12k.npz.xz"
    with pytest.raises(DataError, match=rf"{name} cannot be read.*reinstall mptrain"):
        read_bundled(name)
    (tmp_path / "bundled" / name).write_bytes(lzma.compress(b"something else"))
    with pytest.raises(DataError, match=rf"{name} is damaged \(sha256 .*reinstall mptrain"):
        read_bundled_arrays(name)
