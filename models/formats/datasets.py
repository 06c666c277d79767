"""Rows of public data sets, read as the simple lines that they stand for; and conversations that end with their answer.

A row becomes the bytes of a simple line, so that nothing behind the check needs to know where it came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from models.formats import parameters
from models.formats.beside import METADATA, merged_metadata
from models.formats.fields import QUESTIONS, Refused, asks_itself, show
from models.formats.reading import ALPACA, DROPPED, PREFILL, SHAREGPT, LastAnswer, Note

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])

_PLACES = frozenset({"id", "custom_id", "model", "provider", "route", "system", parameters.EXTRA})
"""Fields that mean in a row what they mean in a simple line."""
ANSWER = "answer"
"""Field of the metadata in which an answer that isn't sent comes back."""

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
}
"""Who speaks in a ShareGPT conversation, by the words of such files."""
_CONVERSATIONS = ("conversations", "conversation")
_INPUTS = ("input", "context")
"""Where the text that an instruction is about stands: Alpaca's field, and Dolly's."""
_TRAINING = frozenset({"messages", "tools", "functions", "parallel_tool_calls"})
"""Fields of a line in a file for fine-tuning (OpenAI API reference: fine-tuning, chat format)."""


def as_simple(row: dict[str, Any], line: bytes) -> tuple[dict[str, Any], bytes, Note] | None:
    """A data set's row as a simple line, decoded and in bytes, with a note; None for anything else. Raises Refused."""
    if type(row.get("instruction")) is str and not _asks(row, ("prompt", "messages", "embed", "body")):
        return _rewritten(row, line, {"instruction", *_INPUTS, "history"}, _alpaca(row), ALPACA)
    for name in _CONVERSATIONS:
        if type(row.get(name)) is list and not asks_itself(row) and "body" not in row:
            messages = [_message(turn, f"{name}[{index}]") for index, turn in enumerate(row[name])]
            return _rewritten(row, line, {name}, {"messages": messages}, SHAREGPT)
    return None


def _asks(row: Mapping[str, Any], names: Iterable[str]) -> bool:
    return any(row.get(name) is not None for name in names)


def _alpaca(row: Mapping[str, Any]) -> dict[str, Any]:
    texts = [row["instruction"]]
    for name in _INPUTS:
        value = row.get(name)
        if value is not None and type(value) is not str:
            raise Refused(f"{name} beside an instruction must be a string, not {show(value)}")
        if value and not value.isspace():
            texts.append(value)
    question = "\n\n".join(text for text in texts if text and not text.isspace())
    history = row.get("history")
    if not history:
        return {"prompt": question}
    if type(history) is not list or any(type(pair) is not list or len(pair) != 2 for pair in history):
        raise Refused("history beside an instruction must be a list of [question, answer]")
    roles = ("user", "assistant")
    turns = [{"role": role, "content": text} for pair in history for role, text in zip(roles, pair, strict=True)]
    return {"messages": [*turns, {"role": "user", "content": question}]}


def _message(turn: object, where: str) -> dict[str, Any]:
    if type(turn) is not dict:
        raise Refused(f"{where} must be an object with from and value, not {show(turn)}")
    if "from" not in turn and "role" in turn:
        return turn
    said_by, value = turn.get("from"), turn.get("value")
    role = _ROLES.get(said_by.lower()) if type(said_by) is str else None
    if role is None:
        raise Refused(
            f"{where}.from is {show(said_by)}: only turns of {', '.join(list(_ROLES)[:4])} and system are read; write the line "
            "with messages, calls of tools included"
        )
    if type(value) is not str:
        raise Refused(f"{where}.value must be a string, not {show(value)}")
    return {"role": role, "content": value}


def _rewritten(
    row: Mapping[str, Any], line: bytes, asked: set[str], question: dict[str, Any], note: Note
) -> tuple[dict[str, Any], bytes, Note]:
    """The simple line: our fields and parameters as they are, the question in place of `asked`, the rest in the metadata."""
    raw = _members.decode(line)
    kept = {name for name in row if name in _PLACES or name in parameters.KNOWN}
    rest = [name for name in row if name not in kept and name not in asked and name != METADATA]
    members = {name: raw[name] for name in row if name in kept}
    members |= {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in question.items()}
    if metadata := merged_metadata(row, raw, rest):
        members[METADATA] = msgspec.Raw(metadata)
    made = msgspec.json.encode(members)
    return msgspec.json.decode(made), made, note


def without_last_answer(
    row: dict[str, Any], line: bytes, choice: LastAnswer | None, *, dataset: bool
) -> tuple[dict[str, Any], bytes, Note | None]:
    """A simple line whose conversation doesn't end with the assistant's message, unless that is meant to be sent. Raises Refused."""
    name = next((field for field in ("messages", "input") if type(row.get(field)) is list), None)
    messages = row[name] if name else None
    if not messages or type(messages[-1]) is not dict or messages[-1].get("role") != "assistant":
        return row, line, None
    training = not dataset and _is_training(row, messages)
    if choice is None and training:
        raise Refused(
            "ends with the assistant's answer, as a training example does: --last-answer drop asks without it, --last-answer send "
            "sends it as the beginning of the answer"
        )
    if choice is LastAnswer.SEND or (choice is None and not dataset):
        return row, line, PREFILL
    end = len(messages)
    while end and type(messages[end - 1]) is dict and messages[end - 1].get("role") == "assistant":
        end -= 1
    asked = messages[:end]
    if not any(type(message) is dict and message.get("role") not in ("system", "developer") for message in asked):
        raise Refused("holds answers only: without them nothing is asked")
    asked = [{key: value for key, value in message.items() if key != "weight"} for message in asked]
    answer = messages[end].get("content") if len(messages) == end + 1 else messages[end:]
    raw = _members.decode(line)
    assert name is not None
    raw[name] = msgspec.Raw(msgspec.json.encode(asked))
    metadata = row.get(METADATA)
    if metadata is None or type(metadata) is dict:
        raw[METADATA] = msgspec.Raw(msgspec.json.encode({ANSWER: answer, **(metadata or {})}))
    made = msgspec.json.encode(raw)
    return msgspec.json.decode(made), made, DROPPED


def _is_training(row: Mapping[str, Any], messages: list[Any]) -> bool:
    """Whether a line is an example of a fine-tuning file rather than a request: it says nothing of how it is to be answered."""
    if any(type(message) is dict and "weight" in message for message in messages):
        return True
    return all(name in _TRAINING for name, value in row.items() if value is not None)


_EMBEDS = re.compile(
    r"(^|[/:._-])(text-embedding|embedding|embeddings|embed|embedder|(multilingual-)?e5|bge(?!-reranker)|gte|gtr|voyage(?!-rerank)|minilm|mpnet|"
    r"jina-clip|text2vec|m3e|uae|sfr-embedding|nv-embed\w*|\w+-embed)([/:._-]|$)|embedqa|embedcode",
    re.IGNORECASE,
)


def makes_embeddings(model: str) -> bool:
    """Whether a model's name is one of an embedding model's (OpenAI, Gemini, Mistral, Cohere, Voyage, Jina, and common open ones)."""
    return _EMBEDS.search(model) is not None


def as_embedding(row: dict[str, Any], line: bytes, model: str) -> tuple[dict[str, Any], bytes] | None:
    """A line whose `input` goes to an embedding model, as one that asks for embeddings; None for another. Raises Refused."""
    asked = [field for field in QUESTIONS if row.get(field) is not None]
    value = row.get("input")
    texts = type(value) is str or (type(value) is list and all(type(text) is str for text in value))
    if asked != ["input"] or not texts:
        if type(value) is list and asked == ["input"] and all(type(one) in (int, list) for one in value):
            raise Refused(
                "input holds token numbers: write such a line as an OpenAI batch line with url /v1/embeddings"
            )
        if asked:
            raise Refused(
                f"has {' and '.join(asked)}, and {show(model)} makes embeddings: write the text as embed, as in "
                '{"embed": "…"}, or ask a model that chats'
            )
        return None
    made = msgspec.json.encode(
        {("embed" if name == "input" else name): raw for name, raw in _members.decode(line).items()}
    )
    return {("embed" if name == "input" else name): value for name, value in row.items() if name != "embed"}, made
