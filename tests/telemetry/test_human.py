"""Formats for people."""

import math

import pytest

from mptrain.telemetry import human


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (7.4, "0:07"),
        (59.6, "1:00"),
        (151, "2:31"),
        (3723, "1:02:03"),
        (273906, "3d 04:05:06"),
        (None, "n/a"),
    ],
)
def test_duration(seconds: float | None, text: str):
    assert human.duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (1288490189, "1.2 GiB"),
        (2**41, "2.0 TiB"),
    ],
)
def test_size(num_bytes: int, text: str):
    assert human.size(num_bytes) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.23451, "1.2345"),
        (-0.5, "-0.5000"),
        (0.0, "0"),
        (2.5e-5, "2.500e-05"),
        (2000, "2000"),
        (3, "3"),
        (2000.5, "2000.5000"),
        (1e9, "1.000e+09"),
        (1.0, "1.0000"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (None, "n/a"),
    ],
)
def test_number(value: float | None, text: str):
    assert human.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(65536.0, "65536"), (0.5, "0.5"), (2.0**24, "16777216"), (math.inf, "inf"), (None, "n/a")]
)
def test_scale(value: float | None, text: str):
    assert human.scale(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1.234, "1.23"), (123.4, "123"), (0.00012, "0.000120"), (1.0, "1.00"), (math.nan, "nan")]
)
def test_norm(value: float, text: str):
    assert human.norm(value) == text


def test_speeds():
    assert human.speed(245.12, emulated=False) == "245.1 samples/s"
    assert human.speed(123456.7, emulated=True) == "123,457 samples/s (emulated)"
    assert human.speed(None, emulated=True) == "n/a samples/s (emulated)"
    assert human.milliseconds(0.2661) == "0.27 ms"
    assert human.milliseconds(52.21) == "52.2 ms"
    assert human.milliseconds(1234.0, emulated=True) == "1,234 ms (emulated)"
    assert human.milliseconds(None) == "n/a"


def test_one_line():
    assert human.one_line("a\nb\r\x1b[31mc\u2028d é") == "a b  [31mc d é"


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.0, "0%"), (1e-9, "<0.1%"), (0.00099, "<0.1%"), (0.001, "0.1%"), (0.25, "25.0%"), (1, "100.0%")],
)
def test_share(fraction: float, text: str):
    assert human.share(fraction) == text


@pytest.mark.parametrize(
    ("exponent", "text"),
    [
        (6.99, "2^6"),
        (0.0, "2^0"),
        (-0.5, "2^-1"),
        (math.inf, "n/a"),
        (-math.inf, "n/a"),
        (math.nan, "n/a"),
        (None, "n/a"),
    ],
)
def test_power_of_two(exponent: float | None, text: str):
    assert human.power_of_two(exponent) == text
