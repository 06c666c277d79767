"""The simple dialect: one object a line with `prompt`, `messages` or `input`, or with `embed`, read and written.

It does not choose a provider and makes no call; a simple line's body is the whole line as written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from models.formats import fields, other_forms, parameters
from models.formats.beside import METADATA, merged_metadata
from models.formats.draft import Draft
from models.formats.fields import QUESTIONS, Refused, show
from models.formats.outcome import Outcome, as_line, metadata_in, one_line
from models.formats.replies import Called, calls_in
from models.formats.vectors import members, vectors_in
from models.money import decimal_amount
from models.request import CHAT, EMBEDDINGS, SIMPLE

DIALECT = SIMPLE

OWN_FIELDS = frozenset({"id", "custom_id", "model", "provider", "route", "metadata"})
"""Fields that are ours; every other one that isn't folded into the messages is passed on to the provider."""


EMBED = "embed"
"""Field of a line that asks for embeddings: a text, or a list of texts."""


def identify(row: Mapping[str, Any]) -> str | None:
    """The line's own id, from `custom_id` or `id`; None if it has neither. Raises Refused."""
    own = fields.custom_id(row, "custom_id")
    other = fields.custom_id(row, "id")
    if own is not None and other is not None and own != other:
        raise Refused(other_forms.explain(row) or f"custom_id is {show(own)} and id is {show(other)}: keep one of them")
    return own if own is not None else other


def asked(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the object that holds the question: the line itself."""
    return row


def with_metadata(row: Mapping[str, Any], line: bytes, names: Collection[str]) -> bytes:
    """Returns the line with the fields in `names` moved into its metadata. `row` is `line` decoded."""
    members = _members.decode(line)
    metadata = merged_metadata(row, members, names)
    kept = {name: raw for name, raw in members.items() if name not in names}
    return msgspec.json.encode({**kept, METADATA: msgspec.Raw(metadata or b"null")})


def read(row: Mapping[str, Any], line: bytes) -> Draft:
    """What the line asks for. `row` is `line` decoded. Raises Refused."""
    if row.get(EMBED) is not None:
        return _embedding(row, line)
    asked = [field for field in QUESTIONS if row.get(field) is not None]
    if len(asked) != 1:
        raise Refused(_ask_once(asked, row))
    question, value = asked[0], row[asked[0]]
    if question == "messages" or type(value) is list:
        if question == "prompt":
            raise Refused("prompt must be a string, not an array: a list of {role, content} goes into messages")
        fields.messages(value, question)
    elif type(value) is not str:
        wanted = "a string" if question == "prompt" else "a string or a list of {role, content}"
        raise Refused(other_forms.explain(row) or f"{question} must be {wanted}, not {show(value)}")
    system = row.get("system")
    if system is not None and type(system) is not str:
        raise Refused(f"system must be a string, not {show(system)}")
    fields.parameters(row)
    parameters.extra(row)
    if row.get("n") not in (None, 1):
        raise Refused(
            f"n is {show(row['n'])}, and a simple line's result holds one answer: repeat the line, or write it as an OpenAI batch "
            "line, whose result is the whole reply"
        )
    return Draft(CHAT, fields.name(row, "model"), fields.name(row, "provider"), fields.name(row, "route"), line)


def _embedding(row: Mapping[str, Any], line: bytes) -> Draft:
    for field in (*QUESTIONS, "system", "stream"):
        if row.get(field):
            raise Refused(f"has {EMBED} and {field}: a line asks for embeddings or for an answer, not for both")
    texts = row[EMBED]
    if type(texts) is str:
        texts = [texts]
    if type(texts) is not list:
        raise Refused(f"{EMBED} must be a string or a list of strings, not {show(texts)}")
    if not texts:
        raise Refused(f"{EMBED} is an empty list: it needs at least one text")
    for at, text in enumerate(texts):
        if type(text) is not str:
            raise Refused(f"{EMBED}[{at}] must be a string, not {show(text)}")
        if not text:
            raise Refused(f"{EMBED} holds an empty text, which no provider takes")
    fields.parameters(row)
    parameters.extra(row)
    return Draft(EMBEDDINGS, fields.name(row, "model"), fields.name(row, "provider"), fields.name(row, "route"), line)


def _ask_once(asked: list[str], row: Mapping[str, Any]) -> str:
    if asked:
        return f"has {' and '.join(asked)}: keep one of them"
    has = ", ".join(show(field, 24) for field in list(row)[:6]) or "no fields"
    known = other_forms.explain(row)
    if known:
        return known
    text = other_forms.likely_question(row) or "FIELD"
    return (
        f"has none of prompt, messages, input, {EMBED} (it has {has}{', …' if len(row) > 6 else ''}): name the question prompt, "
        f"as `jq -c '.prompt = .{text} | del(.{text})'` does"
    )


def simple_input(body: bytes) -> dict[str, Any]:
    """A simple line in the neutral chat shape: `{"messages": [...], "max_tokens": …, …}`.

    `prompt`, `input` and `system` are folded into the messages, our own fields are taken out, everything else passes through
    (whole numbers of any size keep every digit; null is "not given"). `extra_body` stays one field. A line that asks for embeddings gives `{"input": text or list of texts, …}`.
    `body` must be a line that `read_lines` let pass.
    """
    row: dict[str, Any] = msgspec.json.decode(body)
    if row.get(EMBED) is not None:
        own = (*OWN_FIELDS, *QUESTIONS, EMBED, "system")
        rest = {name: value for name, value in row.items() if name not in own and value is not None}
        return {"input": row[EMBED], **rest}
    neutral: dict[str, Any] = {"messages": []}
    for field, value in row.items():
        if value is not None and field not in OWN_FIELDS and field not in QUESTIONS and field != "system":
            neutral[field] = value
    system = row.get("system")
    if system is not None:
        neutral["messages"].append({"role": "system", "content": system})
    question = next(row[field] for field in QUESTIONS if row.get(field) is not None)
    if type(question) is str:
        neutral["messages"].append({"role": "user", "content": question})
    else:
        neutral["messages"].extend(question)
    return neutral


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Own(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw(b"null")
    custom_id: msgspec.Raw = msgspec.Raw(b"null")
    embed: msgspec.Raw = msgspec.Raw(b"null")


_own = msgspec.json.Decoder(_Own)


class _Error(msgspec.Struct):
    code: str | None
    message: str | None


class _Row(msgspec.Struct):
    id: str | msgspec.Raw
    status: str
    text: str | None
    error: _Error | None
    provider: str | None
    key_id: str | None
    requested_model: str | None
    served_model: str | None
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    cost: msgspec.Raw | None
    currency: str | None
    latency_ms: int | None
    attempts: int
    metadata: msgspec.Raw | None
    tool_calls: list[Called] | msgspec.UnsetType = msgspec.UNSET
    embeddings: list[msgspec.Raw] | None | msgspec.UnsetType = msgspec.UNSET


def result(outcome: Outcome) -> bytes:
    """One result line without its newline: `id` and `metadata` as the user wrote them, `cost` an exact decimal number.

    `tool_calls` is there only where the answer calls tools. `embeddings` is there only for lines that asked for them: the vectors
    as they came, in the order of the texts.
    """
    own = _own.decode(outcome.body) if outcome.body else _Own()
    failed = outcome.error_code is not None or outcome.error_message is not None
    row = _Row(
        id=_as_written(outcome.custom_id, own),
        status=outcome.status,
        text=outcome.text,
        error=_Error(outcome.error_code, outcome.error_message) if failed else None,
        provider=outcome.provider,
        key_id=outcome.key_id,
        requested_model=outcome.requested_model,
        served_model=outcome.served_model,
        finish_reason=outcome.finish_reason,
        input_tokens=outcome.input_tokens,
        output_tokens=outcome.output_tokens,
        cached_tokens=outcome.cached_tokens,
        cost=None if outcome.cost_nanos is None else _number(outcome.cost_nanos),
        currency=outcome.currency,
        latency_ms=outcome.latency_ms,
        attempts=outcome.attempts,
        metadata=msgspec.Raw(metadata_in(outcome.body, outcome.metadata) or b"null"),
    )
    if outcome.status == "succeeded" and outcome.response and (calls := calls_in(outcome.response)):
        row.tool_calls = calls
    if bytes(own.embed) != b"null" or (outcome.dialect != DIALECT and outcome.text is None and _embeddings(outcome)):
        row.embeddings = _embeddings(outcome)
    return as_line(row)


def _embeddings(outcome: Outcome) -> list[msgspec.Raw] | None:
    if outcome.status != "succeeded" or not outcome.response:
        return None
    try:
        vectors = vectors_in(members(outcome.response))
    except ValueError:
        return None
    return None if vectors is None else [msgspec.Raw(one_line(bytes(vector)) or b"null") for vector in vectors]


def _number(nanos: int) -> msgspec.Raw:
    """An exact JSON number; a float would round, and Decimal's own text may hold an exponent."""
    return msgspec.Raw(format(decimal_amount(nanos), "f").encode())


def _as_written(custom_id: str, own: _Own) -> str | msgspec.Raw:
    """A whole number given as id goes back as a number, so that the user's own join still works."""
    if not custom_id.removeprefix("-").isdigit():
        return custom_id  # "null" and "true" are texts too
    digits = custom_id.encode("utf-8", "replace")
    for raw in (bytes(own.custom_id), bytes(own.id)):
        if raw == digits:
            return msgspec.Raw(raw)
    return custom_id
