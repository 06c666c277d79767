"""What the built-in providers share: who may pass a body untouched, and how a reply of any status and any bytes becomes a Response.

It knows no dialect; the subclasses fill in translation, authentication, errors, answers and stream assembly.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import urlencode

from models.config import ProviderConfig
from models.errors import Untranslatable
from models.formats.parameters import EXTRA, merged
from models.request import CHAT, EMBEDDINGS, SIMPLE, Failure, FailureKind, FailureScope, Request, Response, StatedLimit
from models.signals import Signal
from worker.providers.another_server import of_another_server
from worker.providers.answers import Answer, Stream
from worker.providers.base import Call, Provider, Reply, Sender
from worker.providers.bodies import own_body
from worker.providers.embeddings import outline
from worker.providers.events import Chunks, is_event_stream, read_events, read_values
from worker.providers.failures import beginning, read_failure, redirected, truncated, unreadable
from worker.providers.growing import joined
from worker.providers.masks import secret_headers, without_secrets
from worker.providers.replies import BOM, at, count, decode, encode, has_constant, is_json, reply_time
from worker.providers.signals import ANY
from worker.providers.stated_limits import stated_by
from worker.providers.translation import readable
from worker.providers.usage import plausible

_LIMITED = (FailureKind.RATE_LIMIT, FailureKind.QUOTA)


class ChatProvider(Provider):
    """A provider whose chat is one POST of JSON, and so is whatever else it can be asked for (`operations`)."""

    operations: ClassVar[frozenset[str]] = frozenset({CHAT})
    signals: ClassVar[tuple[Signal, ...]] = ANY
    """What the errors of the dialect mean; the rows of the configuration are compared before these."""

    def __init__(self, config: ProviderConfig, sender: Sender) -> None:
        super().__init__(config, sender)
        self._headers = {name.lower(): value for name, value in config.headers.items()}
        self._secret_headers = secret_headers(self._headers)
        self._query = urlencode(config.query)
        self._signals = (*(row.signal for row in config.signals), *self.signals)

    @abc.abstractmethod
    def auth(self, api_key: str) -> dict[str, str]:
        """The headers (lower-case names) that carry the key and the API's version."""

    @abc.abstractmethod
    def path(self, request: Request) -> str:
        """What follows the base URL."""

    @abc.abstractmethod
    def translate(self, request: Request) -> dict[str, Any]:
        """The body for a request in another dialect, simple lines included. Raises Untranslatable."""

    @abc.abstractmethod
    def answer(self, request: Request, body: dict[str, Any], reply: Reply) -> Answer | None:
        """What a body means that holds no error; None if it is no answer at all. Of embeddings the body is an `outline`."""

    @abc.abstractmethod
    def error_in(self, body: Any) -> Any:
        """The error that a body holds, whatever the status says; None if it holds none."""

    def judge(self, request: Request, reply: Reply, body: dict[str, Any] | None) -> Failure | None:
        """Returns the failure that a reply stands for, which is an error by its status or by `error_in`; None leaves that to the signals.

        `body` is the reply's decoded body, None where that is no JSON object; of an error inside a stream it is `{"error": error}`.
        """
        if body is None:
            return self._failure(request, reply, decode(reply.body) or None)
        error = self.found_error(body)
        if error is not None and body.get("error") is not error:
            body = {"error": error}
        return self._failure(request, reply, body or None)

    # What `read` and `build` ask of the methods above. A class that has them from strangers guards them here.

    def found_error(self, body: Any) -> Any:
        """`error_in`, for any decoded body."""
        return self.error_in(body)

    def failure_of(self, request: Request, reply: Reply, body: dict[str, Any] | None) -> Failure:
        """`judge`, or what the signals make of the reply."""
        return self.judge(request, reply, body) or ChatProvider.judge(self, request, reply, body)  # type: ignore[return-value]

    def asked_path(self, request: Request) -> str:
        """`path`."""
        return self.path(request)

    def own_headers(self, api_key: str) -> dict[str, str]:
        """`auth`."""
        return self.auth(api_key)

    def _failure(self, request: Request, reply: Reply, body: Any) -> Failure:
        secrets = self.secrets(request)
        return read_failure(reply, body, request=request, secrets=secrets, signals=self._signals)

    @abc.abstractmethod
    def assemble(self, request: Request, chunks: Chunks) -> Stream:
        """The body that a stream's events stand for. It isn't whole where one of them was broken."""

    @abc.abstractmethod
    def call_id(self, body: Any, reply: Reply) -> str | None:
        """The provider's id of the call."""

    def own_body(self, request: Request) -> bytes:
        """The bytes of a body in this dialect."""
        return own_body(request)

    def build(self, request: Request) -> Call:
        if request.operation not in self.operations:
            known = ", ".join(sorted(self.operations))
            raise Untranslatable("operation", f"{self.name} does {known} only, not {request.operation}")
        if request.dialect == self.dialect:
            body = self.own_body(request)
        elif readable(request.dialect):
            more = request.input.get(EXTRA) if request.dialect == SIMPLE else None
            if more is not None:
                request = replace(
                    request, input={name: value for name, value in request.input.items() if name != EXTRA}
                )
            try:
                translated = self.translate(request)
                body = encode(merged(translated, more) if more else translated)
            except RecursionError:
                raise Untranslatable("body", "the body is nested too deep to be translated") from None
            except (TypeError, ValueError) as error:
                raise Untranslatable("body", f"the translated body can't be written as JSON: {error}") from None
        else:
            raise Untranslatable("body", f"a body in the {request.dialect} dialect can't go to {self.name}")
        headers = {"content-type": "application/json", **self.own_headers(request.api_key), **self._headers}
        return Call("POST", self.url(self.asked_path(request)), headers, body, request.stream)

    def stated_limits(self, reply: Reply, failure: Failure | None) -> Sequence[StatedLimit]:
        """The limits in the usual rate-limit headers and, of a refusal, in its words and fields."""
        refused = failure is not None and (reply.status == 429 or failure.kind in _LIMITED)
        return stated_by(
            reply.headers,
            reply_time(reply),
            body=decode(reply.body) if refused else None,
            message=failure.message if failure and refused else "",
            scope=failure.scope if failure else None,
            refused=refused,
        )

    def max_output_tokens(self, request: Request) -> int | None:
        if request.dialect != "gemini":
            return super().max_output_tokens(request)
        config = at(request.input, "generationConfig") or at(request.input, "generation_config")
        return count(at(config, "maxOutputTokens") or at(config, "max_output_tokens")) or None

    def read(self, request: Request, reply: Reply) -> Response:
        if reply.body.startswith(BOM):  # it would stand before the JSON in results, too
            reply = replace(reply, body=reply.body.removeprefix(BOM))
        good = 200 <= reply.status < 300
        whole, streamed = True, False
        raw = reply.body
        body: Any = None
        stream: Stream | None = None
        if good and is_event_stream(reply, request.stream):
            stream = self.assemble(request, Chunks(read_events(reply.body)))
        else:
            body = outline(reply.body) if good and request.operation == EMBEDDINGS else decode(reply.body)
            if isinstance(body, list) and (len(body) == 1 or (body and not good)):
                body = body[0]  # Gemini wraps errors like this where no SSE was asked for
            error = self.found_error(body)
            if good and not isinstance(body, dict):
                stream = self._of_values(request, reply)
            if request.operation != EMBEDDINGS and isinstance(body, dict) and has_constant(raw) and not is_json(raw):
                raw = encode(body)  # results are JSON that every reader takes
        if stream is not None:
            body = joined(stream.body)
            error, whole, streamed = stream.error, stream.whole, True
            try:
                raw = encode(body) if body else raw
            except RecursionError:  # no answer is nested like this
                body, error, whole = {}, None, False
        answer = self.answer(request, body, reply) if good and isinstance(body, dict) else None
        failure: Failure | None
        if 300 <= reply.status < 400:
            failure = redirected(reply)
        elif error is not None:
            told = body if isinstance(body, dict) else None
            failure = self.failure_of(request, reply, {"error": error} if streamed else told)
        elif not good:
            failure = self.failure_of(request, reply, body if isinstance(body, dict) else None)
        elif not whole:
            failure = truncated(reply)
        elif answer is None:
            failure = self._unnamed_error(request, reply, body) or unreadable(reply, self._nonsense(reply))
        else:
            failure = answer.failure
        if failure is not None:
            no_answer = not good or error is not None or answer is None
            no_answer |= failure.code == "unreadable_reply" and answer is not None and answer.usage is None
            failure = self._with_address(request, reply, body, failure) if no_answer else failure
        answer = answer or Answer()
        if failure is None and not answer.empty and answer.usage and not plausible(answer.usage, request.operation):
            answer = replace(answer, usage=None)
        response = Response(
            raw_response=raw,
            http_code=reply.status,
            failure=failure,
            usage=answer.usage,
            text=answer.text,
            finish_reason=answer.finish_reason,
            served_model=answer.served_model,
            request_id=self.call_id(body, reply),
            latency_ms=reply.latency_ms,
            empty=answer.empty and failure is None,
        )
        return without_secrets(response, self.secrets(request))

    def _of_values(self, request: Request, reply: Reply) -> Stream | None:
        """Returns what the objects of a body come to that holds several: a whole answer with something behind it, or the pieces of one.
        None where they are no answer and no error of this API."""
        events = read_values(reply.body)
        if request.operation == EMBEDDINGS or not events:
            return None
        values = [value for _, value in Chunks(events) if isinstance(value, dict)]
        first = self.answer(request, values[0], reply) if values else None
        if first and first.finish_reason and not first.failure:
            error = next((found for value in values if (found := self.found_error(value))), None)
            return Stream(values[0], error, True)
        stream = self.assemble(request, Chunks(events))
        if not stream.error and self.answer(request, joined(stream.body), reply) is None:
            return None
        return stream

    def _unnamed_error(self, request: Request, reply: Reply, body: Any) -> Failure | None:
        """Returns the failure that a 200 without an answer stands for, where a signal reads its words or its code; else None."""
        if not isinstance(body, dict) or not body:
            return None
        failure = self._failure(request, reply, body)
        return None if failure.kind in (FailureKind.SERVER, FailureKind.BAD_REQUEST) else failure

    def _with_address(self, request: Request, reply: Reply, body: Any, failure: Failure) -> Failure:
        """The failure with the URL that was asked, where what answered there isn't this API."""
        if failure.scope is not FailureScope.ENDPOINT and not of_another_server(reply, body, failure):
            return failure
        words = failure.message
        if failure.code == "unreadable_reply":
            shown = beginning(reply, body, self.secrets(request)).partition(": ")[2][:200]
            words = f"{words}: {shown}" if shown else words
        try:
            asked = self.config.base_url + self.asked_path(request)
        except Untranslatable:  # of a request that is none: the list of models was asked for
            asked = self.config.base_url
        message = f"{words}; is base_url right? {asked} was asked"
        return replace(failure, message=message, scope=FailureScope.ENDPOINT)

    def _nonsense(self, reply: Reply) -> str:
        form = "empty" if not reply.body else f"no {self.dialect or self.name} answer"
        return f"HTTP {reply.status} with a body that is {form} ({len(reply.body)} bytes)"

    def secrets(self, request: Request) -> list[str]:
        """What must not appear in a message: the key, and the headers that the configuration adds (gateways' keys)."""
        return [request.api_key, *self._secret_headers]

    def list_models_call(self, path: str, api_key: str) -> Call:
        """A GET with this provider's headers."""
        return Call("GET", self.url(path), {**self.own_headers(api_key), **self._headers})

    def url(self, path: str) -> str:
        """The whole URL of a path behind the base URL, with the query that the configuration adds."""
        url = self.config.base_url + path
        return f"{url}{'&' if '?' in path else '?'}{self._query}" if self._query else url

    def key_headers(self, api_key: str) -> dict[str, str]:
        """The header that carries the key as the configuration says: its own, `authorization` by default, none at all."""
        if self.config.keyless:
            return {}
        if self.config.key_header:
            return {self.config.key_header.lower(): api_key}
        return {"authorization": f"Bearer {api_key}"}
