"""The Claude dialect: Anthropic's messages.

It does not send or retry; the choice of the API's version is the configuration's.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import quote

from models.request import Failure, FailureKind, ModelInfo, Request, Usage
from worker.limits.shapes import Charge
from worker.providers import signals
from worker.providers.answers import Answer, Stream
from worker.providers.base import Call, Reply
from worker.providers.chat import ChatProvider
from worker.providers.events import NAMELESS, Chunks
from worker.providers.failures import clean, request_id
from worker.providers.finish import Content, Judged, judged
from worker.providers.growing import grown, joined
from worker.providers.replies import at, count, decode, name, objects, storable, table, told_count
from worker.providers.translation import claude as translation
from worker.providers.translation import read as read_body
from worker.providers.usage import billed_beside, largest, merged_fees, reported_cost


class Claude(ChatProvider):
    """messages with an x-api-key."""

    dialect: ClassVar[str] = "claude"
    signals = signals.CLAUDE

    def auth(self, api_key: str) -> dict[str, str]:
        return {"x-api-key": api_key, "anthropic-version": self.config.anthropic_version}

    def path(self, request: Request) -> str:
        return "/messages"

    def translate(self, request: Request) -> dict[str, Any]:
        config = self.config
        ask = read_body(request, translation.TARGET)
        if config.drop_sampling:
            for name in ("temperature", "top_p", "top_k"):
                ask.settings.take(name)
        return translation.write(ask, request.model, bound=config.max_tokens, version=config.anthropic_version)

    def max_output_tokens(self, request: Request) -> int | None:
        own = super().max_output_tokens(request)
        return self.config.max_tokens if own is None and request.dialect != self.dialect else own

    def settled(self, booked: Charge, usage: Usage) -> Charge:
        """Cached reads don't count against a minute's input; output counts as produced, whatever max_tokens was."""
        given = max(0, usage.input_tokens - usage.cached_tokens)
        return Charge(tokens=given + usage.output_tokens, input_tokens=given, output_tokens=usage.output_tokens)

    def call_id(self, body: Any, reply: Reply) -> str | None:
        return request_id(reply, reply.headers.get("request-id"), at(body, "request_id"), at(body, "id"))

    def error_in(self, body: Any) -> Any:
        return at(body, "error") or (body if at(body, "type") == "error" else None)

    def answer(self, request: Request, body: dict[str, Any], reply: Reply) -> Answer | None:
        content = body.get("content")
        if not isinstance(content, list):
            return None
        blocks = list(objects(content))
        texts = [block["text"] for block in blocks if isinstance(block.get("text"), str)]
        finish = name(body.get("stop_reason"))
        if finish == "refusal":
            reason = clean(at(body, "stop_details", "explanation")) or "the model refused to answer"
            verdict = Judged(Failure(FailureKind.CONTENT_FILTER, "refusal", reason, reply.status))
        else:
            thoughts = any(block.get("type") in _THOUGHTS for block in blocks)
            others = any(not _HOSTED.search(str(block.get("type"))) for block in blocks)
            verdict = judged(finish, Content("".join(texts), others, thoughts), reply)
        usage = read_usage(body.get("usage"))
        if usage is not None:
            usage = replace(usage, reported_cost=reported_cost(body.get("usage"), reply.headers))
        return Answer(
            usage=usage,
            text=storable("".join(texts)) if texts or not content else None,
            finish_reason=finish,
            served_model=name(body.get("model")),
            failure=verdict.failure,
            empty=verdict.empty,
        )

    def assemble(self, request: Request, chunks: Chunks) -> Stream:
        body: dict[str, Any] = {}
        blocks: dict[int, dict[str, Any]] = {}
        whole = told = False
        for name_told, data in chunks:
            kind = at(data, "type")
            if kind == "error" or name_told == "error" or at(data, "error"):
                _estimate_output(body, blocks)
                return Stream(_with_blocks(body, blocks), at(data, "error") or data or NAMELESS, False)
            if kind == "message_start":
                body = dict(table(data.get("message")))
                body["usage"] = dict(table(body.get("usage")))
            elif kind == "content_block_start":
                blocks[count(data.get("index"))] = dict(table(data.get("content_block")))
            elif kind == "content_block_delta":
                _extend(blocks.setdefault(count(data.get("index")), {}), table(data.get("delta")))
            elif kind == "message_delta":
                body.update(table(data.get("delta")))
                body["usage"] = largest(body.get("usage"), data.get("usage"))
                told |= at(data, "usage", "output_tokens") is not None
            elif kind == "message_stop":
                # one that has lost the event with the reason has lost its usage too; so has one without its first event
                whole = isinstance(body.get("stop_reason"), str) and not chunks.broken
                # a tool's arguments without the block that they belong to
                whole = whole and not any("partial_json" in block and "type" not in block for block in blocks.values())
                break
        if whole and not told:  # the first event's count is that of the first token
            table(body.get("usage")).pop("output_tokens", None)
        if not whole:
            _estimate_output(body, blocks)
        return Stream(_with_blocks(body, blocks), None, whole)

    def build_list_models(self, api_key: str) -> Call:
        return self.list_models_call("/models?limit=1000", api_key)

    def next_list_models(self, api_key: str, reply: Reply) -> Call | None:
        body = decode(reply.body)
        last = name(at(body, "last_id"))
        if at(body, "has_more") is not True or last is None:
            return None
        return self.list_models_call(f"/models?limit=1000&after_id={quote(last, safe='')}", api_key)

    def read_list_models(self, reply: Reply) -> list[ModelInfo]:
        return [
            ModelInfo(model, name(entry.get("retires_at")))
            for entry in objects(at(decode(reply.body), "data"))
            if (model := name(entry.get("id")))
        ]


def read_usage(usage: Any) -> Usage | None:
    """On the wire `input_tokens` leaves out what was written to or read from the cache; ours is all of it. None if a count is missing.

    `iterations` lists the model's runs within one call. What compacting the conversation took is in none of the other counts;
    runs of other models (an advisor) have prices of their own (Anthropic docs: compaction, advisor tool).
    """
    fresh, made = told_count(at(usage, "input_tokens")), told_count(at(usage, "output_tokens"))
    if fresh is None or made is None:
        return None
    written, cached = count(usage.get("cache_creation_input_tokens")), count(usage.get("cache_read_input_tokens"))
    beside: dict[str, int] = {}
    for run in objects(usage.get("iterations")):
        kind = name(run.get("type")) or "message"
        if kind == "compaction":
            fresh += count(run.get("input_tokens"))
            made += count(run.get("output_tokens"))
            written += count(run.get("cache_creation_input_tokens"))
            cached += count(run.get("cache_read_input_tokens"))
        elif kind != "message" and (used := count(run.get("input_tokens")) + count(run.get("output_tokens"))):
            beside[f"{kind}_tokens"] = beside.get(f"{kind}_tokens", 0) + used
    return Usage(
        input_tokens=fresh + written + cached,
        output_tokens=made,
        cached_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=count(at(usage, "output_tokens_details", "thinking_tokens")),
        cache_write_1h_tokens=min(written, count(at(usage, "cache_creation", "ephemeral_1h_input_tokens"))),
        tier=_tier(usage),
        fees=merged_fees(billed_beside(usage, fresh + written + cached + made), beside.items()),
    )


def _tier(usage: dict[str, Any]) -> str:
    """The service tier, or the speed, where it isn't the usual one: both have prices of their own."""
    if usage.get("speed") == "fast":
        return "fast"
    tier = usage.get("service_tier")
    return tier if tier in ("priority", "batch") else ""


_THOUGHTS = ("thinking", "redacted_thinking")
_HOSTED = re.compile(r"^(text|(redacted_)?thinking|server_tool_use|mcp_tool_use|compaction)$|_tool_result$")
"""Blocks that are no answer by themselves: text counts by its words, and what Anthropic's own tools do comes before the answer."""
_GROWING = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


def _extend(block: dict[str, Any], delta: dict[str, Any]) -> None:
    kind = delta.get("type")
    if kind == "input_json_delta" and isinstance(part := delta.get("partial_json"), str):
        block["partial_json"] = grown(block.get("partial_json"), part)
    elif kind == "citations_delta":
        if not isinstance(block.get("citations"), list):
            block["citations"] = []
        block["citations"].append(delta.get("citation"))
    elif isinstance(kind, str) and (field := _GROWING.get(kind)) and isinstance(part := delta.get(field), str):
        block[field] = grown(block.get(field), part)


def table_text(block: dict[str, Any], field: str) -> str:
    """The text of a field, empty if it holds none yet."""
    value = block.get(field)
    return value if isinstance(value, str) else ""


def _with_blocks(body: dict[str, Any], blocks: dict[int, dict[str, Any]]) -> dict[str, Any]:
    if not body:
        return {}
    for block in blocks.values():
        partial = joined(block.pop("partial_json", None))
        if block.get("type") in ("tool_use", "server_tool_use") and not block.get("input"):
            block["input"] = {}
        if partial:
            told = decode(partial.encode("utf-8", "surrogatepass")) if isinstance(partial, str) else None
            block["input"] = partial if told is None else told
    return {**body, "content": [blocks[index] for index in sorted(blocks)]}


def _estimate_output(body: dict[str, Any], blocks: dict[int, dict[str, Any]]) -> None:
    """A cut stream told its input but not its final output: the characters that came, four a token, stand for it."""
    if not body:
        return
    for block in blocks.values():
        joined(block)
    characters = sum(
        len(table_text(block, field)) for block in blocks.values() for field in ("text", "thinking", "partial_json")
    )
    usage = table(body.get("usage"))
    body["usage"] = {**usage, "output_tokens": max(count(usage.get("output_tokens")), -(-characters // 4))}
