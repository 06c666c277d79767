"""What providers demand of a JSON schema that answers or arguments are held to.

It words nothing: each provider says in its own words what is wrong.
"""

from collections.abc import Iterator, Mapping
from typing import Any


def objects(schema: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """(path, schema) of every object that a schema describes, itself included."""
    if not isinstance(schema, Mapping):
        return
    kind = schema.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in schema:
        yield path, schema
    for word in ("properties", "$defs", "definitions"):
        if isinstance(inner := schema.get(word), Mapping):
            for name, one in inner.items():
                yield from objects(one, (*path, word, str(name)))
    yield from objects(schema.get("items"), (*path, "items"))
    for word in ("anyOf", "oneOf", "allOf"):
        if isinstance(inner := schema.get(word), list):
            for at, one in enumerate(inner):
                yield from objects(one, (*path, word, str(at)))


def open_object(schema: Any) -> tuple[str, ...] | None:
    """The path of the first object that doesn't forbid other properties than its own; None if all do."""
    return next((path for path, one in objects(schema) if one.get("additionalProperties") is not False), None)


def optional_property(schema: Any) -> tuple[tuple[str, ...], str] | None:
    """Path and name of the first property that may be left out; None if all are required."""
    for path, one in objects(schema):
        required, properties = one.get("required"), one.get("properties")
        for name in properties if isinstance(properties, Mapping) else ():
            if name not in (required if isinstance(required, list) else []):
                return path, name
    return None
