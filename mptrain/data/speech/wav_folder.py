"""Audio files in one folder per class, read one by one, cut or padded to one length.

Owns: finding them, and the cut. Must not: hold recordings, or hide a damaged file.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mptrain.data.speech.audio import SUFFIXES, is_audio, read_audio
from mptrain.data.speech.configs import WavFolderConfig
from mptrain.data.speech.log_mel import LogMel, SpeechTransform
from mptrain.errors import DataError
from mptrain.interfaces import BadFiles, DataSpec, DataSplits, Streamed

Files = list[tuple[Path, int]]
"""Each file and its class."""


def wav_folder(config: WavFolderConfig) -> DataSplits:
    """Return train/<class>/ and test/<class>/; raise DataError for a missing or empty folder, or other classes."""
    root, bad_files = Path(config.root).expanduser(), BadFiles(config.on_error)
    names = _classes(root / "train")
    if _classes(root / "test") != names:
        odd = sorted(set(names) ^ set(_classes(root / "test")))
        raise DataError(
            f"data.root: {root / 'train'} and {root / 'test'} have different classes ({', '.join(odd[:5])}); "
            "give both the same folders"
        )
    train_files, test_files = (_files(root / split, names, bad_files) for split in ("train", "test"))
    front = LogMel(config.features, config.sample_rate)
    samples = round(config.seconds * config.sample_rate)
    spec = DataSpec((1, front.frames(samples), config.features.mels), len(names), class_names=names)
    transform = SpeechTransform(front, config.masks)
    identity = {"name": config.name, "train": len(train_files), "test": len(test_files), "classes": len(names)}
    return DataSplits(
        spec,
        Streamed(WavClips(train_files, config.sample_rate, samples, random=True), transform=transform, augments=True),
        Streamed(WavClips(test_files, config.sample_rate, samples, random=False), transform=transform),
        identity,
        bad_files,
    )


class WavClips(Dataset[tuple[Tensor, int]]):
    """dataset[i] -> FP32 waveform (samples,) and the class; `random` cuts and pads at a random place."""

    def __init__(self, files: Files, sample_rate: int, samples: int, *, random: bool) -> None:
        self._files, self._sample_rate, self._samples, self._random = files, sample_rate, samples, random

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self._files[index]
        return fitted(read_audio(path, self._sample_rate), self._samples, random=self._random), label


def fitted(wave: Tensor, samples: int, *, random: bool) -> Tensor:
    """Return `samples` samples: cut from a longer waveform, or a shorter one in silence; centred, or at random."""
    spare = len(wave) - samples
    place = int(torch.randint(abs(spare) + 1, ())) if random else abs(spare) // 2
    if spare >= 0:
        return wave[place : place + samples]
    return torch.nn.functional.pad(wave, (place, -spare - place))


def _classes(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(
            f"data.root: there is no folder {folder.absolute()}; give a folder with train/<class>/* and test/<class>/*"
        )
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    if not names:
        raise DataError(f"data.root: {folder} needs one folder of audio files per class, and has none")
    return names


def _files(folder: Path, names: tuple[str, ...], bad_files: BadFiles) -> Files:
    found: Files = []
    for label, name in enumerate(names):
        files = sorted(path for path in (folder / name).iterdir() if is_audio(path))
        if not files:
            bad_files.report(
                DataError(f"data.root: {folder / name} holds no audio file ({', '.join(SUFFIXES)}); fill or remove it")
            )
        found += [(path, label) for path in files]
    return found
