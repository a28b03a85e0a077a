"""Layers: files, `extends`, overrides, shorthands, and what survives a change of registry entry."""

import os
from pathlib import Path
from typing import Any

import pytest

from mptrain.config.load import MAX_BYTES, is_override, load_tree, parse_overrides
from mptrain.config.tree import drop_foreign
from mptrain.errors import ConfigError
from tests.config.files import write


def plain(path: Path, *overrides: str) -> Any:
    return load_tree(path, overrides).plain()


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load_tree(path, overrides)
    return raised.value.problems


def test_name_defaults_to_the_file_and_can_be_given(tmp_path: Path) -> None:
    assert plain(write(tmp_path, "small-net.yaml", "seed: 1\n"))["name"] == "small-net"
    assert plain(write(tmp_path, "other.yaml", "name: given\n"))["name"] == "given"


def test_extends_merges_mappings_and_replaces_the_rest(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "train: {epochs: 4, clip_norm: 1.0}\nlist: [1, 2, 3]\nema: 0.9\n")
    (tmp_path / "sub").mkdir()
    child = write(tmp_path / "sub", "c.yaml", "extends: ../base.yaml\ntrain: {epochs: null}\nlist: [4]\nema: null\n")
    expected = {"name": "c", "train": {"epochs": None, "clip_norm": 1.0}, "list": [4], "ema": None}
    assert plain(child) == expected
    assert str(load_tree(child).value["train"].value["clip_norm"].origin) == f"{tmp_path / 'base.yaml'}:1"


def test_several_bases_apply_left_to_right_and_bases_may_extend(tmp_path: Path) -> None:
    write(tmp_path, "root.yaml", "a: root\nb: root\nc: root\nd: root\n")
    write(tmp_path, "one.yaml", "extends: root.yaml\nb: one\nc: one\nd: one\n")
    write(tmp_path, "two.yaml", "c: two\nd: two\n")
    top = write(tmp_path, "top.yaml", "extends: [one.yaml, two.yaml]\nd: top\n")
    assert plain(top) == {"name": "top", "a": "root", "b": "one", "c": "two", "d": "top"}


def test_a_circle_of_extends_is_named(tmp_path: Path) -> None:
    a = write(tmp_path, "a.yaml", "extends: b.yaml\n")
    write(tmp_path, "b.yaml", "x: 1\nextends: a.yaml\n")
    (problem,) = problems(a)
    assert problem.startswith(f"{tmp_path}/b.yaml:2: extends: these files extend each other in a circle: ")
    assert problem.endswith(f"{tmp_path}/a.yaml -> {tmp_path}/b.yaml -> {tmp_path}/a.yaml")


@pytest.mark.parametrize("value", ["5", "[1]", "{a: b}", "''", '"a\\0b"', "[[x.yaml]]"])
def test_extends_must_name_files(tmp_path: Path, value: str) -> None:
    (problem,) = problems(write(tmp_path, "a.yaml", f"extends: {value}\n"))
    assert problem == f"{tmp_path}/a.yaml:1: extends: must be a file name or a list of file names"


def test_a_missing_base_is_reported_where_it_is_named(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "a: 1\n")
    (problem,) = problems(write(tmp_path, "x.yaml", "a: 1\nextends: bsae.yaml\n"))
    assert (
        problem
        == f"{tmp_path}/x.yaml:2: extends: {tmp_path}/bsae.yaml: does not exist (did you mean {tmp_path}/base.yaml?)"
    )


def test_files_that_are_no_config(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    with (tmp_path / "big.yaml").open("wb") as file:
        file.truncate(100_000_000)
    (tmp_path / "binary.yaml").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    (tmp_path / "utf16.yaml").write_text("a: 1\n", encoding="utf-16")
    cases = {
        write(tmp_path, "empty.yaml", ""): "is empty",
        write(tmp_path, "comment.yaml", "# nothing\n"): "is empty",
        write(tmp_path, "list.yaml", "- 1\n"): "holds a list; a config is a mapping",
        write(tmp_path, "scalar.yaml", "hello\n"): "holds a single value",
        tmp_path / "fifo.yaml": "is not a regular file",
        tmp_path / "big.yaml": f"100,000,000 bytes; a config may have at most {MAX_BYTES:,}",
        tmp_path / "binary.yaml": "is not UTF-8 text",
        tmp_path / "utf16.yaml": "is not UTF-8 text",
        tmp_path: "is a folder",
        tmp_path / "emty.yaml": f"does not exist (did you mean {tmp_path}/empty.yaml?)",
        tmp_path / "no" / "x.yaml": "there is no folder",
        tmp_path / "list.yaml" / "x.yaml": "cannot be read: Not a directory",
        tmp_path / ("x" * 300): "cannot be read: File name too long",
    }
    for path, expected in cases.items():
        (problem,) = problems(path)
        assert problem.startswith(str(path))
        assert expected in problem


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    path = write(tmp_path, "secret.yaml", "a: 1\n")
    path.chmod(0)
    (problem,) = problems(path)
    assert problem == f"{path}: cannot be read: Permission denied"


def test_a_byte_order_mark_and_windows_lines_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "win.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: {c: 2}\r\n")
    assert plain(path) == {"name": "win", "a": 1, "b": {"c": 2}}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a.b=1e-3", {"a": {"b": 1e-3, "c": 1}}),
        ("a.b=null", {"a": {"b": None, "c": 1}}),
        ("a={b: 2, d: true}", {"a": {"b": 2, "c": 1, "d": True}}),
        ("a.list=[1, x]", {"a": {"b": 0, "c": 1, "list": [1, "x"]}}),
        ("a.b='1'", {"a": {"b": "1", "c": 1}}),
        ("a.b=x=y", {"a": {"b": "x=y", "c": 1}}),
        ("new.key.deep=on", {"a": {"b": 0, "c": 1}, "new": {"key": {"deep": "on"}}}),
        ("plant.1.at=7", {"a": {"b": 0, "c": 1}, "plant": [{"at": 1}, {"at": 7}]}),
    ],
)
def test_overrides_are_read_as_yaml(tmp_path: Path, override: str, expected: dict[str, Any]) -> None:
    path = write(tmp_path, "x.yaml", "a: {b: 0, c: 1}\nplant: [{at: 1}, {at: 2}]\n")
    assert plain(path, override) == {"name": "x", "plant": [{"at": 1}, {"at": 2}], **expected}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs", "has no '='"),
        ("=5", "the key before '=' is empty"),
        ("a..b=5", "the key before '=' is empty, or a part of it is"),
        ("a.=5", "the key before '=' is empty, or a part of it is"),
        ("a=", "has no value; write a=null for none"),
        ("a=[1", "not valid YAML"),
        ("a=@b", "quote a text"),
        ("extends=x.yaml", "works only inside a file"),
        ("a." * 60 + "b=1", "more than 50 parts"),
    ],
)
def test_overrides_that_cannot_be_read(override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_overrides([override])
    (problem,) = raised.value.problems
    assert problem.startswith("override '")
    assert expected in problem


def test_all_bad_overrides_are_reported_and_a_missing_item_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "x.yaml", "plant: [{at: 1}]\n")
    assert len(problems(path, "a", "b=", "c=1")) == 2
    assert problems(path, "plant.3.at=1") == [
        "override 'plant.3.at=1': plant.3: plant has 1 item, counted from 0; there is no item 3"
    ]


def test_bare_values_are_written_out_before_layers_merge(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "precision: {mode: fp16, loss_scale: {kind: dynamic, growth_interval: 10}}\n")
    child = write(tmp_path, "child.yaml", "extends: base.yaml\nprecision: bf16\n")
    assert plain(child)["precision"] == {"mode": "bf16", "loss_scale": {"kind": "dynamic", "growth_interval": 10}}
    scaled = plain(child, "precision.loss_scale=512")["precision"]["loss_scale"]
    assert scaled == {"kind": "static", "init_scale": 512, "growth_interval": 10}
    assert plain(child, "precision.loss_scale=none")["precision"]["loss_scale"]["kind"] == "none"
    assert plain(child, "ema=0.99")["ema"] == {"decay": 0.99}


KEYS = {"sgd": {"name", "lr", "momentum"}, "adamw": {"name", "lr", "beta1"}}


def optimizer(path: Path, *overrides: str) -> tuple[dict[str, Any], list[str]]:
    tree, dropped = drop_foreign(load_tree(path, overrides), lambda section, name: KEYS.get(name))
    return tree.plain()["optimizer"], [str(item) for item in dropped]


def test_selecting_another_entry_leaves_out_what_only_the_lower_layer_knew(tmp_path: Path) -> None:
    path = write(tmp_path, "x.yaml", "optimizer:\n  name: sgd\n  lr: 0.1\n  momentum: 0.9\n")
    assert optimizer(path, "optimizer=adamw") == (
        {"name": "adamw", "lr": 0.1},
        [f"optimizer.momentum ({path}:4) left out: 'adamw' has no such key"],
    )
    assert optimizer(path, "optimizer=sgd") == ({"name": "sgd", "lr": 0.1, "momentum": 0.9}, [])
    # What the same layer asks for stays, for validation to refuse; the order of overrides does not matter.
    for overrides in (["optimizer=adamw", "optimizer.momentum=0.5"], ["optimizer.momentum=0.5", "optimizer=adamw"]):
        assert optimizer(path, *overrides) == ({"name": "adamw", "lr": 0.1, "momentum": 0.5}, [])


def test_going_back_to_the_first_entry_keeps_its_keys(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "optimizer: {name: sgd, lr: 0.1, momentum: 0.9}\n")
    write(tmp_path, "b.yaml", "extends: a.yaml\noptimizer: {name: adamw, beta1: 0.8}\n")
    assert optimizer(write(tmp_path, "c.yaml", "extends: b.yaml\noptimizer: sgd\n"))[0] == {
        "name": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
    }


@pytest.mark.parametrize(
    ("argument", "expected"),
    [("a.b=1", True), ("configs/x.yaml", False), ("runs/lr=0.1/config.yaml", False), ("x.yaml", False)],
)
def test_overrides_are_told_from_files(argument: str, expected: bool) -> None:
    assert is_override(argument) is expected
