"""The user's parallel text: two layouts read line by line, tokenisers from files, and lines that cannot be used."""

import hashlib
import pickle
import tracemalloc

import pytest
import torch

from mptrain.data.expected import expected_spec
from mptrain.data.text import lines
from mptrain.data.text.configs import ParallelConfig
from mptrain.data.text.parallel import Pairs, parallel
from mptrain.data.tokenizers import train_bpe
from mptrain.errors import DataError
from mptrain.interfaces import BOS, EOS, PAD
from tests.trainer.runs import fitted

PAIRS = [("a house", "ein haus"), ("the tree", "der baum"), ("green", "grün")]


def write(folder, name="train", pairs=PAIRS, *, tsv=False):
    if tsv:
        (folder / f"{name}.tsv").write_text("".join(f"{s}\t{t}\n" for s, t in pairs))
        return str(folder / f"{name}.tsv")
    (folder / f"{name}.en").write_text("\n".join(s for s, _ in pairs))
    (folder / f"{name}.de").write_text("\r\n".join(t for _, t in pairs) + "\r\n")
    return str(folder / name)


def load(train, test=None, **changes):
    options = {"source": "en", "target": "de", "vocab_size": 300, "max_tokens": 16, **changes}
    return parallel(ParallelConfig(name="parallel", train=train, test=test or train, **options))


@pytest.mark.parametrize("tsv", [False, True])
def test_pairs_are_read_line_by_line(tmp_path, tsv):
    splits = load(write(tmp_path, tsv=tsv))
    codec = splits.spec.output_text
    samples = [splits.train.dataset[index] for index in range(len(splits.train))]
    assert [tuple(codec.decode(row.tolist()) for row in inputs) for inputs, _ in samples] == PAIRS
    (source, shifted), target = samples[0]
    assert source[source != PAD][-1] == EOS
    assert shifted[0] == BOS
    assert target[target >= 0].tolist() == [*shifted[shifted != PAD][1:].tolist(), EOS]
    assert {tuple(t.shape) for t in (source, shifted, target)} == {(16,)}


def test_the_dataset_travels_to_loader_processes(tmp_path):
    dataset = load(write(tmp_path)).train.dataset
    other = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(other[1][1], dataset[1][1])


def test_the_spec_is_what_was_expected(tmp_path):
    config = ParallelConfig(name="parallel", train=write(tmp_path), test="nowhere", vocab_size=300, max_tokens=16)
    expected, found = expected_spec(config), load(write(tmp_path)).spec
    # So few texts have fewer merges than asked for.
    assert [each.shape for each in expected.inputs] == [each.shape for each in found.inputs] == [(16,), (16,)]
    assert (expected.kind, expected.num_outputs) == (found.kind, 300)


@pytest.mark.parametrize("block", [1, 5, 2**24])
def test_lines_are_found_however_much_is_searched_at_a_time(tmp_path, monkeypatch, block):
    monkeypatch.setattr(lines, "BLOCK", block)
    path = tmp_path / "text"
    for content in ("one\n\nthree\r\nvier ä", "one\ntwo\n", "\n", "one"):
        path.write_bytes(content.encode())
        found = lines.IndexedLines("data.train", path)
        assert [found[i] for i in range(len(found))] == content.splitlines()
        assert found.sha256 == hashlib.sha256(content.encode()).hexdigest()


def test_a_file_is_not_held_whole_while_its_lines_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK", 2**16)
    (tmp_path / "text").write_bytes((b"x" * 1023 + b"\n") * 4096)
    tracemalloc.start()
    try:
        assert len(lines.IndexedLines("data.train", tmp_path / "text")) == 4096
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_byte_order_mark_is_no_text(tmp_path):
    train = write(tmp_path)
    for path in tmp_path.glob("train.*"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert Pairs("data.train", train, ParallelConfig(name="parallel", train="", test="", source="en", target="de"))[
        0
    ] == ("a house", "ein haus")


@pytest.mark.parametrize("tsv", [False, True])
def test_a_line_that_is_no_utf8_is_named_or_left_out(tmp_path, tsv):
    train = write(tmp_path, tsv=tsv)
    broken = tmp_path / ("train.tsv" if tsv else "train.de")
    content = broken.read_bytes().replace("grün".encode(), b"gr\xfcn")
    broken.write_bytes(content)
    with pytest.raises(DataError, match=rf"{broken.name}:3: no UTF-8: byte 0xfc"):
        load(train)
    splits = load(train, on_error="skip")
    assert len(splits.bad_files.reasons) == 1
    with pytest.raises(DataError, match=rf"{broken.name}:3"):
        splits.train.dataset[2]


def test_a_tsv_line_of_other_than_two_columns(tmp_path):
    (tmp_path / "t.tsv").write_text("a\tb\nc\nd\te\tf\n")
    with pytest.raises(DataError, match=r"t\.tsv:2: 1 column\(s\)"):
        load(str(tmp_path / "t.tsv"))
    assert len(load(str(tmp_path / "t.tsv"), on_error="skip").bad_files.reasons) == 2


def test_files_of_other_lengths(tmp_path):
    train = write(tmp_path)
    (tmp_path / "train.de").write_text("ein haus\n")
    with pytest.raises(DataError, match=r"train\.en has 3 lines and .*train\.de 1"):
        load(train)


@pytest.mark.parametrize(("content", "reason"), [(None, "cannot be read"), (b"", "is empty")])
def test_a_file_that_is_missing_or_empty(tmp_path, content, reason):
    train = write(tmp_path)
    (tmp_path / "train.de").unlink()
    if content is not None:
        (tmp_path / "train.de").write_bytes(content)
    with pytest.raises(DataError, match=rf"data\.train: .*train\.de {reason}"):
        load(train)


def test_a_tokenizer_of_ones_own(tmp_path):
    codec = train_bpe(["ein haus a house the tree"], 280)
    codec._tokenizer.save(str(tmp_path / "tokenizer.json"))
    splits = load(write(tmp_path), tokenizer=str(tmp_path / "tokenizer.json"))
    assert splits.spec.vocab_size == codec.vocab_size
    assert splits.spec.input_text.encode("a house") == codec.encode("a house")


def test_a_tokenizer_without_the_special_tokens(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}, unk_token="a")).save(str(tmp_path / "t.json"))
    with pytest.raises(DataError, match=r"t\.json: its ids 0 to 3 are not special tokens"):
        load(write(tmp_path), tokenizer=str(tmp_path / "t.json"))


def test_a_run_learns_from_files_and_leaves_out_what_it_cannot_read(tmp_path):
    train = write(tmp_path, pairs=PAIRS * 8, tsv=True)
    with (tmp_path / "train.tsv").open("a") as file:
        file.write("no target\n")
    made = fitted(
        {
            "model": {"name": "seq2seq", "width": 32, "depth": 1, "heads": 2, "hidden": 64, "dropout": 0.0},
            "data": {
                "name": "parallel", "train": train, "test": write(tmp_path, "test", tsv=True), "on_error": "skip",
                "vocab_size": 280, "max_tokens": 16, "batch_size": 4,
            },
            "task": {"name": "translation", "metric": "exact"},
            "train": {"max_steps": 60},
        }
    )  # fmt: skip
    assert made.metrics["exact"] == 1.0
    assert made.metrics["samples"] == 3
