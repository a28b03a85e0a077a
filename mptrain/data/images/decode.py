"""Image files to pixels, naming the file that is damaged. Must not: crop, change or hold images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mptrain.errors import DataError

if TYPE_CHECKING:
    from PIL import Image


def decode_image(source: str | Path | BinaryIO, where: str) -> Image.Image:
    """Decode one image as RGB; raise DataError beginning with `where` for one that is missing or damaged."""
    return _decoded(source, where).convert("RGB")


def load_image(path: str | Path) -> Image.Image:
    """Decode one image file in its own mode; raise DataError naming a file that is missing or damaged."""
    return _decoded(path, f"data.root: {path}")


def load_rgb(path: str | Path) -> Image.Image:
    """Decode one image file as RGB; raise DataError as `load_image` does."""
    return decode_image(path, f"data.root: {path}")


def _decoded(source: str | Path | BinaryIO, where: str) -> Image.Image:
    from PIL import Image

    try:
        with Image.open(source) as image:
            image.load()
            return image
    # What Pillow raises on damaged bytes, and on images so large that they look like an attack.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{where} cannot be decoded as an image; repair or remove it") from error
