"""Good inputs for each target: a fuzzer that starts from them gets past the first check.

It changes none of them; hypothesis and the coverage-guided fuzzer do.
"""

from __future__ import annotations

import base64
import functools
import gzip
import io
from pathlib import Path
from typing import Any

import orjson
import yaml
import zstandard

from models.queues import Ticket
from tests.fuzz.targets import READERS, STATUSES
from worker.tasks import clean_message

_ROOT = Path(__file__).parents[2]
_GOLDEN = _ROOT / "tests" / "worker" / "providers" / "golden"
_ASK = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": [{"type": "text", "text": "caf\u00e9"}]}]
_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
_LINES: tuple[dict[str, Any], ...] = (
    {"id": "a", "prompt": "Hi", "metadata": {"n": 1}, "max_tokens": 9, "temperature": 0.5, "stop": ["x"]},
    {"custom_id": 7, "messages": _ASK, "provider": "openai", "system": None},
    {"id": "b", "input": _ASK, "route": "smart", "seed": 1, "tools": [], "n": 1},
    {"id": "c", "embed": ["a", "b"], "model": "openai/text-embedding-3-small", "dimensions": 3},
    {"custom_id": "d", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-4o", "messages": _ASK}},
    {"custom_id": "e", "method": "POST", "url": "/v1/embeddings", "body": {"input": "a"}, "metadata": {"a": [1]}},
    {"custom_id": "f", "method": "POST", "url": "/v1/responses", "body": {"input": "a", "stream": True}, "own": 1.50},
    {"custom_id": "g", "params": {"model": "claude-x", "max_tokens": 5, "messages": _ASK}, "provider": "claude"},
    {"key": "h", "request": {"contents": [{"role": "user", "parts": [{"text": "a"}]}]}, "model": "gemini/g"},
    {"metadata": {"key": "i"}, "request": {"contents": [{"parts": [{"text": "a"}]}], "generationConfig": {}}},
)
_CONFIGS = (
    """\
providers:
  - id: openai
    base_url: https://api.example.com/v1
    headers: {X-Team: "${TEAM:-red}"}
    timeout_seconds: 60
    models: {gpt-4o: {pricing: &prices {input_token_cost: 0.0025, output_token_cost: 1e-2, currency: USD}}}
    fallback_models: {gpt-4o: [gpt-4o-mini]}
    keys:
      - {id: oa-1, secret: "${OPENAI_API_KEY}", limit_req_per_min: 1_000, pool: team, pricing: *prices}
  - {id: claude, keys: [{id: cl-1, secret: canary.0123456789, use: 0.8}]}
routes:
  smart: {strategy: cost_first, candidates: [openai/gpt-4o, claude/claude-haiku-4-5]}
worker: {concurrency: 8, grace_seconds: 60}
redis_url: redis://localhost:6379/0
""",
    '{"providers": [{"id": "openai", "keys": [{"id": "a", "secret": "canary.0123456789"}]}], "database_url": "sqlite:///a"}',
    "a: &a [*a, *a]\nproviders: [{<<: {id: x}, keys: !!str y}]\n",
)
_ON_THE_WIRE = (
    b"GET /v1/batches?limit=3 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\n\r\nGET /healthz HTTP/1.0\r\n\r\n",
    b"POST /v1/batches HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, close\r\nExpect: 100-continue\r\nX: a\r\n b\r\n\r\n",
)
_REQUESTS = (
    b"GET /v1/batches?limit=3\n",
    b"GET /v1/batches/1\n",
    b"GET /v1/batches/1/jobs?status=failed&limit=5\n",
    b"GET /v1/batches/1/results?format=csv\n",
    b"POST /v1/batches/1/priority?priority=5\n",
    b"POST /v1/batches/1/cancel\n",
    b"POST /v1/batches/1/rerun?status=failed&error=http_500&from=openai&model=a&route=b\n",
    b"POST /v1/batches/1/resume?max_cost=5&currency=USD\n",
    b"DELETE /v1/batches/1\n",
    b"GET /v1/costs?by=provider,key,metadata.a&batch=1\n",
    b"GET /v1/providers?seconds=60\n",
    b"POST /v1/keys/openai/oa-1/disable\n",
    b"POST /v1/workers/1/drain\n",
    b"GET /metrics\n",
    b"GET /healthz\n",
    b'POST /v1/batches?model=openai/gpt-4o&name=a&priority=1&max_tokens=5&temperature=0.5&new=1\n{"prompt":"a"}\n',
    b"POST /v1/batches?template={a}&system=b&limit=1&skip_invalid=true&max_cost=0.5&provider=openai\na,b\n1,2\n",
)
_DONE = (b"[DONE]",)


def seeds(target: str) -> list[bytes]:
    """Good inputs for a target, the same in every run."""
    if target.startswith("reply-"):
        return _replies(target.removeprefix("reply-"))
    whole = b"".join(orjson.dumps(line) + b"\n" for line in _LINES)
    csv = b'id,prompt,"a b"\n1,Hi,x\n2,"a ""b"",\nc",\n'
    plain = [whole, *(orjson.dumps(line) for line in _LINES)]
    match target:
        case "lines" | "packed":
            return [*plain, csv]
        case "container":
            zstd = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(whole)
            return [whole, gzip.compress(whole, 1, mtime=0), zstd, _parquet()]
        case "parquet":
            return [
                bytes([number, *change]) for number in range(6) for change in ((), (0, 9, 1), (0, 200, 7, 1, 0, 255))
            ]
        case "table":
            return [csv, b"\xef\xbb\xbfprompt;id\na;1\n", b"prompt\tmodel\na\tgpt\n", b"prompt\r\n\r\na\r\n"]
        case "config":
            return [text.encode() for text in _CONFIGS]
        case "kept-models":
            model = {"id": "m", "retires_at": "2027-01-01T00:00:00Z"}
            return [orjson.dumps({"openai": {"base_url": "https://a", "listed_at": 1.5, "models": [model]}})]
        case "http-wire":
            return list(_ON_THE_WIRE)
        case "http-api":
            return list(_REQUESTS)
        case "ticket":
            return _tickets()
    raise KeyError(target)


@functools.cache
def bodies(reader: str) -> tuple[tuple[int, Any], ...]:
    """The replies of a reader's golden file: status and decoded body."""
    golden = yaml.safe_load((_GOLDEN / f"{reader}.yaml").read_text())
    found = [(200, row["body"]) for row in golden["answers"] if "body" in row]
    for row in golden["errors"] or ():
        if "text_body" not in row:
            found.append((row["status"], {"type": "error", "error": row["error"]} if "error" in row else row["body"]))
    return tuple(found)


def streams(reader: str) -> list[bytes]:
    """Whole event streams that a reader takes for an answer."""
    found = []
    for events in _STREAMS.get(reader, ()):
        found.append(b"".join(_event(event) for event in events))
    return found


def _replies(reader: str) -> list[bytes]:
    found = [
        bytes([STATUSES.index(status), 0, 2]) + orjson.dumps(body)
        for status, body in bodies(reader)[::3]
        if status in STATUSES
    ]
    listed = {
        "data": [{"id": "m", "retires_at": "2027-01-01"}],
        "models": [{"name": "models/m"}],
        "has_more": True,
        "last_id": "a",
        "nextPageToken": "b",
    }
    told = {"error": {"message": "no $KEY here", "code": "$KEY", "type": "$KEY"}}
    return [
        *found,
        *(b"\0\0\1" + stream for stream in streams(reader)),
        b"\0\0\0" + orjson.dumps(listed),
        *(bytes([status, 3, 0]) + orjson.dumps(told) for status in (0, 8, 9, 14)),
        b"\x0f\x08\0<html>no $KEY here</html>",
    ]


def _event(event: Any) -> bytes:
    if event is _DONE:
        return b"data: [DONE]\n\n"
    name = f"event: {event['type']}\n".encode() if "type" in event else b""
    return name + b"data: " + orjson.dumps(event) + b"\n\n"


def _tickets() -> list[bytes]:
    """A ticket as Celery writes it, and some that only look like one."""
    good = clean_message(Ticket(provider="openai", hops=0), "provider.openai")
    found = [good]
    for name, value in (("eta", "2030-01-01T00:00:00"), ("compression", "zlib"), ("task", [1]), ("timelimit", 5)):
        found.append({**good, "headers": {**good["headers"], name: value}})
    for arguments in ([[], {"provider": ["openai"], "hops": 0}, {}], [[], {"provider": "openai", "hops": -9}, {}], 5):
        found.append({**good, "body": base64.b64encode(orjson.dumps(arguments)).decode()})
    return [*map(orjson.dumps, found), b"{}", b"[]"]


def _parquet() -> bytes:
    import pyarrow
    from pyarrow import parquet

    made = io.BytesIO()
    parquet.write_table(pyarrow.table({"id": ["a", "b"], "prompt": ["x", "y"], "n": [1, None]}), made)
    return made.getvalue()


def _chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def _part(text: str, **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "index": 0, **more}]}


_USED = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
_STREAMS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "openai": (
        (
            _chunk({"role": "assistant", "content": ""}),
            _chunk({"content": "Hel"}),
            _chunk({"content": "lo"}),
            _chunk({"tool_calls": [{"index": 0, **_CALL}]}),
            _chunk({}, "stop"),
            {"choices": [], "usage": _USED},
            _DONE,
        ),
    ),
    "openai-completions": (
        (
            {"id": "c", "choices": [{"index": 0, "text": "Hel", "logprobs": {"tokens": ["H"]}}]},
            {"id": "c", "choices": [{"index": 0, "text": "lo", "finish_reason": "stop"}]},
            {"choices": [], "usage": _USED},
            _DONE,
        ),
    ),
    "openai-responses": (
        (
            {"type": "response.created", "response": {"id": "r", "status": "in_progress", "output": []}},
            {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "content": []}},
            {"type": "response.output_text.delta", "output_index": 0, "delta": "Hi"},
            {
                "type": "response.completed",
                "response": {
                    "id": "r",
                    "status": "completed",
                    "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}],
                    "usage": {"input_tokens": 3, "output_tokens": 4},
                },
            },
        ),
    ),
    "gemini": (
        (
            _part("Hel"),
            _part("lo"),
            {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": {}}}]}, "index": 0}]},
            {**_part("", finishReason="STOP"), "usageMetadata": {"promptTokenCount": 3, "totalTokenCount": 5}},
        ),
    ),
    "claude": (
        (
            {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 10, "output_tokens": 1}}},
            {"type": "ping"},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
            {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "input": {}}},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
            {"type": "message_stop"},
        ),
    ),
}
assert set(_STREAMS) <= set(READERS)
