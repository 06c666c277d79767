"""Which marks of the cache the sandbox's Claude takes, and which beginnings of the prompt they stand for.

What is remembered of them, `caches` knows.
"""

from collections.abc import Iterator
from typing import Any

from worker.sandbox.caches import Mark
from worker.sandbox.claude_blocks import content_text
from worker.sandbox.claude_words import bad
from worker.sandbox.replies import input_tokens, prompt_sha, prompt_text

_MOST_MARKS = 4


def check_marks(body: dict[str, Any]) -> bool:
    """Whether there are marks of the cache; raises Refusal for those of a wrong form, and for more than there may be."""
    marks = list(_marks({name: body.get(name) for name in ("system", "messages", "tools")}))
    if body.get("cache_control") is not None:
        marks.append(("cache_control", body["cache_control"]))
    for where, mark in marks:
        if type(mark) is not dict:
            raise bad(f"{where}: Input should be a valid dictionary")
        if mark.get("type") != "ephemeral":
            raise bad(f"{where}.type: Input should be 'ephemeral'")
        if mark.get("ttl") not in (None, "5m", "1h"):
            raise bad(f"{where}.ttl: Input should be '5m' or '1h'")
    if len(marks) > _MOST_MARKS:
        raise bad(f"A maximum of {_MOST_MARKS} blocks with cache_control may be provided. Found {len(marks)}.")
    return bool(marks)


def _marks(value: object, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every mark below a value, with its place. What lies in tools' arguments and schemas is the user's own."""
    if isinstance(value, list):
        for at, one in enumerate(value):
            yield from _marks(one, f"{where}.{at}".lstrip("."))
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name == "cache_control" and inner is not None:
                yield f"{where}.cache_control", inner
            elif name in ("system", "messages", "tools", "content"):
                yield from _marks(inner, f"{where}.{name}".lstrip("."))


def marks_in(body: dict[str, Any]) -> tuple[Mark, ...]:
    """The marked beginnings of a valid body, shortest first. A mark of the whole body stands at its end."""
    marks: list[Mark] = []
    texts: list[str] = []  # of the contents so far, whole
    contents = [("system", body.get("system"))] + [(one["role"], one["content"]) for one in body["messages"]]
    for role, content in contents:
        if content is None:
            continue
        blocks = content if type(content) is list else []
        for at, block in enumerate(blocks):
            if block.get("cache_control") is not None:
                begun = content_text(blocks[: at + 1], role, role)
                marks.append(_mark([*texts, begun], block["cache_control"]))
        texts.append(content_text(content, role, role))
    if body.get("cache_control") is not None:
        marks.append(_mark(texts, body["cache_control"]))
    return tuple(marks)


def _mark(texts: list[str], control: dict[str, Any]) -> Mark:
    prompt = prompt_text(texts)
    return Mark(prompt_sha(prompt), input_tokens(prompt, len(texts)), control.get("ttl") == "1h")
