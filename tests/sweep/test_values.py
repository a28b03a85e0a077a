"""Where one value ends and the next begins, and what ranges mean."""

import pytest

from mptrain.errors import ConfigError
from mptrain.sweep.values import Range, read_argument, split_values


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b", ["a", "b"]),
        ("[64,64],[128]", ["[64,64]", "[128]"]),
        ("{mode: bf16-pure, rounding: kahan},fp32", ["{mode: bf16-pure, rounding: kahan}", "fp32"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ('"a\\",b",c', ['"a\\",b"', "c"]),
        ('"a\\\\",b', ['"a\\\\"', "b"]),
        ("it's,x", ["it's", "x"]),
        ("[{what: oom, at: 2}],[]", ["[{what: oom, at: 2}]", "[]"]),
        ("['a]',b],c", ["['a]',b]", "c"]),
    ],
)
def test_commas_inside_brackets_and_quotes_separate_nothing(text, parts):
    assert split_values(text) == parts


def test_one_value_has_one_spelling():
    assert read_argument("optimizer.lr=1e-3,0.001,.1e-2").values == ("0.001",) * 3


def test_ranges():
    assert read_argument("seed=0..3").listed() == ("0", "1", "2", "3")
    assert read_argument("seed=-1..1,7").listed() == ("-1", "0", "1", "7")
    assert read_argument("lr=log:1e-4..1").values == (Range(1e-4, 1, log=True),)
    assert read_argument("name='0..3'").listed() == ("0..3",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("precision=fp32,,bf16", "'precision=fp32,,bf16': a value is empty; write precision=a,b"),
        ("precision=fp32,", "a value is empty"),
        ("precision=", "has no value; write precision=null"),
        ("=3", "the key before '=' is empty"),
        ("model.hidden=[64,[32]", "not valid YAML"),
        ("seed=4..0", "seed: the range 4..0 must begin below its end"),
        ("lr=log:0..1", "lr: the range log:0..1 must begin above 0"),
        ("seed=0..99999999", "seed: the range 0..99999999 has more than 10,000 values"),
    ],
)
def test_what_is_wrong_is_named(text, said):
    with pytest.raises(ConfigError, match=r".") as error:
        read_argument(text)
    assert said in str(error.value)
    assert len(error.value.problems) == 1


def test_numbers_between_are_for_a_search():
    with pytest.raises(ConfigError, match=r"optimizer\.lr: a range of numbers is searched, not swept"):
        read_argument("optimizer.lr=0.1..0.5").listed()
