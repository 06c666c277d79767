"""Gemini's embeddings: the body that asks for them, and what the reply means.

It does not judge errors: they have the form that all of Gemini's errors have, which `gemini` reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.errors import Untranslatable
from models.request import Request, Usage
from worker.providers.answers import Answer
from worker.providers.base import Reply
from worker.providers.embeddings import embeddings_answer, vectors_wanted
from worker.providers.neutral import Settings
from worker.providers.replies import at, told_count

_TARGET = "Gemini"


def write(source: Mapping[str, Any], resource: str) -> dict[str, Any]:
    """The body for texts, one request in it for each. `resource` is the model's full name. Raises Untranslatable.

    Of one text too: so the reply has one form.
    """
    texts = source.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Untranslatable("input", f"input can't be translated for {_TARGET}: it takes a text or a list of texts")
    settings = Settings(_TARGET)
    for name, value in source.items():
        if name not in ("model", "input"):
            settings.put(name, value)
    settings.take_only("encoding_format", "float")
    shared = {
        "taskType": settings.take("task_type"),
        "title": settings.take("title"),
        "outputDimensionality": settings.take("dimensions"),
    }
    settings.done()
    shared = {name: value for name, value in shared.items() if value is not None}
    return {"requests": [{"model": resource, "content": {"parts": [{"text": text}]}, **shared} for text in texts]}


def answer(request: Request, body: dict[str, Any], reply: Reply) -> Answer | None:
    """What an outline of a reply means. Gemini doesn't name the model that made vectors."""
    given = told_count(at(body, "usageMetadata", "promptTokenCount"))
    usage = None if given is None else Usage(given)
    within = "requests" if "requests" in request.input else "input"
    return embeddings_answer(body, vectors_wanted(request.input, within=within), usage, reply)
