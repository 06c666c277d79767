"""The contract is worth something: plugins that are broken in ways that happen each fail the check that is named for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.request import FailureKind, ModelInfo, Request, Response, Usage
from tests.worker.providers.acme import STREAM, Acme, AcmeContract, StreamingAcme
from worker.limits.shapes import Charge
from worker.providers.answers import Answer
from worker.providers.base import Call, Reply
from worker.providers.contract import FIELDS
from worker.providers.plugin import Wanted


class LosesAField(Acme):
    def write_body(self, wanted: Wanted) -> dict[str, Any]:
        wanted.take("top_p")
        return super().write_body(wanted)


class LosesTools(Acme):
    def write_body(self, wanted: Wanted) -> dict[str, Any]:
        assert wanted.tools is not None
        return super().write_body(wanted)


class LosesTheQuestion(Acme):
    def write_body(self, wanted: Wanted) -> dict[str, Any]:
        return {**super().write_body(wanted), "talk": []}


class LosesTheModel(Acme):
    def write_body(self, wanted: Wanted) -> dict[str, Any]:
        return {**super().write_body(wanted), "engine": "acme-always"}


class LosesTheSystem(Acme):
    def write_body(self, wanted: Wanted) -> dict[str, Any]:
        talk = [message for message in wanted.messages() if message["role"] != "system"]
        return {**super().write_body(wanted), "talk": talk}


class TalksBackwards(Acme):
    def write_body(self, wanted: Wanted) -> dict[str, Any]:
        return {**super().write_body(wanted), "talk": wanted.messages()[::-1]}


class PutsTheKeyIntoTheUrl(Acme):
    def build(self, request: Request) -> Call:
        call = super().build(request)
        return replace(call, url=f"{call.url}?key={request.api_key}")


class ForgetsTheConfiguredHeaders(Acme):
    def build(self, request: Request) -> Call:
        return replace(super().build(request), headers=self.auth(request.api_key))


class ChangesTheRequest(Acme):
    def build(self, request: Request) -> Call:
        call = super().build(request)
        request.input["messages"].append({"role": "user", "content": "and more"})
        return call


class TakesAnyDialect(Acme):
    def build(self, request: Request) -> Call:
        return super().build(replace(request, dialect="simple", input={"messages": [{"role": "user", "content": "?"}]}))


class TakesAnyOperation(Acme):
    operations = frozenset({"chat", "levitate"})


class ReadsNoUsage(Acme):
    def read_answer(self, body: dict[str, Any]) -> Answer:
        return replace(super().read_answer(body), usage=None)


class SwapsTheTokens(Acme):
    def read_answer(self, body: dict[str, Any]) -> Answer:
        return replace(super().read_answer(body), usage=Usage(body["used"]["written"], body["used"]["read"]))


class FallsOverNonsense(Acme):
    def read(self, request: Request, reply: Reply) -> Response:
        return Response(reply.body, reply.status, text=reply.json()["says"])


class TrustsEvery200(Acme):
    def read_answer(self, body: dict[str, Any]) -> Answer:
        return Answer(Usage(), str(body.get("says")))


class ThinksEveryErrorIsTheRequests(Acme):
    def read(self, request: Request, reply: Reply) -> Response:
        response = super().read(request, reply)
        failure = response.failure and replace(response.failure, kind=FailureKind.BAD_REQUEST)
        return replace(response, failure=failure)


class IsDeafToTheWait(Acme):
    def read(self, request: Request, reply: Reply) -> Response:
        response = super().read(request, reply)
        return replace(response, failure=response.failure and replace(response.failure, retry_after=None))


class TellsSecrets(Acme):
    def read(self, request: Request, reply: Reply) -> Response:
        response = super().read(request, reply)
        told = reply.body.decode("utf-8", "replace")[:900]
        return (
            response if response.failure is None else replace(response, failure=replace(response.failure, message=told))
        )


class TakesHalfAStream(StreamingAcme):
    def read_stream(self, events: list[dict[str, Any]]) -> dict[str, Any]:
        body = {"says": "", "ended": "", "used": {"read": 0, "written": 0}, "engine": "acme-small"}
        for event in events:
            body = {**body, **event, "says": str(body["says"]) + event.get("says", "")}
        return body


class ListsNothing(Acme):
    def read_list_models(self, reply: Reply) -> list[ModelInfo]:
        return []


class FallsOverAStrangeList(Acme):
    def read_list_models(self, reply: Reply) -> list[ModelInfo]:
        return [ModelInfo(engine["name"]) for engine in reply.json()["engines"]]


class BooksLessThanNothing(Acme):
    def charge(self, request: Request, input_tokens: int, output_tokens: int) -> Charge:
        return Charge(tokens=-1)


class KnowsNoBound(Acme):
    def max_output_tokens(self, request: Request) -> int | None:
        return None


BROKEN: list[tuple[type[Acme], str, tuple[Any, ...]]] = [
    (LosesAField, "test_a_field_is_sent_or_refused_but_never_dropped", ("top_p",)),
    (LosesTools, "test_a_field_is_sent_or_refused_but_never_dropped", ("tools",)),
    (LosesTheQuestion, "test_the_question_and_the_model_are_sent", ()),
    (LosesTheModel, "test_the_question_and_the_model_are_sent", ()),
    (LosesTheSystem, "test_a_conversation_is_sent_whole_and_in_order_or_refused", ()),
    (TalksBackwards, "test_a_conversation_is_sent_whole_and_in_order_or_refused", ()),
    (PutsTheKeyIntoTheUrl, "test_a_call_goes_to_the_base_url_and_carries_the_key_in_a_header_only", ()),
    (ForgetsTheConfiguredHeaders, "test_headers_of_the_configuration_are_added_whatever_their_case", ()),
    (ChangesTheRequest, "test_building_changes_nothing_and_gives_the_same_call_again", ()),
    (TakesAnyDialect, "test_a_body_of_another_dialect_is_refused_by_name", ()),
    (TakesAnyOperation, "test_an_unknown_operation_is_refused", ()),
    (ReadsNoUsage, "test_a_good_reply_becomes_an_answer", ()),
    (SwapsTheTokens, "test_a_good_reply_becomes_an_answer", ()),
    (FallsOverNonsense, "test_no_reply_makes_reading_raise", ()),
    (FallsOverNonsense, "test_no_change_of_a_good_reply_makes_reading_raise", ()),
    (TrustsEvery200, "test_a_200_that_is_no_answer_is_unreadable_and_maybe_billed", (b"{}",)),
    (ThinksEveryErrorIsTheRequests, "test_a_status_alone_tells_the_kind", (429, FailureKind.RATE_LIMIT, b"")),
    (IsDeafToTheWait, "test_the_wait_that_a_server_tells_is_read_in_every_form", ()),
    (TellsSecrets, "test_messages_hold_no_secret_no_control_characters_and_not_too_much", ()),
    (TakesHalfAStream, "test_a_streamed_reply_becomes_the_same_answer_and_a_cut_one_none", ()),
    (ListsNothing, "test_the_model_list_is_read", ()),
    (FallsOverAStrangeList, "test_no_model_list_makes_reading_raise", ()),
    (BooksLessThanNothing, "test_what_is_booked_is_never_negative_and_holds_one_request", ({},)),
    (KnowsNoBound, "test_the_requests_own_bound_on_output_is_known", ()),
]
WITHOUT_PROVIDER = ("test_headers_of_the_configuration_are_added_whatever_their_case",)


def checked(plugin: type[Acme], check: str, values: tuple[Any, ...]) -> Callable[[], None]:
    """One check of the contract on one plugin, to be called as pytest would."""
    members = {"provider_class": plugin, "good_stream": STREAM if issubclass(plugin, StreamingAcme) else b""}
    suite = type("TestPlugin", (AcmeContract,), members)()
    given = () if check in WITHOUT_PROVIDER else (suite.make_provider(),)
    return lambda: getattr(suite, check)(*given, *values)


@pytest.mark.parametrize(("plugin", "check", "values"), BROKEN, ids=[f"{row[0].__name__}-{row[1]}" for row in BROKEN])
def test_a_broken_plugin_fails_the_check_that_a_sound_one_passes(
    plugin: type[Acme], check: str, values: tuple[Any, ...]
) -> None:
    checked(Acme, check, values)()
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        checked(plugin, check, values)()


def test_every_check_that_a_plugin_can_break_is_broken_here() -> None:
    checks = {name for name in vars(AcmeContract.__mro__[1]) if name.startswith("test_")}
    own_dialects = {"test_a_body_of_its_own_dialect_goes_out_byte_by_byte"}
    settled = {
        "test_its_name_is_its_id",
        "test_a_stream_is_asked_for_when_the_request_says_so",
        "test_a_key_that_looks_like_none_is_removed_all_the_same",
    }
    assert {check for _, check, _ in BROKEN} == checks - own_dialects - settled
    assert {values[0] for _, check, values in BROKEN if "field" in check} <= FIELDS.keys()


def test_pytest_tells_a_stranger_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "from tests.worker.providers.acme import AcmeContract\n"
        "from tests.worker.providers.test_broken_plugins import SwapsTheTokens\n"
        "from truckllm import ProviderContract\n\n\n"
        "class TestMine(AcmeContract):\n    provider_class = SwapsTheTokens\n"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    done = subprocess.run(
        [*command, "-k", "becomes or booked", str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert "test_a_good_reply_becomes_an_answer" in done.stdout
    assert "1 failed, 4 passed" in done.stdout
    assert "usage is read as Usage(input_tokens=2, output_tokens=4" in done.stdout
    assert "`expected` has Usage(input_tokens=4, output_tokens=2" in done.stdout
