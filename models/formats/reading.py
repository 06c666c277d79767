"""How an input's lines are read: the choices that hold for all of them, and the notes that reading leaves for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from models.wording import counted


class EmptyPrompts(StrEnum):
    """What becomes of a line that asks for nothing: blank text and nothing else."""

    FAIL = "fail"
    SKIP = "skip"
    ASK = "ask"


class UnknownFields(StrEnum):
    """What becomes of a simple line's fields that are neither ours nor a parameter that any provider is known to take."""

    FAIL = "fail"
    METADATA = "metadata"
    SEND = "send"


class LastAnswer(StrEnum):
    """What becomes of an assistant's message that ends a line's conversation."""

    DROP = "drop"
    SEND = "send"


@dataclass(frozen=True, slots=True)
class Reading:
    """The choices. `last_answer` None: dropped from a dataset, refused in a training example, sent in a request."""

    empty_prompts: EmptyPrompts = EmptyPrompts.FAIL
    unknown_fields: UnknownFields = UnknownFields.FAIL
    last_answer: LastAnswer | None = None

    def given(self) -> dict[str, str]:
        """The choices that differ from the usual, by name."""
        usual = Reading()
        names = ("empty_prompts", "unknown_fields", "last_answer")
        return {name: str(getattr(self, name)) for name in names if getattr(self, name) != getattr(usual, name)}


AS_WRITTEN = Reading(EmptyPrompts.ASK, UnknownFields.SEND, LastAnswer.SEND)
"""Nothing is refused or left out that a provider could be asked."""


@dataclass(frozen=True, slots=True)
class SkippedLine:
    """A line that asks for nothing and makes no job, because that was chosen."""

    number: int


class Note(NamedTuple):
    """Something that was done to a line and that its author should see; `detail` is the field that it concerns."""

    kind: str
    detail: str = ""


ALPACA = Note("alpaca")
SHAREGPT = Note("sharegpt")
EMBEDDINGS = Note("embeddings")
DROPPED = Note("dropped")
PREFILL = Note("prefill")
EMPTY = Note("empty")

_SENTENCES: Mapping[str, str] = {
    "alpaca": "{lines} in Alpaca's form: the instruction is asked, with the input below it; the fields that are not sent come "
    "back as metadata",
    "sharegpt": "{lines} in ShareGPT's form: conversations are asked as messages",
    "embeddings": "{lines} with `input` for an embedding model: embeddings are asked for",
    "dropped": "{lines} ending with an answer: it is not sent, and comes back as metadata.answer (--last-answer send sends it)",
    "prefill": "{lines} ending with a message of the assistant: it is sent, as the beginning of the answer (--last-answer drop "
    "leaves it out)",
    "empty": "{lines} with an empty prompt: asked all the same, as --empty-prompts ask says",
    "metadata": "{lines} with the field {detail}, which is no known parameter: it is not sent, and comes back as metadata",
    "send": "{lines} with the field {detail}, which is no known parameter: it is sent to the provider",
}


def sentence(note: Note, count: int) -> str:
    """The note about so many lines, for people."""
    return _SENTENCES[note.kind].format(lines=counted(count, "line"), detail=note.detail)
