"""Which contents and parts the sandbox's Gemini takes, and how calls of functions and their responses must stand to each other.

It knows nothing of a body's other fields.
"""

import binascii
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from worker.sandbox.dialect import names, stand_in
from worker.sandbox.gemini_words import bad, camel, message, mistyped, repeated

_CONTENT = frozenset(("role", "parts"))
_DATA = names("text inlineData fileData functionCall functionResponse executableCode codeExecutionResult")
_PARTS = _DATA | names("thought thoughtSignature videoMetadata mediaResolution partMetadata toolCall toolResponse")
_BLOB = names("mimeType data displayName")
_FILE = names("mimeType fileUri displayName")
_CALL = names("id name args partialArgs willContinue")
_RESPONSE = names("id name response willContinue scheduling parts")
_FILE_URI = re.compile(
    r"https://generativelanguage\.googleapis\.com/(?:[\w/]+/)?files/\w|gs://\w|https://(?:www\.)?youtube\.com/watch\?|https://youtu\.be/\w",
    re.ASCII,
)
_SIGNED = re.compile(r"gemini-[3-9]", re.ASCII)


def content_text(content: object, where: str, empty_allowed: bool = False) -> tuple[str, object, list[dict[str, Any]]]:
    """Text, role and parts of one content."""
    fields = camel(message(content, where), _CONTENT, where)
    parts = repeated(fields.get("parts"), f"{where}.parts")
    if not parts and not empty_allowed:
        raise bad(f"* GenerateContentRequest.{where}.parts: contents.parts must not be empty.\n")
    known = [
        camel(message(part, f"{where}.parts[{at}]"), _PARTS, f"{where}.parts[{at}]") for at, part in enumerate(parts)
    ]
    texts = [_part(part, f"{where}.parts[{at}]") for at, part in enumerate(known)]
    return "\n".join(texts), fields.get("role"), known


def _part(part: dict[str, Any], spot: str) -> str:
    kinds = [name for name in part if name in _DATA]
    if not kinds:
        what = "required oneof field 'data' must have one initialized field"
        raise bad(f"* GenerateContentRequest.{spot}.data: {what}\n")
    if len(kinds) > 1:
        what = f"Invalid value at '{spot}' (oneof), oneof field 'data' is already set. Cannot set '{kinds[1]}'"
        raise bad(what, spot)
    kind, value = kinds[0], part[kinds[0]]
    if kind == "text":
        if type(value) is not str:
            raise mistyped(value, f"{spot}.text", "TYPE_STRING")
        return value
    where = f"{spot}.{kind}"
    match kind:
        case "inlineData":
            blob = camel(message(value, where), _BLOB, where)
            _text(blob.get("mimeType"), f"{where}.mime_type")
            if not _whole_base64(blob.get("data")):
                raise mistyped(blob.get("data"), f"{where}.data", "TYPE_BYTES")
        case "fileData":
            file = camel(message(value, where), _FILE, where)
            if not _FILE_URI.match(_text(file.get("fileUri"), f"{where}.file_uri")):
                raise bad(f"Unsupported file URI type: {file['fileUri'][:200]}")
        case "functionCall":
            call = camel(message(value, where), _CALL, where)
            _text(call.get("name"), f"{where}.name")
            message(call.get("args", {}), f"{where}.args")
        case "functionResponse":
            response = camel(message(value, where), _RESPONSE, where)
            _text(response.get("name"), f"{where}.name")
            message(response.get("response"), f"{where}.response")
        case _:
            message(value, where)
    return stand_in(part)


def _text(value: object, where: str) -> str:
    if value is not None and type(value) is not str:
        raise mistyped(value, where, "TYPE_STRING")
    if not value:
        raise bad(f"* GenerateContentRequest.{where}: {where.rpartition('.')[2]} cannot be empty.\n")
    return str(value)


def media_in(parts: Iterable[dict[str, Any]]) -> tuple[tuple[str, int], ...]:
    """The tokens of images, sound, video and documents, by their modality: those of the texts that stand for them."""
    found: Counter[str] = Counter()
    for part in parts:
        media = part.get("inlineData") or part.get("fileData")
        if media:
            kind = str(media.get("mimeType") or media.get("mime_type") or "").partition("/")[0].upper()
            found[kind if kind in ("IMAGE", "AUDIO", "VIDEO") else "DOCUMENT"] += len(stand_in(part)) // 4
    return tuple(sorted(found.items()))


def _whole_base64(data: object) -> bool:
    try:
        return type(data) is str and bool(binascii.a2b_base64(data.replace("-", "+").replace("_", "/").encode()))
    except ValueError:
        return False


def check_calls(turns: Sequence[tuple[object, list[dict[str, Any]]]], model: str) -> None:
    """Refuse calls that don't follow the user or have no responses, and responses without calls. Turns are (role, parts)."""
    waiting, before = 0, ""
    for role, parts in turns:
        calls = [part for part in parts if "functionCall" in part]
        responses = sum("functionResponse" in part for part in parts)
        if (calls and role != "model") or (responses and role == "model"):
            raise bad("Please ensure that function calls come from the model and function responses from the user.")
        if waiting != responses:
            raise bad(
                "Please ensure that the number of function response parts is equal to the number of function call parts of "
                "the function call turn."
            )
        if calls and before != "user":
            raise bad(
                "Please ensure that function call turn comes immediately after a user turn or after a function response "
                "turn."
            )
        if calls and _SIGNED.match(model) and not calls[0].get("thoughtSignature"):
            raise bad("Function call is missing a thought_signature in functionCall parts.")
        waiting, before = len(calls), "model" if role == "model" else "user"
    if waiting:
        raise bad("Please ensure that function call turn is followed by a function response turn.")
