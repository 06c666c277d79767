"""The OpenAI dialect as OpenAI and the many compatible servers speak it: chat, and which file reads the other endpoints.

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
from models.request import CHAT, EMBEDDINGS, SIMPLE, Failure, FailureKind, ModelInfo, Request, Usage
from worker.limits.shapes import Charge
from worker.providers import openai_completions as completions
from worker.providers import openai_responses as responses
from worker.providers.answers import Answer, Stream
from worker.providers.base import Call, Reply, Sender, http_failure
from worker.providers.bodies import own_body
from worker.providers.chat import ChatProvider
from worker.providers.embeddings import embeddings_answer, token_numbers, vectors_wanted
from worker.providers.events import Chunks
from worker.providers.failures import (
    clean,
    code_name,
    duration,
    exhausted_reset,
    forbidden_kind,
    message_in,
    missing_kind,
    request_id,
    retry_after,
)
from worker.providers.growing import grown, is_text
from worker.providers.replies import at, count, decode, name, objects, storable, table, told_count
from worker.providers.translation import openai as translation
from worker.providers.translation import read as read_body

_BY_CODE = {
    "insufficient_quota": FailureKind.QUOTA,
    "credit_balance_exhausted": FailureKind.QUOTA,
    "organization_spend_limit_exceeded": FailureKind.QUOTA,
    "project_spend_limit_exceeded": FailureKind.QUOTA,
    "organization_usage_limit_exceeded": FailureKind.QUOTA,
    "billing_hard_limit_reached": FailureKind.QUOTA,
    "billing_not_active": FailureKind.QUOTA,
    "access_terminated": FailureKind.AUTH,
    "account_deactivated": FailureKind.AUTH,
    "invalid_api_key": FailureKind.AUTH,
    "unsupported_country_region_territory": FailureKind.AUTH,
    "model_not_found": FailureKind.MODEL,
    "DeploymentNotFound": FailureKind.MODEL,
    "context_length_exceeded": FailureKind.CONTEXT_LENGTH,
    "content_filter": FailureKind.CONTENT_FILTER,
    "content_policy_violation": FailureKind.CONTENT_FILTER,
    "image_content_policy_violation": FailureKind.CONTENT_FILTER,
    "bio_policy": FailureKind.CONTENT_FILTER,
    "misalignment_policy_violation": FailureKind.CONTENT_FILTER,
    "request_too_large": FailureKind.TOO_LARGE,
}
"""Codes that tell more than the status does."""
_BY_CODE_IN_200 = {
    "rate_limit_exceeded": FailureKind.RATE_LIMIT,
    "rate_limit_error": FailureKind.RATE_LIMIT,
    "requests": FailureKind.RATE_LIMIT,
    "tokens": FailureKind.RATE_LIMIT,
    "slow_down": FailureKind.RATE_LIMIT,
    "authentication_error": FailureKind.AUTH,
    "permission_error": FailureKind.KEY_MODEL,
    "invalid_prompt": FailureKind.BAD_REQUEST,
    "invalid_request_error": FailureKind.BAD_REQUEST,
    "data_residency_mismatch": FailureKind.BAD_REQUEST,
    **dict.fromkeys(
        (
            "invalid_image",
            "invalid_image_format",
            "invalid_base64_image",
            "invalid_image_url",
            "invalid_image_mode",
            "image_too_large",
            "image_too_small",
            "image_parse_error",
            "image_file_too_large",
            "image_file_not_found",
            "unsupported_image_media_type",
            "empty_image_file",
            "failed_to_download_image",
        ),
        FailureKind.BAD_REQUEST,
    ),
}
"""Codes that stand for the status where an error comes inside a 200."""
_TOO_LONG = re.compile(r"maximum context length|context[ _]window|reduce the length of the messages", re.IGNORECASE)
_TOO_LARGE = re.compile(r"request too large", re.IGNORECASE)
_UNAVAILABLE = re.compile(r"resource[ _]unavailable", re.IGNORECASE)
_FLAGGED = re.compile(r"flagged as potentially violating|content management policy", re.IGNORECASE)
_REASONING_MODEL = re.compile(r"(ft:)?(o\d|gpt-[5-9])")
_SEARCHING = re.compile(r"-search-(preview|api)")
"""Chat models that search for every answer."""
_LIMITS = tuple(
    (f"x-ratelimit-remaining-{what}", f"x-ratelimit-reset-{what}") for what in ("requests", "tokens", "project-tokens")
)


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
        return replace(usage, output_tokens=output_tokens * copies, cache_write_tokens=input_tokens)

    def settled(self, booked: Charge, usage: Usage) -> Charge:
        """Nothing is refunded and nothing added: what was charged at the start stays charged."""
        return booked

    def call_id(self, body: Any, reply: Reply) -> str | None:
        return request_id(reply, reply.headers.get("x-request-id"), at(body, "id"))

    def error_in(self, body: Any) -> Any:
        error = at(body, "error")
        return error if error and not at(body, "choices") else None

    def judge(self, request: Request, reply: Reply, body: dict[str, Any]) -> Failure:
        error = body.get("error")
        message = clean(message_in(body), self.secrets(request))
        kind = self._kind(request, reply, error, message)
        code = code_name(at(error, "code"), at(error, "type")) or f"http_{_status(reply, error)}"
        wait = retry_after(reply)
        if wait is None and kind is FailureKind.RATE_LIMIT:
            wait = exhausted_reset(reply.headers, duration, _LIMITS)
        return Failure(kind, code, message or f"HTTP {reply.status}", reply.status, retry_after=wait)

    def _kind(self, request: Request, reply: Reply, error: Any, message: str) -> FailureKind:
        codes = [value for key in ("code", "type") if isinstance(value := at(error, key), str)]
        status = _status(reply, error)
        kind = next((_BY_CODE[code] for code in codes if code in _BY_CODE), None)
        if kind is FailureKind.MODEL and status == 403:
            return FailureKind.KEY_MODEL
        if kind is not None:
            return kind
        if status == 429:
            if _TOO_LARGE.search(message):
                return FailureKind.TOO_LARGE
            return FailureKind.SERVER if _UNAVAILABLE.search(message) else FailureKind.RATE_LIMIT
        if status == 403:
            return forbidden_kind(message, request.model)
        if status == 404:
            return missing_kind(message, request.model)
        if (status < 300 or status in (400, 422)) and _TOO_LONG.search(message):
            return FailureKind.CONTEXT_LENGTH
        if (status < 300 or status == 400) and _FLAGGED.search(message):
            return FailureKind.CONTENT_FILTER
        if status < 300:
            return next((_BY_CODE_IN_200[code] for code in codes if code in _BY_CODE_IN_200), FailureKind.SERVER)
        return http_failure(Reply(status, {}, b"")).kind

    def answer(self, request: Request, body: dict[str, Any], reply: Reply) -> Answer | None:
        answer = self._answer(request, body, reply)
        tier = body.get("service_tier")
        if answer is None or answer.usage is None or not isinstance(tier, str) or tier not in TIERS:
            return answer
        return replace(answer, usage=replace(answer.usage, tier=tier))

    def _answer(self, request: Request, body: dict[str, Any], reply: Reply) -> Answer | None:
        match request.operation:
            case "responses":
                return responses.answer(body, reply)
            case "completions":
                return completions.answer(body, read_usage(body.get("usage")), reply)
            case "embeddings":
                given = told_count(at(body, "usage", "prompt_tokens"))
                usage = None if given is None else Usage(given)
                return embeddings_answer(body, vectors_wanted(request.input, within="input"), usage, reply)
        return self._chat(body, reply)

    def _chat(self, body: dict[str, Any], reply: Reply) -> Answer | None:
        choice = at(body, "choices", 0)
        message = at(choice, "message")
        usage = read_usage(body.get("usage"))
        if usage is not None and _SEARCHING.search(name(body.get("model")) or ""):
            usage = replace(usage, fees=(("web_search_requests", 1),))
        if not isinstance(message, dict):
            return None if usage is None else Answer(usage=usage, failure=_no_choice(reply))
        content = message.get("content")
        text = storable(content) if isinstance(content, str) else _joined(content)
        finish = name(choice.get("finish_reason"))
        failure = None
        if not text and not message.get("tool_calls") and not message.get("function_call"):
            refusal = clean(message.get("refusal"))
            if refusal:
                failure = Failure(FailureKind.CONTENT_FILTER, "refusal", refusal, reply.status)
            elif finish == "content_filter":
                reason = "the provider's content filter removed the whole answer"
                failure = Failure(FailureKind.CONTENT_FILTER, "content_filter", reason, reply.status)
        return Answer(usage, text, finish, name(body.get("model")), failure)

    def assemble(self, request: Request, chunks: Chunks) -> Stream:
        if request.operation == "responses":
            return responses.assemble(chunks)
        legacy = request.operation == "completions"
        form = "text_completion" if legacy else "chat.completion"
        body: dict[str, Any] = {}
        choices: dict[int, dict[str, Any]] = {}
        for _, chunk in chunks:
            if not isinstance(chunk, dict):
                continue
            if error := self.error_in(chunk):
                return Stream(_with_choices(body, choices, form), error, False)
            for key, value in chunk.items():
                if key != "choices" and (value is not None or key not in body):
                    body[key] = value
            for part in objects(chunk.get("choices")):
                completions.add(choices, part) if legacy else _add(choices, part)
        whole = bool(choices) and all(choice.get("finish_reason") for choice in choices.values())
        all_there = chunks.done or len(choices) >= count(request.input.get("n"))
        return Stream(_with_choices(body, choices, form), None, whole and all_there and not chunks.broken)

    def build_list_models(self, api_key: str) -> Call:
        return self.list_models_call("/models", api_key)

    def read_list_models(self, reply: Reply) -> list[ModelInfo]:
        return [
            ModelInfo(model, name(entry.get("shutdown_date")))
            for entry in objects(at(decode(reply.body), "data"))
            if (model := name(entry.get("id")))
        ]


def read_usage(usage: Any) -> Usage | None:
    """Cached and written tokens are part of prompt_tokens, reasoning is part of completion_tokens. None if a count is missing.

    One family of compatible servers counts reasoning apart from completion_tokens; its total_tokens tells.
    """
    given, made = told_count(at(usage, "prompt_tokens")), told_count(at(usage, "completion_tokens"))
    if given is None or made is None:
        return None
    reasoning = count(at(usage, "completion_tokens_details", "reasoning_tokens"))
    if reasoning and count(usage.get("total_tokens")) == given + made + reasoning:
        made += reasoning
    return Usage(
        input_tokens=given,
        output_tokens=made,
        cached_tokens=count(
            at(usage, "prompt_tokens_details", "cached_tokens") or usage.get("prompt_cache_hit_tokens")
        ),
        cache_write_tokens=count(at(usage, "prompt_tokens_details", "cache_write_tokens")),
        reasoning_tokens=reasoning,
        modalities=_modalities(usage),
    )


def _modalities(usage: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    """The tokens that aren't text. Which of them were cached isn't told: none, as far as there was other input."""
    details = usage.get("prompt_tokens_details")
    made = usage.get("completion_tokens_details")
    if not (at(details, "audio_tokens") or at(details, "image_tokens") or at(made, "audio_tokens")):
        return ()
    fresh = (
        count(usage.get("prompt_tokens"))
        - count(at(details, "cached_tokens"))
        - count(at(details, "cache_write_tokens"))
    )
    sound = min(count(at(details, "audio_tokens")), max(0, fresh))
    found = {
        "input_audio": sound,
        "input_image": min(count(at(details, "image_tokens")), max(0, fresh - sound)),
        "output_audio": count(at(made, "audio_tokens")),
    }
    return tuple((kind, tokens) for kind, tokens in found.items() if tokens)


def _account(config: ProviderConfig, key: KeyConfig | None = None) -> dict[str, str]:
    """The headers that say who is billed: the key's word goes first."""
    told = {
        "openai-organization": key.organization if key and key.organization else config.organization,
        "openai-project": key.project if key and key.project else config.project,
    }
    return {name: value for name, value in told.items() if value}


def _status(reply: Reply, error: Any) -> int:
    """The status of an error: inside a 200, gateways put the one that they got into the body."""
    told = at(error, "code")
    return told if reply.status < 300 and isinstance(told, int) and 400 <= told < 600 else reply.status


def _no_choice(reply: Reply) -> Failure:
    message = "the reply tells its usage but holds no choice"
    return Failure(FailureKind.NETWORK, "unreadable_reply", message, reply.status)


def _joined(content: Any) -> str | None:
    """The text of a content that came as a list of parts, as some compatible servers send it."""
    texts = [part["text"] for part in objects(content) if isinstance(part.get("text"), str)]
    return storable("".join(texts)) if texts else None


def _with_choices(body: dict[str, Any], choices: dict[int, dict[str, Any]], form: str) -> dict[str, Any]:
    if not body and not choices:
        return {}
    ordered = [choices[index] for index in sorted(choices)]
    for choice in ordered:
        calls = at(choice, "message", "tool_calls")
        if isinstance(calls, dict):
            choice["message"]["tool_calls"] = [calls[index] for index in sorted(calls)]
    return {**body, "object": form, "choices": ordered}


def _add(choices: dict[int, dict[str, Any]], part: dict[str, Any]) -> None:
    """Adds one chunk's part of a choice: texts grow, lists grow, other values replace."""
    index = count(part.get("index"))
    choice = choices.setdefault(
        index, {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None}
    )
    if isinstance(finish := part.get("finish_reason"), str):
        choice["finish_reason"] = finish
    for key, value in table(part.get("logprobs")).items():
        if isinstance(value, list):
            lists = choice.setdefault("logprobs", {})
            lists.setdefault(key, []).extend(value)
    message = choice["message"]
    for key, value in table(part.get("delta")).items():
        if key == "tool_calls":
            calls = message.setdefault("tool_calls", {})
            for call in objects(value):
                _grow(calls.setdefault(count(call.get("index")), {}), call)
        elif key != "role":
            _grow(message, {key: value})


def _grow(whole: dict[str, Any], part: dict[str, Any]) -> None:
    for key, value in part.items():
        old = whole.get(key)
        if key == "index" or (value is None and key in whole):
            continue
        if isinstance(value, str) and is_text(old) and key not in ("id", "type"):
            whole[key] = grown(old, value)
        elif isinstance(value, dict) and isinstance(old, dict):
            _grow(old, value)
        else:
            whole[key] = dict(value) if isinstance(value, dict) else value
