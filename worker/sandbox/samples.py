"""Values that fit a JSON schema, made from a digest: what a played model answers where the form of its answer is asked for.

It knows the common words of JSON schema; what it doesn't know, it doesn't heed.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from worker.sandbox.replies import WORDS, Reply

_DEEPEST = 12


@dataclass(frozen=True, slots=True)
class Shape:
    """What an answer must be: a call of `tool`, whose arguments fit `schema`; without a tool, JSON text that fits it."""

    schema: Mapping[str, Any] = field(default_factory=dict)
    tool: str | None = None


def shaped(reply: Reply, shape: Shape | None) -> Reply:
    """The reply in the shape that is asked for. One that ends for its length holds half of it, and no call."""
    if shape is None or reply.finish == "filter":
        return reply
    value = sample(shape.schema, reply.digest)
    if shape.tool is None:
        text = orjson.dumps(value).decode()
        return replace(reply, text=text if reply.finish == "stop" else text[: len(text) // 2])
    if reply.finish == "length":
        return reply
    return replace(reply, text="", call=(shape.tool, value if isinstance(value, dict) else {}))


def sample(schema: Any, digest: str) -> Any:
    """A value that fits the schema, the same for the same digest."""
    return _value(schema, schema, _dice(digest), 0)


def _dice(digest: str) -> Iterator[int]:
    rolls = hashlib.shake_128(digest.encode()).digest(4096)
    while True:
        yield from rolls


def _value(schema: Any, root: Any, dice: Iterator[int], depth: int) -> Any:
    if not isinstance(schema, Mapping):
        return {}
    if isinstance(reference := schema.get("$ref"), str):
        return _value(_referred(root, reference), root, dice, depth + 1) if depth < _DEEPEST else None
    if "const" in schema:
        return schema["const"]
    if isinstance(choices := schema.get("enum"), list) and choices:
        return choices[next(dice) % len(choices)]
    for word in ("anyOf", "oneOf", "allOf"):
        if isinstance(options := schema.get(word), list) and options:
            return _value(options[-1] if depth >= _DEEPEST else options[0], root, dice, depth + 1)
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    match kind.lower() if isinstance(kind, str) else kind:
        case "string":
            return _text(schema, dice)
        case "integer":
            return _whole(schema, dice)
        case "number":
            return _whole(schema, dice) + (0.5 if "maximum" not in schema and "exclusiveMaximum" not in schema else 0)
        case "boolean":
            return next(dice) % 2 == 0
        case "array":
            least = _count(schema, "minItems", 0)
            wanted = least if depth >= _DEEPEST else max(least, min(1 + next(dice) % 2, _count(schema, "maxItems", 2)))
            return [_value(schema.get("items"), root, dice, depth + 1) for _ in range(wanted)]
        case "null":
            return None
        case _:
            return _object(schema, root, dice, depth)


def _object(schema: Mapping[str, Any], root: Any, dice: Iterator[int], depth: int) -> dict[str, Any]:
    properties = schema.get("properties")
    required = schema.get("required")
    needed = required if isinstance(required, list) else []
    if not isinstance(properties, Mapping):
        return {}
    return {
        name: _value(inner, root, dice, depth + 1)
        for name, inner in properties.items()
        if name in needed or (depth < 3 and next(dice) % 2 == 0)
    }


def _text(schema: Mapping[str, Any], dice: Iterator[int]) -> str:
    text = WORDS[next(dice)]
    while len(text) < _count(schema, "minLength", 0):
        text += f" {WORDS[next(dice)]}"
    return text[: _count(schema, "maxLength", len(text))]


def _whole(schema: Mapping[str, Any], dice: Iterator[int]) -> int:
    low, high = _bound(schema, "minimum", "exclusiveMinimum", 1), _bound(schema, "maximum", "exclusiveMaximum", -1)
    roll = next(dice)
    if low is not None and high is not None:
        return low + roll % (high - low + 1) if high >= low else low
    return roll if low is None and high is None else low + roll if low is not None else (high or 0) - roll


def _bound(schema: Mapping[str, Any], word: str, exclusive: str, step: int) -> int | None:
    """The lowest (step 1) or highest (step -1) whole number that is allowed."""
    for name in (word, exclusive):
        value: Any = schema.get(name)
        if type(value) in (int, float):
            whole: int = math.ceil(value) if step > 0 else math.floor(value)
            return whole + step if name == exclusive and whole == value else whole
    return None


def _count(schema: Mapping[str, Any], name: str, otherwise: int) -> int:
    value = schema.get(name)
    return min(value, 1000) if type(value) is int and value >= 0 else otherwise


def _referred(root: Any, reference: str) -> Any:
    found = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        found = (
            found.get(step.replace("~1", "/").replace("~0", "~"), {}) if step and isinstance(found, Mapping) else found
        )
    return found
