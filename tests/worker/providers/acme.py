"""A vendor with a dialect of its own, as a stranger's plugin would speak it, and its contract: what tests of plugins begin with.

It isn't collected by itself; see test_plugin.py and test_broken_plugins.py.
"""

from __future__ import annotations

from typing import Any

from truckllm import Answer, JsonProvider, ProviderContract, Request, Usage, Wanted

GOOD = {"engine": "acme-small", "says": "Hi", "ended": "done", "used": {"read": 4, "written": 2}}


class Acme(JsonProvider):
    models_path = "/engines"

    def path(self, request: Request) -> str:
        return "/generate"

    def write_body(self, wanted: Wanted) -> dict[str, Any]:
        return {
            "engine": wanted.model,
            "talk": wanted.messages(),
            "longest": wanted.take("max_tokens"),
            "heat": wanted.take("temperature"),
        }

    def read_answer(self, body: dict[str, Any]) -> Answer:
        return Answer(
            text=body["says"],
            usage=Usage(body["used"]["read"], body["used"]["written"]),
            finish_reason=body["ended"],
            served_model=body["engine"],
        )

    def read_models(self, body: Any) -> list[str]:
        return [engine["name"] for engine in body["engines"]]


class StreamingAcme(Acme):
    """The same vendor where it streams: pieces of `says`, then one event with how it ended and what was used."""

    def write_body(self, wanted: Wanted) -> dict[str, Any]:
        return {**super().write_body(wanted), "live": wanted.take("stream")}

    def read_stream(self, events: list[dict[str, Any]]) -> dict[str, Any] | None:
        last = events[-1]
        if "ended" not in last:
            return None
        return {**last, "says": "".join(event.get("says", "") for event in events)}


STREAM = (
    b'data: {"engine": "acme-small", "says": "H"}\n\ndata: {"says": "i"}\n\n'
    b'data: {"engine": "acme-small", "ended": "done", "used": {"read": 4, "written": 2}}\n\n'
)


class AcmeContract(ProviderContract):
    provider_class = Acme
    model = "acme-small"
    good = GOOD
    expected = Answer(Usage(4, 2), "Hi", "done", "acme-small")
    model_list = {"engines": [{"name": "acme-small"}]}
