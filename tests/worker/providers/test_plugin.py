"""JsonProvider: a plugin of three methods is held to the contract, and what it doesn't say itself is right.

That the contract would notice is in test_broken_plugins.py.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from models.config import ProviderConfig
from models.errors import Untranslatable
from models.request import FailureKind, Request, Usage
from tests.worker.providers.acme import GOOD, Acme, AcmeContract
from truckllm import Answer, JsonProvider, ModelInfo, Provider, Wanted
from worker.providers.base import Reply
from worker.providers.contract import KEY, QUESTION, NoSender
from worker.providers.rubbish import dumped, replaced

SUITE = AcmeContract()
CLAUDE = {
    "model": "x",
    "max_tokens": 9,
    "system": "Be brief.",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
}
GEMINI = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}], "generationConfig": {"temperature": 0.5}}


class TestAcme(AcmeContract):
    pass


def built(request: Request, **changes: Any) -> Any:
    return orjson.loads(SUITE.make_provider(**changes).build(request).body or b"")


def read(body: Any, status: int = 200, kind: type[Acme] = Acme) -> Any:
    suite = type("Suite", (AcmeContract,), {"provider_class": kind})()
    return suite.make_provider().read(suite.simple(), suite.reply(body, status))


def test_a_body_of_any_dialect_reaches_the_plugin_in_one_shape() -> None:
    claude = Request("acme-small", CLAUDE, KEY, dialect="claude", body=json.dumps(CLAUDE).encode())
    assert built(claude) == {
        "engine": "acme-small",
        "talk": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        "longest": 9,
    }
    gemini = Request("acme-small", GEMINI, KEY, dialect="gemini", body=json.dumps(GEMINI).encode())
    assert built(gemini) == {"engine": "acme-small", "talk": [{"role": "user", "content": "Hello"}], "heat": 0.5}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"top_k": 4}, "top_k"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"stream": True}, "stream"),
        ({"n": 2}, "n"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y"}}]}]},
            "messages[0].content[0].image_url",
        ),
    ],
)
def test_what_the_plugin_doesnt_take_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Untranslatable) as refused:
        built(SUITE.simple(**fields))
    assert refused.value.field == field
    assert "can't be translated for mine" in str(refused.value)


def test_what_asks_for_what_happens_anyway_is_no_obstacle() -> None:
    assert built(SUITE.simple(stream=False, n=1))["talk"] == [{"role": "user", "content": QUESTION}]


def test_a_plugin_that_forgets_the_conversation_is_told_so() -> None:
    class Forgets(Acme):
        def write_body(self, wanted: Wanted) -> dict[str, Any]:
            return {"engine": wanted.model}

    suite = type("Suite", (AcmeContract,), {"provider_class": Forgets})()
    with pytest.raises(Untranslatable, match="write_body"):
        suite.make_provider().build(suite.simple())


def test_tools_and_schemas_are_there_for_those_who_take_them() -> None:
    class Skilled(Acme):
        def write_body(self, wanted: Wanted) -> dict[str, Any]:
            tools, choice, form = wanted.tools, wanted.tool_choice, wanted.form
            assert form is not None
            assert choice is not None
            return {
                **super().write_body(wanted),
                "can": [tool.name for tool in tools],
                "how": choice.mode,
                "as": form.schema,
            }

    suite = type("Suite", (AcmeContract,), {"provider_class": Skilled})()
    schema = {"type": "object"}
    request = suite.simple(
        tools=[{"type": "function", "function": {"name": "f"}}],
        tool_choice="required",
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
    )
    body = orjson.loads(suite.make_provider().build(request).body or b"")
    assert (body["can"], body["how"], body["as"]) == (["f"], "any", schema)


def test_a_reply_that_the_plugin_cant_read_says_what_was_missing() -> None:
    failure = read({"engine": "acme-small"}).failure
    assert (failure.kind, failure.code) == (FailureKind.NETWORK, "unreadable_reply")
    assert "KeyError: 'says'" in failure.message


@pytest.mark.parametrize("value", [None, "four", -1, 1.5, 2**70, True, [4]])
def test_a_count_that_is_none_makes_the_usage_untold_and_not_free(value: Any) -> None:
    response = read(dumped(replaced(GOOD, ("used", "read"), value)))
    assert response.failure is None
    assert response.usage is None
    assert response.text == "Hi"


def test_what_is_no_answer_at_all_is_none() -> None:
    class Confused(Acme):
        def read_answer(self, body: dict[str, Any]) -> Answer:
            return body["says"]  # type: ignore[no-any-return]

    assert "not an Answer" in read(GOOD, kind=Confused).failure.message
    assert "the text is list" in read({**GOOD, "says": ["Hi"]}).failure.message


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (400, {"error": {"code": "bad", "message": "no such field"}}, FailureKind.BAD_REQUEST, "bad"),
        (400, {"error": "the context length is 10 tokens"}, FailureKind.CONTEXT_LENGTH, "http_400"),
        (401, {"detail": "who?"}, FailureKind.AUTH, "http_401"),
        (403, {"message": "model acme-small is not for you"}, FailureKind.KEY_MODEL, "http_403"),
        (404, {"error": {"type": "gone", "message": "no model acme-small"}}, FailureKind.MODEL, "gone"),
        (404, {"error": "no such page"}, FailureKind.BAD_REQUEST, "http_404"),
        (429, {"error": "slow down"}, FailureKind.RATE_LIMIT, "http_429"),
        (200, {"error": {"message": "we are down"}}, FailureKind.SERVER, "http_200"),
        (503, {"error": {}}, FailureKind.SERVER, "http_503"),
    ],
)
def test_errors_are_told_apart_without_the_plugin(status: int, body: Any, kind: FailureKind, code: str) -> None:
    failure = read(body, status).failure
    assert (failure.kind, failure.code, failure.http_status) == (kind, code, status)


def test_the_key_goes_where_the_configuration_says() -> None:
    def headers(**changes: Any) -> Any:
        return SUITE.make_provider(**changes).build(SUITE.simple()).headers

    assert headers()["authorization"] == f"Bearer {KEY}"
    assert headers(key_header="X-Acme-Key")["x-acme-key"] == KEY
    assert "authorization" not in headers(key_header="X-Acme-Key")
    keyless = SUITE.make_provider(keyless=True, keys=[{"id": "k"}]).build(Request("m", SUITE.simple().input, "none"))
    assert set(keyless.headers) == {"content-type"}


def test_models_may_be_names_or_tell_more() -> None:
    class Dated(Acme):
        def read_models(self, body: Any) -> Any:
            return [ModelInfo("old", "2027-01-01"), "new", 3, "", "\ud800"]

    suite = type("Suite", (AcmeContract,), {"provider_class": Dated})()
    assert suite.make_provider().read_list_models(suite.reply({})) == [ModelInfo("old", "2027-01-01"), ModelInfo("new")]


def test_a_stream_that_nobody_asked_for_is_no_answer() -> None:
    reply = Reply(200, {"content-type": "text/event-stream"}, b'data: {"says": "Hi"}\n\n')
    failure = SUITE.make_provider().read(SUITE.simple(), reply).failure
    assert failure is not None
    assert failure.kind is FailureKind.NETWORK


def test_a_provider_that_is_no_http_call_needs_two_methods_only() -> None:
    page = (Path(__file__).parents[3] / "docs" / "plugins.md").read_text()
    (source,) = [block for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if "class Parrot" in block]
    found: dict[str, Any] = {}
    exec(source, found)
    block = {"id": "local", "class": "parrot:Parrot", "base_url": "http://127.0.0.1", "keyless": True}
    config = ProviderConfig.model_validate(block)
    assert found["Parrot"].missing() == []
    parrot = found["Parrot"](config, NoSender())
    request = SUITE.simple()
    response = asyncio.run(parrot.generate(request))
    assert (response.failure, response.text) == (None, QUESTION)
    assert response.usage == Usage(len(QUESTION), len(QUESTION))
    assert asyncio.run(parrot.list_models("none")) == [ModelInfo("parrot-1")]
    assert parrot.charge(request, 3, 4).tokens == 7


def test_what_a_class_still_lacks_is_known() -> None:
    class Empty(Provider):
        pass

    class Half(Provider):
        async def generate(self, request: Request) -> Any: ...

    class Started(JsonProvider):
        def path(self, request: Request) -> str:
            return "/"

    assert Empty.missing() == ["build", "build_list_models", "read", "read_list_models"]
    assert Half.missing() == ["build_list_models", "read_list_models"]
    assert Started.missing() == ["read_answer", "write_body"]
    assert Acme.missing() == []


def test_cached_tokens_and_the_rest_of_the_usage_stay() -> None:
    class Frugal(Acme):
        def read_answer(self, body: dict[str, Any]) -> Answer:
            return Answer(Usage(9, 2, cached_tokens=5, tier="flex", fees=(("searches", 2),)), "Hi")

    assert read(GOOD, kind=Frugal).usage == Usage(9, 2, cached_tokens=5, tier="flex", fees=(("searches", 2),))
