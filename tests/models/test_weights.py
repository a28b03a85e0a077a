"""Initial weights: what is loaded, fitted, refused, and said."""

from __future__ import annotations

import logging
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import mptrain.models
from mptrain.errors import ConfigError, DataError
from mptrain.interfaces import DataSpec
from mptrain.registry import MODELS

assert mptrain.models  # registers the entries

COLOUR = DataSpec((3, 32, 32), 10)


def build(spec: DataSpec, weights: Path | str | None = None, name: str = "resnet18", **options: object) -> nn.Module:
    section = {"name": name, "weights": None if weights is None else str(weights), **options}
    return MODELS.build(MODELS.config_type(name).model_validate(section), spec)


def equal(one: nn.Module, other: nn.Module, *, but: str = "none") -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for (key, a), b in pairs if not key.startswith(but))


@pytest.fixture(scope="module")
def source() -> nn.Module:
    return build(COLOUR)


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_a_file_is_loaded_whole(source: nn.Module, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"weights.{kind}"
    if kind == "pt":
        torch.save(source.state_dict(), path)
    else:
        save_file(source.state_dict(), path)
    assert equal(build(COLOUR, path), source)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_upcast(source: nn.Module, tmp_path: Path, dtype: torch.dtype) -> None:
    half = {k: v.to(dtype) if v.is_floating_point() else v for k, v in source.state_dict().items()}
    torch.save(half, tmp_path / "half.pt")
    loaded = build(COLOUR, tmp_path / "half.pt").state_dict()
    assert {v.dtype for v in loaded.values()} == {torch.float32, torch.int64}
    assert torch.equal(loaded["conv1.weight"], half["conv1.weight"].float())


def test_files_from_before_batch_norm_counted_are_loaded(source: nn.Module, tmp_path: Path) -> None:
    old = {key: value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pt")
    assert equal(build(COLOUR, tmp_path / "old.pt"), source)


def test_another_number_of_classes_replaces_the_head_and_says_so(
    source: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(source.state_dict(), tmp_path / "w.pt")
    with caplog.at_level(logging.WARNING):
        model = build(DataSpec((3, 32, 32), 4), tmp_path / "w.pt")
    assert equal(model, source, but="fc.") is True
    assert model.state_dict()["fc.weight"].shape == (4, 512)
    assert "10 outputs, the model 4" in caplog.text
    assert "fc.weight" in caplog.text


def test_colour_weights_serve_grey_images(source: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(source.state_dict(), tmp_path / "w.pt")
    grey = torch.randn(2, 1, 32, 32)
    model = build(DataSpec((1, 32, 32), 10), tmp_path / "w.pt").eval()
    with torch.no_grad():
        torch.testing.assert_close(
            model(grey), build(COLOUR, tmp_path / "w.pt").eval()(grey.expand(2, 3, 32, 32)), rtol=1e-4, atol=1e-4
        )
    assert "summed over its channels" in caplog.text


def test_auxiliary_weights_are_left_out_where_they_are_not_trained(tmp_path: Path) -> None:
    full = build(COLOUR, name="googlenet")
    torch.save(full.state_dict(), tmp_path / "w.pt")
    model = build(COLOUR, tmp_path / "w.pt", name="googlenet", aux_logits=False)
    assert torch.equal(model.state_dict()["fc.weight"], full.state_dict()["fc.weight"])


def test_weights_of_another_network_are_refused(source: nn.Module, tmp_path: Path) -> None:
    state = source.state_dict()
    cases = {
        "lacks fc.bias": {k: v for k, v in state.items() if k != "fc.bias"},
        "also has extra": {**state, "extra": torch.zeros(1)},
        r"conv1.weight is \(64, 3, 3, 3\)": {**state, "conv1.weight": torch.zeros(64, 3, 3, 3)},
    }
    for says, changed in cases.items():
        torch.save(changed, tmp_path / "w.pt")
        with pytest.raises(ConfigError, match=says) as caught:
            build(COLOUR, tmp_path / "w.pt")
        assert "\n" not in str(caught.value)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran",)


BAD = ["absent", "junk", "evil", "wrapped", "empty", "meta", "sparse", "numbered", "tar"]


@pytest.mark.parametrize("name", ["junk.safetensors", *(f"{name}.pt" for name in BAD)])
def test_missing_and_damaged_files_are_one_line(
    source: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "junk.pt").write_bytes(b"\x93junk" * 100)
    (tmp_path / "junk.safetensors").write_bytes(b"\x93junk" * 100)
    (tmp_path / "empty.pt").touch()
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    state = source.state_dict()
    torch.save({"model": state, "step": 3}, tmp_path / "wrapped.pt")
    torch.save({key: value.to("meta") for key, value in state.items()}, tmp_path / "meta.pt")
    torch.save({key: value.to_sparse() for key, value in state.items()}, tmp_path / "sparse.pt")
    torch.save(dict(enumerate(state.values())), tmp_path / "numbered.pt")
    with tarfile.open(tmp_path / "tar.pt", "w") as tar:  # torch's format of 2017
        for member in ("junk.pt", "evil.pt"):
            tar.add(tmp_path / member, {"junk.pt": "storages", "evil.pt": "pickle"}[member])
    with pytest.raises(DataError, match=name) as caught:
        build(COLOUR, tmp_path / name)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's advice to load what it is all the same
    assert "code ran" not in capsys.readouterr().out


def test_unknown_names_list_what_exists() -> None:
    with pytest.raises(ConfigError, match=r"one of resnet18's weights: .*DEFAULT"):
        build(COLOUR, "IMAGENET22K")


def test_a_download_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # An address that refuses at once stands for a machine without a network.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(DataError, match="cannot be downloaded") as caught:
        build(COLOUR, "DEFAULT", name="squeezenet1_1")
    assert "\n" not in str(caught.value)
