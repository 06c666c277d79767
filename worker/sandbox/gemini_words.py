"""The form of the sandbox's Gemini's errors, and the spelling of its fields.

It decides nothing of what a body may hold.
"""

from typing import Any

import orjson

from worker.sandbox.dialect import Answer, Refusal

RPC = "type.googleapis.com/google.rpc."


def error(status: int, name: str, message: str, details: list[dict[str, Any]] | None = None) -> Answer:
    """An error answer."""
    body: dict[str, Any] = {"code": status, "message": message, "status": name}
    if details:
        body["details"] = details
    return Answer(status, orjson.dumps({"error": body}))


def bad(message: str, field: str = "") -> Refusal:
    """A 400 to raise."""
    violation: dict[str, str] = {"description": message} | ({"field": field} if field else {})
    details = [{"@type": f"{RPC}BadRequest", "fieldViolations": [violation]}]
    return Refusal(error(400, "INVALID_ARGUMENT", message, details))


def mistyped(value: object, where: str, kind: str) -> Refusal:
    """A 400 for a value of a wrong type."""
    return bad(f"Invalid value at '{where}' ({kind}), {orjson.dumps(value).decode()[:80]}", where)


def camel(value: dict[str, Any], known: frozenset[str], where: str) -> dict[str, Any]:
    """Field names in camelCase (both spellings are accepted); raises Refusal for an unknown one."""
    fields = {}
    for name, inner in value.items():
        head, *rest = name.split("_")
        spelled = head + "".join(word.capitalize() for word in rest)
        if spelled not in known:
            at = f" at '{where}'" if where else ""
            raise bad(f'Invalid JSON payload received. Unknown name "{name}"{at}: Cannot find field.', where)
        fields[spelled] = inner
    return fields


def message(value: object, where: str) -> dict[str, Any]:
    """The value, which must be an object."""
    if type(value) is not dict:
        raise mistyped(value, where, "type.googleapis.com/google.protobuf.Struct")
    return value


def repeated(value: object, where: str) -> list[Any]:
    """The value as a list: proto-JSON takes a single object for a list of one."""
    if value is None:
        return []
    if type(value) is dict:
        return [value]
    if type(value) is not list:
        raise bad(f"Invalid value at '{where}', a list was expected", where)
    return value
