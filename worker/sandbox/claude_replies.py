"""How the sandbox's Claude words an answer: its blocks, whole and as a stream hands them out, and its usage.

It reads no requests and makes no answers up.
"""

from typing import Any

import orjson

from worker.sandbox.deeds import found, signature
from worker.sandbox.dialect import pieces
from worker.sandbox.replies import Reply, Usage

_DIRECT = {"type": "direct"}


def blocks(reply: Reply) -> list[dict[str, Any]]:
    """The blocks of an answer, in order."""
    told: list[dict[str, Any]] = []
    if reply.usage.reasoning and reply.thinks:
        told.append({"type": "thinking", "thinking": reply.thought, "signature": signature(reply)})
    if reply.call:
        name, arguments = reply.call
        call = {"type": "tool_use", "id": f"toolu_{reply.digest}", "name": name, "input": arguments, "caller": _DIRECT}
        return [*told, call]
    for number, query in enumerate(reply.queries):
        told += _search(f"srvtoolu_{reply.digest}{number}", query)
    if reply.text:
        told.append({"type": "text", "text": reply.text, "citations": _citations(reply) or None})
    return told


def _search(identity: str, query: str) -> list[dict[str, Any]]:
    source = found(query)
    page = {
        "type": "web_search_result",
        "url": source.url,
        "title": source.title,
        "encrypted_content": identity,
        "page_age": None,
    }
    return [
        {"type": "server_tool_use", "id": identity, "name": "web_search", "input": {"query": query}, "caller": _DIRECT},
        {"type": "web_search_tool_result", "tool_use_id": identity, "content": [page], "caller": _DIRECT},
    ]


def _citations(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "type": "web_search_result_location",
            "url": found(query).url,
            "title": found(query).title,
            "encrypted_index": reply.digest,
            "cited_text": query,
        }
        for query in reply.queries
    ]


def events(reply: Reply) -> list[bytes]:
    """The events of all blocks."""
    told: list[bytes] = []
    for at, block in enumerate(blocks(reply)):
        begun, deltas = _opened(block)
        told.append(event("content_block_start", index=at, content_block=begun))
        if block["type"] == "text":
            told.append(event("ping"))
        told += [event("content_block_delta", index=at, delta=delta) for delta in deltas]
        told.append(event("content_block_stop", index=at))
    return told


def _opened(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it begins, and what is added to it."""
    match block["type"]:
        case "thinking":
            grown = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"]) if piece]
            signed = {"type": "signature_delta", "signature": block["signature"]}
            return {**block, "thinking": "", "signature": ""}, [*grown, signed]
        case "tool_use" | "server_tool_use":
            given = orjson.dumps(block["input"]).decode()
            grown = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces(given)]
            return {**block, "input": {}}, grown
        case "text":
            cited = [{"type": "citations_delta", "citation": one} for one in block["citations"] or []]
            grown = [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
            return {"type": "text", "text": "", "citations": [] if cited else None}, [*cited, *grown]
        case _:
            return block, []


def event(name: str, **fields: Any) -> bytes:
    """One event of a stream."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps({"type": name, **fields}))


def usage(given: Usage) -> dict[str, object]:
    """The usage block; what was written to and read from the cache is apart from the input."""
    searches = dict(given.fees).get("web_search_requests", 0)
    return {
        "input_tokens": given.input - given.cached - given.cache_write,
        "cache_creation_input_tokens": given.cache_write,
        "cache_read_input_tokens": given.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": given.cache_write - given.cache_write_1h,
            "ephemeral_1h_input_tokens": given.cache_write_1h,
        },
        "output_tokens": given.output,
        "output_tokens_details": {"thinking_tokens": given.reasoning},
        "server_tool_use": {"web_search_requests": searches, "web_fetch_requests": 0} if searches else None,
        "service_tier": "standard",
        "inference_geo": None,
    }
