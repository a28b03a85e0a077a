"""The user's tables of labelled texts: three formats, and every line that cannot be used is named."""

import json

import pytest

from mptrain.data.text.configs import TextTableConfig
from mptrain.data.text.tables import text_table
from mptrain.errors import ConfigError, DataError
from mptrain.interfaces import BOS, PAD

ROWS = [("so good", "pos"), ('a "bad", sad film', "neg"), ("größe", "pos")]


def write(path, rows=ROWS):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"label": label, "text": text}) + "\n" for text, label in rows))
    elif path.suffix == ".tsv":
        path.write_text("label\ttext\n" + "".join(f"{label}\t{text}\n" for text, label in rows))
    else:
        quoted = [(text.replace('"', '""'), label) for text, label in rows]
        path.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in quoted))
    return path


def load(train, test=None, **changes):
    options = {"vocab_size": 300, "max_tokens": 24, **changes}
    return text_table(TextTableConfig(name="text_table", train=str(train), test=str(test or train), **options))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_formats(tmp_path, suffix):
    splits = load(write(tmp_path / f"t{suffix}"))
    assert splits.spec.class_names == ("neg", "pos")
    assert splits.train.targets.tolist() == [1, 0, 1]
    assert [splits.spec.input_text.decode(row.tolist()) for row in splits.train.inputs] == [text for text, _ in ROWS]
    assert tuple(splits.train.inputs.shape) == (3, 24)
    assert set(splits.train.inputs[:, 0].tolist()) == {BOS}
    assert splits.train.inputs[0, -1] == PAD


def test_a_csv_text_of_several_lines_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('\ufefftext,label\r\n"two\nlines",a\r\n\r\nx,b\r\n'.encode())
    splits = load(path)
    assert splits.spec.input_text.decode(splits.train.inputs[0].tolist()) == "two\nlines"
    assert splits.train.targets.tolist() == [0, 1]


def test_a_lone_quotation_mark_in_a_tsv_is_text(tmp_path):
    splits = load(write(tmp_path / "t.tsv", [('12" vinyl', "a"), ("x", "b")]))
    assert splits.spec.input_text.decode(splits.train.inputs[0].tolist()) == '12" vinyl'


BAD = {
    ".csv": (
        b"text,label\ngood,a\n\xff\xfe,a\nx,y,z\nfine,b\n",
        ["t.csv:3: no UTF-8: byte 0xff", "t.csv:4: 3 value(s)"],
    ),
    ".tsv": (b"text\tlabel\ngood\ta\n\xffx\ta\nx\nfine\tb\n", ["t.tsv:3: no UTF-8", "t.tsv:4: 1 value(s)"]),
    ".jsonl": (
        b'{"text": "good", "label": "a"}\n{"text": \n[1]\n{"text": 3, "label": "a"}\n{"text": "x", "label": 0.5}\n'
        b'{"text": "half \\ud800", "label": "a"}\n{"text": "fine", "label": "b"}\n',
        [
            *("t.jsonl:2: no JSON", "t.jsonl:3: a JSON object", "t.jsonl:4: 'text' must", "t.jsonl:5: 'label' must"),
            "t.jsonl:6: holds half of a surrogate pair, '\\ud800'",
        ],
    ),
}


@pytest.mark.parametrize("suffix", BAD)
def test_bad_rows_are_named_or_left_out_and_counted(tmp_path, suffix):
    content, reasons = BAD[suffix]
    path = tmp_path / f"t{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        load(path)
    assert reasons[0] in str(raised.value)
    splits = load(path, write(tmp_path / f"test{suffix}", [("x", "b")]), on_error="skip")
    assert len(splits.train) == 2
    found = list(splits.bad_files.reasons)
    assert len(found) == len(reasons)
    assert all(reason in line for reason, line in zip(reasons, found, strict=True))


def test_a_label_that_was_never_learned(tmp_path):
    train, test = write(tmp_path / "train.csv"), write(tmp_path / "test.csv", [("x", "pos"), ("y", "odd")])
    with pytest.raises(DataError, match=r"test\.csv:3: label 'odd' does not occur in the training table \(neg, pos\)"):
        load(train, test)
    assert len(load(train, test, on_error="skip").test) == 1


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.csv", b"", "t.csv:1: 0 column(s)"),
        ("t.csv", b"text,label\n", "no row that can be used"),
        ("t.csv", b"body,label\nx,a\n", "no column 'text'; it has body, label"),
        ("t.csv", b'text,label\n"never closed,a\n', "t.csv:2: unexpected end of data"),
        ("t.txt", b"x", "ends in '.txt'; known are .csv, .tsv, .jsonl"),
        ("t.jsonl", b"\n", "no row that can be used"),
    ],
)
def test_files_that_are_no_table(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as raised:
        load(tmp_path / name)
    assert reason in str(raised.value)


@pytest.mark.parametrize("bare", ["train", "test"])
def test_which_table_is_bare_is_said(tmp_path, bare):
    paths = {name: write(tmp_path / f"{name}.csv") for name in ("train", "test")}
    paths[bare].write_text("text,label\n")
    with pytest.raises(DataError, match=rf"data\.{bare}: .*{bare}\.csv has no row that can be used"):
        load(**paths)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"data\.train: .*nowhere\.csv cannot be read"):
        load(tmp_path / "nowhere.csv")


def test_a_vocabulary_that_is_too_small(tmp_path):
    with pytest.raises(ConfigError, match="vocab_size"):
        load(write(tmp_path / "t.csv"), vocab_size=100)


def wordpiece(path, *, template=True):
    """Write a tokenizer of BERT's make, whose padding is not id 0."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = ["[UNK]", "[CLS]", "[SEP]", "so", "good", "[PAD]"]
    made = Tokenizer(models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]"])
    if template:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    made.save(str(path))
    return str(path)


def test_a_tokenizer_of_another_model_frames_and_pads_as_that_model_expects(tmp_path):
    table = write(tmp_path / "t.jsonl", [("so good", "pos"), ("so so so so so so", "neg"), ("", "neg")])
    splits = load(table, tokenizer=wordpiece(tmp_path / "t.json"), max_tokens=6)
    assert splits.spec.pad_id == 5
    assert splits.spec.vocab_size == 6
    assert splits.train.inputs.tolist() == [[1, 3, 4, 2, 5, 5], [1, 3, 3, 3, 3, 2], [1, 2, 5, 5, 5, 5]]
    assert splits.spec.input_text.decode([1, 3, 4, 2, 5]) == "so good"


def test_a_tokenizer_that_frames_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no token for padding, or puts none around a text"):
        load(write(tmp_path / "t.csv"), tokenizer=wordpiece(tmp_path / "t.json", template=False))
