"""What every provider must keep to, built in or a stranger's: subclass `ProviderContract`, fill in its members, run pytest.

It does not know any dialect; what a provider makes of its own error codes is its own tests' business. It needs pytest, so nothing
that runs imports it.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import orjson
import pytest

from models.config import ProviderConfig
from models.errors import Untranslatable
from models.request import FailureKind, Request, Response
from worker.providers.answers import Answer
from worker.providers.base import Call, Provider, Reply
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
    """The call for a request, or the error with which it is refused."""
    try:
        return provider.build(request)
    except Untranslatable as refused:
        return refused


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
        assert provider.name == "mine"

    # Building

    def test_a_call_goes_to_the_base_url_and_carries_the_key_in_a_header_only(self, provider: Provider) -> None:
        for call in (provider.build(self.simple()), provider.build_list_models(KEY)):
            assert call.url.startswith("https://api.example.com/v1/")
            assert KEY not in call.url
            assert KEY not in (call.body or b"").decode()
            assert any(KEY in value for value in call.headers.values())
            assert all(name == name.lower() for name in call.headers)
            assert KEY not in repr(call)

    def test_headers_of_the_configuration_are_added_whatever_their_case(self) -> None:
        provider = self.make_provider(headers={"X-Gateway": "yes", "Content-Type": "application/json; v=1"})
        for call in (provider.build(self.simple()), provider.build_list_models(KEY)):
            assert call.headers.get("x-gateway") == "yes", "a header of the configuration isn't sent"
        assert provider.build(self.simple()).headers.get("content-type") == "application/json; v=1"

    def test_building_changes_nothing_and_gives_the_same_call_again(self, provider: Provider) -> None:
        request = self.simple()
        before = copy.deepcopy(dict(request.input))
        first, second = provider.build(request), provider.build(request)
        assert first == second
        assert dict(request.input) == before

    def test_the_question_and_the_model_are_sent(self, provider: Provider) -> None:
        call = provider.build(self.simple())
        assert call.method == "POST"
        assert QUESTION in texts_in(call), "the question isn't in the body"
        assert self.model in call.url or self.model in texts_in(call), "the model is neither in the URL nor in the body"

    def test_a_conversation_is_sent_whole_and_in_order_or_refused(self, provider: Provider) -> None:
        roles = ("system", "user", "assistant", "user")
        messages = [{"role": role, "content": text} for role, text in zip(roles, TALK.values(), strict=True)]
        call = built(provider, Request(self.model, {"messages": messages}, KEY))
        if isinstance(call, Untranslatable):
            assert call.field.startswith(("messages", "system"))
            return
        sent = texts_in(call)
        places = [sent.find(text) for text in TALK.values()]
        assert -1 not in places, "a part of the conversation isn't in the body"
        assert places[1:] == sorted(places[1:]), "the turns are sent in another order"

    def test_a_body_of_its_own_dialect_goes_out_byte_by_byte(self, provider: Provider) -> None:
        assert provider.build(self.own()).body == self.own_body

    def test_a_body_of_another_dialect_is_refused_by_name(self, provider: Provider) -> None:
        with pytest.raises(Untranslatable) as refused:
            provider.build(Request(self.model, {}, KEY, dialect="klingon", body=b"{}"))
        assert "klingon" in str(refused.value)

    def test_an_unknown_operation_is_refused(self, provider: Provider) -> None:
        with pytest.raises(Untranslatable):
            provider.build(Request(self.model, simple_input(), KEY, operation="levitate"))

    @pytest.mark.parametrize("field", FIELDS)
    def test_a_field_is_sent_or_refused_but_never_dropped(self, provider: Provider, field: str) -> None:
        call = built(provider, self.simple(**{field: FIELDS[field]}))
        if isinstance(call, Untranslatable):
            assert call.field.startswith(field)
            assert field in str(call)
            return
        found = values_in(orjson.loads(call.body or b"null"))
        wanted = [value for value in values_in(FIELDS[field]) if value not in ("n", "name", "schema")]
        marks = [value for value in wanted if "1234" in str(value) or field in ("n", "logprobs", "top_logprobs")]
        assert marks
        lost = [mark for mark in marks if mark not in found]
        assert not lost, f"{field} was neither sent nor refused: nobody would know that it was dropped"

    def test_a_stream_is_asked_for_when_the_request_says_so(self, provider: Provider) -> None:
        assert provider.build(self.simple()).stream is False
        call = built(provider, self.simple(stream=True))
        if isinstance(call, Untranslatable):  # a provider that doesn't stream says so
            assert call.field == "stream"
        else:
            assert call.stream is True

    # Reading

    def test_a_good_reply_becomes_an_answer(self, provider: Provider) -> None:
        reply = self.reply(self.good)
        response = provider.read(self.simple(), reply)
        assert response.failure is None, "the recorded reply is not understood"
        assert response.raw_response == reply.body
        assert (response.http_code, response.latency_ms) == (200, 7)
        expected = self.expected
        assert (response.text, response.usage) == (expected.text, expected.usage)
        assert (response.finish_reason, response.served_model) == (expected.finish_reason, expected.served_model)
        assert response.usage is not None, "the tokens that were used are not read: its calls would be unpriced"
        assert response.tokens_used == response.usage.input_tokens + response.usage.output_tokens

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
        failure = provider.read(self.simple(), self.reply(body, status)).failure
        assert failure is not None
        assert (failure.kind, failure.http_status) == (kind, status)
        assert failure.message
        assert failure.code

    @pytest.mark.parametrize("body", [b"", b"<html>Oops</html>", b"{}", b"[]", b"null", b'{"ok": tru', b"\xff\xfe\x00"])
    def test_a_200_that_is_no_answer_is_unreadable_and_maybe_billed(self, provider: Provider, body: bytes) -> None:
        failure = provider.read(self.simple(), self.reply(body)).failure
        assert failure is not None
        assert (failure.kind, failure.code) == (FailureKind.NETWORK, "unreadable_reply")

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
                failure = provider.read(self.simple(), self.reply(b"", status, **headers)).failure
                assert failure is not None
                if failure.kind is FailureKind.RATE_LIMIT or wait is not None:
                    assert failure.retry_after == wait, headers

    def test_messages_hold_no_secret_no_control_characters_and_not_too_much(self, provider: Provider) -> None:
        text = f"bad key {KEY}\0\x1b[31m Bearer {KEY} {'long ' * 1000}"
        for body in ({"error": {"message": text, "type": KEY, "code": KEY}}, {"error": text}, {"message": text}):
            for status in (400, 401, 403, 404, 429, 500):
                failure = provider.read(self.simple(), self.reply(body, status)).failure
                assert failure is not None
                assert "sk-contract" not in failure.message + failure.code
                assert failure.message.isprintable()
                assert len(failure.message) <= 1000
                assert len(failure.code) <= 64

    def test_a_key_that_looks_like_none_is_removed_all_the_same(self, provider: Provider) -> None:
        request = Request(self.model, simple_input(), "canary.0123456789")
        for body in ({"error": {"message": "no canary.0123456789 here"}}, b"<p>no canary.0123456789 here</p>"):
            failure = provider.read(request, self.reply(body, 400)).failure
            assert failure is not None
            assert "no *** here" in failure.message

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
        assert (call.method, call.body) == ("GET", None)
        models = provider.read_list_models(self.reply(self.model_list))
        assert self.model in [model.id for model in models]

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
                raise AssertionError(f"the model list {body[:200]!r} made reading raise") from error
            assert all(isinstance(model.id, str) for model in models), body[:200]

    # Limits

    @pytest.mark.parametrize("fields", [{}, {"max_tokens": 50}, {"max_tokens": 5000}])
    def test_what_is_booked_is_never_negative_and_holds_one_request(
        self, provider: Provider, fields: dict[str, Any]
    ) -> None:
        booked = provider.charge(self.simple(**fields), 100, 20)
        assert booked.requests == 1
        assert min(booked.tokens, booked.input_tokens, booked.output_tokens) >= 0
        usage = self.expected.usage
        assert usage is not None
        settled = provider.settled(booked, usage)
        assert settled.requests == 1
        assert min(settled.tokens, settled.input_tokens, settled.output_tokens) >= 0

    def test_the_requests_own_bound_on_output_is_known(self, provider: Provider) -> None:
        assert provider.max_output_tokens(self.simple(max_tokens=50)) == 50, "max_output_tokens doesn't tell max_tokens"
        assert isinstance(provider.max_output_tokens(self.simple(max_tokens="many")), int | None)
