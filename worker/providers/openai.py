"""The OpenAI dialect as OpenAI and the many compatible servers speak it: what goes out, and which file reads what comes back.

It does not send or retry; it knows no vendor beyond the dialect.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import quote

from models.config import KeyConfig, ProviderConfig
from models.errors import Untranslatable
from models.guesses import TIERS
from models.request import CHAT, EMBEDDINGS, SIMPLE, ModelInfo, Request, Usage
from worker.limits.shapes import Charge
from worker.providers import openai_chat as chat
from worker.providers import openai_completions as completions
from worker.providers import openai_responses as responses
from worker.providers import signals
from worker.providers.answers import Answer, Stream
from worker.providers.base import Call, Reply, Sender
from worker.providers.bodies import own_body
from worker.providers.chat import ChatProvider
from worker.providers.embeddings import embeddings_answer, embeddings_usage, token_numbers, vectors_wanted
from worker.providers.events import NAMELESS, Chunks
from worker.providers.failures import request_id
from worker.providers.replies import at, count, decode, name, objects, table
from worker.providers.translation import openai as translation
from worker.providers.translation import read as read_body
from worker.providers.usage import StreamUsage, reported_cost, usage_of

_REASONING_MODEL = re.compile(r"(ft:)?(o\d|gpt-[5-9])")
_PATHS = {
    CHAT: "/chat/completions",
    "responses": "/responses",
    "completions": "/completions",
    EMBEDDINGS: "/embeddings",
}


class OpenAI(ChatProvider):
    """chat/completions and its siblings with a bearer key."""

    dialect: ClassVar[str] = "openai"
    operations: ClassVar[frozenset[str]] = frozenset(_PATHS)
    signals = signals.OPENAI

    def __init__(self, config: ProviderConfig, sender: Sender) -> None:
        super().__init__(config, sender)
        self._accounts = {
            key.secret.reveal(): _account(config, key) for key in reversed(config.keys) if key.secret.usable
        }

    def auth(self, api_key: str) -> dict[str, str]:
        """The key, and the organization and project that are billed for it, where the configuration names them."""
        account = self._accounts.get(api_key)
        return {**self.key_headers(api_key), **(_account(self.config) if account is None else account)}

    def path(self, request: Request) -> str:
        """The endpoint, behind the model's own path where the configuration has one (Azure's deployments)."""
        return self.config.model_path.replace("{model}", quote(request.model, safe="")) + _PATHS[request.operation]

    def build(self, request: Request) -> Call:
        if request.operation == "responses" and request.input.get("background") is True:
            why = "background can't be true: the answer would have to be fetched later, and is lost here; leave it out"
            raise Untranslatable("background", why)
        return super().build(request)

    def own_body(self, request: Request) -> bytes:
        """Untouched, except that a streamed answer is asked to tell its usage: the ledger would be short of it else."""
        if request.stream and request.operation in (CHAT, "completions"):
            options = table(request.input.get("stream_options"))
            if "include_usage" not in options:
                return own_body(request, stream_options={**options, "include_usage": True})
        return own_body(request)

    def translate(self, request: Request) -> dict[str, Any]:
        """A simple line's shape is this dialect's own: every field passes as it is. A stream is asked to tell its usage.

        Only `max_tokens` gets its newer name for OpenAI's reasoning models, which refuse the old one.
        """
        if request.operation not in (CHAT, EMBEDDINGS) or (request.dialect != SIMPLE and request.operation != CHAT):
            raise Untranslatable(
                "operation", f"a {request.dialect} line can't ask for {request.operation}; write an OpenAI Batch line"
            )
        if request.dialect == SIMPLE:
            body = {"model": request.model, **{key: value for key, value in request.input.items() if key != "model"}}
        else:
            body = translation.write(read_body(request, translation.TARGET), request.model)
        if "max_tokens" in body and "max_completion_tokens" not in body and _REASONING_MODEL.match(request.model):
            body["max_completion_tokens"] = body.pop("max_tokens")
        if request.stream and "include_usage" not in table(body.get("stream_options")):
            body["stream_options"] = {**table(body.get("stream_options")), "include_usage": True}
        return body

    def charge(self, request: Request, input_tokens: int, output_tokens: int) -> Charge:
        """OpenAI charges a minute's tokens when the call starts: the larger of max_tokens and its estimate of the input."""
        input_tokens = max(
            input_tokens, token_numbers(request.input.get("input")), token_numbers(request.input.get("prompt"))
        )
        if request.operation == EMBEDDINGS:
            return Charge(tokens=input_tokens, input_tokens=input_tokens)
        booked = max(self.max_output_tokens(request) or 0, input_tokens)
        return Charge(tokens=booked, input_tokens=input_tokens, output_tokens=output_tokens)

    def max_output_tokens(self, request: Request) -> int | None:
        if request.operation == "completions":
            return completions.most_output_tokens(request.input)
        return super().max_output_tokens(request)

    def may_use(self, request: Request, input_tokens: int, output_tokens: int) -> Usage:
        """As for all, and more than one answer where the request asks for `n`. Newer models write to their cache unasked."""
        usage = super().may_use(request, input_tokens, output_tokens)
        copies = max(1, count(request.input.get("n"))) if request.operation == CHAT else 1
        given = max(input_tokens, token_numbers(request.input.get("input")), token_numbers(request.input.get("prompt")))
        if request.operation == EMBEDDINGS:
            return replace(usage, input_tokens=given, output_tokens=0)
        return replace(usage, input_tokens=given, output_tokens=output_tokens * copies, cache_write_tokens=given)

    def settled(self, booked: Charge, usage: Usage) -> Charge:
        """Nothing is refunded and nothing added: what was charged at the start stays charged."""
        return booked

    def call_id(self, body: Any, reply: Reply) -> str | None:
        return request_id(reply, reply.headers.get("x-request-id"), at(body, "id"))

    def error_in(self, body: Any) -> Any:
        """The error of a body, beside its choices or in one of them too: an answer with an error isn't whole. MiniMax's is a status of
        its own in `base_resp`."""
        error = error_of(body)
        if not error and at(body, "base_resp", "status_code") and not at(body, "choices"):
            return {"base_resp": body["base_resp"]}
        return error or next((found for choice in objects(at(body, "choices")) if (found := error_of(choice))), None)

    def answer(self, request: Request, body: dict[str, Any], reply: Reply) -> Answer | None:
        answer = self._answer(request, body, reply)
        if answer is None or answer.usage is None:
            return answer
        told: dict[str, Any] = {}
        if cost := reported_cost(usage_of(body), reply.headers):
            told["reported_cost"] = cost
        if isinstance(tier := body.get("service_tier"), str) and tier in TIERS:
            told["tier"] = tier
        return replace(answer, usage=replace(answer.usage, **told)) if told else answer

    def _answer(self, request: Request, body: dict[str, Any], reply: Reply) -> Answer | None:
        match request.operation:
            case "responses":
                return responses.answer(body, reply)
            case "completions":
                return completions.answer(
                    body, completions.prompts_in(request.input), chat.read_usage(usage_of(body)), reply
                )
            case "embeddings":
                usage = embeddings_usage(usage_of(body))
                return embeddings_answer(body, vectors_wanted(request.input, within="input"), usage, reply)
        return chat.answer(body, chat.read_usage(usage_of(body)), reply)

    def assemble(self, request: Request, chunks: Chunks) -> Stream:
        """The body that the chunks stand for. After an error the rest is read too, for the usage that it may hold."""
        if request.operation == "responses":
            return responses.assemble(chunks)
        legacy = request.operation == "completions"
        form = "text_completion" if legacy else "chat.completion"
        body: dict[str, Any] = {}
        choices: dict[int, dict[str, Any]] = {}
        usage = StreamUsage()
        error: Any = None
        for event, chunk in chunks:
            if not isinstance(chunk, dict):
                error = error or (NAMELESS if event == "error" else None)
                continue
            error = error or self.error_in(chunk) or (chunk if event == "error" else None)
            for key, value in chunk.items():
                if key not in ("choices", "usage", "error") and (value is not None or key not in body):
                    body[key] = value
            parts = list(objects(chunk.get("choices")))
            for part in parts:
                completions.add(choices, part) if legacy else chat.add(choices, part)
            usage.add(usage_of(chunk), with_text=any(part.get("text") or part.get("delta") for part in parts))
        if body or choices:
            body["usage"] = usage.whole()
        whole = bool(choices) and all(choice.get("finish_reason") for choice in choices.values())
        all_there = chunks.done or len(choices) >= count(request.input.get("n"))
        proven = not chunks.skipped or chunks.done or body.get("usage") is not None
        whole = whole and all_there and proven and not chunks.broken and error is None
        return Stream(_with_choices(body, choices, form), error, whole)

    def build_list_models(self, api_key: str) -> Call:
        return self.list_models_call("/models", api_key)

    def read_list_models(self, reply: Reply) -> list[ModelInfo]:
        return [
            ModelInfo(model, name(entry.get("shutdown_date")))
            for entry in objects(at(decode(reply.body), "data"))
            if (model := name(entry.get("id")))
        ]


def _account(config: ProviderConfig, key: KeyConfig | None = None) -> dict[str, str]:
    """The headers that say who is billed: the key's word goes first."""
    told = {
        "openai-organization": key.organization if key and key.organization else config.organization,
        "openai-project": key.project if key and key.project else config.project,
    }
    return {name: value for name, value in told.items() if value}


def error_of(value: Any) -> Any:
    """Returns the error in a body or a choice; None for one without content, as some servers send beside every answer.

    Servers such as vLLM, FastChat and Mistral put it at the top: `{"object": "error", "message": …}`.
    """
    error = at(value, "error")
    if isinstance(error, dict):
        return error if any(error.values()) else None
    if error is None and "error" in (at(value, "object"), at(value, "type")) and not at(value, "choices"):
        return value
    return error or None


def _with_choices(body: dict[str, Any], choices: dict[int, dict[str, Any]], form: str) -> dict[str, Any]:
    if not body and not choices:
        return {}
    return {**body, "object": form, "choices": [chat.finished(choices[index]) for index in sorted(choices)]}
