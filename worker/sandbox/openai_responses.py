"""The sandbox's `/responses`: what it accepts, and how it answers whole, streamed and failed.

It knows no limits.
"""

from typing import Any

import orjson

from worker.sandbox.dialect import Chat, chat, names, pieces, spoil
from worker.sandbox.openai_checks import (
    EFFORTS,
    TIERS,
    bad,
    load,
    metadata_in,
    mistyped,
    model_in,
    one_of,
    positive,
    sampled,
    streamed,
    tier_in,
    wants_in,
    within,
)
from worker.sandbox.openai_hosted import citations, items
from worker.sandbox.openai_items import shape_of, texts_in
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
_LEAST_TOKENS = 16
_INCLUDED = (
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
)
_INCOMPLETE: dict[Finish, str] = {"length": "max_output_tokens", "filter": "content_filter"}


def read(raw: bytes, strict_models: bool) -> Chat:
    """The call in a body; raises Refusal for what the API would refuse."""
    body = load(raw, _FIELDS | _MOVED.keys())
    for name, place in _MOVED.items():
        if name in body:
            message = f"Unsupported parameter: '{name}'. In the Responses API, this parameter has moved to '{place}'."
            raise bad(message, name, "unsupported_parameter")
    model = model_in(body)
    texts = texts_in(body)
    instructions = body.get("instructions")
    if instructions is not None:
        if type(instructions) is not str:
            raise mistyped("instructions", "a string", instructions)
        texts.insert(0, instructions)
    within(body, "temperature", 0, 2)
    within(body, "top_p", 0, 1)
    effort = _settings(body)
    if strict_models:
        sampled(body, model, effort)
    shape = shape_of(body, texts)
    stream, _ = streamed(body)
    _background(body, stream)
    return chat(
        model,
        texts,
        positive(body, "max_output_tokens", least=_LEAST_TOKENS),
        stream=stream,
        operation="background" if body.get("background") is True else "responses",
        tier=tier_in(body, (*TIERS, "ultrafast")),
        shape=shape,
        wants=wants_in(
            model,
            effort,
            shown=(body.get("reasoning") or {}).get("summary") is not None,
            tools=[str(tool["type"]) for tool in body.get("tools") or []],
        ),
    )


def _settings(body: dict[str, Any]) -> object:
    """The effort that is asked for; raises Refusal for settings of a wrong kind."""
    reasoning = body.get("reasoning")
    if reasoning is not None and type(reasoning) is not dict:
        raise mistyped("reasoning", "an object", reasoning)
    effort = (reasoning or {}).get("effort")
    one_of(effort, "reasoning.effort", EFFORTS)
    one_of((reasoning or {}).get("summary"), "reasoning.summary", ("auto", "concise", "detailed"))
    one_of(body.get("truncation"), "truncation", ("auto", "disabled"))
    one_of(body.get("prompt_cache_retention"), "prompt_cache_retention", ("in_memory", "24h"))
    for name in ("store", "parallel_tool_calls", "background"):
        if body.get(name) is not None and type(body[name]) is not bool:
            raise mistyped(name, "a boolean", body[name])
    included = body.get("include")
    if included is not None and type(included) is not list:
        raise mistyped("include", "an array of strings", included)
    for at, one in enumerate(included or []):
        one_of(one, f"include[{at}]", _INCLUDED)
    positive(body, "max_tool_calls")
    positive(body, "top_logprobs", 20, 0)
    metadata_in(body)
    return effort


def _background(body: dict[str, Any], stream: bool) -> None:
    """Refuse a window for work in the background where there is none, or where it is streamed."""
    options = body.get("background_options")
    window = options.get("completion_window") if type(options) is dict else None
    if options is not None and type(options) is not dict:
        raise mistyped("background_options", "an object", options)
    one_of(window, "background_options.completion_window", ("soonest", "2h", "8h"))
    if options is not None and body.get("background") is not True:
        raise bad("'background_options' is only allowed when 'background' is true.", "background_options")
    if window in ("2h", "8h") and (stream or body.get("service_tier") not in (None, "auto", "default")):
        message = f"A completion window of {window} takes no stream and no service tier but the default one."
        raise bad(message, "background_options.completion_window")


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


def _message(digest: str, status: str, text: str | None, cited: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    content = [] if text is None else [_part(text, cited)]
    return {"id": f"msg_{digest}", "type": "message", "role": "assistant", "status": status, "content": content}


def _function_call(reply: Reply, status: str, arguments: str) -> dict[str, Any]:
    assert reply.call is not None
    return {
        "id": f"fc_{reply.digest}",
        "type": "function_call",
        "status": status,
        "call_id": f"call_{reply.digest}",
        "name": reply.call[0],
        "arguments": arguments,
    }


def _part(text: str, cited: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": cited or [], "logprobs": []}


def _finished(call: Chat, reply: Reply, spoilt: str | None) -> dict[str, Any]:
    if call.operation == "background":
        return _response(call, reply.model, reply.digest, "queued")
    status = "completed" if reply.finish == "stop" else "incomplete"
    body = _response(call, reply.model, reply.digest, status)
    if reply.finish != "stop":
        body["incomplete_details"] = {"reason": _INCOMPLETE[reply.finish]}
    body["output"] += items(reply)
    if reply.call:
        body["output"].append(_function_call(reply, status, orjson.dumps(reply.call[1]).decode()))
    elif reply.text:
        body["output"].append(_message(reply.digest, status, reply.text, citations(reply)))
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
        if item["type"] == "function_call":
            place = {"item_id": item["id"], "output_index": at}
            begun = _function_call(reply, "in_progress", "")
            found.append(("response.output_item.added", {"output_index": at, "item": begun}))
            found += [
                ("response.function_call_arguments.delta", {**place, "delta": piece})
                for piece in pieces(item["arguments"])
            ]
            done = {**place, "name": item["name"], "arguments": item["arguments"]}
            found.append(("response.function_call_arguments.done", done))
        elif item["type"] != "message":
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
            found.append(("response.content_part.done", {**place, "part": item["content"][0]}))
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
