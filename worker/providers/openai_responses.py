"""OpenAI's `/responses`: what its bodies and its streams mean.

It does not judge errors: they have the form that all of the dialect's errors have, which `openai` reads.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from models.request import Failure, FailureKind, Usage
from worker.providers.answers import Answer, Stream
from worker.providers.base import Reply
from worker.providers.events import Chunks
from worker.providers.failures import clean, code_name
from worker.providers.growing import grown
from worker.providers.replies import at, count, name, objects, storable, table, told_count

_FINAL = {"response.completed", "response.failed", "response.incomplete", "response.cancelled"}
_OUT_OF_TOKENS = "max_output_tokens"
_FILTERED = "content_filter"
_UNFINISHED = {"queued", "in_progress"}
_CALLS = ("_call", "mcp_approval_request")


def read_usage(usage: Any) -> Usage | None:
    """Cached and written tokens are part of input_tokens, reasoning is part of output_tokens. None if a count is missing."""
    given, made = told_count(at(usage, "input_tokens")), told_count(at(usage, "output_tokens"))
    if given is None or made is None:
        return None
    return Usage(
        input_tokens=given,
        output_tokens=made,
        cached_tokens=count(at(usage, "input_tokens_details", "cached_tokens")),
        cache_write_tokens=count(at(usage, "input_tokens_details", "cache_write_tokens")),
        reasoning_tokens=count(at(usage, "output_tokens_details", "reasoning_tokens")),
    )


def answer(body: dict[str, Any], reply: Reply) -> Answer | None:
    """What a response means. `failed`, `cancelled` and unfinished ones are failures, and so is one that holds nothing but a refusal.

    One that was cut by `max_output_tokens` is an answer, as in chat; so is one that the filter only cut.
    """
    status = name(body.get("status"))
    output = body.get("output")
    if status is None and not isinstance(output, list):
        return None
    parts = [part for item in objects(output) if item.get("type") == "message" for part in objects(item.get("content"))]
    texts = [part["text"] for part in parts if part.get("type") == "output_text" and isinstance(part.get("text"), str)]
    calls = any(str(item.get("type", "")).endswith(_CALLS) for item in objects(output))
    reason = name(at(body, "incomplete_details", "reason"))
    text = storable("".join(texts)) if texts or not calls else None
    usage = read_usage(body.get("usage"))
    if usage is not None:
        usage = replace(usage, fees=_fees(output))
    failure = _failure(status, reason, reply)
    if failure is None and not text and not calls:
        failure = _nothing_said(parts, reason, reply)
    return Answer(
        usage=usage,
        text=text,
        finish_reason=reason or status,
        served_model=name(body.get("model")),
        failure=failure,
    )


def _fees(output: Any) -> tuple[tuple[str, int], ...]:
    """The uses of hosted tools that are billed by the use. Of web searches only the searches are, not the pages opened."""
    uses: Counter[str] = Counter()
    containers: set[str] = set()
    for item in objects(output):
        if item.get("type") == "web_search_call" and at(item, "action", "type") in (None, "search"):
            uses["web_search_requests"] += 1
        elif item.get("type") == "file_search_call":
            uses["file_search_requests"] += 1
        elif item.get("type") == "image_generation_call":
            uses["image_generation_requests"] += 1
        elif item.get("type") == "code_interpreter_call":
            containers.add(name(item.get("container_id")) or "")
    uses["code_interpreter_sessions"] = len(containers)
    return tuple(sorted((tool, number) for tool, number in uses.items() if number))


def _failure(status: str | None, reason: str | None, reply: Reply) -> Failure | None:
    """What a status alone makes of a response; its own `error` is judged before."""
    if status in (None, "completed") or (status == "incomplete" and reason in (_OUT_OF_TOKENS, _FILTERED)):
        return None
    if status in _UNFINISHED:
        message = f"the response is {status}: it was asked for in the background, and nobody here fetches it later"
        return Failure(FailureKind.BAD_REQUEST, code_name(status) or "unfinished", message, reply.status)
    message = f"the response is {status}" + (f": {clean(reason)}" if reason else " and tells no reason")
    return Failure(FailureKind.SERVER, code_name(status) or "no_content", message, reply.status)


def _nothing_said(parts: list[dict[str, Any]], reason: str | None, reply: Reply) -> Failure | None:
    refusal = clean("".join(part["refusal"] for part in parts if isinstance(part.get("refusal"), str)))
    if refusal:
        return Failure(FailureKind.CONTENT_FILTER, "refusal", refusal, reply.status)
    if reason == _FILTERED:
        message = "the provider's content filter removed the whole answer"
        return Failure(FailureKind.CONTENT_FILTER, _FILTERED, message, reply.status)
    return None


def assemble(chunks: Chunks) -> Stream:
    """The response that a stream's last event holds; without that event, what had come of it, not whole.

    Texts grow in events of their own, but the last event repeats all of them: only a stream that was cut needs the pieces.
    """
    body: dict[str, Any] = {}
    items: dict[int, dict[str, Any]] = {}
    for _, data in chunks:
        kind = at(data, "type")
        if not isinstance(kind, str):
            if error := at(data, "error"):  # as gateways put it
                return Stream(_so_far(body, items), error, False)
            continue
        if kind == "error":
            error = at(data, "error") or {"code": data.get("code"), "message": data.get("message")}
            return Stream(_so_far(body, items), error, False)
        if isinstance(response := data.get("response"), dict):
            body = response
        if kind in _FINAL:
            return Stream(body, body.get("error") or None, bool(body))
        _add(items, kind, data)
    return Stream(_so_far(body, items), None, False)


def _add(items: dict[int, dict[str, Any]], kind: str, data: dict[str, Any]) -> None:
    place = count(data.get("output_index"))
    if kind in ("response.output_item.added", "response.output_item.done"):
        items[place] = dict(table(data.get("item")))
    elif kind == "response.output_text.delta" and isinstance(piece := data.get("delta"), str):
        content = items.setdefault(place, {"type": "message", "role": "assistant"}).setdefault("content", [])
        if isinstance(content, list):
            if not content or not isinstance(content[-1], dict):
                content.append({"type": "output_text", "text": "", "annotations": []})
            content[-1]["text"] = grown(content[-1].get("text"), piece)


def _so_far(body: dict[str, Any], items: dict[int, dict[str, Any]]) -> dict[str, Any]:
    if not body and not items:
        return {}
    return {**body, "output": [items[place] for place in sorted(items)]}
