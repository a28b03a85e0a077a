"""Tokens in .bin and .npy files: mapped, never loaded whole; sizes, formats and ids that do not fit are named."""

import json

import numpy as np
import pytest
import torch

from mptrain.data.expected import expected_spec
from mptrain.data.language.configs import TextFilesConfig, TokenFilesConfig
from mptrain.data.loading import make_eval_loader, make_train_loader
from mptrain.data.tokenizers import load_tokenizer, train_bpe
from mptrain.errors import ConfigError, DataError
from mptrain.interfaces import IGNORED_TOKEN
from mptrain.registry import DATASETS

CPU = torch.device("cpu")
VOCABULARY = 40


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    train, test = (generator.integers(0, VOCABULARY, size) for size in (5000, 300))
    train.astype("<u2").tofile("train.bin")
    test.astype("<u2").tofile("val.bin")
    np.save("train.npy", train.astype(np.uint32))
    np.save("val.npy", test.astype(np.int16))
    return tmp_path, train, test


def config(ending="bin", **options):
    given = {"train": f"train.{ending}", "test": f"val.{ending}", "vocab_size": VOCABULARY, "context": 16, **options}
    return TokenFilesConfig(name="token_files", **given)


def build(*args, **options):
    return DATASETS.build(config(*args, **options), 0)


@pytest.mark.parametrize("ending", ["bin", "npy"])
def test_files_are_mapped_and_read_as_written(folder, ending):
    _, train, test = folder
    splits = build(ending)
    assert isinstance(splits.train.dataset._tokens._ids, np.memmap)
    found = torch.cat([b.targets.flatten() for b in make_eval_loader(splits.test, config(), device=CPU)])
    assert found[found != IGNORED_TOKEN].tolist() == test[1:].tolist()
    (first, *_) = make_train_loader(splits.train, config(batch_size=8), seed=0, device=CPU).epoch(0)
    rows = "".join(map(chr, train))
    assert all("".join(map(chr, window)) in rows for window in first.inputs.tolist())
    assert (splits.identity["train_tokens"], splits.identity["test_tokens"]) == (5000, 300)
    assert splits.spec == expected_spec(config())


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_read_the_mapped_file(folder, workers):
    splits = build()
    batches = list(make_train_loader(splits.train, config(num_workers=workers), seed=0, device=CPU).epoch(0))
    again = list(make_train_loader(splits.train, config(), seed=0, device=CPU).epoch(0))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(batches, again, strict=True))


def test_wide_numbers(folder):
    np.array([70_000, 3, 70_001] * 20, "<u4").tofile("wide.bin")
    splits = build(train="wide.bin", test="wide.bin", dtype="uint32", vocab_size=70_002)
    assert splits.test.dataset[0][0][:3].tolist() == [70_000, 3, 70_001]


def test_an_id_outside_the_vocabulary_is_found_where_it_is_read(folder):
    splits = build(vocab_size=30)
    with pytest.raises(DataError, match=r"data: val.bin: token \d+ is 3\d, but data.vocab_size is 30"):
        list(make_eval_loader(splits.test, config(), device=CPU))


def damaged(folder, name):
    if name == "half a number.bin":
        (folder / name).write_bytes(b"\1\2\3")
    elif name == "empty.bin":
        (folder / name).write_bytes(b"")
    elif name == "cut.npy":
        (folder / name).write_bytes((folder / "train.npy").read_bytes()[:500])
    elif name == "odd header.npy":
        (folder / name).write_bytes((folder / "train.npy").read_bytes()[:128].replace(b"}", b"(") + bytes(400))
    elif name == "text.npy":
        (folder / name).write_text("tokens")
    elif name == "table.npy":
        np.save(folder / name, np.zeros((3, 4), np.int64))
    elif name == "reals.npy":
        np.save(folder / name, np.zeros(100))
    elif name == "objects.npy":
        np.save(folder / name, np.array([1, "a", None], dtype=object))
    elif name == "short.bin":
        np.zeros(16, "<u2").tofile(folder / name)
    return name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("none.bin", "data.train: .*none.bin cannot be read"),
        ("half a number.bin", "data.train: half a number.bin holds no row of tokens"),
        ("empty.bin", "data.train: empty.bin holds no row of tokens"),
        ("cut.npy", "data.train: cut.npy holds no row of tokens"),
        ("odd header.npy", "data.train: odd header.npy holds no row of tokens"),
        ("text.npy", "data.train: text.npy holds no row of tokens"),
        ("table.npy", "data.train: table.npy must hold one row of whole numbers"),
        ("reals.npy", "data.train: reals.npy must hold one row of whole numbers"),
        ("objects.npy", "data.train: objects.npy holds no row of tokens"),
        ("short.bin", "data: short.bin has 16 tokens, but data.context=16 needs 17"),
    ],
)
def test_a_file_that_holds_no_tokens_is_named(folder, name, text):
    damaged(folder[0], name)
    with pytest.raises(DataError, match=text):
        build(train=name)


def test_bytes_per_token_with_the_tokenizer_that_made_them(folder):
    text = "Häuser and more houses, 日本.\n" * 200
    (folder[0] / "text.txt").write_text(text)
    made = DATASETS.build(
        TextFilesConfig(name="text_files", train="text.txt", tokenizer="bpe", vocab_size=290, context=16), 0
    ).spec.output_text
    made._tokenizer.save("tokenizer.json")
    ids = made.encode(text)
    np.array(ids, "<u2").tofile("text.bin")
    options = {"train": "text.bin", "test": "text.bin", "tokenizer": "tokenizer.json"}
    splits = build(vocab_size=300, **options)
    assert splits.spec.bytes_per_token == pytest.approx(len(text.encode()) / len(ids))
    assert splits.spec.output_text.decode(ids[:20]) == text[: len(made.decode(ids[:20]))]
    with pytest.raises(ConfigError, match=rf"data.vocab_size: 200, but data.tokenizer has {made.vocab_size} tokens"):
        build(vocab_size=200, **options)
    np.array([*ids, made.vocab_size + 5], "<u2").tofile("text.bin")
    assert build(vocab_size=300, **options).spec.bytes_per_token == pytest.approx(len(text.encode()) / (len(ids) + 1))


def test_ids_beyond_a_gap_in_a_tokenizers_vocabulary_are_in_it(tmp_path):
    train_bpe(["more houses"], 270)._tokenizer.save(str(tmp_path / "tokenizer.json"))
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"]["vocab"]["<late>"] = 400
    content["added_tokens"].append({**content["added_tokens"][0], "id": 400, "content": "<late>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    codec = load_tokenizer(tmp_path / "tokenizer.json")
    assert codec.encode("a<late>")[1] == 400
    assert codec.vocab_size == 401
    assert codec.byte_lengths()[400] == 0
