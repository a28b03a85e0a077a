"""JSON Schema of a config file, for editors: what they complete, explain and underline.

Owns: how registry entries, shorthands and `extends` look in JSON Schema. Must not: know which entries exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from mptrain.config.schema import SHORTHANDS, EntryConfig, RunConfig
from mptrain.config.tree import ENTRY_SECTIONS

Names = Sequence[tuple[str, type[EntryConfig]]]
"""(entry name, its Config class) of one registry."""


def build_json_schema(entries: Mapping[str, Names]) -> dict[str, Any]:
    """Return the Draft 2020-12 schema of a config file; `entries` lists the registry entries of each section.

    A file that extends another may leave anything out, so keys are required only in a file without `extends`.
    """
    classes: list[type[BaseModel]] = [RunConfig]
    for names in entries.values():
        classes += dict.fromkeys(cls for _, cls in names)
    refs, generated = models_json_schema([(cls, "validation") for cls in dict.fromkeys(classes)])
    defs: dict[str, Any] = generated["$defs"]
    run = defs.pop(refs[RunConfig, "validation"]["$ref"].rsplit("/", 1)[1])
    required = [key for key in run.pop("required") if key != "name"]
    for definition in defs.values():
        definition.pop("required", None)
    for section in ENTRY_SECTIONS:
        run["properties"][section] = _entry_section(section, run, defs, entries[section], refs)
    _allow_bare_values(run["properties"], defs)
    file_names = {"type": "string"}
    run["properties"]["extends"] = {
        "description": "A config file, or several, that this one is laid over; relative to this file.",
        "anyOf": [file_names, {"type": "array", "items": file_names}],
    }
    run["anyOf"] = [{"required": ["extends"]}, {"required": required}]
    used = _reachable(run, defs)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mptrain run config",
        **{key: value for key, value in run.items() if key != "title"},
        "$defs": {name: defs[name] for name in sorted(used)},
    }


def _entry_section(
    section: str, run: Mapping[str, Any], defs: dict[str, Any], names: Names, refs: Mapping[Any, Any]
) -> dict[str, Any]:
    """Return the schema of a section that selects an entry: a bare name, or the keys of the named entry's Config."""
    by_class: dict[type[EntryConfig], list[str]] = {}
    for name, cls in names:
        by_class.setdefault(cls, []).append(name)
    choices: list[dict[str, Any]] = [_names_schema([name for name, _ in names])]
    for cls, own in by_class.items():
        definition = dict(defs[refs[cls, "validation"]["$ref"].rsplit("/", 1)[1]])
        selector = {"description": f"Selects the {section}.", **_names_schema(own)}
        definition["properties"] = {**definition["properties"], "name": selector}
        key = f"{section}.{min(own).replace('/*', '')}"  # unique, unlike the names of classes from several plugins
        defs[key] = definition
        choices.append({"$ref": f"#/$defs/{key}"})
    return {"description": run["properties"][section].get("description", ""), "anyOf": choices}


def _names_schema(names: Sequence[str]) -> dict[str, Any]:
    """Return the schema of entry names; a family (`timm/*`) takes all that begin with it."""
    listed: dict[str, Any] = {"enum": sorted(name for name in names if not name.endswith("/*"))}
    families = [{"type": "string", "pattern": f"^{re.escape(name[:-1])}."} for name in names if name.endswith("/*")]
    choices = [*([listed] if listed["enum"] else []), *families]
    return choices[0] if len(choices) == 1 else {"anyOf": choices}


def _allow_bare_values(properties: dict[str, Any], defs: Mapping[str, Any]) -> None:
    """Let a bare value stand for the key that SHORTHANDS names."""
    for path, key in SHORTHANDS.items():
        if path in ENTRY_SECTIONS:
            continue
        *parents, last = path.split(".")
        owner = properties
        for parent in parents:
            owner = _definition(owner[parent], defs)["properties"]
        full = owner[last]
        bare = [_definition(full, defs)["properties"][key]]
        if path == "precision.loss_scale":
            bare.append({**_definition(full, defs)["properties"]["init_scale"]})
        rest = {name: full[name] for name in ("description", "default") if name in full}
        shape = {name: value for name, value in full.items() if name not in rest}
        owner[last] = {**rest, "anyOf": [*bare, *shape.get("anyOf", [shape])]}


def _definition(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Any:
    """Return the definition that a property, nullable or not, refers to."""
    options = [schema, *schema.get("anyOf", [])]
    reference = next(option["$ref"] for option in options if "$ref" in option)
    return defs[reference.rsplit("/", 1)[1]]


def _reachable(schema: Any, defs: Mapping[str, Any]) -> set[str]:
    """Return the names of all definitions that `schema` leads to."""
    found: set[str] = set()
    pending = [schema]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            reference = item.get("$ref")
            name = reference.rsplit("/", 1)[1] if isinstance(reference, str) else None
            if name is not None and name not in found:
                found.add(name)
                pending.append(defs[name])
            pending += item.values()
        elif isinstance(item, list):
            pending += item
    return found
