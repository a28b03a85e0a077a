"""From waveforms to what a model sees: the logarithm of the power in mel bins, normalised, in FP32 on the device.

    waveform -> windows (Hann) -> power spectrum -> mel bins (triangles) -> logarithm -> mean 0, deviation 1 per bin

Owns: these formulas, for batches of unequal lengths. Must not: read files, or read the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mptrain.data.speech.configs import LogMelConfig, MaskConfig
from mptrain.data.speech.spec_augment import spec_augment
from mptrain.errors import ConfigError
from mptrain.interfaces import Batch

POWER_FLOOR = 1e-10
"""Power below this counts as this: the logarithm of silence."""
DEVIATION_FLOOR = 1e-3
"""A bin that varies less than this is not blown up."""

Front = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Raw samples (N, ...) and their lengths (N,) -> FP32 features (N, frames, mels) and their lengths in frames (N,)."""


class LogMel:
    """FP32 waveforms (N, samples) and lengths -> natural logarithm of the power in mel bins, and lengths in frames.

    A frame begins at every hop and lies wholly inside the samples, so that padding changes no frame of a recording;
    a recording shorter than a window has one frame. Raises ConfigError for bins that no frequency of the window falls
    into, and for edges beyond half of the sample rate.
    """

    def __init__(self, config: LogMelConfig, sample_rate: int) -> None:
        self._window_size = max(1, round(config.window_ms * sample_rate / 1000))
        self._hop = max(1, round(config.hop_ms * sample_rate / 1000))
        self._size = 1 << (self._window_size - 1).bit_length()  # the power of two that holds a window
        high = sample_rate / 2 if config.high_hz is None else config.high_hz
        if not config.low_hz < high <= sample_rate / 2:
            raise ConfigError(
                f"data.features: bins from {config.low_hz:g} to {high:g} Hz do not lie within 0 to half of the sample "
                f"rate, {sample_rate / 2:g} Hz; set low_hz and high_hz, or data.sample_rate"
            )
        self._bank = mel_bank(config.mels, self._size, sample_rate, config.low_hz, high)
        empty = int((self._bank.sum(0) == 0).sum())
        if empty:
            raise ConfigError(
                f"data.features.mels: {config.mels} bins are too narrow for windows of {config.window_ms:g} ms, "
                f"{empty} would be empty; give fewer bins or longer windows"
            )
        self._window = torch.hann_window(self._window_size)

    def frames(self, samples: int) -> int:
        """Return how many frames `samples` samples give."""
        return 1 + max(0, samples - self._size) // self._hop

    def __call__(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return FP32 (N, frames, mels) and lengths in frames (N,), int64."""
        if self._bank.device != waves.device:
            self._bank, self._window = self._bank.to(waves.device), self._window.to(waves.device)
        waves = torch.nn.functional.pad(waves, (0, max(0, self._size - waves.shape[1])))
        spectrum = torch.stft(
            waves, self._size, self._hop, self._window_size, self._window, center=False, return_complex=True
        )
        power = (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2)
        frames = (lengths - self._size).clamp(min=0).div(self._hop, rounding_mode="floor") + 1
        return (power @ self._bank).clamp(min=POWER_FLOOR).log(), frames


def mel_bank(mels: int, size: int, sample_rate: int, low_hz: float, high_hz: float) -> Tensor:
    """Return FP32 (size / 2 + 1, mels): triangles of height 1, equally wide in mels, as HTK has them.

    mel(f) = 2595 log10(1 + f / 700) (The HTK Book, 5.4; equals torchaudio's melscale_fbanks without `norm`).
    """
    edges = torch.tensor([low_hz, high_hz], dtype=torch.float64)
    low_mel, high_mel = (2595 * torch.log10(1 + edges / 700)).tolist()
    points = 700 * (10 ** (torch.linspace(low_mel, high_mel, mels + 2, dtype=torch.float64) / 2595) - 1)
    frequencies = torch.linspace(0, sample_rate / 2, size // 2 + 1, dtype=torch.float64).unsqueeze(1)
    left, peak, right = points[:-2], points[1:-1], points[2:]
    rising, falling = (frequencies - left) / (peak - left), (right - frequencies) / (right - peak)
    return torch.minimum(rising, falling).clamp(min=0).float()


def stored(raw: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return features that are stored as log-mel already, in FP32; their unit does not matter."""
    return raw.float(), lengths


def normalised(features: Tensor, lengths: Tensor) -> Tensor:
    """Return features with mean 0 and deviation 1 in each mel bin over each sample's frames, and 0 after its end."""
    inside = (torch.arange(features.shape[1], device=features.device) < lengths.unsqueeze(1)).unsqueeze(2)
    count = lengths.view(-1, 1, 1)
    centred = (features - (features * inside).sum(1, keepdim=True) / count) * inside
    deviation = (centred.square().sum(1, keepdim=True) / count).sqrt()
    return centred / deviation.clamp(min=DEVIATION_FLOOR)


class SpeechTransform:
    """Raw speech -> normalised features, masked given a generator.

    Samples of one length give pictures (N, 1, frames, mels), which any image network takes; samples with lengths,
    (raw, lengths), give (features (N, frames, mels), lengths in frames (N,)).
    """

    def __init__(self, front: Front, masks: MaskConfig) -> None:
        self._front, self._masks = front, masks

    def __call__(self, batch: Batch, generator: torch.Generator | None) -> Batch:
        """Return the batch with FP32 inputs."""
        if isinstance(batch.inputs, tuple):
            raw, lengths = batch.inputs
            return batch._replace(inputs=self._features(raw, lengths, generator))
        lengths = torch.full((batch.size,), batch.inputs.shape[1], device=batch.inputs.device)
        features, _ = self._features(batch.inputs, lengths, generator)
        return batch._replace(inputs=features.unsqueeze(1))

    def _features(self, raw: Tensor, raw_lengths: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        features, lengths = self._front(raw, raw_lengths)
        features = normalised(features, lengths)
        if generator is not None:
            features = spec_augment(features, lengths, self._masks, generator)
        return features, lengths
