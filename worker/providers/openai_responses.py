"""OpenAI's `/responses`: what its bodies and its streams mean.

It does not judge errors: they have the form that all of the dialect's errors have, which `openai` reads.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from models.request import Failure, FailureKind, Usage
from worker.providers import openai_chat as chat
from worker.providers.answers import Answer, Stream
from worker.providers.base import Reply
from worker.providers.events import NAMELESS, Chunks
from worker.providers.failures import clean, code_name
from worker.providers.finish import BROKEN_ANSWER, Content, Finish, Judged, broken, finish_of, judged
from worker.providers.growing import grown
from worker.providers.replies import at, count, name, objects, storable, table, told_count
from worker.providers.usage import merged_fees

_FINAL = {"response.completed", "response.failed", "response.incomplete", "response.cancelled"}
_UNFINISHED = {"queued", "in_progress"}
_CALLS = ("_call", "mcp_approval_request")


def read_usage(usage: Any) -> Usage | None:
    """Cached and written tokens are part of input_tokens, reasoning is part of output_tokens. None if a count is missing.

    Counts that stand beside these are read as in chat: compatible servers have the same habits here.
    """
    if not isinstance(usage, dict) or told_count(usage.get("input_tokens")) is None:
        return None
    return None if told_count(usage.get("output_tokens")) is None else chat.read_usage(usage)


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
        usage = replace(usage, fees=merged_fees(usage.fees, _fees(output)))
    failure = _failure(status, reason, reply)
    verdict = Judged(failure) if failure else _judged(output, parts, text, reason or status, reply)
    return Answer(
        usage=usage,
        text=text,
        finish_reason=reason or status,
        served_model=name(body.get("model")),
        failure=verdict.failure,
        empty=verdict.empty,
    )


def _judged(output: Any, parts: list[dict[str, Any]], text: str | None, reason: str | None, reply: Reply) -> Judged:
    """What to think of a response whose status is one of an answer. A hosted search alone is none; a message without text is one
    that is empty, while reasoning without a message ended too early."""
    kinds = [str(item.get("type", "")) for item in objects(output)]
    others = any(kind.endswith(_CALLS) and kind not in _SEARCHES for kind in kinds)
    cut = any(item.get("type") == "message" and item.get("status") == "incomplete" for item in objects(output))
    if cut and reason == "completed":
        return Judged(broken(BROKEN_ANSWER, "the response is completed, but its message is incomplete", reply))
    content = Content(text, others, reasoning="reasoning" in kinds and "message" not in kinds)
    refusal = clean("".join(part["refusal"] for part in parts if isinstance(part.get("refusal"), str)))
    if content.nothing and refusal:
        return Judged(Failure(FailureKind.CONTENT_FILTER, "refusal", refusal, reply.status))
    return judged(reason, content, reply)


_SEARCHES = ("web_search_call", "file_search_call")


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
    if status in (None, "completed") or (
        status == "incomplete" and finish_of(reason) in (Finish.LENGTH, Finish.FILTER)
    ):
        return None
    if status in _UNFINISHED:
        message = f"the response is {status}: it was asked for in the background, and nobody here fetches it later"
        return Failure(FailureKind.BAD_REQUEST, code_name(status) or "unfinished", message, reply.status)
    message = f"the response is {status}" + (f": {clean(reason)}" if reason else " and tells no reason")
    return Failure(FailureKind.SERVER, code_name(status) or "no_content", message, reply.status)


def assemble(chunks: Chunks) -> Stream:
    """The response that a stream's last event holds; without that event, what had come of it, not whole.

    Texts grow in events of their own, but the last event repeats all of them: only a stream that was cut needs the pieces.
    """
    body: dict[str, Any] = {}
    items: dict[int, dict[str, Any]] = {}
    for event, data in chunks:
        kind = at(data, "type")
        if not isinstance(kind, str) and event != "error":
            if error := at(data, "error"):  # as gateways put it
                return Stream(_so_far(body, items), error, False)
            continue
        if event == "error" and not isinstance(data, dict):
            return Stream(_so_far(body, items), NAMELESS, False)
        if kind == "error" or event == "error":
            error = at(data, "error") or {"code": data.get("code"), "message": data.get("message")}
            return Stream(_so_far(body, items), error, False)
        if isinstance(response := data.get("response"), dict):
            told = body.get("usage")
            body = response if response.get("usage") or not told else {**response, "usage": told}
        if kind in _FINAL:
            if items and not body.get("output"):  # servers whose last event leaves the output out
                body = _so_far(body, items)
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
