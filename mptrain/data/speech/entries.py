"""Names and descriptions of the datasets for keywords and transcription from speech.

Owns: their registration. Must not: import torch at module level; each build names its module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mptrain.data.expected import expected_spec
from mptrain.data.speech.configs import ClipsConfig, DigitStringsConfig, LibriSpeechConfig, WavFolderConfig
from mptrain.interfaces import DataSpec
from mptrain.registry import DATASETS

if TYPE_CHECKING:
    from mptrain.interfaces import DataSplits


@DATASETS.register(
    "spoken_digits", config=ClipsConfig, description="Spoken digits in noise, 37 + 9 synthetic voices, bundled"
)
def _spoken_digits(config: ClipsConfig, seed: int) -> DataSplits:
    from mptrain.data.speech import clips

    return clips.spoken_digits(config)


@DATASETS.register(
    "voice_prompts", config=ClipsConfig, description="Telephone prompts: which of 6 real speakers, bundled"
)
def _voice_prompts(config: ClipsConfig, seed: int) -> DataSplits:
    from mptrain.data.speech import clips

    return clips.voice_prompts(config)


@DATASETS.register(
    "digit_strings", config=DigitStringsConfig, description="Spoken digit strings to spell out, bundled voices"
)
def _digit_strings(config: DigitStringsConfig, seed: int) -> DataSplits:
    from mptrain.data.speech import digit_strings

    return digit_strings.digit_strings(config)


@DATASETS.register("wav_folder", config=WavFolderConfig, description="Audio files in train/<class>/ and test/<class>/")
def _wav_folder(config: WavFolderConfig, seed: int) -> DataSplits:
    from mptrain.data.speech import wav_folder

    return wav_folder.wav_folder(config)


@DATASETS.register(
    "librispeech", config=LibriSpeechConfig, description="LibriSpeech's layout: .flac files and their transcripts"
)
def _librispeech(config: LibriSpeechConfig, seed: int) -> DataSplits:
    from mptrain.data.speech import librispeech

    return librispeech.librispeech(config)


@expected_spec.register
def _expected_librispeech(config: LibriSpeechConfig) -> DataSpec:
    from mptrain.data.speech import librispeech

    return librispeech.expected(config)
