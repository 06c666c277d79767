"""The neutral chat shape of a simple line, read for dialects other than OpenAI's: system texts, turns, settings.

It does not write any dialect; what a dialect has no place for is refused here and there, never dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from models.errors import Untranslatable
from models.request import Request

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,([A-Za-z0-9+/=_-]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image: base64 `data` of a `media_type`, or a `url`. `where` is its place in the request."""

    where: str
    media_type: str = ""
    data: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of `user` or `assistant`."""

    role: str
    parts: tuple[TextPart | ImagePart, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """The leading system texts, and then the turns."""

    system: tuple[str, ...]
    turns: tuple[Turn, ...]


def refuse(field: str, dialect: str, why: str = "") -> NoReturn:
    """Raises Untranslatable for a field of a simple line."""
    reason = why or "has no counterpart there; leave it out, or send this line to an OpenAI-type provider"
    raise Untranslatable(field, f"{field} can't be translated for {dialect}: {reason}")


def conversation(request: Request, dialect: str) -> Conversation:
    """The messages of a simple line. Raises Untranslatable for what isn't text or an image of system, user or assistant."""
    messages = request.input.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Untranslatable("messages", "messages should be a list of {role, content} with at least one entry")
    system: list[str] = []
    turns: list[Turn] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, Mapping):
            raise Untranslatable(where, f"{where} should be an object with role and content")
        for field, value in message.items():
            if field not in ("role", "content") and value is not None and value != []:
                refuse(f"{where}.{field}", dialect)
        role = message.get("role")
        parts = _parts(message.get("content"), f"{where}.content", dialect)
        if role in ("system", "developer"):
            if turns:
                refuse(where, dialect, "system messages can only stand at the beginning there")
            for part in parts:
                if not isinstance(part, TextPart):
                    refuse(part.where, dialect, "a system message can only hold text")
                system.append(part.text)
        elif role in ("user", "assistant"):
            turns.append(Turn(role, parts))
        else:
            refuse(f"{where}.role", dialect, f"{role!r} is none of system, developer, user, assistant")
    if not turns:
        raise Untranslatable("messages", f"messages holds only system messages; {dialect} needs a user message")
    return Conversation(tuple(system), tuple(turns))


def _parts(content: Any, where: str, dialect: str) -> tuple[TextPart | ImagePart, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    if not isinstance(content, list) or not content:
        raise Untranslatable(where, f"{where} should be text or a list of parts")
    return tuple(_part(part, f"{where}[{index}]", dialect) for index, part in enumerate(content))


def _part(part: Any, where: str, dialect: str) -> TextPart | ImagePart:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        _refuse_rest(part, ("type", "text"), where, dialect)
        return TextPart(part["text"])
    if kind == "image_url":
        _refuse_rest(part, ("type", "image_url"), where, dialect)
        return _image(part.get("image_url"), f"{where}.image_url", dialect)
    refuse(where, dialect, f"a part of type {kind!r} is neither text nor image_url")


def _image(image: Any, where: str, dialect: str) -> ImagePart:
    if isinstance(image, Mapping):
        if image.get("detail") not in (None, "auto"):
            refuse(f"{where}.detail", dialect)
        _refuse_rest(image, ("url", "detail"), where, dialect)
        image = image.get("url")
    if isinstance(image, str):
        if match := _DATA_URL.fullmatch(image):
            return ImagePart(where, media_type=match[1], data=match[2])
        if image.startswith(("https://", "http://")):
            return ImagePart(where, url=image)
    refuse(where, dialect, "url should be an http(s) URL or a base64 data URL")


def _refuse_rest(value: Mapping[str, Any], known: tuple[str, ...], where: str, dialect: str) -> None:
    for field, inner in value.items():
        if field not in known and inner is not None:
            refuse(f"{where}.{field}", dialect)


class Settings:
    """The fields of a simple line beside model and messages. Each is taken once; what nobody took is refused by `done`."""

    def __init__(self, request: Request, dialect: str) -> None:
        self._dialect = dialect
        # None means "not set" in the shape this one follows.
        self._left = {
            name: value
            for name, value in request.input.items()
            if name not in ("model", "messages") and value is not None
        }

    def take(self, *names: str) -> Any:
        """The value of the first of these fields that is set; all of them count as taken. None if none is."""
        values = [self._left.pop(name, None) for name in names]
        return next((value for value in values if value is not None), None)

    def take_only(self, name: str, *harmless: Any) -> None:
        """Accepts a field with no counterpart where its value asks for what happens anyway; else raises Untranslatable."""
        value = self.take(name)
        if value is not None and not any(value == one and type(value) is type(one) for one in harmless):
            refuse(name, self._dialect)

    def take_stop(self) -> list[Any] | None:
        """`stop` as a list."""
        stop = self.take("stop")
        return [stop] if isinstance(stop, str) else stop

    def take_schema(self) -> tuple[str, Any]:
        """`response_format`: `("text", None)`, `("json", None)` for any JSON, or `("schema", the schema)`."""
        form = self.take("response_format")
        if form is None or form == {"type": "text"}:
            return "text", None
        if form == {"type": "json_object"}:
            return "json", None
        inner = form.get("json_schema") if isinstance(form, Mapping) and form.get("type") == "json_schema" else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("schema"), Mapping):
            refuse("response_format", self._dialect, "it should be of type text, json_object or json_schema")
        # A schema's name is only a label, and both other dialects hold the answer to the schema always ("strict").
        _refuse_rest(inner, ("name", "schema", "strict"), "response_format.json_schema", self._dialect)
        _refuse_rest(form, ("type", "json_schema"), "response_format", self._dialect)
        return "schema", inner["schema"]

    def done(self) -> None:
        """Raises Untranslatable for the first field that was not taken."""
        for name in self._left:
            refuse(name, self._dialect)
