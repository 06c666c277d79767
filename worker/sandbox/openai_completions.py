"""The sandbox's legacy `/completions`: what it accepts, and how it answers whole and streamed.

It knows no chat and no limits.
"""

import orjson

from worker.sandbox.dialect import Chat, chat, names, pieces
from worker.sandbox.openai_checks import (
    load,
    missing,
    mistyped,
    model_in,
    positive,
    served_here,
    streamed,
    texts_or_tokens,
    within,
)
from worker.sandbox.openai_responses import CREATED
from worker.sandbox.replies import Reply

_FIELDS = names(
    "model prompt best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed stop stream "
    "stream_options suffix temperature top_p user"
)
_DEFAULT_MAX_TOKENS = 16

Usage = dict[str, object] | str | None


def read(raw: bytes, strict_models: bool) -> Chat:
    """The call in a body; raises Refusal for what the API would refuse."""
    body = load(raw, _FIELDS)
    model = model_in(body)
    if strict_models:
        served_here(model, "completions")
    if body.get("prompt") is None:
        raise missing("prompt")
    texts = texts_or_tokens(body["prompt"], "prompt")
    stream, options = streamed(body)
    for name, high in (("temperature", 2), ("top_p", 1)):
        within(body, name, 0, high)
    if body.get("echo") not in (None, True, False):
        raise mistyped("echo", "a boolean", body["echo"])
    copies = positive(body, "n", 128) or 1
    positive(body, "best_of", 20, least=copies)
    most = positive(body, "max_tokens", least=0)
    return chat(
        model,
        texts,
        _DEFAULT_MAX_TOKENS if most is None else most,
        stream=stream,
        copies=copies * len(texts),
        stream_usage=bool(options.get("include_usage")),
        operation="completions",
    )


def _body(reply: Reply, choices: list[tuple[int, str, str | None]]) -> dict[str, object]:
    return {
        "id": f"cmpl-{reply.digest}",
        "object": "text_completion",
        "created": CREATED,
        "model": reply.model,
        "choices": [
            {"text": text, "index": at, "logprobs": None, "finish_reason": finish} for at, text, finish in choices
        ],
    }


def whole(reply: Reply, finish: str, usage: Usage) -> bytes:
    """The body of a reply that is not streamed."""
    body = _body(reply, [(at, reply.text, finish) for at in range(reply.copies)])
    return orjson.dumps(body if usage == {} else {**body, "usage": usage})


def events(call: Chat, reply: Reply, finish: str, usage: Usage) -> list[bytes]:
    """The events of a streamed reply; the last one is its end marker."""
    parts: list[tuple[str, str | None]] = [(piece, None) for piece in pieces(reply.text)]
    parts.append(("", finish))
    bodies = [_body(reply, [(at, text, end)]) for text, end in parts for at in range(reply.copies)]
    if call.stream_usage:
        bodies = [{**body, "usage": None} for body in bodies]
        if usage != {}:
            bodies.append({**_body(reply, []), "usage": usage})
    return [*(b"data: %b\n\n" % orjson.dumps(body) for body in bodies), b"data: [DONE]\n\n"]
