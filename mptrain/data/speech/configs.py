"""Config classes of the speech datasets: every option, its default, its one-line meaning.

Owns: the defaults. Must not: import torch, or know how anything is built.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict, model_validator

from mptrain.config.schema import DataConfig
from mptrain.config.section import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section

Subsets = Annotated[tuple[str, ...], Strict(False), Field(min_length=1)]


class MaskConfig(Section):
    """SpecAugment (Park et al. 2019, arXiv 1904.08779): random spans of time and of frequency are blanked."""

    time_masks: NonNegativeInt = 0
    """Spans of frames blanked in each training sample."""
    time_width: PositiveInt = 100
    """Most frames in such a span."""
    time_share: Fraction = 0.2
    """Most of a sample's frames in such a span, as a share of its length."""
    frequency_masks: NonNegativeInt = 0
    """Spans of mel bins blanked in each training sample."""
    frequency_width: PositiveInt = 8
    """Most mel bins in such a span."""


class LogMelConfig(Section):
    """From a waveform to the logarithm of the power in mel bins, in overlapping windows."""

    mels: PositiveInt = 80
    """Mel bins."""
    window_ms: PositiveFloat = 25.0
    """Length of a window (Hann), in milliseconds."""
    hop_ms: PositiveFloat = 10.0
    """From one window to the next, in milliseconds."""
    low_hz: NonNegativeFloat = 20.0
    """Lower edge of the lowest bin, in hertz."""
    high_hz: PositiveFloat | None = None
    """Upper edge of the highest bin, in hertz; null takes half of the sample rate."""


class SpeechConfig(DataConfig):
    """What all speech datasets share."""

    masks: MaskConfig = MaskConfig()
    """Blanking in training; evaluation never does."""


class ClipsConfig(SpeechConfig):
    """One-second clips that come with the package, as log-mel pictures (1, frames, mels)."""


class DigitStringsConfig(SpeechConfig):
    """Strings of spoken digits: bundled clips of one voice, joined when they are read."""

    num_train: PositiveInt = 2000
    """Training strings in an epoch; each epoch draws new ones."""
    num_test: PositiveInt = 300
    """Test strings, always the same, of voices that are never heard in training."""
    min_digits: PositiveInt = 3
    """Fewest digits in a string."""
    max_digits: PositiveInt = 6
    """Most digits in a string."""

    @model_validator(mode="after")
    def _ordered(self) -> DigitStringsConfig:
        if self.min_digits > self.max_digits:
            raise ValueError(f"min_digits ({self.min_digits}) must not exceed max_digits ({self.max_digits})")
        return self


class WaveformConfig(SpeechConfig):
    """What the datasets of audio files share."""

    root: str
    """Folder that holds the files; relative to the current folder, not to the config."""
    sample_rate: PositiveInt = 16000
    """Samples a second; a file of another rate is refused."""
    features: LogMelConfig = LogMelConfig()
    """What the model sees of a waveform."""


class WavFolderConfig(WaveformConfig):
    """Audio files in one folder per class, as log-mel pictures (1, frames, mels)."""

    seconds: PositiveFloat = 1.0
    """Length of a clip; longer files are cut, shorter ones padded with silence: in training at a random place."""


class LibriSpeechConfig(WaveformConfig):
    """LibriSpeech, or a corpus laid out like it: <subset>/<speaker>/<chapter>/ with .flac files and a .trans.txt."""

    train_subsets: Subsets = ("train-clean-100", "train-clean-360", "train-other-500")
    """Folders in `root` to learn from."""
    test_subsets: Subsets = ("dev-clean",)
    """Folders in `root` to evaluate on."""
    longest_seconds: PositiveFloat = 36.0
    """The longest recording; a longer one is refused."""
    vocab_size: PositiveInt | None = None
    """Size of a byte-level BPE vocabulary learned from the training transcripts; null spells in characters."""
