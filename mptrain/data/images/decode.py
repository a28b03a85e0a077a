"""Image files to pixels, naming the file that is damaged. Must not: crop, change or hold images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mptrain.errors import DataError

if TYPE_CHECKING:
    from PIL import Image


def load_image(path: str | Path) -> Image.Image:
    """Decode one image file in its own mode; raise DataError naming a file that is missing or damaged."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            return image
    # What Pillow raises on damaged bytes, and on images so large that they look like an attack.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"data.root: {path} cannot be decoded as an image; repair or remove it") from error


def load_rgb(path: str | Path) -> Image.Image:
    """Decode one image file as RGB; raise DataError as `load_image` does."""
    return load_image(path).convert("RGB")
