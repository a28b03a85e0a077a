"""Reading one audio file as a mono waveform, through soundfile. Must not: resample, or hide a damaged file."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from mptrain.errors import DataError, first_line

SUFFIXES = (".wav", ".flac", ".ogg")
"""File names that count as audio, in any case."""
_CUT_SHORT = re.compile(r"^data : \d+ \(should be \d+\)|^Ogg ?: ?(File ended|Last page lacks|Junk after)", re.MULTILINE)
"""What libsndfile notes of a file that ends before its header says; it reads what is there without an error."""


def is_audio(path: Path) -> bool:
    """Say whether the file's name is that of an audio file."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_audio(path: Path, sample_rate: int, longest: int | None = None) -> Tensor:
    """Return the FP32 waveform (samples,) within -1..1, the mean of its channels.

    Raises DataError, naming the file, for one that cannot be decoded, is cut short, empty or longer than `longest`
    samples, holds values that are not finite, or has another sample rate.
    """
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            if file.samplerate != sample_rate:
                raise DataError(
                    f"data.root: {path} has {file.samplerate} samples a second, data.sample_rate is {sample_rate}; "
                    "resample the file, or set data.sample_rate"
                )
            if longest is not None and file.frames > longest:
                raise DataError(
                    f"data.root: {path} lasts {file.frames / sample_rate:.1f} s, more than "
                    f"{longest / sample_rate:g} s; cut it, or raise data.longest_seconds"
                )
            cut, promised = _CUT_SHORT.search(file.extra_info), file.frames
            samples = torch.from_numpy(file.read(dtype="float32", always_2d=True)).mean(1)
    # What libsndfile says of bytes it cannot decode; and of lengths in a damaged header that no memory holds.
    except (soundfile.SoundFileError, MemoryError, ValueError) as error:
        raise DataError(
            f"data.root: {path} cannot be decoded as audio ({first_line(error)}); repair or remove it"
        ) from error
    if cut or len(samples) != promised or not promised:
        raise DataError(f"data.root: {path} is cut short or empty ({len(samples)} samples); repair or remove it")
    if not samples.isfinite().all():
        raise DataError(f"data.root: {path} holds samples that are NaN or infinite; repair or remove it")
    return samples
