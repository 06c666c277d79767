"""The sandbox's Claude: messages and models, as api.anthropic.com words them.

It reads and writes bodies; limits, faults and delivery are decided elsewhere.
"""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, unquote

import orjson

from worker.sandbox import claude_replies
from worker.sandbox.claude_chat import read_chat
from worker.sandbox.claude_replies import event
from worker.sandbox.claude_words import bad, error
from worker.sandbox.dialect import (
    MEBIBYTE,
    Answer,
    Chat,
    Listing,
    Refusal,
    bearer,
    exact_retry_after,
    request_id,
    spoil,
    stated_wait,
    without_output,
)
from worker.sandbox.quotas import Denial, Gauge, Holder, Standing
from worker.sandbox.replies import Finish, Reply, Usage
from worker.sandbox.settings import Fault, ProviderName, SandboxSettings
from worker.sandbox.wire import Request

_VERSIONS = ("2023-01-01", "2023-06-01", "2026-10-21")
_FINISH: dict[Finish, str] = {"stop": "end_turn", "length": "max_tokens", "filter": "refusal"}

# status: (error type, message); `{model}` is filled in.
_ERRORS: dict[int, tuple[str, str]] = {
    400: ("invalid_request_error", "The request could not be processed."),
    401: ("authentication_error", "invalid x-api-key"),
    402: ("billing_error", "There is an issue with your billing or payment information."),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "model: {model}"),
    408: ("timeout_error", "Request timed out."),
    409: ("conflict_error", "The resource was changed by another request."),
    413: ("request_too_large", "Request exceeds the maximum size"),
    422: ("invalid_request_error", "The request was well-formed but could not be followed."),
    429: ("rate_limit_error", "Number of requests has exceeded your rate limit. Please try again later."),
    500: ("api_error", "Internal server error"),
    503: ("api_error", "Service unavailable"),
    504: ("timeout_error", "Request timed out; consider streaming."),
    529: ("overloaded_error", "Overloaded"),
}
_FAULT_STATUS = {"rate_limit": 429, "overloaded": 529, "key_invalid": 401, "model_missing": 404, "error_in_200": 529}


_OPENING = {"output_tokens": 1, "output_tokens_details": {"thinking_tokens": 0}, "server_tool_use": None}
_CREATED = "2026-01-01T00:00:00Z"


def _listing(model: str, query: bytes, settings: SandboxSettings) -> Listing:
    """The page that a question for models asks for; raises Refusal for a wrong one."""
    asked = {name: values[0] for name, values in parse_qs(query.decode("latin-1")).items()}
    most = asked.pop("limit", "20")
    if not most.isdigit() or not 1 <= int(most) <= 1000:
        raise bad("limit: Input should be between 1 and 1000")
    names, after = settings.models.get("claude", []), asked.pop("after_id", None)
    if asked:
        raise bad(f"{next(iter(asked))}: Extra inputs are not permitted")
    if after is not None and after not in names:
        raise bad(f"after_id: no model {after}")
    begin = 0 if after is None else names.index(after) + 1
    return Listing(model or None, begin, int(most), settings.retirements)


class Claude:
    name: ProviderName = "claude"
    max_body = 32 * MEBIBYTE
    refusals_count = False
    cache_writes = True

    def secret(self, request: Request) -> str | None:
        key = request.headers.get(b"x-api-key")
        return key.decode("utf-8", "surrogateescape") if key else bearer(request)

    def read(self, request: Request, settings: SandboxSettings) -> Chat | Listing:
        path = request.path.removeprefix("/claude/v1")
        listing = path == "/models" or path.startswith("/models/")
        if not listing and path != "/messages":
            raise Refusal(error(404, "not_found_error", f"Not found: {request.path.removeprefix('/claude')}"))
        if request.method != ("GET" if listing else "POST"):
            raise Refusal(error(405, "invalid_request_error", "Method Not Allowed"))
        version = request.headers.get(b"anthropic-version", b"").decode("latin-1")
        if not version:
            raise bad("anthropic-version: header is required")
        if version not in _VERSIONS:
            raise bad(f'anthropic-version: "{version}" is not a valid version')
        if listing:
            return _listing(unquote(path.removeprefix("/models").removeprefix("/")), request.query, settings)
        return read_chat(request.body, version, settings.strict_models)

    def stranger(self, secret: str | None) -> Answer:
        return error(401, "authentication_error", "x-api-key header is required" if secret is None else _ERRORS[401][1])

    def misaddressed(self, request: Request, holder: Holder) -> Answer | None:
        return None

    def too_large(self) -> Answer:
        return error(413, *_ERRORS[413])

    def denied(self, denial: Denial, model: str) -> Answer:
        unit = {
            "requests": "requests per minute",
            "tokens": "tokens per minute",
            "day": "requests per day",
            "day_tokens": "tokens per day",
        }
        if denial.what == "concurrent":
            message = "Number of concurrent connections has exceeded your rate limit. Please try again later."
        else:
            message = f"This request would exceed your organization's rate limit of {denial.limit} {unit[denial.what]} (model: {model})."  # noqa: E501
        answer = error(429, "rate_limit_error", message)
        # a request over a whole minute's limit will never fit, so no wait is promised
        return Answer(429, answer.body, stated_wait(denial.stated))

    def failure(self, fault: Fault, model: str) -> Answer:
        code = fault.code
        if fault.kind == "quota":
            status, kind = 429, "rate_limit_error"
            message = "Your organization has reached its spend limit."
            code = code or "enforced_spend_limit_reached"
        elif fault.kind == "usage_limit":
            status, kind = 400, "invalid_request_error"
            message = "You have reached your specified API usage limits. You will regain access on the first of next month at 00:00 UTC."  # noqa: E501
        elif fault.kind == "context_length":
            status, kind = 400, "invalid_request_error"
            message = "prompt is too long: 200001 tokens > 200000 maximum"
        elif fault.kind == "content_filter":
            status, kind, message = 400, "invalid_request_error", "Output blocked by content filtering policy"
        elif fault.kind == "model_forbidden":
            status, kind = 403, "permission_error"
            message = f"Your API key does not have permission to use the specified model: {model}"
        else:
            status = fault.status or _FAULT_STATUS.get(fault.kind, 500)
            kind, message = _ERRORS.get(status, _ERRORS[500] if status >= 500 else _ERRORS[400])
        text = fault.message or message.replace("{model}", model)
        answer = error(fault.status or status, kind, text, code)
        return Answer(answer.status, answer.body, exact_retry_after(fault.retry_after))

    def listing(self, names: list[str], asked: Listing) -> Answer:
        end = asked.begin + asked.most
        page = [asked.model] if asked.model else names[asked.begin : end]
        entries = [
            {
                "type": "model",
                "id": name,
                "display_name": name,
                "created_at": _CREATED,
                "max_input_tokens": 200_000,
                "max_tokens": 64_000,
                "capabilities": None,
                "lifecycle": "deprecated" if name in asked.retirements else "active",
                "deprecated_at": _CREATED if name in asked.retirements else None,
                "retires_at": asked.retirements.get(name),
            }
            for name in page
        ]
        if asked.model:
            return Answer(200, orjson.dumps(entries[0]))
        ends = {"first_id": page[0] if page else None, "last_id": page[-1] if page else None}
        return Answer(200, orjson.dumps({"data": entries, "has_more": end < len(names), **ends}))

    def whole(self, chat: Chat, reply: Reply, spoilt: str | None = None) -> bytes:
        body = self._message(reply, claude_replies.blocks(reply), _stop_reason(reply))
        body["usage"] = spoil(claude_replies.usage(reply.usage), spoilt)
        if spoilt == "missing":
            del body["usage"]
        return orjson.dumps(body)

    def _message(self, reply: Reply, content: list[dict[str, Any]], stop: str | None) -> dict[str, Any]:
        return {
            "id": f"msg_{reply.digest}",
            "type": "message",
            "role": "assistant",
            "model": reply.model,
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
            "stop_details": _details(stop),
            "container": None,
            "usage": None,
        }

    def events(self, chat: Chat, reply: Reply, spoilt: str | None = None) -> list[bytes]:
        final = claude_replies.usage(reply.usage)
        opening = self._message(reply, [], None)
        opening["usage"] = spoil({**final, **_OPENING}, spoilt)
        stop = _stop_reason(reply)
        closing: dict[str, Any] = {
            "delta": {
                "stop_reason": stop,
                "stop_sequence": None,
                "stop_details": _details(stop),
                "container": None,
            },
            "usage": spoil(final, spoilt),
        }
        if spoilt == "missing":
            del opening["usage"], closing["usage"]
        return [
            event("message_start", message=opening),
            *claude_replies.events(reply),
            event("message_delta", **closing),
            event("message_stop"),
        ]

    def error_in_200(self, chat: Chat, fault: Fault) -> bytes:
        return self.failure(fault, chat.model).body

    def error_event(self, chat: Chat, fault: Fault) -> bytes:
        return b"event: error\ndata: %b\n\n" % self.failure(fault, chat.model).body

    def filtered(self, reply: Reply) -> Reply:
        return without_output(reply, 1)

    def headers(self, standing: Standing) -> bytes:
        lines = f"request-id: {request_id()}\r\n".encode()
        if standing == _UNLIMITED:
            return lines
        now = datetime.now(UTC)
        return (
            lines
            + _gauge("requests", standing.requests, now)
            + _gauge("tokens", standing.tokens, now)
            + _gauge("input-tokens", standing.tokens, now)
            + _gauge("output-tokens", standing.tokens, now)
        )

    def charge(self, chat: Chat, usage: Usage) -> tuple[int, int]:
        """Input without cache reads at arrival, output as it was produced at the end; max_tokens does not count."""
        return usage.input - usage.cached, usage.output


_UNLIMITED = Standing()


def _stop_reason(reply: Reply) -> str:
    return "tool_use" if reply.call else _FINISH[reply.finish]


def _details(stop: str | None) -> dict[str, str] | None:
    return (
        {"type": "refusal", "category": "general_harms", "explanation": "Declined by the sandbox."}
        if stop == "refusal"
        else None
    )


def _gauge(unit: str, gauge: Gauge | None, now: datetime) -> bytes:
    if gauge is None:
        return b""
    # the real one shows what is left of tokens in thousands
    left = gauge.remaining if unit == "requests" else gauge.remaining // 1000 * 1000
    reset = (now + timedelta(seconds=gauge.reset)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        f"anthropic-ratelimit-{unit}-limit: {gauge.limit}\r\n"
        f"anthropic-ratelimit-{unit}-remaining: {left}\r\n"
        f"anthropic-ratelimit-{unit}-reset: {reset}\r\n"
    ).encode()
