"""Which blocks the sandbox's Claude takes in a message, and how calls of tools and their results must stand to each other.

It knows nothing of a body's other fields.
"""

import binascii
import re
from collections.abc import Iterator
from typing import Any

from worker.sandbox.claude_words import bad
from worker.sandbox.dialect import names, stand_in

_BLOCKS = names(
    "text image document search_result thinking redacted_thinking tool_use tool_result server_tool_use "
    "web_search_tool_result web_fetch_tool_result code_execution_tool_result mcp_tool_use mcp_tool_result "
    "container_upload"
)
_FIELDS = {
    "text": names("type text citations cache_control"),
    "image": names("type source cache_control transformations"),
    "document": names("type source title context citations cache_control"),
    "tool_use": names("type id name input cache_control caller toolset_name"),
    "tool_result": names("type tool_use_id content is_error cache_control toolset_name"),
}
_BY_ROLE = {
    "user": _BLOCKS - names("thinking redacted_thinking tool_use server_tool_use mcp_tool_use"),
    "assistant": _BLOCKS - names("image tool_result search_result container_upload"),
    "system": names("text"),
    "result": names("text image document search_result"),
}
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}", re.ASCII)
_ID = re.compile(r"[a-zA-Z0-9_-]+", re.ASCII)
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")


def content_text(content: object, where: str, role: str) -> str:
    """The text that stands for a content; raises Refusal for blocks that the API would refuse."""
    if type(content) is str:
        return content
    if type(content) is not list:
        raise bad(f"{where}: Input should be a valid string or a valid list")
    return "\n".join([_block(block, f"{where}.{at}", where, role) for at, block in enumerate(content)])


def _block(block: object, spot: str, where: str, role: str) -> str:
    if type(block) is not dict:
        raise bad(f"{spot}: Input should be a valid dictionary")
    kind = block.get("type")
    if kind is None:
        raise bad(f"{spot}.type: Field required")
    if type(kind) is not str or kind not in _BLOCKS:
        raise bad(f"{spot}: Input tag '{kind}' found using 'type' does not match any of the expected tags")
    if kind not in _BY_ROLE[role]:
        raise bad(f"{spot}: `{kind}` blocks are not permitted in {role} content")
    for name in block.keys() - _FIELDS.get(kind, block.keys()):
        raise bad(f"{spot}.{kind}.{name}: Extra inputs are not permitted")
    match kind:
        case "text":
            return _text(block, spot, where)
        case "image" | "document":
            _source(block.get("source"), f"{spot}.{kind}.source", kind)
        case "tool_use":
            named(block.get("name"), f"{spot}.tool_use.name")
            _identity(block.get("id"), f"{spot}.tool_use.id")
            if type(block.get("input")) is not dict:
                raise bad(f"{spot}.tool_use.input: Input should be a valid dictionary")
        case "tool_result":
            _identity(block.get("tool_use_id"), f"{spot}.tool_result.tool_use_id")
            if block.get("content") is not None:
                content_text(block["content"], f"{spot}.tool_result.content", "result")
            if type(block.get("is_error", False)) is not bool:
                raise bad(f"{spot}.tool_result.is_error: Input should be a valid boolean")
        case "thinking":
            for field in ("thinking", "signature"):
                if type(block.get(field)) is not str:
                    raise bad(f"{spot}.thinking.{field}: Field required")
    return stand_in(block)


def _text(block: dict[str, Any], spot: str, where: str) -> str:
    text = block.get("text")
    if type(text) is not str:
        raise bad(f"{spot}.text.text: Field required")
    if not text:
        raise bad(f"{where.partition('.content')[0]}: text content blocks must be non-empty")
    if not text.strip():
        raise bad(f"{where.partition('.content')[0]}: text content blocks must contain non-whitespace text")
    return text


def named(name: object, where: str) -> str:
    """A tool's name."""
    if type(name) is not str:
        raise bad(f"{where}: Field required")
    if not _NAME.fullmatch(name):
        raise bad(f"{where}: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
    return name


def _identity(identity: object, where: str) -> None:
    if type(identity) is not str:
        raise bad(f"{where}: Field required")
    if not _ID.fullmatch(identity):
        raise bad(f"{where}: String should match pattern '^[a-zA-Z0-9_-]+$'")


def _source(source: object, where: str, kind: str) -> None:
    if type(source) is not dict:
        raise bad(f"{where}: Field required")
    types = ("base64", "url", "file") if kind == "image" else ("base64", "url", "file", "text", "content")
    form = source.get("type")
    if form not in types:
        raise bad(f"{where}: Input tag '{form}' found using 'type' does not match any of the expected tags")
    if form == "url":
        url = source.get("url")
        if type(url) is not str:
            raise bad(f"{where}.url.url: Field required")
        if not url.startswith(("https://", "http://")):
            raise bad(f"{where}.url.url: Only HTTP and HTTPS URLs are supported.")
    if form == "base64":
        media_type, allowed = source.get("media_type"), _IMAGES if kind == "image" else ("application/pdf",)
        if media_type not in allowed:
            wanted = " or ".join(f"'{one}'" for one in allowed)
            raise bad(f"{where}.base64.media_type: Input should be {wanted}")
        if not _whole_base64(source.get("data")):
            raise bad(f"{where}.base64: invalid base64 data")
    if form == "text" and (source.get("media_type") != "text/plain" or not source.get("data")):
        raise bad(f"{where}.text: Input should be non-empty text of media type 'text/plain'")


def _whole_base64(data: object) -> bool:
    try:
        return type(data) is str and bool(binascii.a2b_base64(data.encode(), strict_mode=True))
    except ValueError:
        return False


def check_calls(messages: list[Any]) -> None:
    """Refuse calls of tools without their results right after them, results without calls, and ids that come twice."""
    turns: list[tuple[str, list[dict[str, Any]]]] = []
    for message in messages:  # messages of one side in a row count as one
        if turns and turns[-1][0] == message["role"]:
            turns[-1][1].extend(_blocks(message["content"]))
        else:
            turns.append((message["role"], list(_blocks(message["content"]))))
    seen: set[str] = set()
    open_calls: list[str] = []
    for at, (_, blocks) in enumerate(turns):
        results = [block["tool_use_id"] for block in blocks if block.get("type") == "tool_result"]
        for identity in results:
            if identity not in open_calls:
                raise bad(
                    f"messages.{at}.content.0: unexpected `tool_use_id` found in `tool_result` blocks: {identity}. Each "
                    "`tool_result` block must have a corresponding `tool_use` block in the previous message."
                )
            if results.count(identity) > 1:
                raise bad(
                    f"messages.{at}.content: each tool_use must have a single result. Found multiple for {identity}."
                )
        _check_answered(open_calls, results, at)
        if results and [block.get("type") for block in blocks[: len(results)]] != ["tool_result"] * len(results):
            raise bad(f"messages.{at}.content: `tool_result` blocks must come first")
        open_calls = [block["id"] for block in blocks if block.get("type") == "tool_use"]
        for identity in open_calls:
            if identity in seen:
                raise bad(f"messages.{at}.content: `tool_use` ids must be unique")
            seen.add(identity)
    _check_answered(open_calls, [], len(turns))


def check_newest_version(messages: list[Any]) -> None:
    """Refuse what the newest version of the API no longer takes: documents of the assistant, citations of the user."""
    for at, message in enumerate(messages):
        for number, block in enumerate(_blocks(message["content"])):
            spot = f"messages.{at}.content.{number}"
            if message["role"] == "assistant" and block.get("type") == "document":
                raise bad(f"{spot}: `document` blocks are not permitted in assistant content")
            if message["role"] == "user" and block.get("type") == "text" and block.get("citations"):
                raise bad(f"{spot}.text.citations: Extra inputs are not permitted")


def _check_answered(calls: list[str], results: list[str], at: int) -> None:
    left = [identity for identity in calls if identity not in results]
    if left:
        raise bad(
            f"messages.{at}: `tool_use` ids were found without `tool_result` blocks immediately after: {', '.join(left)}. "
            "Each `tool_use` block must have a corresponding `tool_result` block in the next message."
        )


def _blocks(content: object) -> Iterator[dict[str, Any]]:
    if isinstance(content, list):
        yield from content
    else:
        yield {"type": "text"}
