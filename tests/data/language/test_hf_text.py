"""Hugging Face datasets from local folders; no network access."""

import json
import sys

import pytest

from mptrain.data.language.configs import HfTextConfig, TextFilesConfig
from mptrain.errors import CapabilityError, DataError
from mptrain.registry import DATASETS

ROWS = {"train": [f"Text number {n} of the training split." for n in range(40)], "test": ["One.", "Two, and more."]}


def build(path, **options):
    return DATASETS.build(HfTextConfig(name="hf_text", path=str(path), context=8, **options), 0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of json lines, which the library reads by its splits' names."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    (tmp_path / "set").mkdir()
    for split, texts in ROWS.items():
        lines = "".join(json.dumps({"text": text, "number": n}) + "\n" for n, text in enumerate(texts))
        (tmp_path / "set" / f"{split}.jsonl").write_text(lines)
    return tmp_path / "set"


def test_the_same_tokens_as_of_text_files(folder, tmp_path):
    for split, texts in ROWS.items():
        (tmp_path / f"{split}.txt").write_text("\n\n".join(texts))
    files = TextFilesConfig(
        name="text_files", train=str(tmp_path / "train.txt"), test=str(tmp_path / "test.txt"), context=8
    )
    expected = DATASETS.build(files, 0).identity
    assert build(folder).identity == {**expected, "name": "hf_text"}


def test_slices_and_saved_datasets(folder, tmp_path):
    import datasets

    half = build(folder, train_split="train[:50%]", separator="\n").identity["train_tokens"]
    assert half == len("\n".join(ROWS["train"][:20]))
    saved = {split: datasets.Dataset.from_dict({"text": texts}) for split, texts in ROWS.items()}
    datasets.DatasetDict(saved).save_to_disk(tmp_path / "saved")
    assert build(tmp_path / "saved").identity == build(folder).identity


def test_what_is_not_there_is_named(folder, tmp_path):
    with pytest.raises(DataError, match=r"has no column 'body', but .*text"):
        build(folder, column="body")
    with pytest.raises(DataError, match=r"'number' of .* does not hold text"):
        build(folder, column="number")
    with pytest.raises(DataError, match=r"\(validation\) cannot be read"):
        build(folder, test_split="validation")
    with pytest.raises(DataError, match=r"data.path: .*nowhere.* cannot be read"):
        build(tmp_path / "nowhere")


def test_the_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CapabilityError, match=r"pip install 'mptrain\[hf\]'"):
        build("anything")
