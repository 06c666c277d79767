"""The sandbox's `/responses`: what it accepts, and how it answers whole, streamed and failed.

It knows no limits.
"""

from typing import Any

import orjson

from worker.sandbox.dialect import Chat, chat, names, pieces, spoil, stand_in
from worker.sandbox.openai_checks import (
    bad,
    load,
    missing,
    mistyped,
    model_in,
    positive,
    streamed,
    tier_in,
    within,
    wrong_value,
)
from worker.sandbox.replies import Finish, Reply, Usage

CREATED = 1767225600
"""A fixed time, so that a body is a pure function of its request."""

_FIELDS = names(
    "model access_programs background background_options context_management conversation image include input "
    "instructions max_output_tokens max_tool_calls metadata moderation parallel_tool_calls previous_response_id prompt "
    "prompt_cache_key prompt_cache_options prompt_cache_retention reasoning safety_identifier service_tier store stream "
    "stream_options temperature text tool_choice tools top_logprobs top_p truncation user"
)
_MOVED = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
_ROLES = ("user", "assistant", "system", "developer")
_PARTS = ("input_text", "input_image", "input_file", "input_audio", "output_text", "refusal")
_LEAST_TOKENS = 16
_INCOMPLETE: dict[Finish, str] = {"length": "max_output_tokens", "filter": "content_filter"}


def read(raw: bytes, strict_models: bool) -> Chat:
    """The call in a body; raises Refusal for what the API would refuse."""
    body = load(raw, _FIELDS | _MOVED.keys())
    for name, place in _MOVED.items():
        if name in body:
            message = f"Unsupported parameter: '{name}'. In the Responses API, this parameter has moved to '{place}'."
            raise bad(message, name, "unsupported_parameter")
    model = model_in(body)
    texts = _texts(body)
    instructions = body.get("instructions")
    if instructions is not None:
        if type(instructions) is not str:
            raise mistyped("instructions", "a string", instructions)
        texts.insert(0, instructions)
    within(body, "temperature", 0, 2)
    within(body, "top_p", 0, 1)
    _format(body)
    _tools(body)
    stream, _ = streamed(body)
    return chat(
        model,
        texts,
        positive(body, "max_output_tokens", least=_LEAST_TOKENS),
        stream=stream,
        operation="background" if body.get("background") is True else "responses",
        tier=tier_in(body),
    )


def _texts(body: dict[str, Any]) -> list[str]:
    asked = body.get("input")
    if asked is None:
        if not any(body.get(name) for name in ("prompt", "previous_response_id", "conversation")):
            message = "One of 'input', 'previous_response_id', 'prompt' or 'conversation' must be provided."
            raise bad(message, "input", "missing_required_parameter")
        return []
    if type(asked) is str:
        return [asked]
    if type(asked) is not list:
        raise mistyped("input", "one of a string or array of objects", asked)
    return [_item(item, f"input[{at}]") for at, item in enumerate(asked)]


def _item(item: object, where: str) -> str:
    if type(item) is not dict:
        raise mistyped(where, "an object", item)
    if item.get("type", "message") != "message":
        return stand_in(item)
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES:
        raise missing(f"{where}.role") if role is None else wrong_value(role, f"{where}.role", _ROLES)
    if type(content) is str:
        return content
    if type(content) is not list:
        raise mistyped(f"{where}.content", "one of a string or array of objects", content)
    texts = []
    for at, part in enumerate(content):
        spot = f"{where}.content[{at}]"
        if type(part) is not dict:
            raise mistyped(spot, "an object", part)
        if part.get("type") not in _PARTS:
            raise wrong_value(part.get("type"), f"{spot}.type", _PARTS)
        if not part["type"].endswith("_text"):
            texts.append(stand_in(part))
        elif type(part.get("text")) is str:
            texts.append(part["text"])
        else:
            raise missing(f"{spot}.text")
    return "\n".join(texts)


def _format(body: dict[str, Any]) -> None:
    text = body.get("text")
    form = text.get("format") if type(text) is dict else None
    if form is None:
        return
    if type(form) is not dict:
        raise mistyped("text.format", "an object", form)
    if form.get("type") not in ("text", "json_object", "json_schema"):
        raise wrong_value(form.get("type"), "text.format.type", ("text", "json_object", "json_schema"))
    if form["type"] == "json_schema":
        for name in ("name", "schema"):
            if name not in form:
                raise missing(f"text.format.{name}")


def _tools(body: dict[str, Any]) -> None:
    tools = body.get("tools")
    if tools is None:
        return
    if type(tools) is not list:
        raise mistyped("tools", "an array of objects", tools)
    for at, tool in enumerate(tools):
        if type(tool) is not dict or type(tool.get("type")) is not str:
            raise missing(f"tools[{at}].type")
        if tool["type"] == "function" and type(tool.get("name")) is not str:
            raise missing(f"tools[{at}].name")


def _response(call: Chat, model: str, digest: str, status: str) -> dict[str, Any]:
    return {
        "id": f"resp_{digest}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "background": call.operation == "background",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": call.max_tokens,
        "metadata": {},
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": call.tier,
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
    }


def _message(digest: str, status: str, text: str | None) -> dict[str, Any]:
    content = [] if text is None else [_part(text)]
    return {"id": f"msg_{digest}", "type": "message", "role": "assistant", "status": status, "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _finished(call: Chat, reply: Reply, spoilt: str | None) -> dict[str, Any]:
    if call.operation == "background":
        return _response(call, reply.model, reply.digest, "queued")
    status = "completed" if reply.finish == "stop" else "incomplete"
    body = _response(call, reply.model, reply.digest, status)
    if reply.finish != "stop":
        body["incomplete_details"] = {"reason": _INCOMPLETE[reply.finish]}
    if reply.usage.reasoning:
        body["output"].append({"id": f"rs_{reply.digest}", "type": "reasoning", "summary": []})
    if reply.text:
        body["output"].append(_message(reply.digest, status, reply.text))
    body["usage"] = spoil(_usage(reply.usage), spoilt)
    if spoilt == "missing":
        del body["usage"]
    return body


def whole(call: Chat, reply: Reply, spoilt: str | None = None) -> bytes:
    """The body of a reply that is not streamed."""
    return orjson.dumps(_finished(call, reply, spoilt))


def events(call: Chat, reply: Reply, spoilt: str | None = None) -> list[bytes]:
    """The events of a streamed reply; the last one is its end marker."""
    opening = _response(call, reply.model, reply.digest, "in_progress")
    final = _finished(call, reply, spoilt)
    found: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": opening}),
        ("response.in_progress", {"response": opening}),
    ]
    for at, item in enumerate(final["output"]):
        if item["type"] != "message":
            found.append(("response.output_item.added", {"output_index": at, "item": item}))
        else:
            place = {"item_id": item["id"], "output_index": at, "content_index": 0}
            begun = _message(reply.digest, "in_progress", None)
            found.append(("response.output_item.added", {"output_index": at, "item": begun}))
            found.append(("response.content_part.added", {**place, "part": _part("")}))
            found += [
                ("response.output_text.delta", {**place, "delta": piece, "logprobs": []})
                for piece in pieces(reply.text)
            ]
            found.append(("response.output_text.done", {**place, "text": reply.text, "logprobs": []}))
            found.append(("response.content_part.done", {**place, "part": _part(reply.text)}))
        found.append(("response.output_item.done", {"output_index": at, "item": item}))
    found.append((f"response.{final['status']}", {"response": final}))
    return [_event(number, kind, fields) for number, (kind, fields) in enumerate(found)]


def _event(number: int, kind: str, fields: dict[str, Any]) -> bytes:
    data = orjson.dumps({"type": kind, "sequence_number": number, **fields})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def _failed(call: Chat, error_body: bytes) -> dict[str, Any]:
    error = orjson.loads(error_body)["error"]
    body = _response(call, call.model, call.sha, "failed")
    body["error"] = {"code": error["code"] or error["type"], "message": error["message"]}
    return body


def failed(call: Chat, error_body: bytes) -> bytes:
    """A response that failed after its 200 was promised, with the reason of an error's body."""
    return orjson.dumps(_failed(call, error_body))


def failed_event(call: Chat, error_body: bytes) -> bytes:
    """The same as the last event of a stream."""
    return _event(99, "response.failed", {"response": _failed(call, error_body)})


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    }
