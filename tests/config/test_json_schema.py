"""The JSON Schema that editors read: complete, self-contained, and the committed file is up to date."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mptrain.config
from mptrain.catalog import REGISTRIES, json_schema
from mptrain.config.schema import RunConfig


def nodes(value: Any) -> Iterator[Any]:
    yield value
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from nodes(child)


def test_every_reference_resolves_and_nothing_is_left_over() -> None:
    schema = json_schema()
    references = {node["$ref"] for node in nodes(schema) if isinstance(node, dict) and "$ref" in node}
    assert references == {f"#/$defs/{name}" for name in schema["$defs"]}


def listed(names: dict[str, Any]) -> set[str]:
    """Return the entries that a schema of names takes, a family's as it is registered."""
    found = set()
    for each in names.get("anyOf", [names]):
        found |= set(each["enum"]) if "enum" in each else {each["pattern"].removeprefix("^").removesuffix(".") + "*"}
    return found


def test_every_key_of_a_run_and_every_entry_is_there() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == {*RunConfig.model_fields, "extends"}
    for section, registry in REGISTRIES.items():
        names = {entry.name for entry in registry}
        bare, *full = schema["properties"][section]["anyOf"]
        assert listed(bare) == names
        definitions = [schema["$defs"][option["$ref"].rsplit("/", 1)[1]] for option in full]
        assert sorted(name for each in definitions for name in listed(each["properties"]["name"])) == sorted(names)
        assert not any(each["additionalProperties"] for each in definitions)


def test_bare_values_and_partial_files_are_allowed() -> None:
    schema = json_schema()
    mode, full = schema["properties"]["precision"]["anyOf"]
    named, free = mode["anyOf"]
    assert "bf16" in named["enum"]
    assert re.search(free["pattern"], "e4m3")
    assert not re.search(free["pattern"], "e9m3")
    assert full == {"$ref": "#/$defs/PrecisionConfig"}
    kinds = schema["$defs"]["PrecisionConfig"]["properties"]["loss_scale"]["anyOf"]
    assert [option.get("type") for option in kinds] == ["string", "number", None]
    assert {option.get("type") for option in schema["properties"]["ema"]["anyOf"]} == {"number", "null", None}
    required = ["model", "data", "task", "optimizer", "schedule", "train"]
    assert schema["anyOf"] == [{"required": ["extends"]}, {"required": required}]
    assert not any("required" in definition for definition in schema["$defs"].values())


def test_the_committed_schema_is_the_current_one() -> None:
    committed = Path(mptrain.config.__file__).parent / "run.schema.json"
    assert json.loads(committed.read_text()) == json_schema(), f"run: mptrain schema > {committed.name} (in its folder)"
