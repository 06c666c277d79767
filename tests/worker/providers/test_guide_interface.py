"""The guide's interface under its own names: what a provider is asked, what it gives back, and how it lists its models."""

from __future__ import annotations

from typing import Any

import pytest

from models.request import ModelInfo, Request, Response
from tests.worker.providers.test_sandbox import KEY, MODELS, every, play, simple
from worker.providers.base import Provider
from worker.sandbox.server import Sandbox
from worker.sandbox.settings import Fault, ProviderName


@every
def test_a_provider_has_a_name_generates_and_lists_models(dialect: ProviderName) -> None:
    async def play_out(provider: Provider, sandbox: Sandbox) -> tuple[str, Response, list[ModelInfo], Any]:
        response = await provider.generate(simple(dialect))
        row = next(iter(sandbox.house.log.rows()))
        return provider.name, response, await provider.list_models(KEY), row

    name, response, models, row = play(dialect, play_out, latency=0.05)
    assert name == dialect
    assert MODELS[dialect] in [model.id for model in models]
    assert response.raw_response.startswith(b"{")
    assert (response.http_code, response.err) == (200, None)
    assert response.tokens_used == row["input_tokens"] + row["output_tokens"] > 0
    assert 50 <= response.latency_ms < 5000


@every
@pytest.mark.parametrize("kind", ["overloaded", "cut_stream"])
def test_what_went_wrong_is_in_the_response_with_its_status_and_time(dialect: ProviderName, kind: Any) -> None:
    async def play_out(provider: Provider, sandbox: Sandbox) -> Response:
        return await provider.generate(simple(dialect, stream=True))

    response = play(dialect, play_out, Fault(kind=kind), latency=0.02)
    assert response.err is not None
    assert response.err.message
    assert response.http_code == (200 if kind == "cut_stream" else 529 if dialect == "claude" else 503)
    assert response.latency_ms >= 1


def test_a_request_is_model_input_and_key_and_never_shows_the_key() -> None:
    request = Request("gpt-4o", {"messages": [{"role": "user", "content": "hi"}]}, KEY)
    assert (request.model, request.input["messages"][0]["content"], request.api_key) == ("gpt-4o", "hi", KEY)
    assert KEY not in repr(request)


def test_a_response_without_usage_counts_no_tokens() -> None:
    assert Response(b"", 500).tokens_used == 0
