"""The log-mel front end against a plain NumPy one, its normalisation, and SpecAugment's spans."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mptrain.data.speech.configs import LogMelConfig, MaskConfig
from mptrain.data.speech.log_mel import LogMel, SpeechTransform, mel_bank, normalised, stored
from mptrain.data.speech.spec_augment import spec_augment
from mptrain.errors import ConfigError
from mptrain.interfaces import Batch

TELEPHONE = LogMelConfig(mels=40, window_ms=32, hop_ms=16, low_hz=60, high_hz=3900)
"""The front end of the bundled clips: 256 samples every 128 at 8 kHz."""


def waves(*sizes: int) -> tuple[Tensor, Tensor]:
    made = [torch.randn(size, generator=torch.Generator().manual_seed(size)) * 0.1 for size in sizes]
    return torch.nn.utils.rnn.pad_sequence(made, batch_first=True), torch.tensor(sizes)


def bank_in_numpy(mels: int, size: int, rate: int, low: float, high: float) -> np.ndarray:
    """Return triangles equally wide in mels, one loop a bin."""
    edges = np.linspace(2595 * np.log10(1 + low / 700), 2595 * np.log10(1 + high / 700), mels + 2)
    hertz = 700 * (10 ** (edges / 2595) - 1)
    bank = np.zeros((size // 2 + 1, mels))
    for mel in range(mels):
        for index, frequency in enumerate(np.fft.rfftfreq(size, 1 / rate)):
            left, peak, right = hertz[mel : mel + 3]
            if left < frequency <= peak:
                bank[index, mel] = (frequency - left) / (peak - left)
            elif peak < frequency < right:
                bank[index, mel] = (right - frequency) / (right - peak)
    return bank


def log_mel_in_numpy(wave: np.ndarray) -> np.ndarray:
    """Return TELEPHONE's log-mel (frames, 40), frame by frame."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    starts = range(0, len(wave) - 255, 128)
    power = np.array([np.abs(np.fft.rfft(wave[start : start + 256] * window)) ** 2 for start in starts])
    return np.log(np.maximum(power @ bank_in_numpy(40, 256, 8000, 60, 3900), 1e-10))


@pytest.mark.parametrize("case", [(40, 256, 8000, 60.0, 3900.0), (80, 512, 16000, 20.0, 8000.0)])
def test_the_bank_is_htks(case: tuple[int, int, int, float, float]) -> None:
    np.testing.assert_allclose(mel_bank(*case).numpy(), bank_in_numpy(*case), atol=1e-6)


def test_log_mel_agrees_with_numpy() -> None:
    batch, lengths = waves(8000, 5000, 256)
    features, frames = LogMel(TELEPHONE, 8000)(batch, lengths)
    assert (features.dtype, frames.tolist()) == (torch.float32, [61, 38, 1])
    for row, wave, size, count in zip(features, batch, lengths.tolist(), frames.tolist(), strict=True):
        expected = log_mel_in_numpy(wave[:size].double().numpy())
        assert expected.shape == (count, 40)
        np.testing.assert_allclose(row[:count].numpy(), expected, atol=2e-4)


def test_a_window_shorter_than_its_transform_is_centred_in_it() -> None:
    front = LogMel(LogMelConfig(), 16000)  # 400 samples in 512
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(16000) / 16000).unsqueeze(0)
    features, frames = front(tone, torch.tensor([16000]))
    assert (features.shape, frames.tolist(), front.frames(16000)) == ((1, 97, 80), [97], 97)
    peak = mel_bank(80, 512, 16000, 20, 8000)[32].argmax()  # bin 32 of 512 at 16 kHz is 1000 Hz
    assert set(features[0].argmax(1).tolist()) == {int(peak)}


def test_silence_and_short_recordings_are_finite() -> None:
    transform = SpeechTransform(LogMel(TELEPHONE, 8000), MaskConfig())
    features, lengths = transform(Batch((torch.zeros(2, 100), torch.tensor([100, 3])), None), None).inputs
    assert (features.shape, lengths.tolist()) == ((2, 1, 40), [1, 1])
    assert torch.equal(features, torch.zeros(2, 1, 40))


@pytest.mark.parametrize(
    ("options", "rate", "reason"),
    [
        ({"high_hz": 5000.0}, 8000, "half of the sample rate"),
        ({"low_hz": 4000.0}, 8000, "half of the sample rate"),
        ({"mels": 200}, 8000, "would be empty"),
    ],
)
def test_bins_that_cannot_be_are_refused(options: dict[str, object], rate: int, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        LogMel(LogMelConfig.model_validate(options), rate)


def test_normalised_features_have_mean_0_and_deviation_1_inside_and_are_0_outside() -> None:
    raw = torch.randn(2, 50, 6) * 7 + torch.arange(6) * 100
    features = normalised(raw, torch.tensor([50, 20]))
    for row, length in zip(features, (50, 20), strict=True):
        torch.testing.assert_close(row[:length].mean(0), torch.zeros(6), atol=1e-5, rtol=0)
        torch.testing.assert_close(row[:length].std(0, correction=0), torch.ones(6))
    assert not features[1, 20:].any()
    alone = normalised(raw[1:, :20], torch.tensor([20]))
    torch.testing.assert_close(features[1:, :20], alone)


def hidden(config: MaskConfig, lengths: list[int], count: int = 1, seed: int = 0) -> Tensor:
    """Return which of (N, 60, 20) values SpecAugment zeroes."""
    sizes = torch.tensor(lengths).repeat(count)
    generator = torch.Generator().manual_seed(seed)
    return spec_augment(torch.ones(len(sizes), 60, 20), sizes, config, generator) == 0


def spans(row: Tensor) -> list[int]:
    """Return the lengths of the runs of true values."""
    return [len(run) for run in "".join("x" if value else " " for value in row.tolist()).split()]


def test_time_spans_stay_inside_and_reach_their_share() -> None:
    config = MaskConfig(time_masks=1, time_width=100, time_share=0.2)
    rows = hidden(config, [60, 30], count=400)
    assert torch.equal(rows.any(2), rows.all(2))
    whole, half = rows[::2, :, 0], rows[1::2, :, 0]
    assert not half[:, 30:].any()
    assert all(len(spans(row)) <= 1 for row in [*whole, *half])
    assert (set(whole.sum(1).tolist()), set(half.sum(1).tolist())) == (set(range(13)), set(range(7)))
    assert whole.any(0).all()  # every place is hit by one of 400
    assert half[:, :30].any(0).all()


def test_frequency_spans_are_as_wide_as_they_may_be() -> None:
    rows = hidden(MaskConfig(frequency_masks=1, frequency_width=5), [60], count=300)
    assert torch.equal(rows.any(1), rows.all(1))
    assert set(rows[:, 0].sum(1).tolist()) == set(range(6))
    assert rows[:, 0].any(0).all()


def test_many_spans_and_the_generator_decide() -> None:
    config = MaskConfig(time_masks=3, time_width=4, frequency_masks=2, frequency_width=3)
    assert torch.equal(hidden(config, [60, 40]), hidden(config, [60, 40]))
    assert not torch.equal(hidden(config, [60, 40]), hidden(config, [60, 40], seed=1))
    assert not hidden(MaskConfig(), [60, 40]).any()


def test_only_a_generator_masks() -> None:
    transform = SpeechTransform(stored, MaskConfig(time_masks=2, time_width=10))
    batch = Batch(torch.randint(64, (4, 60, 20), dtype=torch.uint8), torch.zeros(4))
    plain = transform(batch, None).inputs
    masked = transform(batch, torch.Generator().manual_seed(0)).inputs
    assert (plain.shape, plain.dtype) == ((4, 1, 60, 20), torch.float32)
    assert torch.equal(masked, torch.where(masked == 0, 0, plain))
    assert (masked == 0).sum() > (plain == 0).sum()
