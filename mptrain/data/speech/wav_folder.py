"""Audio files in one folder per class, read one by one, cut or padded to one length.

Owns: which files are recordings, and the cut. Must not: hold recordings, or hide a damaged file.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mptrain.data.class_folders import Files, class_files, identity_of
from mptrain.data.speech.audio import is_audio, read_audio
from mptrain.data.speech.configs import WavFolderConfig
from mptrain.data.speech.log_mel import LogMel, SpeechTransform
from mptrain.interfaces import BadFiles, DataSpec, DataSplits, Streamed


def wav_folder(config: WavFolderConfig) -> DataSplits:
    """Return train/<class>/ and test/<class>/.

    Raises DataError for a missing folder, other classes, or a class without recordings (which data.on_error=skip leaves
    out of both).
    """
    root, bad_files = Path(config.root).expanduser(), BadFiles(config.on_error)
    roots = root / "train", root / "test"
    train, test = class_files(roots, "audio files", _recordings_in, bad_files)
    names = tuple(train)
    front = LogMel(config.features, config.sample_rate)
    samples = round(config.seconds * config.sample_rate)
    spec = DataSpec((1, front.frames(samples), config.features.mels), len(names), class_names=names)
    transform = SpeechTransform(front, config.masks)
    train_clips, test_clips = (
        WavClips(files, config.sample_rate, samples, random=files is train) for files in (train, test)
    )
    identity = identity_of(config.name, roots, train, test)
    return DataSplits(
        spec,
        Streamed(train_clips, transform=transform, augments=True),
        Streamed(test_clips, transform=transform),
        identity,
        bad_files,
    )


class WavClips(Dataset[tuple[Tensor, int]]):
    """dataset[i] -> FP32 waveform (samples,) and the class; `random` cuts and pads at a random place."""

    def __init__(self, files: Files, sample_rate: int, samples: int, *, random: bool) -> None:
        self._clips = [(path, label) for label, paths in enumerate(files.values()) for path in paths]
        self._sample_rate, self._samples, self._random = sample_rate, samples, random

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self._clips[index]
        return fitted(read_audio(Path(path), self._sample_rate), self._samples, random=self._random), label


def fitted(wave: Tensor, samples: int, *, random: bool) -> Tensor:
    """Return `samples` samples: cut from a longer waveform, or a shorter one in silence; centred, or at random."""
    spare = len(wave) - samples
    place = int(torch.randint(abs(spare) + 1, ())) if random else abs(spare) // 2
    if spare >= 0:
        return wave[place : place + samples]
    return torch.nn.functional.pad(wave, (place, -spare - place))


def _recordings_in(folder: Path) -> list[str]:
    """Return the audio files in a class's folder."""
    return sorted(str(path) for path in folder.iterdir() if is_audio(path))
