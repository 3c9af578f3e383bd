"""Words to write JSON schemas with."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

ANYTHING: Schema = {}
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
TIME: Schema = {"type": "string", "format": "date-time"}


def one_of(words: Any) -> Schema:
    return {"type": "string", "enum": sorted(str(word) for word in words)}


def maybe(schema: Schema) -> Schema:
    """That, or null."""
    if "enum" in schema:
        return {"type": [schema["type"], "null"], "enum": [*schema["enum"], None]}
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return {**schema, "type": [schema["type"], "null"]}


def many(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def thing(**properties: Schema) -> Schema:
    """An object that has all of these."""
    return {"type": "object", "required": list(properties), "properties": properties}


def counts(*names: str) -> Schema:
    return thing(**dict.fromkeys(names, COUNT))


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def also(schema: Schema, **properties: Schema) -> Schema:
    """An object that has these besides."""
    return thing(**schema["properties"], **properties)
