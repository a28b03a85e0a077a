"""The user's tables: numbers, categories and classes are what the file says; what cannot be used is named by line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

import mptrain.data
from mptrain.errors import ConfigError, DataError
from mptrain.interfaces import DataSplits, InMemory
from mptrain.registry import DATASETS

assert mptrain.data  # registers the entries

CARS = "name,weight,fuel,doors,price\n" + "".join(
    f'"car, {i}",{1000 + 10 * i},{"petrol" if i % 2 else "diesel"},{2 + i % 3},{20.5 + i}\n' for i in range(10)
)


def build(path: Path, content: str | bytes, **options: Any) -> DataSplits:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    section = {"name": "csv", "path": str(path), "target": "price", "kind": "regression", **options}
    return DATASETS.build(DATASETS.config_type("csv").model_validate(section), 0)


def parts(splits: DataSplits) -> tuple[InMemory, InMemory]:
    assert isinstance(splits.train, InMemory)
    assert isinstance(splits.test, InMemory)
    return splits.train, splits.test


def test_columns_become_scaled_numbers_and_categories(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("name,weight,fuel,doors,price\nx,1045,gas,2,25\n")
    splits = build(
        tmp_path / "cars.csv", CARS, ignore=["name"], categorical=["doors"], test_path=str(tmp_path / "test.csv")
    )
    train, test = parts(splits)
    assert (splits.spec.kind, splits.spec.input_shape, splits.spec.num_outputs) == ("regression", (7,), 1)
    spread = 28.722813  # standard deviation of 1000, 1010, ..., 1090
    assert train.inputs[3].tolist() == pytest.approx([-15 / spread, 0, 0, 1, 1, 0, 0], abs=1e-5)
    assert test.inputs[0].tolist() == pytest.approx([0, 0, 1, 0, 1, 0, 0], abs=1e-6)
    assert test.targets.tolist() == [pytest.approx([0], abs=1e-6)]
    assert float(train.targets.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert splits.identity["train"] == 10


def test_rows_are_set_aside_by_the_seed(tmp_path: Path) -> None:
    options = {"ignore": ["name"], "test_fraction": 0.3}
    one, again, other = (build(tmp_path / "cars.csv", CARS, seed=seed, **options) for seed in (1, 1, 2))
    assert (len(one.train), len(one.test)) == (7, 3)
    assert torch.equal(parts(one)[1].inputs, parts(again)[1].inputs)
    assert not torch.equal(parts(one)[1].inputs, parts(other)[1].inputs)


def test_classes_are_the_values_of_the_target(tmp_path: Path) -> None:
    splits = build(tmp_path / "cars.csv", CARS, kind="classification", target="fuel", ignore=["name"])
    train, test = parts(splits)
    assert splits.spec.class_names == ("diesel", "petrol")
    assert (train.targets.dtype, sorted({*train.targets.tolist(), *test.targets.tolist()})) == (torch.int64, [0, 1])


def test_several_targets_and_tabs(tmp_path: Path) -> None:
    splits = build(
        tmp_path / "cars.tsv", 'a\tb\tc\n1\t"x\t3\n4\ty"\t7\n2\tz\t2\n', target=["a", "c"], test_fraction=0.4
    )
    assert (splits.spec.num_outputs, splits.spec.input_shape) == (2, (3,))


BAD_CELL = CARS.replace("1030", "1030kg")


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (BAD_CELL, {}, r"cars\.csv:5: '1030kg' in column 'weight' is no finite number"),
        (CARS.replace("1030", "nan"), {}, r"cars\.csv:5: 'nan' in column 'weight'"),
        (CARS.replace("1030", ""), {}, r"cars\.csv:5: '' in column 'weight'"),
        (CARS.replace("23.5", "?"), {}, r"cars\.csv:5: '\?' in column 'price'"),
        (CARS.replace(",1030", ""), {}, r"cars\.csv:5: 4 value\(s\), the header has 5 columns"),
        (CARS.encode().replace(b"1030", b"\xff"), {}, r"cars\.csv:5: no UTF-8"),
        (CARS.replace('3",1030', "3,1030"), {}, r"cars\.csv:\d+: "),
        ("", {}, r"cars\.csv:1: 0 column\(s\)"),
        ("name,price,price\n1,2,3\n", {}, "several columns are called 'price'"),
        (
            CARS.replace("1030", "1.7e308"),
            {"test_fraction": 0.1, "seed": 1},
            "'weight' has numbers up to 1.7e\\+308, too",
        ),
        ("weight,price\n", {"ignore": []}, "no training row can be used"),
        ("weight,price\n1,2\n", {"ignore": []}, "no test row can be used"),
        ("word,price\n" + "".join(f"w{i},1\n" for i in range(1001)), {"ignore": []}, "'word' has 1001 different words"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    tmp_path: Path, content: str | bytes, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError, match=says) as caught:
        build(tmp_path / "cars.csv", content, **{"ignore": ["name"], **options})
    assert "\n" not in str(caught.value)


def test_bad_rows_can_be_left_out_and_are_counted(tmp_path: Path) -> None:
    content = BAD_CELL.replace(",1050", "")
    splits = build(tmp_path / "cars.csv", content, ignore=["name"], on_error="skip")
    assert len(splits.train) + len(splits.test) == 8
    assert len(splits.bad_files.reasons) == 2


def test_a_class_that_is_never_trained_is_named(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text(CARS + "x,1000,gas,2,1\n")
    options = {"kind": "classification", "target": "fuel", "ignore": ["name"], "test_path": str(tmp_path / "test.csv")}
    with pytest.raises(DataError, match=r"test\.csv:12: class 'gas' in column 'fuel' is in no training row"):
        build(tmp_path / "cars.csv", CARS, **options)
    splits = build(tmp_path / "cars.csv", CARS, on_error="skip", **options)
    assert (len(splits.test), splits.spec.num_outputs) == (10, 2)


def test_files_that_differ_or_are_missing_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("name,weight,price\nx,1,1\n")
    with pytest.raises(DataError, match=r"test\.csv: its columns are not those of .*\(doors, fuel\)"):
        build(tmp_path / "cars.csv", CARS, test_path=str(tmp_path / "test.csv"))
    with pytest.raises(DataError, match=r"data\.test_path: .*absent\.csv"):
        build(tmp_path / "cars.csv", CARS, test_path=str(tmp_path / "absent.csv"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target": "cost"}, r"data\.target: .* has no column 'cost'; it has name, weight"),
        ({"ignore": ["nme"]}, r"data\.ignore: .* no column 'nme'"),
        ({"categorical": ["x"]}, r"data\.categorical: .* no column 'x'"),
        ({"ignore": ["name", "weight", "fuel", "doors"]}, "nothing is left"),
    ],
)
def test_columns_that_are_not_there_are_a_config_error(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build(tmp_path / "cars.csv", CARS, **options)


def test_one_class_column_only(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="learns one target column"):
        build(tmp_path / "cars.csv", CARS, kind="classification", target=["fuel", "doors"])
