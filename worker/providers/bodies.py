"""A user's own request body on its way out: untouched, but for the model and what the ledger needs.

It does not translate; a dialect's `translate` does.
"""

from __future__ import annotations

import msgspec
import orjson

from models.request import Request
from worker.providers.replies import encode


def own_body(request: Request, **fields: object) -> bytes:
    """The bytes of a body in the provider's own dialect: as the user wrote them, unless the request has another model or the
    provider has to have its say about `fields`.

    Then only those values differ: every other one keeps its very bytes (numbers, spaces, escapes).
    """
    body = encode(dict(request.input)) if request.body is None else request.body
    if request.model and request.input.get("model") != request.model:
        fields = {"model": request.model, **fields}
    if not fields:
        return body
    written = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    written |= {name: msgspec.Raw(orjson.dumps(value)) for name, value in fields.items()}
    return msgspec.json.encode(written)
