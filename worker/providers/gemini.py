"""The Gemini dialect: generateContent of Google's Generative Language API.

It does not send or retry, and it does not know Vertex AI, whose addresses and authentication differ.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import quote

from models.guesses import asked_tier
from models.request import CHAT, EMBEDDINGS, Failure, FailureKind, ModelInfo, Request, Usage
from worker.limits.shapes import Charge
from worker.providers import gemini_embeddings, signals
from worker.providers.answers import Answer, Stream
from worker.providers.base import Call, Reply
from worker.providers.bodies import own_body
from worker.providers.chat import ChatProvider
from worker.providers.events import Chunks
from worker.providers.failures import clean, code_name, request_id, unreadable
from worker.providers.finish import NO_CONTENT, Content, Finish, Judged, finish_of, judged, of_all
from worker.providers.growing import grown, is_text
from worker.providers.replies import at, count, decode, encode, name, objects, storable, table, told_count
from worker.providers.translation import gemini as translation
from worker.providers.translation import read as read_body
from worker.providers.usage import first_count, largest, merged_fees

_PREFIXES = ("models/", "tunedModels/")
_BILLED_BY_ANSWER = re.compile(r"gemini-[12](\.\d)?-")
_FILTERS = {
    "SAFETY",
    "RECITATION",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "MODEL_ARMOR",
    "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION",
}
_WHOLE = {"STOP", "MAX_TOKENS", "FINISH_REASON_UNSPECIFIED"}
_OF_THE_REQUEST = {"LANGUAGE", "MISSING_THOUGHT_SIGNATURE"}


class Gemini(ChatProvider):
    """generateContent and embeddings with an x-goog-api-key; the model stands in the URL."""

    dialect: ClassVar[str] = "gemini"
    operations: ClassVar[frozenset[str]] = frozenset({CHAT, EMBEDDINGS})
    signals = signals.GEMINI

    def auth(self, api_key: str) -> dict[str, str]:
        return {"x-goog-api-key": api_key}

    def path(self, request: Request) -> str:
        kind, _, model = _resource(request.model).partition("/")
        verb = "streamGenerateContent?alt=sse" if request.stream else "generateContent"
        if request.operation == EMBEDDINGS:
            own_single = request.dialect == self.dialect and "requests" not in request.input
            verb = "embedContent" if own_single else "batchEmbedContents"
        return f"/{kind}/{quote(model, safe='')}:{verb}"

    def own_body(self, request: Request) -> bytes:
        """Untouched: the model stands in the URL. One that stands in the body too must be the same, or the two contradict."""
        told = request.input.get("model")
        if isinstance(told, str) and _resource(told) != _resource(request.model):
            return own_body(request, model=_resource(request.model))
        return encode(dict(request.input)) if request.body is None else request.body

    def translate(self, request: Request) -> dict[str, Any]:
        if request.operation == EMBEDDINGS:
            return gemini_embeddings.write(request.input, _resource(request.model))
        return translation.write(read_body(request, translation.TARGET), request.model)

    def charge(self, request: Request, input_tokens: int, output_tokens: int) -> Charge:
        """Gemini counts a minute's input tokens only."""
        if request.operation == EMBEDDINGS:
            output_tokens = 0
        return Charge(tokens=input_tokens, input_tokens=input_tokens, output_tokens=output_tokens)

    def settled(self, booked: Charge, usage: Usage) -> Charge:
        return Charge(tokens=usage.input_tokens, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)

    def call_id(self, body: Any, reply: Reply) -> str | None:
        return request_id(reply, at(body, "responseId"))

    def error_in(self, body: Any) -> Any:
        return at(body, "error") or None

    def answer(self, request: Request, body: dict[str, Any], reply: Reply) -> Answer | None:
        if request.operation == EMBEDDINGS:
            return gemini_embeddings.answer(request, body, reply)
        usage = read_usage(body.get("usageMetadata"))
        if usage is not None:
            fees = merged_fees(usage.fees, _fees(request, body))
            usage = replace(usage, tier=asked_tier(request.input), fees=fees)
        served = name(body.get("modelVersion"))
        candidate = at(body, "candidates", 0)
        blocked = at(body, "promptFeedback", "blockReason")
        if not isinstance(candidate, dict):
            if isinstance(blocked, str) and blocked:
                reason = clean(at(body, "promptFeedback", "blockReasonMessage")) or "the prompt was blocked"
                refused = Failure(FailureKind.CONTENT_FILTER, code_name(blocked) or "blocked", reason, reply.status)
                return Answer(usage, None, name(blocked), served, refused)
            return (
                None
                if usage is None
                else Answer(
                    usage,
                    served_model=served,
                    failure=unreadable(reply, "the reply tells its usage but holds no candidate"),
                )
            )
        verdict = of_all([_judged(one, reply) for one in objects(body.get("candidates"))])
        seen = [part for part in objects(at(candidate, "content", "parts")) if part.get("thought") is not True]
        texts = [part["text"] for part in seen if isinstance(part.get("text"), str)]
        text = storable("".join(texts)) if texts or all("text" in part for part in seen) else None
        return Answer(usage, text, name(candidate.get("finishReason")), served, verdict.failure, verdict.empty)

    def assemble(self, request: Request, chunks: Chunks) -> Stream:
        body: dict[str, Any] = {}
        candidates: dict[int, dict[str, Any]] = {}
        for _, chunk in chunks:
            if not isinstance(chunk, dict):
                continue
            usage = chunk.get("usageMetadata") or body.get("usageMetadata")
            if isinstance(usage, dict):
                body["usageMetadata"] = largest(body.get("usageMetadata"), usage)
            if error := self.error_in(chunk):
                return Stream(_with_candidates(body, candidates), error, False)
            body.update((key, value) for key, value in chunk.items() if key not in ("candidates", "usageMetadata"))
            for part in objects(chunk.get("candidates")):
                _add(candidates.setdefault(count(part.get("index")), {}), part)
        if candidates:
            whole = all(candidate.get("finishReason") for candidate in candidates.values())
        else:
            whole = bool(at(body, "promptFeedback", "blockReason"))
        proven = not chunks.skipped or isinstance(body.get("usageMetadata"), dict)
        return Stream(_with_candidates(body, candidates), None, whole and proven and not chunks.broken)

    def build_list_models(self, api_key: str) -> Call:
        return self.list_models_call("/models?pageSize=1000", api_key)

    def next_list_models(self, api_key: str, reply: Reply) -> Call | None:
        token = at(decode(reply.body), "nextPageToken")
        if not isinstance(token, str) or not token:
            return None
        return self.list_models_call(f"/models?pageSize=1000&pageToken={quote(token, safe='')}", api_key)

    def read_list_models(self, reply: Reply) -> list[ModelInfo]:
        return [
            ModelInfo(model.removeprefix("models/"))
            for entry in objects(at(decode(reply.body), "models"))
            if (model := name(entry.get("name")))
        ]


def _fees(request: Request, body: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    """Returns what Google bills beside tokens: each query of a search since Gemini 3, each answer that was grounded by one before, and
    each that was grounded by Google Maps."""
    queries = [
        query
        for candidate in objects(body.get("candidates"))
        if isinstance(searched := at(candidate, "groundingMetadata", "webSearchQueries"), list)
        for query in searched
        if query
    ]
    by_answer = _BILLED_BY_ANSWER.match((name(body.get("modelVersion")) or request.model).removeprefix("models/"))
    uses = min(1, len(queries)) if by_answer else len(queries)
    maps = any(
        chunk.get("maps")
        for candidate in objects(body.get("candidates"))
        for chunk in objects(at(candidate, "groundingMetadata", "groundingChunks"))
    )
    fees = {"maps_requests": int(maps), "web_search_requests": uses}
    return tuple((tool, number) for tool, number in fees.items() if number)


def _resource(model: str) -> str:
    """A model's name as Google writes it in full: models/gemini-3.5-flash."""
    return model if model.startswith(_PREFIXES) else f"models/{model}"


def read_usage(usage: Any) -> Usage | None:
    """Thoughts are billed as output but stand beside candidatesTokenCount; cached tokens are part of promptTokenCount.

    A count of zero is left out on the wire. So what a missing candidatesTokenCount means is told by the total: without
    that too, the usage is unknown (None). What the total holds beyond all counts is output that isn't shown. Counts that this API
    doesn't have yet are uses to be priced by `fees`.
    """
    prompt, made = (
        told_count(at(usage, "promptTokenCount")),
        first_count(usage, "candidatesTokenCount", "responseTokenCount"),
    )
    total = told_count(at(usage, "totalTokenCount"))
    if prompt is None or (made is None and total is None):
        return None
    given = prompt + count(usage.get("toolUsePromptTokenCount"))
    thoughts = count(usage.get("thoughtsTokenCount"))
    beside = {
        _snake(field): number
        for field, value in usage.items()
        if field.endswith("TokenCount") and field not in _COUNTS and (number := count(value))
    }
    output = (made or 0) + thoughts
    if total is not None and total - given - output not in beside.values():
        output = max(output, total - given)
    return Usage(
        input_tokens=given,
        output_tokens=output,
        cached_tokens=count(usage.get("cachedContentTokenCount")),
        reasoning_tokens=thoughts,
        fees=tuple(sorted(beside.items())),
        modalities=_modalities(usage),
    )


_COUNTS = {
    "promptTokenCount",
    "candidatesTokenCount",
    "responseTokenCount",
    "totalTokenCount",
    "thoughtsTokenCount",
    "toolUsePromptTokenCount",
    "cachedContentTokenCount",
}


def _snake(field: str) -> str:
    """`searchTokenCount` as fees are named: `search_tokens`."""
    return re.sub("(?<!^)([A-Z])", r"_\1", field.removesuffix("TokenCount")).lower()[:57] + "_tokens"


def _modalities(usage: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    """The tokens that aren't text. Cached ones are part of the prompt's; the cache tells its own."""

    def told(field: str, modality: str) -> int:
        return sum(count(one.get("tokenCount")) for one in objects(usage.get(field)) if one.get("modality") == modality)

    found = {
        f"input_{modality.lower()}": told("promptTokensDetails", modality)
        + told("toolUsePromptTokensDetails", modality)
        - told("cacheTokensDetails", modality)
        for modality in ("AUDIO", "IMAGE", "VIDEO")
    }
    found["cached_audio"] = told("cacheTokensDetails", "AUDIO")
    found["output_audio"] = told("candidatesTokensDetails", "AUDIO")
    found["output_image"] = told("candidatesTokensDetails", "IMAGE")
    return tuple((kind, tokens) for kind, tokens in sorted(found.items()) if tokens > 0)


def _judged(candidate: dict[str, Any], reply: Reply) -> Judged:
    """What to think of one candidate. Reasons that only this API has decide where it holds nothing, or broke off."""
    parts = list(objects(at(candidate, "content", "parts")))
    seen = [part for part in parts if part.get("thought") is not True]
    text = "".join(part["text"] for part in seen if isinstance(part.get("text"), str))
    content = Content(text, any("text" not in part for part in seen), reasoning=len(seen) < len(parts))
    finish = name(candidate.get("finishReason"))
    if finish is None or finish in _WHOLE:
        return judged(None if finish == "FINISH_REASON_UNSPECIFIED" else finish, content, reply)
    if content.nothing or finish_of(finish) is Finish.BROKEN:
        return Judged(_refused(finish, candidate, reply))
    return Judged()


def _refused(finish: str, candidate: dict[str, Any], reply: Reply) -> Failure:
    """An answer that ended neither by itself nor by its bound."""
    if finish in _FILTERS:
        kind = FailureKind.CONTENT_FILTER
    else:
        kind = FailureKind.BAD_REQUEST if finish in _OF_THE_REQUEST else FailureKind.SERVER
    reason = clean(candidate.get("finishMessage")) or f"the answer isn't whole and ended with {finish}"
    return Failure(kind, code_name(finish) or NO_CONTENT, reason, reply.status)


def _with_candidates(body: dict[str, Any], candidates: dict[int, dict[str, Any]]) -> dict[str, Any]:
    if not candidates:
        return body
    return {**body, "candidates": [candidates[index] for index in sorted(candidates)]}


def _add(candidate: dict[str, Any], chunk: dict[str, Any]) -> None:
    """Adds one chunk of a candidate: its parts follow the parts so far, everything else replaces."""
    content = table(candidate.get("content"))
    parts = content.get("parts", [])
    for part in objects(at(chunk, "content", "parts")):
        last = parts[-1] if parts else {}
        if _is_text(part) and _is_text(last) and part.get("thought") == last.get("thought"):
            last["text"] = grown(last["text"], part["text"])
        else:
            parts.append(dict(part))
    role = at(chunk, "content", "role") or content.get("role") or "model"
    candidate.update(chunk)
    candidate["content"] = {"parts": parts, "role": role}


def _is_text(part: dict[str, Any]) -> bool:
    return is_text(part.get("text")) and not part.keys() - {"text", "thought"}
