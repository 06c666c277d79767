"""A plugin that makes no HTTP call and answers as a test's script says: for what has to happen at one exact moment."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from models.config import Config, ProviderConfig
from models.config_file import load_config_text
from models.request import Failure, FailureKind, ModelInfo, Request, Response, Usage
from models.store.batches import NewJob
from tests.worker.bench import Bench
from worker.providers.base import Call, Provider, Reply, Sender

ANSWER = Response(b'{"ok": true}', 200, usage=Usage(input_tokens=5, output_tokens=2), text="ok")


def refusal(kind: FailureKind, status: int, message: str = "no") -> Response:
    """A reply that says no."""
    return Response(b"{}", status, failure=Failure(kind, f"http_{status}", message, status))


@dataclass(frozen=True)
class Sent:
    """One call as it left: when (time.monotonic), with which key's secret, for which model and prompt."""

    at: float
    secret: str
    model: str
    prompt: str


Script = Callable[[Sent], Awaitable[Response]]


async def at_once(_: Sent) -> Response:
    """The script that answers."""
    return ANSWER


class Gate:
    """The script that lets calls wait until the test opens it; made and opened on the worker's loop."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def __call__(self, _: Sent) -> Response:
        await self.opened.wait()
        return ANSWER


class Scripted(Provider):
    """The provider. `sent` are all calls that left."""

    dialect = "openai"

    def __init__(self, config: ProviderConfig, sender: Sender, script: Script) -> None:
        super().__init__(config, sender)
        self.script = script
        self.sent: list[Sent] = []

    @property
    def prompts(self) -> list[str]:
        """What was sent, in order."""
        return [call.prompt for call in self.sent]

    async def generate(self, request: Request) -> Response:
        call = Sent(time.monotonic(), request.api_key, request.model, str(request.input["messages"][-1]["content"]))
        self.sent.append(call)
        return await self.script(call)

    async def list_models(self, api_key: str) -> list[ModelInfo]:
        return []

    def build(self, request: Request) -> Call:
        raise AssertionError("it makes no HTTP call")

    def read(self, request: Request, reply: Reply) -> Response:
        raise AssertionError("it makes no HTTP call")

    def build_list_models(self, api_key: str) -> Call:
        raise AssertionError("it makes no HTTP call")

    def read_list_models(self, reply: Reply) -> list[ModelInfo]:
        raise AssertionError("it makes no HTTP call")


def play(worker: Bench, script: Script = at_once, provider: str = "p", kind: type[Scripted] = Scripted) -> Scripted:
    """Has a worker's provider answer as the script says from here on."""
    engine = worker.runners[provider].engine
    played = kind(engine.provider.config, engine.provider.sender, script)
    engine.provider = engine.ring._provider = engine.bookings._provider = played
    return played


def config(*keys: dict[str, Any], providers: Sequence[str] = ("p",), **worker: Any) -> Config:
    """A configuration of providers with these keys (one without limits, unless given); `worker` are the worker's settings.

    Keys have names of their own each time, so that no bucket of another test is met.
    """
    mark = time.time_ns()
    tree = {
        "providers": [
            {
                "id": name,
                "type": "openai",
                "keys": [{"id": f"k{mark}-{n}", "secret": f"secret-{n}", **key} for n, key in enumerate(keys or ({},))],
            }
            for name in providers
        ],
        "worker": {"grace_seconds": 1, **worker},
    }
    return load_config_text(json.dumps(tree), secrets=True, environ={})


def chat(position: int, prompt: str | None = None, *, lane: str = "p", model: str = "m", **fields: Any) -> NewJob:
    """A job whose prompt is its position, unless it is given."""
    content = str(position) if prompt is None else prompt
    body = json.dumps({"messages": [{"role": "user", "content": content}], **fields}).encode()
    return NewJob(position, f"line-{position + 1}", lane, model, body, "simple", "chat")


def chats(number: int, **fields: Any) -> list[NewJob]:
    """So many of them."""
    return [chat(position, **fields) for position in range(number)]
