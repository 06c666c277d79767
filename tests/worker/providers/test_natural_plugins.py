"""Plugins as people write them at the first try: what a hook may do without care, and what the contract says about the rest.

Plugins that are plainly broken are in test_broken_plugins.py.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest
from _pytest.outcomes import Skipped

from models.errors import Untranslatable
from models.request import Failure, FailureKind, FailureScope, Request, Usage
from tests.worker.providers.acme import GOOD, STREAM, Acme, AcmeContract, StreamingAcme
from truckllm import Answer, Charge, Reply, Wanted
from worker.providers.base import bound_of
from worker.providers.contract import KEY

SUITE = AcmeContract()


def suite_of(plugin: type[Acme], **members: Any) -> AcmeContract:
    made: AcmeContract = type("TestPlugin", (AcmeContract,), {"provider_class": plugin, **members})()
    return made


def failures_of(suite: AcmeContract) -> dict[str, str]:
    """What the whole contract says about a plugin: the message of each check that fails, by its name."""
    found = {}
    for name in dir(suite):
        if not name.startswith("test_"):
            continue
        for values in parameters_of(getattr(suite, name)):
            try:
                given = {} if "whatever_their_case" in name else {"provider": suite.make_provider()}
                getattr(suite, name)(**given, **values)
            except Skipped:
                pass
            except AssertionError as error:
                found.setdefault(name.removeprefix("test_"), str(error))
    return found


@functools.cache
def all_failures(plugin: type[Acme]) -> dict[str, str]:
    return failures_of(suite_of(plugin))


def parameters_of(check: Callable[..., None]) -> list[dict[str, Any]]:
    sets: list[dict[str, Any]] = [{}]
    for mark in getattr(check, "pytestmark", ()):
        names, rows = mark.args[0], mark.args[1]
        named = (names,) if isinstance(names, str) else tuple(names)
        named = tuple(part.strip() for name in named for part in name.split(","))
        each = [dict(zip(named, row if len(named) > 1 else (row,), strict=True)) for row in rows]
        sets = [{**one, **two} for one in sets for two in each]
    return sets


class Subscripts(Acme):
    def error_in(self, body: dict[str, Any]) -> Any:
        return body["error"]


class Gets(Acme):
    def error_in(self, body: dict[str, Any]) -> Any:
        return body.get("error", {})


class LooksDeep(Acme):
    def error_in(self, body: dict[str, Any]) -> Any:
        return body["status"]["error"]["detail"]


class SaysTrue(Acme):
    def error_in(self, body: dict[str, Any]) -> Any:
        return body.get("ok") is False


class ShortPath(Acme):
    def path(self, request: Request) -> str:
        return "generate"


class CapitalHeader(Acme):
    def auth(self, api_key: str) -> dict[str, str]:
        return {"X-Acme-Key": api_key, "X-Trace": None}  # type: ignore[dict-item]


class JudgesByCode(Acme):
    def judge(self, request: Request, reply: Reply, body: Any) -> Failure | None:
        code = body["error"]["code"]
        if code == "out_of_coins":
            return Failure(FailureKind.QUOTA, code, body["error"]["message"], retry_after=90)
        return None


class JudgesAll(Acme):
    def judge(self, request: Request, reply: Reply, body: Any) -> Failure | None:
        kinds = {"slow_down": FailureKind.RATE_LIMIT, "no_coins": FailureKind.QUOTA}
        return Failure(kinds[body["error"]["code"]], body["error"]["code"], body["error"]["message"])


class AssertsTheAnswer(Acme):
    def read_answer(self, body: dict[str, Any]) -> Answer:
        assert body["ended"] == "done"
        return super().read_answer(body)


class TakesTheBoundAsItIs(Acme):
    def max_output_tokens(self, request: Request) -> int | None:
        return request.input["max_tokens"]  # type: ignore[no-any-return]


class StreamsNaturally(StreamingAcme):
    pass


@pytest.mark.parametrize(
    "plugin",
    [
        *(Subscripts, Gets, LooksDeep, SaysTrue, ShortPath, CapitalHeader, JudgesByCode, JudgesAll, AssertsTheAnswer),
        *(TakesTheBoundAsItIs, StreamsNaturally),
    ],
)
def test_a_natural_plugin_passes_the_whole_contract(plugin: type[Acme]) -> None:
    stream = STREAM if issubclass(plugin, StreamingAcme) else b""
    assert failures_of(suite_of(plugin, good_stream=stream)) == {}


def read(plugin: type[Acme], body: Any, status: int = 200, **headers: str) -> Any:
    suite = suite_of(plugin)
    return suite.make_provider().read(suite.simple(), suite.reply(body, status, **headers))


def test_error_in_is_called_with_objects_only() -> None:
    seen: list[Any] = []

    class Notes(Acme):
        def error_in(self, body: dict[str, Any]) -> Any:
            seen.append(body)
            return body["error"]

    for body in (b"", b"[]", b'["a", "b"]', b'"no"', b"null", b"7", b"<html>", {}, {"a": 1}):
        assert read(Notes, body, 500).failure is not None
    assert all(isinstance(body, dict) for body in seen)
    assert {"a": 1} in seen


def test_an_error_may_lie_anywhere_and_is_judged_by_the_same_words() -> None:
    class Fault(Acme):
        def error_in(self, body: dict[str, Any]) -> Any:
            return body["fault"]

    failure = read(Fault, {"fault": {"code": "rate_limit_exceeded", "message": "slow down"}}).failure
    assert (failure.kind, failure.code, failure.message) == (FailureKind.RATE_LIMIT, "rate_limit_exceeded", "slow down")
    failure = read(SaysTrue, {"ok": False, "message": "we are down"}).failure
    assert (failure.kind, failure.message) == (FailureKind.SERVER, "we are down")
    assert read(SaysTrue, {**GOOD, "ok": True}).failure is None


@pytest.mark.parametrize("nothing", [None, "", {}, [], False, 0])
def test_an_error_field_that_holds_nothing_is_no_error(nothing: Any) -> None:
    assert read(Subscripts, {**GOOD, "error": nothing}).failure is None


@pytest.mark.parametrize(
    ("body", "status", "given"),
    [
        ({"error": {"code": "x"}, "more": 1}, 400, {"error": {"code": "x"}, "more": 1}),
        ({"error": {"code": "x"}}, 200, {"error": {"code": "x"}}),
        ({"detail": "no"}, 422, {"detail": "no"}),
        ([{"error": "x"}], 400, {"error": "x"}),
        (["a", "b"], 400, None),
        (b"<html>no</html>", 503, None),
        (b"", 429, None),
    ],
)
def test_judge_gets_the_decoded_body_or_none(body: Any, status: int, given: Any) -> None:
    seen: list[Any] = []

    class Notes(Acme):
        def judge(self, request: Request, reply: Reply, body: Any) -> Failure | None:
            seen.append(body)
            return None

    usual, found = read(Acme, body, status).failure, read(Notes, body, status).failure
    assert seen == [given]
    assert found == usual


def test_judge_keeps_the_body_where_the_error_lies_elsewhere() -> None:
    seen: list[Any] = []

    class Notes(Acme):
        def error_in(self, body: dict[str, Any]) -> Any:
            return body["fault"]

        def judge(self, request: Request, reply: Reply, body: Any) -> Failure | None:
            seen.append(body)
            return None

    assert read(Notes, {"fault": "slow down", "id": 7}, 429).failure.message == "slow down"
    assert seen == [{"fault": "slow down", "id": 7}]


def test_an_error_inside_a_stream_is_judged_as_an_error() -> None:
    suite = suite_of(StreamingAcme)
    stream = b'data: {"says": "H"}\n\ndata: {"error": {"code": "overloaded", "message": "too much"}}\n\n'
    reply = Reply(200, {"content-type": "text/event-stream"}, stream)
    failure = suite.make_provider().read(suite.simple(stream=True), reply).failure
    assert failure is not None
    assert (failure.kind, failure.code, failure.message) == (FailureKind.SERVER, "overloaded", "too much")


def test_a_failure_of_a_plugin_is_cleaned_and_completed() -> None:
    words = {"error": {"code": "out_of_coins", "message": f"no coins for {KEY}\0 {'long ' * 999}"}}
    failure = read(JudgesByCode, words, 418).failure
    assert (failure.kind, failure.code, failure.http_status) == (FailureKind.QUOTA, "out_of_coins", 418)
    assert (failure.retry_after, failure.resets_in) == (None, 90.0)
    assert KEY not in failure.message
    assert failure.message.isprintable()
    assert len(failure.message) <= 1000
    limited = read(JudgesAll, {"error": {"code": "slow_down", "message": "slow"}}, 429, **{"retry-after": "7"}).failure
    assert (limited.kind, limited.retry_after) == (FailureKind.RATE_LIMIT, 7.0)


@pytest.mark.parametrize("given", [7, "no", {"kind": "auth"}, Failure("odd", "x", "y")])  # type: ignore[arg-type]
def test_what_is_no_failure_leaves_it_to_the_table(given: Any) -> None:
    class Odd(Acme):
        def judge(self, request: Request, reply: Reply, body: Any) -> Any:
            return given

    assert read(Odd, {"error": "slow down"}, 429).failure == read(Acme, {"error": "slow down"}, 429).failure


def test_kinds_and_scopes_may_be_plain_words() -> None:
    class Words(Acme):
        def judge(self, request: Request, reply: Reply, body: Any) -> Any:
            return Failure("rate_limit", "slow", "slow", retry_after="3", scope="model")  # type: ignore[arg-type]

    failure = read(Words, {"error": "x"}, 400).failure
    assert failure.kind is FailureKind.RATE_LIMIT
    assert (failure.retry_after, failure.scope) == (3.0, FailureScope.MODEL)


@pytest.mark.parametrize("given", [None, "", 7.5, "50", -1, 0, True])
def test_a_bound_that_is_none_is_no_bound(given: Any) -> None:
    class Odd(Acme):
        def max_output_tokens(self, request: Request) -> Any:
            return given

    assert bound_of(suite_of(Odd).make_provider(), SUITE.simple()) is None


class Stumbles(Acme):
    """Its write_body fails for some requests."""

    def write_body(self, wanted: Wanted) -> dict[str, Any]:
        return {**super().write_body(wanted), "heat": 1 / wanted.take("temperature")}


class ForgetsReturn(Acme):
    def write_body(self, wanted: Wanted) -> Any:
        super().write_body(wanted)


class WritesADate(Acme):
    def write_body(self, wanted: Wanted) -> dict[str, Any]:
        return {**super().write_body(wanted), "odd": object()}


class WholeUrl(Acme):
    def path(self, request: Request) -> str:
        return "https://elsewhere.example/generate"


class BareHeader(Acme):
    def auth(self, api_key: str) -> Any:
        return f"Token {api_key}"


@pytest.mark.parametrize(
    ("plugin", "told"),
    [
        (Stumbles, "Stumbles.write_body raised TypeError"),
        (ForgetsReturn, "ForgetsReturn.write_body gave NoneType, not a dict"),
        (WritesADate, "can't be written as JSON"),
        (WholeUrl, "WholeUrl.path gave a whole URL"),
        (BareHeader, "BareHeader.auth raised ValueError"),
    ],
)
def test_a_call_that_cant_be_built_is_never_sent_and_says_whose_fault_it_is(plugin: type[Acme], told: str) -> None:
    provider = suite_of(plugin).make_provider()
    with pytest.raises(Untranslatable, match=told) as refused:
        asyncio.run(provider.generate(SUITE.simple()))  # its sender fails the test
    assert KEY not in str(refused.value)


# What a developer reads


class GetsTheText(Acme):
    def read_answer(self, body: dict[str, Any]) -> Answer:
        return Answer(text=body.get("says"), usage=Usage(), finish_reason="done", served_model="acme-small")


class CallsEveryErrorARateLimit(Acme):
    def judge(self, request: Request, reply: Reply, body: Any) -> Failure | None:
        return Failure(FailureKind.RATE_LIMIT, "error", "something went wrong", reply.status)


class ReturnsANumberOfTokens(Acme):
    def charge(self, request: Request, input_tokens: int, output_tokens: int) -> Any:
        return input_tokens + output_tokens


class ChargesTheBound(Acme):
    def charge(self, request: Request, input_tokens: int, output_tokens: int) -> Charge:
        return Charge(tokens=input_tokens + request.input["max_tokens"])


class NoUsage(Acme):
    def read_answer(self, body: dict[str, Any]) -> Answer:
        return Answer(text=body["says"], finish_reason=body["ended"], served_model=body["engine"])


class ListsObjects(Acme):
    def read_models(self, body: Any) -> Any:
        return body["engines"]


class StreamsWithoutReading(Acme):
    def write_body(self, wanted: Wanted) -> dict[str, Any]:
        return {**super().write_body(wanted), "stream": wanted.take("stream")}


class LosesOne(Acme):
    def write_body(self, wanted: Wanted) -> dict[str, Any]:
        wanted.take("top_p")
        return super().write_body(wanted)


@pytest.mark.parametrize(
    ("plugin", "check", "told"),
    [
        (GetsTheText, "a_200_that_is_no_answer_is_unreadable_and_maybe_billed", "is read as an answer"),
        (GetsTheText, "a_good_reply_becomes_an_answer", "usage is read as None, but"),
        (CallsEveryErrorARateLimit, "a_status_alone_tells_the_kind", "by its status alone it has to be 'bad_request'"),
        (
            ReturnsANumberOfTokens,
            "what_is_booked_is_never_negative_and_holds_one_request",
            "charge gave int: return a Charge",
        ),
        (
            ChargesTheBound,
            "what_is_booked_is_never_negative_and_holds_one_request",
            "charge raised KeyError: 'max_tokens'. A request may lack any field",
        ),
        (NoUsage, "a_good_reply_becomes_an_answer", "without tokens its calls would have no price"),
        (ListsObjects, "the_model_list_is_read", "isn't among the models that are read from model_list: []"),
        (
            StreamsWithoutReading,
            "a_streamed_reply_becomes_the_same_answer_and_a_cut_one_none",
            "set good_stream to the bytes of a recorded stream",
        ),
        (LosesOne, "a_field_is_sent_or_refused_but_never_dropped", "top_p was neither sent nor refused"),
        (
            ForgetsReturn,
            "the_question_and_the_model_are_sent",
            "a plain question is refused (ForgetsReturn.write_body gave NoneType, not a dict)",
        ),
        (
            WholeUrl,
            "a_call_goes_to_the_base_url_and_carries_the_key_in_a_header_only",
            "gave a whole URL, not the text that follows base_url",
        ),
    ],
)
def test_the_contract_says_what_is_wrong_in_a_sentence(plugin: type[Acme], check: str, told: str) -> None:
    message = all_failures(plugin)[check]
    assert told in message, message
    assert KEY not in message


def test_no_check_of_the_contract_fails_without_words() -> None:
    for plugin in (GetsTheText, CallsEveryErrorARateLimit, ForgetsReturn, WholeUrl, ReturnsANumberOfTokens, NoUsage):
        for check, message in all_failures(plugin).items():
            assert len(message.split("\n")[0].split()) >= 6, (plugin, check, message)
