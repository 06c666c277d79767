"""What every provider must keep to, built in or a stranger's: subclass `ProviderContract`, fill in its members, run pytest.

It does not know any dialect; what a provider makes of its own error codes is its own tests' business. It needs pytest, so nothing
that runs imports it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import orjson
import pytest

from models.config import ProviderConfig
from models.errors import Untranslatable
from models.request import Failure, FailureKind, Request, Response
from worker.limits.shapes import Charge
from worker.providers.answers import Answer
from worker.providers.base import Call, Provider, Reply, bound_of
from worker.providers.events import read_events
from worker.providers.rubbish import BODIES, HEADERS, NONSENSE, STATUSES, dumped, places_in, replaced, survives

KEY = "sk-contract-0123456789abcdef"
MODEL = "the-model"
QUESTION = "Is it true that 123456 is even?"
TALK = {"system": "Be brief-123475.", "user": "First-123476?", "assistant": "Indeed-123477.", "again": "Then-123478?"}
# Fields of the neutral shape beside messages, each with a value that can be found again.
FIELDS: dict[str, Any] = {
    "max_tokens": 123457,
    "max_completion_tokens": 123458,
    "temperature": 0.123459,
    "top_p": 0.12346,
    "top_k": 123461,
    "stop": ["stop-123462"],
    "seed": 123463,
    "n": 3,
    "presence_penalty": 0.123464,
    "frequency_penalty": 0.123465,
    "logit_bias": {"123466": 1},
    "logprobs": True,
    "top_logprobs": 4,
    "user": "user-123467",
    "tools": [{"type": "function", "function": {"name": "tool_123468"}}],
    "tool_choice": "choice-123469",
    "reasoning_effort": "effort-123470",
    "service_tier": "tier-123471",
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"title": "schema-123472"}}},
    "something_new": "new-123473",
}


def simple_input() -> dict[str, Any]:
    """A question; a new one each time, because a plugin may change what it is given."""
    return {"messages": [{"role": "user", "content": QUESTION}]}


class NoSender:
    """A sender for providers that are only asked to build and read."""

    async def send(self, call: Call) -> Reply:
        raise AssertionError("nothing should be sent here")


def values_in(value: Any) -> list[Any]:
    """Every leaf and key of decoded JSON."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in [key, *values_in(inner)]]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in values_in(inner)]
    return [value]


def texts_in(call: Call) -> str:
    """All texts of a call's JSON body, in order."""
    return "\n".join(str(value) for value in values_in(orjson.loads(call.body or b"null")))


def built(provider: Provider, request: Request) -> Call | Untranslatable:
    """The call for a request, or the error with which it is refused. Raises AssertionError where the plugin raises anything else."""
    try:
        return provider.build(request)
    except Untranslatable as refused:
        return refused
    except Exception as error:
        raise AssertionError(
            f"build raised {type(error).__name__}: {error}. For a request that the vendor can't take it should raise Untranslatable"
        ) from error


def must_build(provider: Provider, request: Request) -> Call:
    """The call for a request that every plugin has to take. Raises AssertionError with the plugin's reason."""
    call = built(provider, request)
    assert not isinstance(call, Untranslatable), (
        f"a plain question is refused ({call}): build has to take a request of one user message"
    )
    return call


def read(provider: Provider, request: Request, reply: Reply) -> Response:
    """What the plugin makes of a reply. Raises AssertionError where reading raises."""
    try:
        return provider.read(request, reply)
    except Exception as error:
        raise AssertionError(
            f"read raised {type(error).__name__}: {error}, for HTTP {reply.status} with the body {reply.body[:200]!r}. "
            "It should return a Response with a failure"
        ) from error


def failure_in(provider: Provider, request: Request, reply: Reply) -> Failure:
    """The failure that the plugin finds in a reply that is none but a failure. Raises AssertionError where it finds none."""
    failure = read(provider, request, reply).failure
    assert failure is not None, (
        f"HTTP {reply.status} with the body {reply.body[:200]!r} is read as an answer: read has to set a failure for it"
    )
    return failure


class ProviderContract:
    """Members to fill in, and the tests. Name the subclass `Test…`, so that pytest finds it."""

    provider_class: ClassVar[type[Provider]]
    good: ClassVar[Any]
    """The body of a recorded reply to a call: JSON, decoded."""
    expected: ClassVar[Answer | Response]
    """What must be made of `good`: text, usage, finish_reason and served_model are compared."""
    model_list: ClassVar[Any]
    """The body of a recorded reply to the call that lists models. `model` must be in it."""
    model: ClassVar[str] = MODEL
    own_body: ClassVar[bytes] = b""
    """A small body in the provider's own dialect, for a class that has one (`dialect`): it must go out untouched."""
    good_stream: ClassVar[bytes] = b""
    """The bytes of a recorded stream with the same answer, for a class that takes `stream`."""
    settings: ClassVar[dict[str, Any]] = {}
    """What the class needs in its configuration beyond a base URL and a key, such as `{"options": {…}}`."""

    @pytest.fixture
    def provider(self) -> Provider:
        return self.make_provider()

    def make_provider(self, **changes: Any) -> Provider:
        values = {
            "id": "mine",
            "type": self.provider_class.dialect or "mine",
            "base_url": "https://api.example.com/v1",
            "keys": [{"id": "k", "secret": KEY}],
            **self.settings,
            **changes,
        }
        return self.provider_class(ProviderConfig.model_validate(values), NoSender())

    def simple(self, **fields: Any) -> Request:
        return Request(self.model, {**simple_input(), **fields}, KEY)

    def own(self) -> Request:
        dialect = self.provider_class.dialect
        if not dialect:
            pytest.skip(f"{self.provider_class.__name__} has no dialect of its own: all lines are translated for it")
        assert self.own_body, f"own_body is missing: a small body in the dialect {dialect!r}"
        return Request(self.model, orjson.loads(self.own_body), KEY, dialect=dialect, body=self.own_body)

    def reply(self, body: Any, status: int = 200, **headers: str) -> Reply:
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        return Reply(status, {"content-type": "application/json", **headers}, data, 7)

    # Identity

    def test_its_name_is_its_id(self, provider: Provider) -> None:
        assert provider.name == "mine", (
            f"its name is {provider.name!r}: it has to be the provider's id in the configuration, because the ledger names it so"
        )

    # Building

    def test_a_call_goes_to_the_base_url_and_carries_the_key_in_a_header_only(self, provider: Provider) -> None:
        for what, call in (
            ("the call", must_build(provider, self.simple())),
            ("the list of models", provider.build_list_models(KEY)),
        ):
            assert call.url.startswith("https://api.example.com/v1/"), (
                f"{what} goes to {call.url.replace(KEY, '***')}: it has to go to base_url (https://api.example.com/v1) and what `path` adds"
            )
            assert KEY not in call.url, (
                f"{what} has the key in its URL, where logs show it: send it in a header (`auth`)"
            )
            assert KEY not in (call.body or b"").decode(), (
                f"{what} has the key in its body: send it in a header (`auth`)"
            )
            assert any(KEY in value for value in call.headers.values()), f"{what} has the key in no header: see `auth`"
            odd = [name for name in call.headers if name != name.lower()]
            assert not odd, f"{what} has the headers {odd}: write their names in lower case"
            assert KEY not in repr(call), f"repr of {what} shows the key: keep the dataclass Call as it is"

    def test_headers_of_the_configuration_are_added_whatever_their_case(self) -> None:
        provider = self.make_provider(headers={"X-Gateway": "yes", "Content-Type": "application/json; v=1"})
        for call in (must_build(provider, self.simple()), provider.build_list_models(KEY)):
            assert call.headers.get("x-gateway") == "yes", (
                "the header X-Gateway of the configuration isn't sent: add `self.config.headers`, with names in lower case"
            )
        assert must_build(provider, self.simple()).headers.get("content-type") == "application/json; v=1", (
            "the Content-Type of the configuration has to replace the plugin's own"
        )

    def test_building_changes_nothing_and_gives_the_same_call_again(self, provider: Provider) -> None:
        request = self.simple()
        before = copy.deepcopy(dict(request.input))
        first, second = must_build(provider, request), must_build(provider, request)
        assert dict(request.input) == before, (
            "building changed the request's input: work on a copy, a retry builds it again"
        )
        assert first == second, "the same request gives another call the second time: a retry has to send the same"

    def test_the_question_and_the_model_are_sent(self, provider: Provider) -> None:
        call = must_build(provider, self.simple())
        assert call.method == "POST", f"a call is sent by {call.method}: it has to be a POST"
        assert QUESTION in texts_in(call), (
            "the question isn't in the body: write_body has to send all of `wanted.messages()`"
        )
        assert self.model in call.url or self.model in texts_in(call), (
            f"the model {self.model!r} is neither in the URL nor in the body: send `wanted.model`, or put `request.model` into the path"
        )

    def test_a_conversation_is_sent_whole_and_in_order_or_refused(self, provider: Provider) -> None:
        roles = ("system", "user", "assistant", "user")
        messages = [{"role": role, "content": text} for role, text in zip(roles, TALK.values(), strict=True)]
        call = built(provider, Request(self.model, {"messages": messages}, KEY))
        if isinstance(call, Untranslatable):
            assert call.field.startswith(("messages", "system")), (
                f"a conversation with a system text is refused for {call.field!r} ({call}): send it, or refuse it by `messages`"
            )
            return
        sent = texts_in(call)
        places = [sent.find(text) for text in TALK.values()]
        missing = [role for role, place in zip(TALK, places, strict=True) if place < 0]
        assert not missing, (
            f"of a conversation the text of {missing} isn't in the body: write_body has to send every turn and `wanted.system`"
        )
        assert places[1:] == sorted(places[1:]), "the turns are sent in another order than they were said in"

    def test_a_body_of_its_own_dialect_goes_out_byte_by_byte(self, provider: Provider) -> None:
        assert provider.build(self.own()).body == self.own_body, (
            "a body in the provider's own dialect is changed: it has to go out byte by byte, as the user wrote it"
        )

    def test_a_body_of_another_dialect_is_refused_by_name(self, provider: Provider) -> None:
        refused = built(provider, Request(self.model, {}, KEY, dialect="klingon", body=b"{}"))
        assert isinstance(refused, Untranslatable), (
            "a body in the unknown dialect 'klingon' is sent all the same: raise Untranslatable for a `request.dialect` that isn't known"
        )
        assert "klingon" in str(refused), f"the refusal of a dialect ({refused}) has to name it: 'klingon'"

    def test_an_unknown_operation_is_refused(self, provider: Provider) -> None:
        refused = built(provider, Request(self.model, simple_input(), KEY, operation="levitate"))
        assert isinstance(refused, Untranslatable), (
            "the operation 'levitate' is sent as if it were a chat: raise Untranslatable for a `request.operation` that isn't known"
        )

    @pytest.mark.parametrize("field", FIELDS)
    def test_a_field_is_sent_or_refused_but_never_dropped(self, provider: Provider, field: str) -> None:
        call = built(provider, self.simple(**{field: FIELDS[field]}))
        if isinstance(call, Untranslatable):
            assert call.field.startswith(field), (
                f"a request with {field} is refused for {call.field!r} ({call}): it has to be refused by the field's own name, or sent"
            )
            assert field in str(call), f"the refusal of {field} ({call}) doesn't name the field"
            return
        found = values_in(orjson.loads(call.body or b"null"))
        wanted = [value for value in values_in(FIELDS[field]) if value not in ("n", "name", "schema")]
        marks = [value for value in wanted if "1234" in str(value) or field in ("n", "logprobs", "top_logprobs")]
        assert marks, f"the contract has no mark for {field}"
        lost = [mark for mark in marks if mark not in found]
        assert not lost, (
            f"{field} was neither sent nor refused: nobody would know that it was dropped. Put what `wanted` gives for it into the body, "
            "or don't take it: what nobody takes is refused"
        )

    def test_a_stream_is_asked_for_when_the_request_says_so(self, provider: Provider) -> None:
        assert must_build(provider, self.simple()).stream is False, (
            "a call that asks for no stream has stream=True: set it to `request.stream`"
        )
        call = built(provider, self.simple(stream=True))
        if isinstance(call, Untranslatable):  # a provider that doesn't stream says so
            assert call.field == "stream", (
                f"a request with stream=true is refused for {call.field!r} ({call}): refuse it by `stream`, or send it"
            )
        else:
            assert call.stream is True, "a call that asks for a stream has stream=False: set it to `request.stream`"

    # Reading

    def test_a_good_reply_becomes_an_answer(self, provider: Provider) -> None:
        self._check_answer(read(provider, self.simple(), self.reply(self.good)), self.reply(self.good))

    def test_a_streamed_reply_becomes_the_same_answer_and_a_cut_one_none(self, provider: Provider) -> None:
        streamed = self.simple(stream=True)
        if not self.good_stream:
            refused = isinstance(built(provider, streamed), Untranslatable) or provider.dialect
            assert refused, (
                "the plugin takes `stream`: set good_stream to the bytes of a recorded stream, so that it can be checked"
            )
            return
        whole = Reply(200, {"content-type": "text/event-stream"}, self.good_stream, 7)
        self._check_answer(read(provider, streamed, whole), None)
        events = list(read_events(self.good_stream))
        beginning = "".join(
            f"event: {event.name}\n" + "".join(f"data: {line}\n" for line in event.data.split("\n")) + "\n"
            for event in events[: len(events) // 2]
        )
        half = Reply(200, whole.headers, beginning.encode(), 7)
        failure = read(provider, streamed, half).failure
        assert failure is not None, (
            "half of a stream is taken for an answer: read_stream has to return None where the event that ends an answer is missing"
        )
        assert failure.kind is FailureKind.NETWORK, (
            f"half of a stream is the failure {failure.kind.value!r} ({failure.message}): it has to be `network`, so that it is asked again"
        )

    def _check_answer(self, response: Response, reply: Reply | None) -> None:
        failure = response.failure
        assert failure is None, (
            f"the recorded reply is read as a failure ({failure.kind.value}: {failure.message}): "
            "read_answer has to find the answer in it, and error_in no error"
        )
        if reply is not None:
            assert response.raw_response == reply.body, "raw_response has to be the reply's body as it came"
        assert (response.http_code, response.latency_ms) == (200, 7), (
            f"http_code and latency_ms are {(response.http_code, response.latency_ms)}: they have to be the reply's own, (200, 7)"
        )
        for name in ("text", "finish_reason", "served_model", "usage"):
            got, wanted = getattr(response, name), getattr(self.expected, name)
            why = "; without tokens its calls would have no price" if name == "usage" and got is None else ""
            assert got == wanted, (
                f"{name} is read as {got!r}, but `expected` has {wanted!r}{why}: which of the two is wrong?"
            )
        assert response.usage is not None, (
            "the tokens that were used are not read, nor in `expected`: without them calls have no price, and a cap can't count"
        )
        total = response.usage.input_tokens + response.usage.output_tokens
        assert response.tokens_used == total, (
            f"tokens_used is {response.tokens_used}, not input and output together ({total})"
        )

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, FailureKind.BAD_REQUEST),
            (401, FailureKind.AUTH),
            (402, FailureKind.QUOTA),
            (403, FailureKind.KEY_MODEL),
            (404, FailureKind.BAD_REQUEST),
            (408, FailureKind.SERVER),
            (409, FailureKind.SERVER),
            (413, FailureKind.TOO_LARGE),
            (422, FailureKind.BAD_REQUEST),
            (429, FailureKind.RATE_LIMIT),
            (500, FailureKind.SERVER),
            (502, FailureKind.SERVER),
            (503, FailureKind.SERVER),
            (504, FailureKind.SERVER),
            (529, FailureKind.SERVER),
        ],
    )
    @pytest.mark.parametrize("body", [b"", b"<html>Oops</html>", b"{}", b"[]", b'"no"'])
    def test_a_status_alone_tells_the_kind(
        self, provider: Provider, status: int, kind: FailureKind, body: bytes
    ) -> None:
        failure = failure_in(provider, self.simple(), self.reply(body, status))
        assert failure.kind == kind, (
            f"HTTP {status} with the body {body!r} is the failure {failure.kind!r}: by its status alone it has to be {kind.value!r}. "
            "Let `judge` return None where the body names nothing that it knows"
        )
        assert failure.http_status == status, (
            f"the failure's http_status is {failure.http_status}, the reply's {status}"
        )
        assert failure.message, f"the failure of HTTP {status} has no message: people have to read why it failed"
        assert failure.code, f"the failure of HTTP {status} has no code: reports count failures by it"

    @pytest.mark.parametrize("body", [b"", b"<html>Oops</html>", b"{}", b"[]", b"null", b'{"ok": tru', b"\xff\xfe\x00"])
    def test_a_200_that_is_no_answer_is_unreadable_and_maybe_billed(self, provider: Provider, body: bytes) -> None:
        failure = failure_in(provider, self.simple(), self.reply(body))
        assert (failure.kind, failure.code) == (FailureKind.NETWORK, "unreadable_reply"), (
            f"HTTP 200 with the body {body!r} is the failure ({failure.kind.value}, {failure.code}): it may have been billed and is asked "
            "again as (network, unreadable_reply). Let read_answer raise where the answer's field is missing (body['text'], not .get)"
        )

    def test_the_wait_that_a_server_tells_is_read_in_every_form(self, provider: Provider) -> None:
        for headers, wait in (
            ({"retry-after": "2"}, 2.0),
            ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
            ({"retry-after": "Sun, 22 Nov 2026 20:00:30 GMT", "date": "Sun, 22 Nov 2026 20:00:00 GMT"}, 30.0),
            ({"retry-after": "soon"}, None),
            ({"retry-after": "nan"}, None),
            ({}, None),
        ):
            for status in (429, 503):
                failure = failure_in(provider, self.simple(), self.reply(b"", status, **headers))
                if failure.kind is FailureKind.RATE_LIMIT or wait is not None:
                    assert failure.retry_after == wait, (
                        f"HTTP {status} with the headers {headers} gives retry_after={failure.retry_after}, it states {wait} s"
                    )

    def test_messages_hold_no_secret_no_control_characters_and_not_too_much(self, provider: Provider) -> None:
        text = f"bad key {KEY}\0\x1b[31m Bearer {KEY} {'long ' * 1000}"
        for body in ({"error": {"message": text, "type": KEY, "code": KEY}}, {"error": text}, {"message": text}):
            for status in (400, 401, 403, 404, 429, 500):
                failure = failure_in(provider, self.simple(), self.reply(body, status))
                told = f"of an error of HTTP {status}"
                assert "sk-contract" not in failure.message + failure.code, (
                    f"message or code {told} repeats the key: take keys out of what the vendor says"
                )
                assert failure.message.isprintable(), f"the message {told} holds control characters: take them out"
                assert len(failure.message) <= 1000, (
                    f"the message {told} has {len(failure.message):,} characters; 1,000 are allowed"
                )
                assert len(failure.code) <= 64, f"the code {told} has {len(failure.code):,} characters; 64 are allowed"

    def test_a_key_that_looks_like_none_is_removed_all_the_same(self, provider: Provider) -> None:
        request = Request(self.model, simple_input(), "canary.0123456789")
        for body in ({"error": {"message": "no canary.0123456789 here"}}, b"<p>no canary.0123456789 here</p>"):
            failure = failure_in(provider, request, self.reply(body, 400))
            assert "no *** here" in failure.message, (
                f"a key of an unusual form isn't masked in {failure.message!r}: replace `request.api_key` itself by ***"
            )

    def test_no_reply_makes_reading_raise(self, provider: Provider) -> None:
        for status in STATUSES:
            for body in BODIES:
                for streamed in (False, True):
                    survives(provider, self.simple(stream=streamed), self.reply(body, status))
            for headers in HEADERS:
                for body in (b"", b"{}", b"data: {}\n\n", b"data: [DONE]\n\n", dumped(self.good)):
                    survives(provider, self.simple(), self.reply(body, status, **headers))

    def test_no_change_of_a_good_reply_makes_reading_raise(self, provider: Provider) -> None:
        for place in places_in(self.good):
            for value in NONSENSE:
                survives(provider, self.simple(), self.reply(dumped(replaced(self.good, place, value))))

    # Listing models

    def test_the_model_list_is_read(self, provider: Provider) -> None:
        call = provider.build_list_models(KEY)
        assert (call.method, call.body) == ("GET", None), (
            f"the list of models is asked for by {call.method}: it has to be a GET without a body"
        )
        models = [model.id for model in provider.read_list_models(self.reply(self.model_list))]
        assert self.model in models, (
            f"{self.model!r} isn't among the models that are read from model_list: {models}. See read_models: it returns their names"
        )

    def test_no_model_list_makes_reading_raise(self, provider: Provider) -> None:
        changed = [
            dumped(replaced(self.model_list, place, value))
            for place in places_in(self.model_list)
            for value in NONSENSE
        ]
        for body in (*BODIES, *changed):
            try:
                models = provider.read_list_models(self.reply(body))
            except Exception as error:
                raise AssertionError(
                    f"reading the list of models raised {type(error).__name__}: {error}, for the body {body[:200]!r}. "
                    "It should return an empty list"
                ) from error
            assert all(isinstance(model.id, str) for model in models), (
                f"a model's id that is no text is read from the list {body[:200]!r}: leave it out"
            )

    # Limits

    @pytest.mark.parametrize("fields", [{}, {"max_tokens": 50}, {"max_tokens": 5000}])
    def test_what_is_booked_is_never_negative_and_holds_one_request(
        self, provider: Provider, fields: dict[str, Any]
    ) -> None:
        request = self.simple(**fields)
        booked = charged("charge", lambda: provider.charge(request, 100, 20))
        usage = self.expected.usage
        assert usage is not None, "`expected` has no usage"
        charged("settled", lambda: provider.settled(booked, usage))

    def test_the_requests_own_bound_on_output_is_known(self, provider: Provider) -> None:
        found = bound_of(provider, self.simple(max_tokens=50))
        assert found == 50, (
            f"max_output_tokens gives {found} for a request with max_tokens 50: return the request's own bound, None where it has none"
        )


def charged(method: str, call: Callable[[], Any]) -> Charge:
    """What `charge` or `settled` gives. Raises AssertionError for what no limit can count."""
    try:
        booked = call()
    except Exception as error:
        raise AssertionError(
            f"{method} raised {type(error).__name__}: {error}. A request may lack any field: use request.input.get(…)"
        ) from error
    assert isinstance(booked, Charge), (
        f"{method} gave {type(booked).__name__}: return a Charge, such as Charge(tokens=…, input_tokens=…, output_tokens=…)"
    )
    assert booked.requests == 1, f"{method} counts {booked.requests} requests: a call is 1"
    least = min(booked.tokens, booked.input_tokens, booked.output_tokens)
    assert least >= 0, f"{method} counts {least} tokens: below 0 it would give back what other calls have booked"
    return booked
