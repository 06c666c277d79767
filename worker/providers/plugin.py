"""What a plugin for a vendor with JSON over HTTP starts from: three methods, and the rest is done as for the built-in providers.

It knows no vendor. A vendor that isn't one call of HTTP needs a `Provider` of its own.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from models.request import CHAT, ModelInfo, Request, Usage
from worker.providers.answers import Answer, Stream
from worker.providers.base import Call, Reply
from worker.providers.chat import ChatProvider
from worker.providers.events import Chunks
from worker.providers.failures import clean, request_id, unreadable
from worker.providers.finish import Finish, finish_of
from worker.providers.neutral import Ask, Choice, Form, Text, Tool, Turn, given, refusal
from worker.providers.replies import at, decode, name, storable, told_count
from worker.providers.translation import read as read_body

_MISREAD = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What reading a reply raises that isn't as it was expected."""


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
    """

    operations: ClassVar[frozenset[str]] = frozenset({CHAT})
    models_path: ClassVar[str] = "/models"

    @abc.abstractmethod
    def write_body(self, wanted: Wanted) -> Mapping[str, Any]:
        """The body of the call. Fields that are None are left out."""

    @abc.abstractmethod
    def read_answer(self, body: dict[str, Any]) -> Answer:
        """What the body of a reply with a 2xx status says. It may raise as Python does where the body isn't as expected."""

    def read_models(self, body: Any) -> Iterable[str | ModelInfo]:
        """The models in the reply to a GET of `models_path`. Default: as OpenAI lists them."""
        return [model["id"] for model in body["data"]]

    def auth(self, api_key: str) -> dict[str, str]:
        return self.key_headers(api_key)

    def translate(self, request: Request) -> dict[str, Any]:
        wanted = Wanted(request.model, read_body(request, self.name))
        body = self.write_body(wanted)
        wanted.done()
        return given(body)

    def answer(self, request: Request, body: dict[str, Any], reply: Reply) -> Answer | None:
        try:
            return _sound(self.read_answer(body))
        except _MISREAD as error:
            why = clean(f"{type(error).__name__}: {error}", self.secrets(request))[:200]
            message = (
                f"HTTP {reply.status} with a body in which {self.name} finds no answer ({why}; {len(reply.body)} bytes)"
            )
            return Answer(failure=unreadable(reply, message))

    def error_in(self, body: Any) -> Any:
        return at(body, "error")

    def call_id(self, body: Any, reply: Reply) -> str | None:
        return request_id(reply, at(body, "id"))

    def assemble(self, request: Request, events: Chunks) -> Stream:
        """Streams are never asked for: an event stream all the same is no answer."""
        return Stream({}, None, False)

    def build_list_models(self, api_key: str) -> Call:
        return self.list_models_call(self.models_path, api_key)

    def read_list_models(self, reply: Reply) -> list[ModelInfo]:
        try:
            told = list(self.read_models(decode(reply.body)))
        except _MISREAD:
            return []
        return [
            model if isinstance(model, ModelInfo) else ModelInfo(model)
            for model in told
            if isinstance(model, ModelInfo) or (isinstance(model, str) and name(model) == model)
        ]


def _sound(answer: Answer) -> Answer:
    """The answer with nothing in it but what can be stored and counted. Raises TypeError or ValueError for what can't."""
    if not isinstance(answer, Answer):
        raise TypeError(f"read_answer gave {type(answer).__name__}, not an Answer")
    if answer.text is not None and not isinstance(answer.text, str):
        raise TypeError(f"the text is {type(answer.text).__name__}")
    return Answer(
        usage=_counted(answer.usage),
        text=None if answer.text is None else storable(answer.text),
        finish_reason=name(answer.finish_reason),
        served_model=name(answer.served_model),
        failure=answer.failure,
        empty=answer.failure is None
        and (answer.empty or (answer.text is not None and not answer.text.strip()))
        and finish_of(answer.finish_reason) is not Finish.LENGTH,
    )


def _counted(usage: Usage | None) -> Usage | None:
    """The usage, None where one of its numbers can't be one of tokens: then the call counts as untold, not as free."""
    if usage is None:
        return None
    fields = ("input", "output", "cached", "cache_write", "reasoning", "cache_write_1h")
    counts = {f"{field}_tokens": told_count(getattr(usage, f"{field}_tokens")) for field in fields}
    known: dict[str, Any] = {field: value for field, value in counts.items() if value is not None}
    return replace(usage, **known) if len(known) == len(counts) else None
