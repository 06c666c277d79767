"""The sandbox's OpenAI: chat completions, models and errors, as api.openai.com words them, and which file plays the rest.

It reads and writes bodies; limits, faults and delivery are decided elsewhere.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import orjson

from worker.sandbox import openai_completions, openai_embeddings, openai_responses
from worker.sandbox.dialect import (
    MEBIBYTE,
    Answer,
    Chat,
    Listing,
    Refusal,
    bearer,
    exact_retry_after,
    pieces,
    request_id,
    spoil,
    wait_headers,
    without_output,
)
from worker.sandbox.openai_chat import read_chat
from worker.sandbox.openai_checks import INVALID, error
from worker.sandbox.openai_hosted import citations
from worker.sandbox.quotas import Denial, Gauge, Holder, Standing
from worker.sandbox.replies import Finish, Reply, Usage
from worker.sandbox.settings import Fault, ProviderName, SandboxSettings
from worker.sandbox.wire import Request

_CREATED = openai_responses.CREATED
_FINISH: dict[Finish, str] = {"stop": "stop", "length": "length", "filter": "content_filter"}

# status: (type, code, message); `{model}` is filled in.
_ERRORS: dict[int, tuple[str, str | None, str]] = {
    400: (INVALID, None, "The request could not be processed."),
    401: (INVALID, "invalid_api_key", "Incorrect API key provided. You can find your API key in your settings."),
    402: ("billing_error", "insufficient_balance", "Insufficient Balance"),
    403: (
        "request_forbidden",
        "unsupported_country_region_territory",
        "Country, region, or territory not supported",
    ),
    404: (INVALID, "model_not_found", "The model `{model}` does not exist or you do not have access to it."),
    408: ("timeout", None, "Request timed out."),
    409: ("conflict_error", None, "The resource was changed by another request. Please try again."),
    413: (INVALID, "request_too_large", "Maximum content size limit exceeded."),
    422: (INVALID, None, "The request was well-formed but could not be followed."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached for {model}. Please slow down your requests."),
    500: ("server_error", None, "The server had an error while processing your request. Sorry about that!"),
    502: ("server_error", None, "Bad gateway."),
    503: (
        "service_unavailable_error",
        "server_is_overloaded",
        "The engine is currently overloaded, please try again later.",
    ),
    504: ("server_error", None, "Gateway timeout."),
}
_FAULT_STATUS = {"rate_limit": 429, "overloaded": 503, "key_invalid": 401, "model_missing": 404, "error_in_200": 500}
_READERS: dict[str, Callable[[bytes, bool], Chat]] = {
    "/chat/completions": read_chat,
    "/responses": openai_responses.read,
    "/completions": openai_completions.read,
    "/embeddings": openai_embeddings.read,
}


class OpenAI:
    name: ProviderName = "openai"
    max_body = 256 * MEBIBYTE
    refusals_count = True
    cache_writes = True

    def secret(self, request: Request) -> str | None:
        return bearer(request)

    def read(self, request: Request, settings: SandboxSettings) -> Chat | Listing:
        path = request.path.removeprefix("/openai/v1")
        reader = _READERS.get(path)
        if reader is not None and request.method == "POST":
            return reader(request.body, settings.strict_models)
        if request.method == "GET" and (path == "/models" or path.startswith("/models/")):
            model = unquote(path.removeprefix("/models").removeprefix("/")) or None
            return Listing(model, retirements=settings.retirements)
        if reader is not None or path == "/models":
            message = f"Not allowed to {request.method} on {path}."
            raise Refusal(error(405, message, INVALID, None, "method_not_supported"))
        raise Refusal(error(404, f"Invalid URL ({request.method} {request.path.removeprefix('/openai')})"))

    def stranger(self, secret: str | None) -> Answer:
        if secret is None:
            message = "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."  # noqa: E501
            return error(401, message)
        kind, code, message = _ERRORS[401]
        return error(401, message, kind, None, code)

    def misaddressed(self, request: Request, holder: Holder) -> Answer | None:
        for name, own in (("Organization", holder.organization), ("Project", holder.project)):
            named = request.headers.get(f"openai-{name.lower()}".encode(), b"").decode("latin-1")
            if own is not None and named not in ("", own):
                message = f"OpenAI-{name} header should match {name.lower()} for API key"
                return error(401, message, INVALID, None, f"mismatched_{name.lower()}")
        return None

    def too_large(self) -> Answer:
        kind, code, message = _ERRORS[413]
        return error(413, message, kind, None, code)

    def denied(self, denial: Denial, model: str) -> Answer:
        unit, per = {
            "requests": ("requests", "requests per min (RPM)"),
            "tokens": ("tokens", "tokens per min (TPM)"),
            "day": ("requests", "requests per day (RPD)"),
            "day_tokens": ("tokens", "tokens per day (TPD)"),
            "concurrent": ("rate_limit_reached_error", "concurrent requests"),
        }[denial.what]
        numbers = f"Limit {denial.limit}, Requested {denial.requested}."
        if denial.too_large:
            message = f"Request too large for {model} in organization org-sandbox on {per}: {numbers} The input or output tokens must be reduced in order to run successfully."  # noqa: E501
            return error(429, message, unit, None, "rate_limit_exceeded")
        numbers = f"Limit {denial.limit}, Used {denial.used}, Requested {denial.requested}."
        message = f"Rate limit reached for {model} in organization org-sandbox on {per}: {numbers}"
        if denial.what == "concurrent":  # OpenAI has no such limit; compatible servers word it like this (Moonshot)
            message = f"Your account org-sandbox request reached max organization concurrency: {denial.limit}."
        if denial.stated is not None:
            message += f" Please try again in {duration(denial.stated)}."
        answer = error(429, message, unit, None, "rate_limit_exceeded")
        return Answer(429, answer.body, wait_headers(denial.stated))

    def failure(self, fault: Fault, model: str) -> Answer:
        if fault.kind in ("quota", "usage_limit"):
            status, kind, code = 429, "insufficient_quota", "insufficient_quota"
            message = "You exceeded your current quota, please check your plan and billing details."
        elif fault.kind == "context_length":
            status, kind, code = 400, INVALID, "context_length_exceeded"
            message = "This model's maximum context length is 128000 tokens. However, your messages resulted in more. Please reduce the length of the messages."  # noqa: E501
        elif fault.kind == "content_filter":
            status, kind, code = 400, INVALID, "content_filter"
            message = "The response was filtered due to the prompt triggering our content management policy."
        elif fault.kind == "model_forbidden":
            status, kind, code = 403, INVALID, "model_not_found"
            message = f"Project `proj_sandbox` does not have access to model `{model}`"
        else:
            status = fault.status or _FAULT_STATUS.get(fault.kind, 500)
            fallback = _ERRORS[500] if status >= 500 else _ERRORS[400]
            kind, known, template = _ERRORS.get(status, fallback)
            code, message = known or "", template.replace("{model}", model)
            if fault.code == "slow_down":
                kind = "rate_limit_error"
        answer = error(fault.status or status, fault.message or message, kind, None, fault.code or code or None)
        return Answer(answer.status, answer.body, exact_retry_after(fault.retry_after))

    def listing(self, names: list[str], asked: Listing) -> Answer:
        entries = [
            {
                "id": name,
                "object": "model",
                "created": _CREATED,
                "owned_by": "sandbox",
                "shutdown_date": asked.retirements.get(name),
            }
            for name in ([asked.model] if asked.model else names)
        ]
        return Answer(200, orjson.dumps(entries[0] if asked.model else {"object": "list", "data": entries}))

    def whole(self, chat: Chat, reply: Reply, spoilt: str | None = None) -> bytes:
        match chat.operation:
            case "responses" | "background":
                return openai_responses.whole(chat, reply, spoilt)
            case "embeddings":
                return openai_embeddings.whole(chat, reply, spoil(_usage(reply.usage), spoilt))
            case "completions":
                usage = spoil(_usage(reply.usage), spoilt)
                return openai_completions.whole(reply, _FINISH[reply.finish], usage)
        message: dict[str, object] = {
            "role": "assistant",
            "content": reply.text,
            "refusal": None,
            "annotations": _cited(reply),
        }
        finish = _FINISH[reply.finish]
        if reply.call:
            message |= {"content": None, "tool_calls": [_tool_call(reply, reply.call)]}
            finish = "tool_calls"
        body: dict[str, object] = {
            "id": f"chatcmpl-{reply.digest}",
            "object": "chat.completion",
            "created": _CREATED,
            "model": reply.model,
            "choices": [
                {"index": at, "message": message, "logprobs": None, "finish_reason": finish}
                for at in range(reply.copies)
            ],
            "usage": spoil(_usage(reply.usage), spoilt),
            "service_tier": chat.tier,
            "system_fingerprint": "fp_sandbox",
        }
        if spoilt == "missing":
            del body["usage"]
        return orjson.dumps(body)

    def events(self, chat: Chat, reply: Reply, spoilt: str | None = None) -> list[bytes]:
        if chat.operation in ("responses", "background"):
            return openai_responses.events(chat, reply, spoilt)
        if chat.operation == "completions":
            return openai_completions.events(chat, reply, _FINISH[reply.finish], spoil(_usage(reply.usage), spoilt))
        deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
        if reply.call:
            whole = _tool_call(reply, reply.call)
            function, name = whole["function"], whole["function"]["name"]
            opened = {**whole, "index": 0, "function": {"name": name, "arguments": ""}}
            deltas[0] = ({"role": "assistant", "content": None, "tool_calls": [opened]}, None)
            deltas += [
                ({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}, None)
                for piece in pieces(function["arguments"])
            ]
        else:
            deltas += [({"content": piece}, None) for piece in pieces(reply.text)]
        deltas.append(({}, "tool_calls" if reply.call else _FINISH[reply.finish]))
        events = [
            self._chunk(chat, reply, [{"index": at, "delta": delta, "logprobs": None, "finish_reason": finish}])
            for delta, finish in deltas
            for at in range(reply.copies)
        ]
        if chat.stream_usage and spoilt != "missing":
            events.append(self._chunk(chat, reply, [], spoil(_usage(reply.usage), spoilt)))
        events.append(b"data: [DONE]\n\n")
        return events

    def _chunk(self, chat: Chat, reply: Reply, choices: list[dict[str, object]], usage: object = None) -> bytes:
        body = {
            "id": f"chatcmpl-{reply.digest}",
            "object": "chat.completion.chunk",
            "created": _CREATED,
            "model": reply.model,
            "service_tier": chat.tier,
            "system_fingerprint": "fp_sandbox",
            "choices": choices,
        }
        if chat.stream_usage:
            body["usage"] = usage
        return b"data: %b\n\n" % orjson.dumps(body)

    def error_in_200(self, chat: Chat, fault: Fault) -> bytes:
        body = self.failure(fault, chat.model).body
        return openai_responses.failed(chat, body) if chat.operation == "responses" else body

    def error_event(self, chat: Chat, fault: Fault) -> bytes:
        if chat.operation == "responses":
            return openai_responses.failed_event(chat, self.failure(fault, chat.model).body)
        return b"data: %b\n\n" % self.failure(fault, chat.model).body

    def filtered(self, reply: Reply) -> Reply:
        return without_output(reply, 1)

    def headers(self, standing: Standing) -> bytes:
        lines = f"x-request-id: {request_id()}\r\nopenai-version: 2020-10-01\r\n".encode()
        return lines + _gauge("requests", standing.requests) + _gauge("tokens", standing.tokens)

    def charge(self, chat: Chat, usage: Usage) -> tuple[int, int]:
        """max(max_tokens, characters / 4) at arrival; nothing comes back."""
        return max(chat.max_tokens or 0, -(-len(chat.prompt) // 4)), 0


def _cited(reply: Reply) -> list[dict[str, Any]]:
    """The pages that a search found, as chat nests them."""
    kind = "url_citation"
    return [
        {"type": kind, kind: {name: value for name, value in one.items() if name != "type"}} for one in citations(reply)
    ]


def _tool_call(reply: Reply, call: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    function = {"name": call[0], "arguments": orjson.dumps(call[1]).decode()}
    return {"id": f"call_{reply.digest}", "type": "function", "function": function}


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached,
            "cache_write_tokens": usage.cache_write,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _gauge(unit: str, gauge: Gauge | None) -> bytes:
    if gauge is None:
        return b""
    return (
        f"x-ratelimit-limit-{unit}: {gauge.limit}\r\n"
        f"x-ratelimit-remaining-{unit}: {gauge.remaining}\r\n"
        f"x-ratelimit-reset-{unit}: {duration(gauge.reset)}\r\n"
    ).encode()


def duration(seconds: float) -> str:
    """Seconds the way Go writes them: 17ms, 1.5s, 6m0s, 2h0m0s."""
    if seconds < 1:
        return f"{max(0, -int(-seconds * 1000 // 1))}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
