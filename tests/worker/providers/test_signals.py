"""The tables of signals: every row reads the refusal that it was made for, and the words of bodies of any form survive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from models.config import ProviderConfig
from models.request import Failure, Request
from models.signals import ErrorFacts, Signal, first_match, has_phrase
from worker.providers import signals
from worker.providers.base import Reply
from worker.providers.claude import Claude
from worker.providers.contract import KEY, NoSender, simple_input
from worker.providers.error_bodies import codes_in, is_page, message_in, status_of
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI
from worker.providers.replies import decode

DATE = "Sun, 22 Nov 2026 20:00:00 GMT"
DIALECTS: dict[str, type[OpenAI | Claude | Gemini]] = {"openai": OpenAI, "claude": Claude, "gemini": Gemini}
TABLES = {"openai": signals.OPENAI, "claude": signals.CLAUDE, "gemini": signals.GEMINI}
REFUSALS = {path.stem: yaml.safe_load(path.read_text()) for path in (Path(__file__).parent / "refusals").glob("*.yaml")}
CASES = [
    pytest.param(dialect, one, id=f"{dialect}: {one['row']} {number}")
    for dialect, many in sorted(REFUSALS.items())
    for number, one in enumerate(many)
]


def reply_of(one: dict[str, Any]) -> Reply:
    body = one["text"].encode() if "text" in one else orjson.dumps(one["body"])
    return Reply(one["status"], {"date": DATE, **one.get("headers", {})}, body)


def read(dialect: str, reply: Reply, operation: str = "chat", rows: Any = ()) -> Failure:
    given_keys = [{"id": "k", "secret": KEY}]
    tree = {"id": dialect, "base_url": "https://api.example.com/v1", "keys": given_keys, "signals": list(rows)}
    provider = DIALECTS[dialect](ProviderConfig.model_validate(tree), NoSender())
    failure = provider.read(Request("m-1", simple_input(), KEY, operation=operation), reply).failure
    assert failure is not None
    return failure


def matched(dialect: str, reply: Reply, message: str) -> Signal:
    body = decode(reply.body)
    body = body[0] if isinstance(body, list) and len(body) == 1 else body
    codes, types = codes_in(body)
    types = (*types, "html_page") if body is None and is_page(reply) else types
    found = first_match(TABLES[dialect], ErrorFacts(status_of(reply, body, codes), codes, types, message), "m-1")
    assert found is not None
    return found


@pytest.mark.parametrize(("dialect", "one"), CASES)
def test_a_refusal_is_read_by_its_row(dialect: str, one: dict[str, Any]) -> None:
    reply = reply_of(one)
    failure = read(dialect, reply)
    assert matched(dialect, reply, failure.message).name == one["row"]
    fields = ("kind", "scope", "code", "retry_after", "resets_in")
    expected = {name: one.get(name) for name in fields if name in one or name in ("retry_after", "resets_in")}
    assert {name: getattr(failure, name) for name in expected} == expected
    assert one.get("message", "") in failure.message


@pytest.mark.parametrize("operation", ["responses", "completions", "embeddings"])
@pytest.mark.parametrize("one", [one for one in REFUSALS["openai"] if one["status"] != 200][::7])
def test_a_refusal_means_the_same_at_every_endpoint(operation: str, one: dict[str, Any]) -> None:
    reply = reply_of(one)
    assert read("openai", reply, operation) == read("openai", reply)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_error_inside_a_stream_is_read_by_the_same_row(dialect: str) -> None:
    for one in REFUSALS[dialect]:
        error = one.get("body", {}).get("error") if isinstance(one.get("body"), dict) else None
        if not isinstance(error, dict) or one["row"] in ("402", "403", "429-model", "4xx", "openrouter-no-credits"):
            continue  # inside a stream, these would have nothing but their words
        event = orjson.dumps({"type": "error", "error": error})
        stream = Reply(200, {"date": DATE, "content-type": "text/event-stream"}, b"event: error\ndata: %b\n\n" % event)
        if one["kind"] in ("quota", "context_length", "content_filter"):
            assert read(dialect, stream).kind == one["kind"], one


def test_every_row_has_a_source_and_a_refusal_that_it_reads() -> None:
    rows = {row.name: row for table in TABLES.values() for row in table}
    assert len({id(row) for row in rows.values()}) == len(rows)
    assert {row.name for table in TABLES.values() for row in table} == {
        one["row"] for many in REFUSALS.values() for one in many
    }
    assert all(row.source for row in rows.values())


@given(st.text(max_size=400), st.integers(400, 599), st.sampled_from(sorted(TABLES)), st.text(max_size=20))
def test_any_words_have_a_meaning(message: str, status: int, dialect: str, model: str) -> None:
    assert first_match(TABLES[dialect], ErrorFacts(status, (), (), message), model) is not None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            {
                "object": "error",
                "message": {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
            },
            "body.seed: Extra inputs are not permitted",
        ),  # fmt: skip
        ({"detail": [{"loc": ["body", 0], "msg": "one"}, {"loc": ["query"], "msg": "two"}]}, "body.0: one; query: two"),
        (
            {"errors": [{"message": "AiError: max_tokens too large", "code": 5006}], "success": False},
            "AiError: max_tokens too large",
        ),  # fmt: skip
        ({"errors": ["plain", "texts"]}, "plain; texts"),
        ({"Message": "The provided model identifier is invalid."}, "The provided model identifier is invalid."),
        ({"error": {"message": '{"error": {"message": "inner", "code": 7}}'}}, "inner"),
        ({"error": {"error": {"message": "twice", "code": 402}, "code": 402}}, "twice"),
        (
            {"error": {"message": "Provider returned error", "metadata": {"raw": '{"error":{"message":"too many"}}'}}},
            "Provider returned error; too many",
        ),  # fmt: skip
        ({"error": "text", "error_type": "validation"}, "text"),
        ({"error": ["Error in `parameters`"], "warnings": []}, "Error in `parameters`"),
        ({"detail": {"error": "nested"}}, "nested"),
        ({"error_description": "of OAuth"}, "of OAuth"),
        (
            {"base_resp": {"status_code": 1008, "status_msg": "x"}, "msg": "insufficient balance"},
            "insufficient balance",
        ),
        ({"type": "about:blank", "title": "Bad Request", "status": 400}, "Bad Request"),
        ([{"error": {"message": "in a list"}}], "in a list"),
        ({"ok": False}, None),
        ({}, None),
        (None, None),
        (7, None),
    ],
)
def test_the_words_of_a_body_are_found(body: Any, words: str | None) -> None:
    assert message_in(body) == words


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 999) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "message", "detail", "errors", "code", "type", "details", "metadata", "raw", "x"]
            ),
            inner,
            max_size=4,
        )
    ),  # fmt: skip
    max_leaves=12,
)


@given(_JSON, st.sampled_from([200, 400, 403, 429, 500]), st.sampled_from(sorted(DIALECTS)))
def test_any_body_is_a_failure_with_words_and_without_the_key(body: Any, status: int, dialect: str) -> None:
    failure = read(dialect, Reply(status, {"date": DATE}, orjson.dumps({"error": {"x": KEY, "y": body}})))
    assert failure.message
    assert KEY not in failure.message
    assert KEY.lower() not in failure.code


def test_a_body_without_a_message_is_shown_by_its_beginning() -> None:
    failure = read("openai", Reply(400, {}, b'{"ok": false, "why": 12, "trace": "%b"}' % (b"x" * 900)))
    assert failure.message.startswith('HTTP 400: {"ok":false,"why":12,"trace":"xxx')
    assert len(failure.message) <= 320
    assert read("openai", Reply(400, {}, b"no JSON at all")).message == "HTTP 400: no JSON at all"
    assert read("openai", Reply(503, {}, b"")).message == "HTTP 503"


@pytest.mark.parametrize(
    ("phrase", "message", "found"),
    [
        ("insufficient balance", "Error: INSUFFICIENT\n  Balance!", True),
        ("available", "unavailable", False),
        ("limit: 0", "limit: 0, model", True),
        ("limit: 0", "limit: 05", False),
        ("limit: 0", "limit: 0.5", False),
        ("quota * used up", "your quota of today is used up", True),
        ("quota * used up", "quota used up", True),
        ("{model} is gone", "m-1 is gone", True),
        ("{model} is gone", "m-12 is gone", False),
        ("{model}", "about the m-1.", True),
        ("(no) [regex].", "what (no) [regex]. here", True),
        ("余额不足", "账户余额不足", True),
    ],
)
def test_a_phrase_is_found_as_words(phrase: str, message: str, found: bool) -> None:
    assert has_phrase(message, phrase, "vendor/m-1") is found


def test_rows_of_the_configuration_are_compared_first_and_their_wait_replaces_the_stated_one() -> None:
    tea = {"status": 418, "words": "tea * is used up", "meaning": "no_money", "wait": "until midnight"}
    busy = {"code": ["E_BUSY*", 77], "meaning": "rate_limit", "scope": "model", "wait": "1m30s"}
    empty = {"status": "4xx", "type": "poor", "meaning": "quota", "scope": "account"}
    rows = [tea, busy, empty]
    reply = Reply(418, {"date": DATE, "retry-after": "5"}, b'{"error": "The tea of today is used up"}')
    assert (read("claude", reply, rows=rows).kind, read("claude", reply, rows=rows).resets_in) == ("quota", 4 * 3600)
    reply = Reply(400, {"date": DATE}, b'{"error": {"message": "x", "code": 77}}')
    assert (read("gemini", reply, rows=rows).retry_after, read("gemini", reply, rows=rows).scope) == (90, "model")
    reply = Reply(404, {"date": DATE, "retry-after": "5"}, b'{"error": {"message": "x", "type": "POOR"}}')
    assert (read("openai", reply, rows=rows).resets_in, read("openai", reply, rows=rows).scope) == (5, "pool")
    assert read("openai", reply).kind == "bad_request"
