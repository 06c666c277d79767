"""When a stream's first token has come, in every dialect, and what becomes of a call that waits for it too long."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.bad_server import CHUNKED, chunked, run, send, serving
from worker import first_token
from worker.first_token import FIRST_TOKEN_TIMEOUT, FirstToken
from worker.providers.base import SendError

TOKENS: list[dict[str, Any]] = [
    {"choices": [{"index": 0, "delta": {"content": "Hi"}}]},
    {"choices": [{"index": 0, "delta": {"reasoning_content": "Hm"}}]},
    {
        "choices": [
            {"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]}}
        ]
    },
    {"choices": [{"text": "Hi", "index": 0}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"type": "response.output_text.delta", "delta": "Hi"},
    {"type": "response.function_call_arguments.delta", "delta": "{"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{"}},
    {"candidates": [{"content": {"parts": [{"text": "Hi"}], "role": "model"}}]},
    {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": {}}}]}}]},
    {"error": {"message": "overloaded"}},
]
PREAMBLES: list[dict[str, Any]] = [
    {"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
    {"type": "response.created", "response": {"id": "r", "error": None, "instructions": "Be kind", "output": []}},
    {"type": "message_start", "message": {"id": "m", "content": [], "stop_reason": None, "usage": {"input_tokens": 3}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
]


async def stays() -> bool:
    return False


async def leaves() -> bool:
    return True


def event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


@given(st.sampled_from(TOKENS), st.data())
def test_a_token_is_seen_wherever_the_bytes_are_cut(token: dict[str, Any], data: st.DataObject) -> None:
    bound = FirstToken(1.0, stays)
    for preamble in PREAMBLES:
        bound.take(event(preamble))
        assert not bound.arrived, preamble
    whole = event(token)
    cut = data.draw(st.integers(0, len(whole)))
    bound.take(whole[:cut])
    bound.take(whole[cut:])
    assert bound.arrived


async def outcome(bound: FirstToken, *events: dict[str, Any]) -> SendError | int:
    async def script(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + chunked(event(PREAMBLES[0])))
        await writer.drain()
        for one in events:
            await asyncio.sleep(0.6)
            writer.write(chunked(event(one)))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async with serving(script) as server:
        with first_token.bounded(bound):
            try:
                return (await send(server.url, stream=True)).status
            except SendError as error:
                return error


def test_a_call_is_left_while_another_candidate_is_free() -> None:
    found = run(outcome(FirstToken(0.1, leaves), *TOKENS[:1]))
    assert isinstance(found, SendError)
    assert (found.failure.code, found.sent) == (FIRST_TOKEN_TIMEOUT, True)
    assert found.failure.message.startswith("no first token from 127.0.0.1:")


@pytest.mark.parametrize(
    ("bound", "events"), [(FirstToken(0.1, stays), TOKENS[:1]), (FirstToken(30, leaves), TOKENS[:2])]
)
def test_it_goes_on_without_another_and_once_a_token_has_come(bound: FirstToken, events: list[dict[str, Any]]) -> None:
    assert run(outcome(bound, *events)) == 200


def test_a_candidate_that_becomes_free_later_is_noticed() -> None:
    asked: list[bool] = []

    async def later() -> bool:
        asked.append(len(asked) > 0)
        return asked[-1]

    async def story() -> None:
        scope = asyncio.timeout(None)

        async def call() -> None:
            async with scope:
                await asyncio.Event().wait()

        calling = asyncio.ensure_future(call())
        await asyncio.sleep(0)
        await FirstToken(0.01, later).watch(scope)
        with pytest.raises(TimeoutError):
            await calling

    run(story())
    assert asked == [False, True]
