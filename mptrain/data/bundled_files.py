"""The data files that come with the package, checked when read. Must not: interpret them."""

from __future__ import annotations

import hashlib
import io
import lzma
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mptrain.errors import DataError

SHA256: Mapping[str, str] = {
    "bible_en_es.tsv.xz": "ee06778c3a26ad7e9738c37b43f4b4bba4167e45c31d8c23b9e0fc398a14bc2e",
    "cmudict_g2p.tsv.xz": "0315b069ab3fe858cdb1b8cf65499aae8f0e28651bf9126cac333961aea1d72c",
    "fashion_mnist_12k.npz.xz": "8b56bfc3e6015b400f66d19226dbe5708bfb9eb4cd67ca6ccb461926bee8edd9",
    "shakespeare_38plays.txt.xz": "b648a8e0a0209e4adeb37b11f586c421a23c31f8da913a623a5d58fc97436bd1",
    "synth_digits.npz.xz": "366661cca0e5bd1d247ea6c83362c8043d058fec34c3bdc02a83c9ab58a58424",
    "voiceprompts.npz.xz": "9ef094f8eef099b4d61afbfc8f539b2ff6400783a16576252bf1b0e0010728dc",
    "bluemarble.jpg": "10f5389b365d7ece89f68a73ce5653fb5692145fde181fc64596d0d87cb89bb8",
    "bluemarble_land.png": "ac6248ad68363fbe2bd863d8fdfe265e1cd107ff27be99da48361156d8126f65",
}
"""Every bundled file and its checksum; `bundled/README.md` tells where each comes from."""


def read_bundled(name: str) -> bytes:
    """Return the bytes of a bundled file, unpacked where its name ends in .xz.

    Raises DataError when the file is missing or damaged.
    """
    file = resources.files("mptrain.data") / "bundled" / name
    try:
        packed = file.read_bytes()
    except OSError as error:
        raise DataError(f"data: the bundled file {file} cannot be read ({error}); reinstall mptrain") from error
    digest = hashlib.sha256(packed).hexdigest()
    if digest != SHA256[name]:
        raise DataError(f"data: the bundled file {file} is damaged (sha256 {digest[:12]}...); reinstall mptrain")
    return lzma.decompress(packed) if name.endswith(".xz") else packed


def read_bundled_arrays(name: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of a bundled .npz.xz file; raise DataError as `read_bundled` does."""
    with np.load(io.BytesIO(read_bundled(name)), allow_pickle=False) as content:
        return {key: content[key] for key in content.files}
