"""A user's own request body on its way out: untouched, or with another model in it.

It does not translate; a dialect's `translate` does.
"""

from __future__ import annotations

import msgspec
import orjson

from models.request import Request
from worker.providers.replies import encode


def own_body(request: Request) -> bytes:
    """The bytes of a body in the provider's own dialect: as the user wrote them, unless the request has another model.

    Then only the value of `model` differs: every other value keeps its very bytes (numbers, spaces, escapes).
    """
    body = encode(dict(request.input)) if request.body is None else request.body
    if not request.model or request.input.get("model") == request.model:
        return body
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    fields["model"] = msgspec.Raw(orjson.dumps(request.model))
    return msgspec.json.encode(fields)
