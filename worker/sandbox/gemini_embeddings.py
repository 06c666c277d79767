"""The sandbox's `:embedContent` and `:batchEmbedContents`: what they accept, and how they answer.

It knows no limits.
"""

from typing import Any

import orjson

from worker.sandbox.dialect import Chat, Vectors, embed, names, spoil
from worker.sandbox.gemini_words import bad, camel
from worker.sandbox.replies import Reply, vector

ACTIONS = ("embedContent", "batchEmbedContents")

_BATCH = frozenset({"requests"})
_FIELDS = names("model content taskType title outputDimensionality")
_TASKS = names(
    "TASK_TYPE_UNSPECIFIED RETRIEVAL_QUERY RETRIEVAL_DOCUMENT SEMANTIC_SIMILARITY CLASSIFICATION CLUSTERING "
    "QUESTION_ANSWERING FACT_VERIFICATION CODE_RETRIEVAL_QUERY"
)
_MOST_TEXTS = 100
_DIMENSIONS = 3072


def _table(value: object, where: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise bad(f"Invalid value at '{where}', an object was expected", where)
    return value


def _text(content: object, where: str) -> str:
    parts = camel(_table(content, where), frozenset({"parts", "role"}), where).get("parts")
    parts = [parts] if isinstance(parts, dict) else parts
    if not isinstance(parts, list) or not parts:
        raise bad(f"* EmbedContentRequest.{where}.parts: must not be empty\n")
    texts = [camel(_table(part, f"{where}.parts"), frozenset({"text"}), f"{where}.parts").get("text") for part in parts]
    if not all(type(text) is str for text in texts):
        raise bad(f"Invalid value at '{where}.parts.text' (TYPE_STRING)")
    return "\n".join(map(str, texts))


def read(model: str, raw: bytes, action: str) -> Chat:
    """The call in a body; raises Refusal for what the API would refuse."""
    try:
        loaded = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise bad(f"Invalid JSON payload received. {error.msg}") from None
    if action == "embedContent":
        text, dimensions = _one(loaded, model, "", named=False)
        return embed(model, Vectors((text,), dimensions, single=True))
    requests = camel(_table(loaded, ""), _BATCH, "").get("requests")
    if not requests:
        raise bad("* BatchEmbedContentsRequest.requests: requests must not be empty\n")
    if type(requests) is not list:
        raise bad("Invalid value at 'requests', a list was expected")
    if len(requests) > _MOST_TEXTS:
        raise bad(f"* BatchEmbedContentsRequest.requests: at most {_MOST_TEXTS} requests can be in one batch\n")
    found = [_one(request, model, f"requests[{at}]", named=True) for at, request in enumerate(requests)]
    return embed(model, Vectors(tuple(text for text, _ in found), found[0][1]))


def _one(value: Any, model: str, where: str, *, named: bool) -> tuple[str, int]:
    """The text of one request, and how long its vector should be."""
    fields = camel(_table(value, where), _FIELDS, where)
    said = fields.get("model")
    if said is None and named:
        raise bad(f"* BatchEmbedContentsRequest.{where}.model: model is required\n")
    if said is not None and said != f"models/{model}":
        raise bad(f"* EmbedContentRequest.model: the model {said!r} doesn't match that of the URL, models/{model}\n")
    text = _text(fields.get("content"), f"{where}.content".lstrip("."))
    if not text:
        raise bad("* EmbedContentRequest.content: content is empty\n")
    task = fields.get("taskType")
    if task is not None and task not in _TASKS:
        raise bad(f"Invalid value at '{where}.task_type' (type.googleapis.com/google.ai.TaskType), {task!r}")
    if fields.get("title") is not None and task != "RETRIEVAL_DOCUMENT":
        raise bad("* EmbedContentRequest.title: title can only be set for the task RETRIEVAL_DOCUMENT\n")
    asked = fields.get("outputDimensionality")
    if asked is not None and (type(asked) is not int or not 1 <= asked <= _DIMENSIONS):
        raise bad(f"* EmbedContentRequest.output_dimensionality: must be in the range [1, {_DIMENSIONS}]\n")
    return text, asked or _DIMENSIONS


def whole(call: Chat, reply: Reply, spoilt: str | None) -> bytes:
    """The body of a reply."""
    vectors = call.vectors
    assert vectors is not None
    values = [{"values": vector(text, call.model, vectors.dimensions)} for text in vectors.texts]
    body: dict[str, object] = {"embedding": values[0]} if vectors.single else {"embeddings": values}
    usage: dict[str, object] = {"promptTokenCount": reply.usage.input, "totalTokenCount": reply.usage.input}
    return orjson.dumps(body if spoilt == "missing" else {**body, "usageMetadata": spoil(usage, spoilt)})
