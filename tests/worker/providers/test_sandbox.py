"""The three built-in providers over real HTTP against the sandbox: answers, usage as its log has it, and every way to fail.

It tests no limits; the sandbox enforces none here.
"""

from __future__ import annotations

import asyncio
from typing import Any, get_args

import orjson
import pytest

from models.config import ProviderConfig
from models.request import FailureKind, Request, Response
from worker.http import HttpSender
from worker.providers.base import Provider, ProviderRefused, SendError
from worker.providers.registry import make_provider
from worker.sandbox.server import Sandbox, serve
from worker.sandbox.settings import STREAM_ONLY, Fault, FaultKind, ProviderName, SandboxSettings

KEY = "sandbox-test-key-0123456789"
DIALECTS: tuple[ProviderName, ...] = ("openai", "gemini", "claude")
MODELS = {"openai": "gpt-4o", "gemini": "gemini-3.5-flash", "claude": "claude-sonnet-5-5"}
OWN: dict[str, dict[str, Any]] = {
    "openai": {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]},
    "gemini": {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
    "claude": {"model": "claude-sonnet-5-5", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]},
}
SILENT = ("hang", "stalled_stream")  # only these wait for the client's patience to end
both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
every = pytest.mark.parametrize("dialect", DIALECTS)


def simple(dialect: str, text: str = "hello there", **fields: Any) -> Request:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
    return Request(MODELS[dialect], {"messages": messages, **fields}, KEY)


def play(dialect: ProviderName, play_out: Any, *faults: Fault, **settings: Any) -> Any:
    """Runs `play_out(provider, sandbox)` against a sandbox with these faults."""

    silent = any(fault.kind in SILENT for fault in faults)

    async def main() -> Any:
        sandbox = await serve(SandboxSettings(faults=list(faults), **{"usage_extras": True, **settings}))
        try:
            config = ProviderConfig.model_validate(
                {
                    "id": dialect,
                    "base_url": sandbox.base_url(dialect),
                    "keys": [{"id": "k", "secret": KEY}],
                    "timeout_seconds": 0.5 if silent else 20,
                    "stream_silence_seconds": 0.3 if silent else 20,
                }
            )
            async with HttpSender() as sender:
                return await play_out(make_provider(config, sender), sandbox)
        finally:
            await sandbox.close()

    return asyncio.run(asyncio.wait_for(main(), 60))


def ask(dialect: ProviderName, request: Request, *faults: Fault, **settings: Any) -> tuple[Response, dict[str, Any]]:
    """The response to one request, and the sandbox's row of it. A SendError counts as a response with its failure."""

    async def play_out(provider: Provider, sandbox: Sandbox) -> tuple[Response, dict[str, Any]]:
        while True:
            try:
                response = await provider.generate(request)
            except SendError as error:
                response = Response(b"", 0, failure=error.failure)
            for row in sandbox.house.log.rows():  # none if this machine stood still and the call was given up unsent
                return response, dict(row)

    found: tuple[Response, dict[str, Any]] = play(dialect, play_out, *faults, **settings)
    return found


def tokens(response: Response) -> dict[str, int]:
    assert response.usage is not None
    return {
        "input_tokens": response.usage.input_tokens,
        "output_tokens": response.usage.output_tokens,
        "cached_tokens": response.usage.cached_tokens,
        "cache_write_tokens": response.usage.cache_write_tokens,
        "reasoning_tokens": response.usage.reasoning_tokens,
    }


@every
@both
@pytest.mark.parametrize("text", ["hello there", "caf\u00e9 \U0001f69a", "x" * 3000])
def test_an_answer_and_its_usage_are_what_the_sandbox_says(dialect: ProviderName, stream: bool, text: str) -> None:
    response, row = ask(dialect, simple(dialect, text, **({"stream": True} if stream else {})))
    assert response.failure is None
    assert response.text
    assert response.text.startswith(row["prompt_sha"][:8])
    assert response.served_model == MODELS[dialect]
    assert response.request_id
    assert tokens(response) == {name: row[name] for name in tokens(response)}


@every
def test_a_stream_gives_the_answer_that_a_whole_reply_gives(dialect: ProviderName) -> None:
    whole, _ = ask(dialect, simple(dialect))
    streamed, _ = ask(dialect, simple(dialect, stream=True))
    assert (streamed.text, streamed.usage, streamed.finish_reason) == (whole.text, whole.usage, whole.finish_reason)
    kept, put_together = orjson.loads(whole.raw_response), orjson.loads(streamed.raw_response)
    assert put_together.keys() >= kept.keys() - {"service_tier"}  # only whole replies tell it


@every
@both
def test_an_answer_cut_by_its_bound_is_an_answer(dialect: ProviderName, stream: bool) -> None:
    response, row = ask(dialect, simple(dialect, max_tokens=3, stream=stream))
    assert response.failure is None
    assert response.finish_reason in ("length", "MAX_TOKENS", "max_tokens")
    assert tokens(response)["output_tokens"] == row["output_tokens"] == 3


@every
def test_a_body_of_its_own_dialect_is_answered(dialect: ProviderName) -> None:
    body = orjson.dumps(OWN[dialect])
    request = Request(MODELS[dialect], OWN[dialect], KEY, dialect=dialect, body=body)
    response, row = ask(dialect, request)
    assert response.failure is None
    assert (row["model"], row["status"]) == (MODELS[dialect], 200)


@every
def test_a_body_with_another_model_is_answered_by_that(dialect: ProviderName) -> None:
    body = orjson.dumps(OWN[dialect])
    response, row = ask(dialect, Request("other-1", OWN[dialect], KEY, dialect=dialect, body=body))
    assert response.failure is None
    assert (row["model"], response.served_model) == ("other-1", "other-1")


SERVER, NETWORK = FailureKind.SERVER, FailureKind.NETWORK
FAULTS: dict[FaultKind, FailureKind | None] = {
    "rate_limit": FailureKind.RATE_LIMIT,
    "quota": FailureKind.QUOTA,
    "usage_limit": FailureKind.QUOTA,
    "overloaded": SERVER,
    "context_length": FailureKind.CONTEXT_LENGTH,
    "content_filter": FailureKind.CONTENT_FILTER,
    "key_invalid": FailureKind.AUTH,
    "model_missing": FailureKind.MODEL,
    "model_forbidden": FailureKind.KEY_MODEL,
    "reset": NETWORK,
    "hang": NETWORK,
    "truncated": NETWORK,
    "rubbish": NETWORK,
    "error_in_200": SERVER,
    "empty": NETWORK,
    "cut_stream": NETWORK,
    "stalled_stream": NETWORK,
    "no_done": NETWORK,
    "no_finish": NETWORK,
    "malformed_chunk": NETWORK,
    "wrong_usage": None,
}
NOT_HERE = {"status", "slow", "slow_first_token", "gigantic"}


def test_every_fault_of_the_sandbox_is_tried() -> None:
    assert set(get_args(FaultKind)) == FAULTS.keys() | NOT_HERE


@every
@pytest.mark.parametrize(
    ("kind", "stream"),
    [(kind, stream) for kind in FAULTS for stream in (False, True) if stream or kind not in STREAM_ONLY],
)
def test_a_fault_becomes_the_failure_it_is(dialect: ProviderName, kind: FaultKind, stream: bool) -> None:
    response, row = ask(dialect, simple(dialect, stream=stream), Fault(kind=kind))
    if kind == "no_done" and dialect == "openai":
        assert response.failure is None  # every choice has its finish_reason; only [DONE] is missing
        return
    assert (response.failure.kind if response.failure else None) is FAULTS[kind]
    assert row["fault"] == kind
    if response.failure is not None:
        assert KEY not in response.failure.message
    if kind == "content_filter" and response.http_code == 200:
        assert tokens(response) == {name: row[name] for name in tokens(response)}


@every
@both
def test_tokens_told_in_digits_are_counted_and_a_late_first_event_or_a_large_text_changes_nothing(
    dialect: ProviderName, stream: bool
) -> None:
    response, row = ask(dialect, simple(dialect, stream=stream), Fault(kind="wrong_usage", usage="digits"))
    assert response.failure is None
    assert tokens(response) == {name: row[name] for name in tokens(response)}
    response, _ = ask(dialect, simple(dialect, stream=stream), Fault(kind="gigantic", size=500_000))
    assert response.failure is None
    assert len(response.text or "") == 500_000
    response, row = ask(dialect, simple(dialect, stream=True), Fault(kind="slow_first_token", delay=0.05))
    assert response.failure is None
    assert row["fault"] == "slow_first_token"


@every
@pytest.mark.parametrize("usage", ["missing", "null", "text", "negative", "huge", "partial"])
@both
def test_a_wrong_usage_leaves_the_answer_and_is_no_usage(dialect: ProviderName, usage: Any, stream: bool) -> None:
    response, _ = ask(dialect, simple(dialect, stream=stream), Fault(kind="wrong_usage", usage=usage))
    assert response.failure is None
    assert response.text
    assert response.usage is None


@every
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, FailureKind.BAD_REQUEST),
        (401, FailureKind.AUTH),
        (402, FailureKind.QUOTA),
        (404, FailureKind.MODEL),
        (408, SERVER),
        (409, SERVER),
        (413, FailureKind.TOO_LARGE),
        (422, FailureKind.BAD_REQUEST),
        (429, FailureKind.RATE_LIMIT),
        (500, SERVER),
        (502, SERVER),
        (503, SERVER),
        (504, SERVER),
        (529, SERVER),
    ],
)
def test_a_status_in_the_providers_own_words_is_the_failure_it_is(
    dialect: ProviderName, status: int, kind: FailureKind
) -> None:
    response, _ = ask(dialect, simple(dialect), Fault(kind="status", status=status))
    assert response.failure is not None
    assert (response.failure.kind, response.http_code) == (kind, status)


@every
def test_a_wait_is_told(dialect: ProviderName) -> None:
    response, _ = ask(dialect, simple(dialect), Fault(kind="rate_limit", retry_after=7))
    assert response.failure is not None
    assert response.failure.retry_after == pytest.approx(7, abs=0.01)


@every
def test_the_sandboxs_own_rate_limit_tells_a_wait_too(dialect: ProviderName) -> None:
    async def play_out(provider: Provider, sandbox: Sandbox) -> Response:
        await provider.generate(simple(dialect))
        return await provider.generate(simple(dialect))

    response = play(dialect, play_out, limits={"rpm": 2})
    assert response.failure is not None
    assert response.failure.kind is FailureKind.RATE_LIMIT
    assert 0 < response.failure.retry_after <= 60


@every
def test_models_are_listed_and_a_bad_key_is_told_so(dialect: ProviderName) -> None:
    async def listed(provider: Provider, sandbox: Sandbox) -> list[str]:
        return [model.id for model in await provider.list_models(KEY)]

    assert MODELS[dialect] in play(dialect, listed)

    async def refused(provider: Provider, sandbox: Sandbox) -> FailureKind:
        with pytest.raises(ProviderRefused) as error:
            await provider.list_models(KEY)
        return error.value.failure.kind

    assert play(dialect, refused, Fault(kind="key_invalid")) is FailureKind.AUTH
