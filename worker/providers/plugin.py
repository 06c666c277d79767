"""What a plugin for a vendor with JSON over HTTP starts from: three methods, and the rest is done as for the built-in providers.

It knows no vendor. A vendor that isn't one call of HTTP needs a `Provider` of its own.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from models.errors import Untranslatable
from models.request import CHAT, Failure, ModelInfo, Request
from worker.providers.answers import Answer, Stream
from worker.providers.base import Call, Reply
from worker.providers.chat import ChatProvider
from worker.providers.events import Chunks
from worker.providers.failures import request_id, unreadable
from worker.providers.guards import MISREAD, raised, sound_answer, sound_failure
from worker.providers.neutral import Ask, Choice, Form, Text, Tool, Turn, given, refusal
from worker.providers.replies import at, decode, name
from worker.providers.translation import read as read_body


class Wanted:
    """One request, whatever form its line had. What is taken is sent by the plugin; what nobody took fails the job, by its name."""

    def __init__(self, model: str, ask: Ask) -> None:
        self.model = model
        self._ask = ask
        self._left = {"tools": ask.tools, "tool_choice": ask.choice, "response_format": ask.form}
        self._talk_taken = False

    def messages(self) -> list[dict[str, str]]:
        """The conversation as `{"role": "system" | "user" | "assistant", "content": text}`. Raises Untranslatable for all but text."""
        told = [{"role": "system", "content": part.text} for part in self.system]
        for turn in self.turns:
            for part in turn.parts:
                if not isinstance(part, Text):
                    raise refusal(part.where, self._ask.target, "it takes text only")
            texts = [part.text for part in turn.parts if isinstance(part, Text)]
            told.append({"role": turn.role, "content": "\n".join(texts)})
        return told

    def take(self, name: str, *others: str) -> Any:
        """The value of the first of these fields that is set, in OpenAI's names (`max_tokens`, `temperature`, `stop`, …), or None."""
        return self._ask.settings.take(name, *others)

    @property
    def system(self) -> tuple[Text, ...]:
        """The system's texts."""
        return self._ask.system

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The conversation with all that it holds: texts, media, calls of tools and their results."""
        self._talk_taken = True
        return self._ask.turns

    @property
    def tools(self) -> tuple[Tool, ...]:
        self._left.pop("tools", None)
        return self._ask.tools

    @property
    def tool_choice(self) -> Choice | None:
        self._left.pop("tool_choice", None)
        return self._ask.choice

    @property
    def form(self) -> Form | None:
        """The form that the answer should have: JSON, or JSON that fits a schema."""
        self._left.pop("response_format", None)
        return self._ask.form

    def done(self) -> None:
        """Raises Untranslatable for the first thing that was asked for and that nobody took."""
        if not self._talk_taken:
            raise refusal("messages", self._ask.target, "the plugin sends no messages: a bug of its write_body")
        for field, value in self._left.items():
            if value:
                raise refusal(field, self._ask.target)
        for field, usual in (("stream", False), ("n", 1), ("store", False)):
            self._ask.settings.take_only(field, usual)
        self._ask.settings.done()


class JsonProvider(ChatProvider):
    """A vendor that takes a JSON body by POST and answers with JSON: a subclass brings `path`, `write_body` and `read_answer`.

    The key goes out as `Authorization: Bearer`, unless `key_header` or `keyless` of the configuration, or `auth`, say otherwise.
    Lines in every form arrive as one `Wanted`. Errors are told apart by the table of signals that holds for any vendor, and a reply that `read_answer` can't
    make sense of is an unreadable one, so neither needs any care in the plugin. `models_path` is where the list of models is.

    Hooks that read are called with decoded JSON objects (dicts) only and may raise as Python does where one isn't as expected:
    `read_answer` makes the reply unreadable by that, `error_in` finds no error, `judge` leaves the failure to the table. Hooks that write
    (`path`, `auth`, `write_body`) fail the job by it, before anything is sent.
    """

    operations: ClassVar[frozenset[str]] = frozenset({CHAT})
    models_path: ClassVar[str] = "/models"

    @abc.abstractmethod
    def write_body(self, wanted: Wanted) -> Mapping[str, Any]:
        """The body of the call. Fields that are None are left out."""

    @abc.abstractmethod
    def read_answer(self, body: dict[str, Any]) -> Answer:
        """The answer in the body of a reply with a 2xx status. It may raise as Python does where the body isn't as expected."""

    def read_stream(self, events: list[dict[str, Any]]) -> Mapping[str, Any] | None:
        """The body that a stream's events stand for, as `read_answer` takes it; None if the end is missing. Default: no stream is read.

        `events` are the data of the server-sent events, up to a `[DONE]`. A plugin whose `write_body` takes `stream` needs it.
        """
        return None

    def read_models(self, body: Any) -> Iterable[str | ModelInfo]:
        """The models in the reply to a GET of `models_path`. Default: as OpenAI lists them."""
        return [model["id"] for model in body["data"]]

    def auth(self, api_key: str) -> dict[str, str]:
        """The headers that carry the key."""
        return self.key_headers(api_key)

    def error_in(self, body: dict[str, Any]) -> Any:
        """The error in a reply's decoded body, of any status; None, or anything empty, if it holds none. True: the body as a whole is one."""
        return at(body, "error")

    def judge(self, request: Request, reply: Reply, body: dict[str, Any] | None) -> Failure | None:
        """The failure that a reply stands for. `body` is its decoded body, or None where that is no JSON object.

        None: the provider's `signals` and the table decide, as they do by default.
        """
        return super().judge(request, reply, body)

    # What is made of them

    def translate(self, request: Request) -> dict[str, Any]:
        wanted = Wanted(request.model, read_body(request, self.name))
        try:
            body = self.write_body(wanted)
        except Untranslatable:
            raise
        except MISREAD as error:
            raise self._mistake("write_body", error, request.api_key) from error
        if not isinstance(body, Mapping):
            raise Untranslatable("body", f"{self._called('write_body')} gave {type(body).__name__}, not a dict")
        wanted.done()
        return given(body)

    def asked_path(self, request: Request) -> str:
        try:
            path = self.path(request)
        except MISREAD as error:
            raise self._mistake("path", error, request.api_key) from error
        if not isinstance(path, str) or "://" in path.partition("?")[0]:
            shown = "a whole URL" if isinstance(path, str) else type(path).__name__
            raise Untranslatable("path", f"{self._called('path')} gave {shown}, not the text that follows base_url")
        return path if not path or path.startswith(("/", "?")) else f"/{path}"

    def own_headers(self, api_key: str) -> dict[str, str]:
        try:
            headers = {
                str(name).lower(): value for name, value in dict(self.auth(api_key)).items() if value is not None
            }
        except MISREAD as error:
            raise self._mistake("auth", error, api_key) from error
        if not all(isinstance(value, str) for value in headers.values()):
            raise Untranslatable("auth", f"{self._called('auth')} gave a header whose value is no text")
        return headers

    def _mistake(self, method: str, error: Exception, api_key: str) -> Untranslatable:
        return Untranslatable(method, raised(self._called(method), error, [api_key, *self._secret_headers]))

    def _called(self, method: str) -> str:
        return f"{type(self).__name__}.{method}"

    def answer(self, request: Request, body: dict[str, Any], reply: Reply) -> Answer | None:
        secrets = self.secrets(request)
        try:
            return sound_answer(self.read_answer(body), reply, secrets)
        except MISREAD as error:
            why = raised("read_answer", error, secrets)
            message = (
                f"HTTP {reply.status} with a body in which {self.name} finds no answer ({why}; {len(reply.body)} bytes)"
            )
            return Answer(failure=unreadable(reply, message))

    def found_error(self, body: Any) -> Any:
        if not isinstance(body, dict):
            return None
        try:
            error = self.error_in(body)
            return (body if error is True else error) if error else None
        except MISREAD:
            return None

    def failure_of(self, request: Request, reply: Reply, body: dict[str, Any] | None) -> Failure:
        usual = super().judge(request, reply, body)
        assert usual is not None
        try:
            return sound_failure(self.judge(request, reply, body), usual, self.secrets(request))
        except MISREAD:
            return usual

    def call_id(self, body: Any, reply: Reply) -> str | None:
        return request_id(reply, at(body, "id"))

    def assemble(self, request: Request, chunks: Chunks) -> Stream:
        """The body that `read_stream` makes of the events. An event that is named `error`, or in which `error_in` finds one, ends it."""
        events: list[dict[str, Any]] = []
        error: Any = None
        for event, value in chunks:
            if error is None:
                error = value if event == "error" and value else self.found_error(value)
            if isinstance(value, dict):
                events.append(value)
        try:
            body = self.read_stream(events)
        except MISREAD:
            body = None
        made = dict(body) if isinstance(body, Mapping) else {}
        return Stream(made, error, bool(made) and not chunks.broken and error is None)

    def build_list_models(self, api_key: str) -> Call:
        return self.list_models_call(self.models_path, api_key)

    def read_list_models(self, reply: Reply) -> list[ModelInfo]:
        try:
            told = list(self.read_models(decode(reply.body)))
        except MISREAD:
            return []
        return [
            model if isinstance(model, ModelInfo) else ModelInfo(model)
            for model in told
            if isinstance(model, ModelInfo) or (isinstance(model, str) and name(model) == model)
        ]
