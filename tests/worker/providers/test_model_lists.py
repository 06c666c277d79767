"""Lists of models: every page of them, with the dates at which models retire where the provider tells these."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson
import pytest

from models.request import ModelInfo
from tests.worker.providers.test_sandbox import play
from tests.worker.providers.test_translation import make
from worker.providers.base import Call, Provider, Reply
from worker.providers.claude import Claude
from worker.providers.contract import KEY
from worker.providers.gemini import Gemini
from worker.sandbox.server import Sandbox

DIALECTS: Any = ("openai", "gemini", "claude")
MANY = [f"model-{number:04}" for number in range(2345)]
DATES = {"model-0003": "2027-01-14T00:00:00Z"}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_all_pages_are_read_in_order(dialect: Any) -> None:
    async def play_out(provider: Provider, sandbox: Sandbox) -> list[ModelInfo]:
        return await provider.list_models(KEY)

    found = play(dialect, play_out, models={dialect: MANY}, retirements=DATES)
    assert [model.id for model in found] == MANY
    told = {model.id: model.retires_at for model in found if model.retires_at}
    assert told == ({} if dialect == "gemini" else DATES)  # Gemini's list tells none


class Server:
    """Answers calls with these bodies, the last one for ever."""

    def __init__(self, *bodies: dict[str, Any]) -> None:
        self.bodies = list(bodies)
        self.urls: list[str] = []

    async def send(self, call: Call) -> Reply:
        self.urls.append(call.url)
        body = self.bodies.pop(0) if len(self.bodies) > 1 else self.bodies[0]
        return Reply(200, {}, orjson.dumps(body))


def listed(kind: type[Provider], server: Server) -> list[str]:
    provider = make(kind)
    provider.sender = server
    return [model.id for model in asyncio.run(provider.list_models(KEY))]


@pytest.mark.parametrize(
    ("kind", "page"),
    [
        (Claude, {"data": [{"id": "a b&c"}], "has_more": True, "last_id": "a b&c"}),
        (Gemini, {"models": [{"name": "models/a b&c"}], "nextPageToken": "a b&c"}),
    ],
)
def test_a_server_that_never_ends_its_list_is_left_and_marks_are_quoted(kind: Any, page: dict[str, Any]) -> None:
    server = Server(page)
    assert listed(kind, server) == ["a b&c"]
    assert len(server.urls) == 2
    assert server.urls[1].endswith("=a%20b%26c")


@pytest.mark.parametrize(
    ("kind", "page"),
    [
        (Claude, {"data": [{"id": "m"}], "has_more": True}),
        (Claude, {"data": [{"id": "m"}], "has_more": "yes", "last_id": "m"}),
        (Gemini, {"models": [{"name": "models/m"}], "nextPageToken": 7}),
        (Gemini, {"models": [{"name": "models/m"}], "nextPageToken": ""}),
    ],
)
def test_a_page_without_a_way_on_is_the_last(kind: Any, page: dict[str, Any]) -> None:
    server = Server(page)
    assert listed(kind, server) == ["m"]
    assert len(server.urls) == 1


@pytest.mark.parametrize(
    ("dialect", "query", "status"),
    [
        ("claude", "limit=0", 400),
        ("claude", "limit=1001", 400),
        ("claude", "after_id=nobody", 400),
        ("claude", "page=2", 400),
        ("claude", "limit=1&after_id=claude-sonnet-5-5", 200),
        ("gemini", "pageSize=0", 400),
        ("gemini", "pageToken=x", 400),
        ("gemini", "pageSize=1&pageToken=page/1", 200),
    ],
)
def test_the_sandbox_refuses_a_page_that_there_cant_be(dialect: Any, query: str, status: int) -> None:
    async def play_out(provider: Provider, sandbox: Sandbox) -> int:
        headers = dict(provider.build_list_models(KEY).headers)
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"{sandbox.base_url(dialect)}/models?{query}", headers=headers)).status_code

    assert play(dialect, play_out) == status
