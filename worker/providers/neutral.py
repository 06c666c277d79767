"""The neutral shape of a chat request: what a translation reads a body into, and writes the body of another dialect from.

It knows no dialect's wire format; `worker.providers.translation` has one file for each.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from models.errors import Untranslatable

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,", re.ASCII)


def refusal(field: str, target: str, why: str = "") -> Untranslatable:
    """The error of a field that has no place in the target's dialect, to be raised."""
    reason = why or "it has no counterpart there; leave it out, or use a provider of another type"
    shown = printable(field, 200)
    return Untranslatable(shown, f"{shown} can't be translated for {target}: {printable(reason, 400)}")


def printable(text: str, limit: int) -> str:
    """The text as every database and terminal takes it: a body's own names may hold anything."""
    return "".join(c if c.isprintable() else "?" for c in text[:limit])


@dataclass(frozen=True, slots=True)
class Text:
    """`where` is a part's place in the user's own body, for the message when it has none in the target's."""

    where: str
    text: str


@dataclass(frozen=True, slots=True)
class Media:
    """An image, a document or a sound: base64 `data` of a `media_type`, or its `url`. `name` is a label (a file's name)."""

    where: str
    kind: str
    media_type: str = ""
    data: str = ""
    url: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A model's call of a tool, in a turn of the assistant."""

    where: str
    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered, in a turn of the user. `name` is the tool's. `value` is an answer that came as an object."""

    where: str
    id: str
    parts: tuple[Text | Media, ...]
    name: str = ""
    failed: bool = False
    value: Mapping[str, Any] | None = None


Part = Text | Media | ToolUse | ToolResult


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side, `user` or `assistant`, says at a time. `where` is the place of its first message."""

    where: str
    role: str
    parts: tuple[Part, ...]

    def uses(self) -> list[ToolUse]:
        return [part for part in self.parts if isinstance(part, ToolUse)]

    def results(self) -> list[ToolResult]:
        return [part for part in self.parts if isinstance(part, ToolResult)]

    def said(self) -> list[Text | Media]:
        """What is neither a call of a tool nor its result."""
        return [part for part in self.parts if isinstance(part, Text | Media)]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `schema` is the JSON schema of its arguments, None if it takes none."""

    where: str
    name: str
    description: str | None = None
    schema: Mapping[str, Any] | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether the model may (`auto`), must (`any`) or must not (`none`) call tools; `names` are the only ones allowed."""

    where: str
    mode: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Form:
    """The form of the answer: any JSON, or such as fits `schema`. `label` is the schema's name."""

    where: str
    schema: Mapping[str, Any] | None = None
    label: str = "answer"


class Settings:
    """The fields of a body beside its messages and tools. Each is taken once; what nobody took is refused by `done`.

    Names are those of the neutral shape, which are OpenAI's; `where` each stands in the user's own body is kept for messages.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._left: dict[str, tuple[Any, str]] = {}

    def put(self, name: str, value: Any, where: str = "") -> None:
        """None means "not set"."""
        if value is not None:
            self._left[name] = (value, where or name)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def where(self, name: str) -> str:
        """Where a setting stands in the user's body."""
        return self._left[name][1] if name in self._left else name

    def take(self, *names: str) -> Any:
        """The value of the first of these settings that is set; all of them count as taken. None if none is."""
        values = [self._left.pop(name, (None, ""))[0] for name in names]
        return next((value for value in values if value is not None), None)

    def take_only(self, name: str, *harmless: Any) -> None:
        """Accepts a setting with no counterpart where it asks for what happens anyway; else raises Untranslatable."""
        where = self.where(name)
        value = self.take(name)
        if value is not None and not any(value == one and type(value) is type(one) for one in harmless):
            raise refusal(where, self.target)

    def take_number(self, name: str, low: float, high: float) -> int | float | None:
        """A number within the target's bounds. Raises Untranslatable for one outside of them, and for what is none."""
        where = self.where(name)
        value: int | float | None = self.take(name)
        if value is not None and (type(value) not in (int, float) or not low <= value <= high):
            raise refusal(
                where, self.target, f"it should be a number from {low:g} to {high:g} there, not {value!r:.40}"
            )
        return value

    def take_stop(self) -> list[str] | None:
        """`stop` as a list of texts; None for an empty one."""
        where = self.where("stop")
        stop = self.take("stop")
        texts = [stop] if isinstance(stop, str) else stop
        if texts is not None and not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
            raise refusal(where, self.target, "it should be a text or a list of texts")
        return texts or None

    def done(self) -> None:
        """Raises Untranslatable for the first setting that was not taken."""
        for _, where in self._left.values():
            raise refusal(where, self.target)


@dataclass(frozen=True, slots=True)
class Ask:
    """A whole request. `target` is the name of the dialect it is translated for, as messages tell it."""

    target: str
    system: tuple[Text, ...]
    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...]
    choice: Choice | None
    form: Form | None
    settings: Settings


# Reading


def refuse_rest(value: Mapping[str, Any], known: tuple[str, ...], where: str, target: str) -> None:
    """Refuses every field that is set and not known. An empty list counts as not set."""
    prefix = f"{where}." if where else ""
    for field, inner in value.items():
        if field not in known and inner is not None and inner != []:
            raise refusal(f"{prefix}{field}", target)


def listed(value: Any, where: str, target: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, object) of each entry of a list of objects."""
    if not isinstance(value, list):
        raise refusal(where, target, "it should be a list")
    for index, entry in enumerate(value):
        yield f"{where}[{index}]", mapping(entry, f"{where}[{index}]", target)


def mapping(value: Any, where: str, target: str) -> Mapping[str, Any]:
    """The value, which must be an object."""
    if not isinstance(value, Mapping):
        raise refusal(where, target, "it should be an object")
    return value


def text_in(value: Any, where: str, target: str) -> str:
    """The value, which must be a text with something in it."""
    if not isinstance(value, str) or not value:
        raise refusal(where, target, "it should be a text that isn't empty")
    return value


def data_url(url: str, where: str, target: str) -> tuple[str, str] | None:
    """(media type, base64 data) of a data URL; None for any other URL. Raises Untranslatable for data that isn't base64."""
    if not url.startswith("data:"):
        return None
    match = _DATA_URL.match(url)
    if match is None:
        raise refusal(where, target, "a data URL should begin with data:TYPE/SUBTYPE;base64,")
    return match[1], base64_in(url[match.end() :], where, target)


def base64_in(data: Any, where: str, target: str) -> str:
    """The value, which must be base64 of at least one byte."""
    try:
        if isinstance(data, str) and binascii.a2b_base64(data.encode("ascii"), strict_mode=True):
            return data
    except ValueError:
        pass
    raise refusal(where, target, "its data should be base64")


class Talk:
    """Turns as they are read. What the assistant says in a row is one turn, and so are results with what the user adds."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._turns: list[Turn] = []

    def add(self, turn: Turn) -> None:
        last = self._turns[-1] if self._turns else None
        if last and last.role == turn.role and (last.results() or (turn.role == "assistant" and not last.uses())):
            self._turns[-1] = replace(last, parts=last.parts + turn.parts)
        else:
            self._turns.append(turn)

    def turns(self) -> tuple[Turn, ...]:
        """All turns. Raises Untranslatable where a call has no result or a result no call, which every provider refuses."""
        for index, turn in enumerate(self._turns):
            before = self._turns[index - 1] if index else None
            after = self._turns[index + 1] if index + 1 < len(self._turns) else None
            asked = {use.id for use in before.uses()} if before else set()
            uses, results = turn.uses(), turn.results()
            answered = [result.id for result in after.results()] if after else []
            for use in uses:
                if before is None:
                    raise refusal(use.where, self._target, "a tool can only be called after a message of the user")
                if answered.count(use.id) != 1 or [other.id for other in uses].count(use.id) != 1:
                    raise refusal(use.where, self._target, f"call {use.id!r:.60} needs one result, right after it")
            for result in results:
                if result.id not in asked:
                    raise refusal(result.where, self._target, f"no call {result.id!r:.60} stands right before it")
            if turn.parts[: len(results)] != tuple(results):
                raise refusal(turn.where, self._target, "results of tools can only stand before other parts there")
            if before and results:
                names = {use.id: use.name for use in before.uses()}
                named = tuple(replace(result, name=names[result.id]) for result in results)
                self._turns[index] = replace(turn, parts=named + turn.parts[len(named) :])
        return tuple(self._turns)


def agreed(tools: tuple[Tool, ...], choice: Choice | None, settings: Settings) -> None:
    """Raises Untranslatable where tools and the choice of them contradict each other, which every provider refuses."""
    names = [tool.name for tool in tools]
    for tool in tools:
        if names.count(tool.name) > 1:
            raise refusal(tool.where, settings.target, f"there are two tools named {tool.name!r:.80}")
    if choice and not tools:
        raise refusal(choice.where, settings.target, "there are no tools to choose from")
    if choice and (unknown := [name for name in choice.names if name not in names]):
        raise refusal(choice.where, settings.target, f"there is no tool {unknown[0]!r:.80}")


# Writing


def checked_name(where: str, name: str, pattern: re.Pattern[str], target: str) -> str:
    """A tool's name, if the target takes it."""
    if not pattern.fullmatch(name):
        raise refusal(where, target, f"a tool can't be named {name!r:.80} there (it takes {pattern.pattern})")
    return name


def with_ids(turns: tuple[Turn, ...], pattern: re.Pattern[str]) -> tuple[Turn, ...]:
    """Turns whose calls have ids that fit the pattern and differ; an id only links a result to its call, so it may change."""
    seen: set[str] = set()
    written: list[Turn] = []
    new: dict[str, str] = {}
    for turn in turns:
        if turn.uses():
            new = {}
        parts: list[Part] = []
        for part in turn.parts:
            if isinstance(part, ToolUse):
                identity, number = part.id, len(seen)
                while identity in seen or not pattern.fullmatch(identity):
                    number += 1
                    identity = f"call_{number}"
                seen.add(identity)
                new[part.id] = identity
                parts.append(replace(part, id=identity))
            elif isinstance(part, ToolResult):
                parts.append(replace(part, id=new[part.id]))
            else:
                parts.append(part)
        written.append(replace(turn, parts=tuple(parts)))
    return tuple(written)


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are set."""
    return {name: value for name, value in fields.items() if value is not None}
