"""The sandbox's Gemini: generateContent, streamGenerateContent and models, as generativelanguage.googleapis.com words them.

It reads and writes bodies; limits, faults and delivery are decided elsewhere.
"""

import re
from typing import Any
from urllib.parse import parse_qs, unquote

import orjson

from worker.sandbox import gemini_embeddings, gemini_replies
from worker.sandbox.dialect import (
    MEBIBYTE,
    Answer,
    Chat,
    Listing,
    Refusal,
    spoil,
    without_output,
)
from worker.sandbox.gemini_chat import read_chat
from worker.sandbox.gemini_words import RPC, bad, error
from worker.sandbox.quotas import Denial, Holder, Standing
from worker.sandbox.replies import Reply, Usage
from worker.sandbox.settings import Fault, ProviderName, SandboxSettings
from worker.sandbox.wire import Request

_PATH = re.compile(r"/gemini/(?:v1|v1beta)/models(?:/([^/:]+)(?::(\w+))?)?")
_METRIC = "generativelanguage.googleapis.com/"

# status: (name, message); `{model}` is filled in.
_ERRORS: dict[int, tuple[str, str]] = {
    400: ("INVALID_ARGUMENT", "Request contains an invalid argument."),
    401: ("UNAUTHENTICATED", "Request had invalid authentication credentials."),
    402: ("FAILED_PRECONDITION", "Your prepayment credits are depleted. Please go to AI Studio to manage billing."),
    403: ("PERMISSION_DENIED", "The caller does not have permission"),
    404: (
        "NOT_FOUND",
        "models/{model} is not found for API version v1, or is not supported for generateContent. Call ListModels to "
        "see the list of available models and their supported methods.",
    ),
    408: ("DEADLINE_EXCEEDED", "The request timed out."),
    409: ("ABORTED", "The operation was aborted."),
    413: ("INVALID_ARGUMENT", "Request payload size exceeds the limit."),
    422: ("INVALID_ARGUMENT", "The request could not be followed."),
    429: ("RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
    499: ("CANCELLED", "The operation was cancelled."),
    500: ("INTERNAL", "An internal error has occurred. Please retry."),
    503: ("UNAVAILABLE", "The model is overloaded. Please try again later."),
    504: ("DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
}
_FAULT_STATUS = {"rate_limit": 429, "overloaded": 503, "model_missing": 404, "usage_limit": 429, "error_in_200": 503}


def _reason(reason: str) -> dict[str, Any]:
    metadata = {"service": "generativelanguage.googleapis.com"}
    return {"@type": f"{RPC}ErrorInfo", "reason": reason, "domain": "googleapis.com", "metadata": metadata}


def _retry_info(wait: float) -> dict[str, Any]:
    return {"@type": f"{RPC}RetryInfo", "retryDelay": f"{wait:.3f}".rstrip("0").rstrip(".") + "s"}


def _violation(quota: str, metric: str, model: str, limit: int) -> dict[str, Any]:
    violation = {
        "quotaMetric": _METRIC + metric,
        "quotaId": quota,
        "quotaDimensions": {"location": "global", **({"model": model} if "PerModel" in quota else {})},
        "quotaValue": str(limit),
    }
    return {"@type": f"{RPC}QuotaFailure", "violations": [violation]}


def _listing(model: str | None, query: bytes) -> Listing:
    """The page that a question for models asks for; raises Refusal for a wrong one."""
    asked = {name: values[0] for name, values in parse_qs(query.decode("latin-1")).items()}
    size, token = asked.get("pageSize", "50"), asked.get("pageToken", "page/0")
    if not size.isdigit() or int(size) < 1:
        raise bad("* ListModelsRequest.page_size: must be positive\n")
    if not token.startswith("page/") or not token[5:].isdigit():
        raise bad("* ListModelsRequest.page_token: invalid page token\n")
    return Listing(model, int(token[5:]), min(int(size), 1000))


class Gemini:
    name: ProviderName = "gemini"
    max_body = 256 * MEBIBYTE
    refusals_count = False
    cache_writes = False

    def secret(self, request: Request) -> str | None:
        key = request.headers.get(b"x-goog-api-key")
        if key:
            return key.decode("utf-8", "surrogateescape")
        if b"key=" not in request.query:
            return None
        return parse_qs(request.query.decode("latin-1")).get("key", [None])[0]

    def read(self, request: Request, settings: SandboxSettings) -> Chat | Listing:
        match = _PATH.fullmatch(request.path)
        if match is None:
            raise Refusal(error(404, "NOT_FOUND", f"Requested entity was not found: {request.path[:200]}"))
        quoted, action = match.groups()
        model = unquote(quoted) if quoted else None
        if request.method == "GET" and action is None:
            return _listing(model, request.query)
        if request.method == "POST" and model is not None and action in gemini_embeddings.ACTIONS:
            try:
                return gemini_embeddings.read(model, request.body, action)
            except Refusal as refusal:
                raise Refusal(refusal.answer, model) from None
        if request.method != "POST" or model is None or action not in ("generateContent", "streamGenerateContent"):
            raise Refusal(error(404, "NOT_FOUND", "The requested URL was not found on this server."))
        stream = action == "streamGenerateContent"
        try:
            return read_chat(model, request.body, stream, b"alt=sse" in request.query.split(b"&"))
        except Refusal as refusal:
            raise Refusal(refusal.answer, model) from None

    def stranger(self, secret: str | None) -> Answer:
        if secret is None:
            message = "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or other form of API consumer identity to call this API."  # noqa: E501
            return error(403, "PERMISSION_DENIED", message)
        return _key_invalid("API key not valid. Please pass a valid API key.")

    def misaddressed(self, request: Request, holder: Holder) -> Answer | None:
        return None

    def too_large(self) -> Answer:
        return error(413, *_ERRORS[413])

    def denied(self, denial: Denial, model: str) -> Answer:
        quota, metric = {
            "requests": ("GenerateRequestsPerMinutePerProjectPerModel", "generate_content_requests"),
            "tokens": ("GenerateContentInputTokensPerModelPerMinute", "generate_content_input_token_count"),
            "day": ("GenerateRequestsPerDayPerProjectPerModel", "generate_content_requests"),
            "day_tokens": ("GenerateContentInputTokensPerModelPerDay", "generate_content_input_token_count"),
            "concurrent": ("GenerateConcurrentRequestsPerProjectPerModel", "generate_content_concurrent_requests"),
        }[denial.what]
        message = f"You exceeded your current quota, please check your plan and billing details. \n* Quota exceeded for metric: {_METRIC}{metric}, limit: {denial.limit}, model: {model}"  # noqa: E501
        details = [_violation(quota, metric, model, denial.limit)]
        if denial.stated is not None:
            info = _retry_info(denial.stated)
            message += f"\nPlease retry in {info['retryDelay']}."
            details.append(info)
        return error(429, "RESOURCE_EXHAUSTED", message, details)

    def failure(self, fault: Fault, model: str) -> Answer:
        details: list[dict[str, Any]] = []
        if fault.kind == "quota" or (fault.kind == "usage_limit"):
            status, name = 429, "RESOURCE_EXHAUSTED"
            message = "You exceeded your current quota, please check your plan and billing details."
            quota = fault.code or "GenerateRequestsPerDayPerProject-FreeTier"
            details = [_violation(quota, "generate_content_free_tier_requests", model, 20)]
        elif fault.kind == "key_invalid":
            answer = _key_invalid(fault.message or "API key not valid. Please pass a valid API key.")
            return answer if fault.status is None else Answer(fault.status, answer.body)
        elif fault.kind == "context_length":
            status, name = 400, "INVALID_ARGUMENT"
            message = "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576)."
        elif fault.kind == "model_forbidden":
            status, name = 403, "PERMISSION_DENIED"
            message = f"Permission denied on resource model {model}: the caller may not use models/{model}."
        else:
            status = fault.status or _FAULT_STATUS.get(fault.kind, 500)
            name, message = _ERRORS.get(status, _ERRORS[500] if status >= 500 else _ERRORS[400])
            details = [_reason(fault.code)] if fault.code else []
        text = fault.message or message.replace("{model}", model)
        if fault.retry_after is not None:
            details.append(_retry_info(fault.retry_after))
            text += f" Please retry in {details[-1]['retryDelay']}."
        return error(fault.status or status, name, text, details)

    def listing(self, names: list[str], asked: Listing) -> Answer:
        end = asked.begin + asked.most
        entries = [
            {
                "name": f"models/{name}",
                "displayName": name,
                "inputTokenLimit": 1048576,
                "outputTokenLimit": 65536,
                "supportedGenerationMethods": [
                    "embedContent" if "embedding" in name else "generateContent",
                    "countTokens",
                ],
            }
            for name in ([asked.model] if asked.model else names[asked.begin : end])
        ]
        if asked.model:
            return Answer(200, orjson.dumps(entries[0]))
        more = {"nextPageToken": f"page/{end}"} if end < len(names) else {}
        return Answer(200, orjson.dumps({"models": entries, **more}))

    def whole(self, chat: Chat, reply: Reply, spoilt: str | None = None) -> bytes:
        if chat.vectors is not None:
            return gemini_embeddings.whole(chat, reply, spoilt)
        return orjson.dumps(self._part(reply, gemini_replies.parts(reply), True, spoilt))

    def _part(self, reply: Reply, parts: list[dict[str, Any]], last: bool, spoilt: str | None) -> dict[str, Any]:
        """A whole response: the only one, or one of a stream's, whose usage grows."""
        body: dict[str, Any] = {}
        if reply.finish == "filter":
            body["promptFeedback"] = {"blockReason": "SAFETY"}
        else:
            candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}}
            if last:
                candidate["finishReason"] = gemini_replies.FINISH[reply.finish]
            body["candidates"] = [{**candidate, "index": at} for at in range(reply.copies)]
            if last:
                body["candidates"][0] |= gemini_replies.grounding(reply)
        if spoilt != "missing":
            body["usageMetadata"] = spoil(gemini_replies.usage(reply.usage, last), spoilt)
        return {**body, "modelVersion": reply.model, "responseId": reply.digest}

    def events(self, chat: Chat, reply: Reply, spoilt: str | None = None) -> list[bytes]:
        parts = gemini_replies.streamed(reply)
        bodies = [orjson.dumps(self._part(reply, one, at == len(parts) - 1, spoilt)) for at, one in enumerate(parts)]
        if chat.framed:
            return [b"data: %b\r\n\r\n" % body for body in bodies]
        opened = [(b"[" if at == 0 else b",\r\n") + body for at, body in enumerate(bodies)]
        return [*opened[:-1], opened[-1] + b"]"]

    def error_in_200(self, chat: Chat, fault: Fault) -> bytes:
        return self.failure(fault, chat.model).body

    def error_event(self, chat: Chat, fault: Fault) -> bytes:
        body = self.failure(fault, chat.model).body
        return b"data: %b\r\n\r\n" % body if chat.framed else b",\r\n%b]" % body

    def filtered(self, reply: Reply) -> Reply:
        return without_output(reply, 0)

    def headers(self, standing: Standing) -> bytes:
        return b""

    def charge(self, chat: Chat, usage: Usage) -> tuple[int, int]:
        """Input at arrival, nothing for output."""
        return usage.input, 0


def _key_invalid(message: str) -> Answer:
    return error(400, "INVALID_ARGUMENT", message, [_reason("API_KEY_INVALID")])
