"""Streams with an event that can't be read: skipped where it can't have been a piece of the answer, else the stream is truncated."""

from __future__ import annotations

import orjson
import pytest

from models.request import FailureKind
from tests.worker.providers.test_streams import STREAMS, data, read
from worker.providers.base import Provider
from worker.providers.claude import Claude
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI

NOISE = [
    b"data: {malformed\n\n",
    b"data: {not json}\n\n",
    b"data: garbage\n\n",
    b'data: {"heartbeat": \n\n',
    b'data: {"zzz\n\n',
    b"data: \xff\xfe\xff\n\n",
    b"event: keep-alive\ndata: {\n\n",
    b"data:\n\n",
    b": comment\n\n",
]
LOST = [
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choi\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"x\n\n',
    b'data: {"cho\n\n',
    b'data: {"\n\n',
    b"data: {\n\n",
    b'data: "delta":{"content":"x"}}]}\n\n',
    b'data: x"}}]}\n\n',
    b'data: nt":"x"},"finish_reason":null\n\n',
]


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("noise", NOISE)
def test_noise_between_the_events_changes_nothing(kind: type[Provider], noise: bytes) -> None:
    pieces = STREAMS[kind]
    expected = read(kind, b"".join(pieces))
    assert expected.failure is None
    for place in range(len(pieces)):
        assert read(kind, b"".join([*pieces[:place], noise, *pieces[place:]])) == expected, (place, noise)


@pytest.mark.parametrize("lost", LOST)
def test_what_may_have_been_a_piece_of_the_answer_truncates_the_stream(lost: bytes) -> None:
    pieces = STREAMS[OpenAI]
    for place in (0, 3, len(pieces) - 1):
        failure = read(OpenAI, b"".join([*pieces[:place], lost, *pieces[place:]])).failure
        assert failure is not None, (place, lost)
        assert (failure.kind, failure.code) == (FailureKind.NETWORK, "truncated")


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("keep", ["beginning", "end"])
def test_no_damage_of_one_event_passes_for_another_answer(kind: type[Provider], keep: str) -> None:
    """Every event cut at every place, at either side: a failure, or the whole answer with its usage."""
    pieces = STREAMS[kind]
    expected = read(kind, b"".join(pieces))
    for place, piece in enumerate(pieces):
        head, found, inside = piece.rstrip(b"\n").partition(b"data: ")
        if not found:
            continue
        for cut in range(1, len(inside)):
            kept = inside[:cut] if keep == "beginning" else inside[cut:]
            response = read(kind, b"".join([*pieces[:place], head, b"data: ", kept, b"\n\n", *pieces[place + 1 :]]))
            if response.failure is None:
                assert (response.text, response.usage) == (expected.text, expected.usage), (place, kept)
                assert response.raw_response == expected.raw_response


def test_noise_proves_nothing_in_a_stream_without_its_end() -> None:
    """Without usage and [DONE], a stream that lost an event isn't known to be whole."""
    finish = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}
    assert read(OpenAI, data(finish)).failure is None
    failure = read(OpenAI, b"data: garbage\n\n" + data(finish)).failure
    assert failure is not None
    assert failure.code == "truncated"
    assert read(OpenAI, b"data: garbage\n\n" + data(finish) + data(b"[DONE]")).failure is None


@pytest.mark.parametrize("kind", STREAMS)
def test_a_byte_order_mark_before_a_body_is_no_part_of_it(kind: type[Provider]) -> None:
    plain = read(kind, b"".join(STREAMS[kind])).raw_response
    marked = read(kind, b"\xef\xbb\xbf" + plain, "application/json")
    assert marked == read(kind, plain, "application/json")
    assert orjson.loads(marked.raw_response)


def test_a_byte_order_mark_before_an_error_hides_no_word_of_it() -> None:
    for kind in (OpenAI, Gemini, Claude):
        body = b'\xef\xbb\xbf{"type": "error", "error": {"message": "No such thing", "type": "x", "code": 1}}'
        failure = read(kind, body, "application/json").failure
        assert failure is not None
        assert failure.message == "No such thing"
