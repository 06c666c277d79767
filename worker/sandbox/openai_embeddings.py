"""The sandbox's `/embeddings`: what it accepts, and how it answers.

It knows no limits.
"""

import base64
import struct

import orjson

from worker.sandbox.dialect import Chat, Vectors, embed, names
from worker.sandbox.openai_checks import (
    bad,
    load,
    missing,
    model_in,
    positive,
    served_here,
    texts_or_tokens,
    wrong_value,
)
from worker.sandbox.replies import Reply, vector

_FIELDS = names("model input dimensions encoding_format user")
_FORMATS = ("float", "base64")
_MOST_TEXTS = 2048
_DIMENSIONS = {"text-embedding-3-large": 3072}
_DEFAULT_DIMENSIONS = 1536


def read(raw: bytes, strict_models: bool) -> Chat:
    """The call in a body; raises Refusal for what the API would refuse. `strict_models`: so does a model's own rule."""
    body = load(raw, _FIELDS)
    model = model_in(body)
    if strict_models:
        served_here(model, "embeddings")
    if body.get("input") is None:
        raise missing("input")
    texts = texts_or_tokens(body["input"], "input")
    if not all(texts):
        raise bad("Invalid 'input': input cannot be an empty string.", "input")
    if len(texts) > _MOST_TEXTS:
        message = f"Invalid 'input': array too long. Expected an array with maximum length {_MOST_TEXTS}, but got an array with length {len(texts)} instead."  # noqa: E501
        raise bad(message, "input", "array_above_max_length")
    form = body.get("encoding_format")
    if form is not None and form not in _FORMATS:
        raise wrong_value(form, "encoding_format", _FORMATS)
    usual = _DIMENSIONS.get(model, _DEFAULT_DIMENSIONS)
    asked = positive(body, "dimensions", usual)
    if asked is not None and strict_models and model.endswith("ada-002"):
        raise bad("This model does not support specifying dimensions.", "dimensions")
    return embed(model, Vectors(tuple(texts), asked or usual, form == "base64"))


def whole(call: Chat, reply: Reply, usage: dict[str, object] | str | None) -> bytes:
    """The body of a reply. `usage` is the block of a chat; embeddings tell two counts of it."""
    vectors = call.vectors
    assert vectors is not None
    data = []
    for at, text in enumerate(vectors.texts):
        numbers = vector(text, call.model, vectors.dimensions)
        shown = base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode() if vectors.base64 else numbers
        data.append({"object": "embedding", "index": at, "embedding": shown})
    body: dict[str, object] = {"object": "list", "data": data, "model": reply.model}
    if isinstance(usage, dict):
        usage = {name: usage[name] for name in ("prompt_tokens", "total_tokens") if name in usage}
    return orjson.dumps(body if usage == {} else {**body, "usage": usage})
