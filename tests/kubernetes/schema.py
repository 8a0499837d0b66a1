"""Checks rendered objects against schema.yaml: unknown fields, missing ones, wrong types."""

import pathlib
import re

import yaml

SCHEMA = yaml.safe_load(pathlib.Path(__file__).with_name("schema.yaml").read_text(encoding="utf-8"))
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
SIMPLE = {
    "string": lambda value: isinstance(value, str),
    "name": lambda value: isinstance(value, str) and len(value) <= 253 and NAME.fullmatch(value),
    "integer": lambda value: type(value) is int and value >= 0,
    "boolean": lambda value: isinstance(value, bool),
    "port": lambda value: type(value) is int and 0 < value < 65536,
    "quantity": lambda value: type(value) is int or isinstance(value, str) and QUANTITY.fullmatch(value),
}


def check_value(kind, value, where):
    """Yields what is wrong with one value."""
    if kind.startswith("["):
        if not isinstance(value, list):
            yield f"{where}: a list is needed, not {value!r}"
            return
        for i, part in enumerate(value):
            yield from check_value(kind[1:-1], part, f"{where}[{i}]")
    elif kind.startswith("{"):
        if not isinstance(value, dict):
            yield f"{where}: a map is needed, not {value!r}"
            return
        for name, part in value.items():
            yield from check_value(kind[1:-1], part, f"{where}.{name}")
    elif kind in SCHEMA["types"]:
        yield from check_fields(SCHEMA["types"][kind], value, where)
    elif kind in SIMPLE:
        if not SIMPLE[kind](value):
            yield f"{where}: {value!r} is no {kind}"
    elif value not in kind.split("|"):
        yield f"{where}: {value!r} is none of {kind}"


def check_fields(fields, value, where):
    """Yields what is wrong with an object's fields."""
    if not isinstance(value, dict):
        yield f"{where}: an object is needed, not {value!r}"
        return
    kinds = {name.rstrip("!"): kind for name, kind in fields.items()}
    for name in fields:
        if name.endswith("!") and name[:-1] not in value:
            yield f"{where}.{name[:-1]} is missing"
    for name, part in value.items():
        if name not in kinds:
            yield f"{where}.{name}: no such field"
        else:
            yield from check_value(kinds[name], part, f"{where}.{name}")


def errors(item):
    """What is wrong with an object, a sentence each."""
    kind = f"{item.get('apiVersion')}/{item.get('kind')}"
    if kind not in SCHEMA["kinds"]:
        return [f"{kind}: no such kind"]
    fields = SCHEMA["kinds"][kind] | {"apiVersion!": "string", "kind!": "string"}
    return list(check_fields(fields, item, item["kind"]))
