"""Texts as tokens: the bundled plays, files of one's own, bytes and BPE; damaged and missing files are named."""

import pytest
import torch

from mptrain.data.expected import expected_spec
from mptrain.data.language.configs import ShakespeareConfig, TextFilesConfig
from mptrain.data.loading import make_eval_loader
from mptrain.errors import ConfigError, DataError
from mptrain.interfaces import IGNORED_TOKEN
from mptrain.registry import DATASETS

TEXT = "".join(f"Line {number}: the quick brown fox jumps over the lazy dog.\n" for number in range(200))


def shakespeare(**options):
    return DATASETS.build(ShakespeareConfig(name="shakespeare", **options), 0)


def text_files(**options):
    return DATASETS.build(TextFilesConfig(name="text_files", **{"context": 16, **options}), 0)


def targets(splits) -> list[int]:
    loader = make_eval_loader(splits.test, TextFilesConfig(name="x", train="x"), device=torch.device("cpu"))
    found = torch.cat([batch.targets.flatten() for batch in loader])
    return found[found != IGNORED_TOKEN].tolist()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.txt").write_text(TEXT)
    for name in ("a.txt", "a.text"):
        (tmp_path / name).write_text("Häuser, 日本 and more.\n" * 40)
    return tmp_path


def test_the_last_play_is_the_test_text():
    splits = shakespeare()
    text = splits.spec.output_text.decode(targets(splits))
    assert text.startswith("imon of Athens\n\nACT I\n")  # the very first character has nothing before it
    assert splits.identity["test_tokens"] == len(text) + 1
    assert splits.identity["train_tokens"] + splits.identity["test_tokens"] == 4_998_898
    assert len(splits.train) == (splits.identity["train_tokens"] - 1) // 128
    assert (splits.spec.vocab_size, splits.spec.bytes_per_token) == (256, 1.0)
    assert expected_spec(ShakespeareConfig(name="shakespeare")).inputs == splits.spec.inputs


def test_files_of_a_pattern_are_joined_in_the_order_of_their_names(folder):
    splits = text_files(train="*.txt", test="a.text")
    text = (folder / "a.txt").read_text()
    assert bytes(targets(splits)) == text.encode()[1:]
    assert splits.identity["train_tokens"] == len(f"{text}\n\n{TEXT}".encode())
    other = text_files(train="*.txt", test="a.text", separator="\n")
    assert other.identity["train_tokens"] == splits.identity["train_tokens"] - 1
    assert other.identity["sha256"] != splits.identity["sha256"]


def test_a_test_text_that_is_also_for_training_is_refused_unless_it_is_all_of_it(folder):
    with pytest.raises(ConfigError, match=r"data\.test: .*/a\.txt is also a training file; narrow the pattern"):
        text_files(train="*.txt", test=str(folder / "a.txt"))
    assert targets(text_files(train="a.txt", test=str(folder / "a.txt")))


def test_without_a_test_text_the_end_of_the_other_is_kept_back(folder):
    splits = text_files(train="b.txt", test_fraction=0.25)
    assert splits.spec.output_text.decode(targets(splits)) == TEXT[-(len(TEXT) // 4) + 1 :]


def test_bpe_is_learned_and_loses_nothing(folder):
    splits = text_files(train="b.txt", test="a.txt", tokenizer="bpe", vocab_size=300)
    codec, text = splits.spec.output_text, (folder / "a.txt").read_text()
    ids = codec.encode(text)
    assert splits.spec.vocab_size == codec.vocab_size == 300
    assert codec.decode(ids) == text
    assert targets(splits) == ids[1:]
    assert splits.spec.bytes_per_token == pytest.approx(len(text.encode()) / len(ids))
    assert sum(codec.byte_lengths()[i] for i in ids) == len(text.encode())
    again = text_files(train="b.txt", test="a.txt", tokenizer="bpe", vocab_size=300)
    assert again.identity == splits.identity


def test_a_long_text_is_tokenised_in_pieces_that_lose_nothing(folder):
    long = TEXT * 30
    (folder / "long.txt").write_text(long)
    splits = text_files(train="b.txt", test="long.txt", tokenizer="bpe", vocab_size=400)
    codec = splits.spec.output_text
    assert codec.decode([codec.encode("Line")[0], *targets(splits)]) == long
    assert splits.spec.bytes_per_token > 2


def test_a_tokenizer_of_ones_own(folder):
    made = text_files(train="b.txt", tokenizer="bpe", vocab_size=300)
    made.spec.output_text._tokenizer.save("tokenizer.json")
    read = text_files(train="b.txt", tokenizer="tokenizer.json")
    assert read.identity == made.identity
    assert expected_spec(TextFilesConfig(name="text_files", train="b.txt", tokenizer="tokenizer.json")) is None


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_invalid_utf8_is_named_with_its_place_or_left_out(folder, on_error):
    (folder / "c.txt").write_bytes("naïve ".encode("latin-1") + b"text\n" * 100)
    if on_error == "raise":
        with pytest.raises(DataError, match=r"data.train: c.txt is no UTF-8: byte 0xef at offset 2"):
            text_files(train="*.txt", test="a.text")
        return
    splits = text_files(train="*.txt", test="a.text", on_error="skip")
    assert list(splits.bad_files.reasons) == [
        "data.train: c.txt is no UTF-8: byte 0xef at offset 2; convert it (iconv -t utf-8), or set data.on_error=skip "
        "to leave it out"
    ]
    assert splits.identity == text_files(train="[ab].txt", test="a.text").identity


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"train": "none.txt"}, "data.train: no text in 'none.txt'"),
        ({"train": "b.txt", "test": "none/*"}, "data.test: no text in 'none/\\*'"),
        ({"train": "b.txt", "context": 100_000}, "b.txt has .* tokens, but data.context=100000 needs 100001"),
        ({"train": "b.txt", "tokenizer": "none.json"}, "data.tokenizer: .*none.json cannot be read"),
        ({"train": "b.txt", "tokenizer": "a.txt"}, "data.tokenizer: a.txt is no tokenizer.json"),
    ],
)
def test_what_cannot_be_read_is_named(folder, options, text):
    with pytest.raises(DataError, match=text):
        text_files(**options)


def test_a_vocabulary_too_small_for_bytes_is_refused(folder):
    with pytest.raises(ConfigError, match=r"data.vocab_size: 259, but bytes and special tokens alone are 260"):
        text_files(train="b.txt", tokenizer="bpe", vocab_size=259)


@pytest.mark.parametrize("options", [{"tokenizer": "bpe"}, {"vocab_size": 300}])
def test_vocab_size_goes_with_bpe(options):
    with pytest.raises(ValueError, match="vocab_size: give it with tokenizer: bpe"):
        ShakespeareConfig(name="shakespeare", **options)
