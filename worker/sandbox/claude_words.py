"""The form of the sandbox's Claude's errors.

It decides nothing.
"""

import orjson

from worker.sandbox.dialect import Answer, Refusal, request_id


def error(status: int, kind: str, message: str, code: str | None = None) -> Answer:
    """An error answer."""
    body: dict[str, object] = {"type": kind, "message": message}
    if code is not None:
        body["details"] = {"error_code": code}
    return Answer(status, orjson.dumps({"type": "error", "error": body, "request_id": request_id()}))


def bad(message: str) -> Refusal:
    """A 400 to raise."""
    return Refusal(error(400, "invalid_request_error", message))
