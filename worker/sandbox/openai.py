"""The sandbox's OpenAI: chat completions and models, as api.openai.com words them.

It reads and writes bodies; limits, faults and delivery are decided elsewhere.
"""

import re
from typing import Any

import orjson

from worker.sandbox.dialect import (
    MEBIBYTE,
    Answer,
    Chat,
    Listing,
    Refusal,
    bearer,
    chat,
    names,
    pieces,
    request_id,
    retry_after,
    spoil,
    stand_in,
    without_output,
)
from worker.sandbox.quotas import Denial, Gauge, Standing
from worker.sandbox.replies import Finish, Reply, Usage
from worker.sandbox.settings import Fault, ProviderName, SandboxSettings
from worker.sandbox.wire import Request

_FIELDS = names(
    "model messages audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens "
    "metadata modalities moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key "
    "prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier "
    "stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity "
    "web_search_options"
)
_ROLES = ("system", "assistant", "user", "function", "tool", "developer")
_PARTS = ("text", "image_url", "input_audio", "file", "refusal")
_REASONING_MODEL = re.compile(r"(o\d|gpt-[5-9])")
_KINDS = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    list: "an array",
    dict: "an object",
}
_CREATED = 1767225600  # a fixed time, so that a body is a pure function of its request
_FINISH: dict[Finish, str] = {"stop": "stop", "length": "length", "filter": "content_filter"}
_INVALID = "invalid_request_error"

# status: (type, code, message); `{model}` is filled in.
_ERRORS: dict[int, tuple[str, str | None, str]] = {
    400: (_INVALID, None, "The request could not be processed."),
    401: (_INVALID, "invalid_api_key", "Incorrect API key provided. You can find your API key in your settings."),
    402: ("billing_error", "insufficient_balance", "Insufficient Balance"),
    403: (
        "request_forbidden",
        "unsupported_country_region_territory",
        "Country, region, or territory not supported",
    ),
    404: (_INVALID, "model_not_found", "The model `{model}` does not exist or you do not have access to it."),
    408: ("timeout", None, "Request timed out."),
    409: ("conflict_error", None, "The resource was changed by another request. Please try again."),
    413: (_INVALID, "request_too_large", "Maximum content size limit exceeded."),
    422: (_INVALID, None, "The request was well-formed but could not be followed."),
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


def _error(
    status: int, message: str, kind: str = _INVALID, param: str | None = None, code: str | None = None
) -> Answer:
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return Answer(status, orjson.dumps(body))


def _bad(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    return Refusal(_error(400, message, _INVALID, param, code))


def _kind(value: object) -> str:
    return "null" if value is None else _KINDS.get(type(value), "an object")


def _mistyped(name: str, wanted: str, value: object) -> Refusal:
    message = f"Invalid type for '{name}': expected {wanted}, but got {_kind(value)} instead."
    return _bad(message, name, "invalid_type")


def _positive(body: dict[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int:
        raise _mistyped(name, "an integer", value)
    if value < 1:
        message = f"Invalid '{name}': integer below minimum value. Expected a value >= 1, but got {value} instead."
        raise _bad(message, name, "integer_below_min_value")
    return value


def _within(body: dict[str, Any], name: str, low: float, high: float) -> None:
    value = body.get(name)
    if value is None:
        return
    if type(value) not in (int, float):
        raise _mistyped(name, "a decimal", value)
    if not low <= value <= high:
        side, sign, bound, code = ("below minimum", ">=", low, "below_min") if value < low else (
            "above maximum", "<=", high, "above_max"
        )  # fmt: skip
        message = f"Invalid '{name}': decimal {side} value. Expected a value {sign} {bound}, but got {value} instead."
        raise _bad(message, name, f"decimal_{code}_value")


def _content(content: object, where: str, empty_allowed: bool) -> str:
    if type(content) is str:
        return content
    if content is None and empty_allowed:
        return ""
    if type(content) is not list:
        raise _mistyped(f"{where}.content", "one of a string or array of objects", content)
    texts = []
    for at, part in enumerate(content):
        spot = f"{where}.content[{at}]"
        if type(part) is not dict:
            raise _mistyped(spot, "an object", part)
        kind = part.get("type")
        if kind not in _PARTS:
            wanted = ", ".join(f"'{name}'" for name in _PARTS)
            raise _bad(f"Invalid value: '{kind}'. Supported values are: {wanted}.", f"{spot}.type", "invalid_value")
        if kind != "text":
            texts.append(stand_in(part))
        elif type(part.get("text")) is str:
            texts.append(part["text"])
        else:
            raise _mistyped(f"{spot}.text", "a string", part.get("text"))
    return "\n".join(texts)


def _message(message: object, at: int) -> str:
    where = f"messages[{at}]"
    if type(message) is not dict:
        raise _mistyped(where, "an object", message)
    if "role" not in message:
        raise _bad(f"Missing required parameter: '{where}.role'.", f"{where}.role", "missing_required_parameter")
    role = message["role"]
    if role not in _ROLES:
        wanted = "'system', 'assistant', 'user', 'function', 'tool', and 'developer'"
        raise _bad(f"Invalid value: '{role}'. Supported values are: {wanted}.", f"{where}.role", "invalid_value")
    calls = message.get("tool_calls")
    if role == "tool" and type(message.get("tool_call_id")) is not str:
        spot = f"{where}.tool_call_id"
        raise _bad(f"Missing required parameter: '{spot}'.", spot, "missing_required_parameter")
    text = _content(message.get("content"), where, role == "assistant" and bool(calls or message.get("function_call")))
    return f"{text}{stand_in({'tool_calls': calls})}" if calls else text


class OpenAI:
    name: ProviderName = "openai"
    max_body = 256 * MEBIBYTE
    refusals_count = True
    cache_writes = True

    def secret(self, request: Request) -> str | None:
        return bearer(request)

    def read(self, request: Request, settings: SandboxSettings) -> Chat | Listing:
        path = request.path.removeprefix("/openai/v1")
        if path == "/chat/completions" and request.method == "POST":
            return self._chat(request.body, settings)
        if request.method == "GET" and (path == "/models" or path.startswith("/models/")):
            return Listing(path.removeprefix("/models").removeprefix("/") or None)
        if path in ("/chat/completions", "/models"):
            message = f"Not allowed to {request.method} on {path}."
            raise Refusal(_error(405, message, _INVALID, None, "method_not_supported"))
        raise Refusal(_error(404, f"Invalid URL ({request.method} {request.path.removeprefix('/openai')})"))

    def _chat(self, raw: bytes, settings: SandboxSettings) -> Chat:
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            body = None
        if type(body) is not dict:
            raise _bad("We could not parse the JSON body of your request. The OpenAI API expects a JSON payload.")
        for name in body:
            if name not in _FIELDS:
                raise _bad(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
        model, messages = body.get("model"), body.get("messages")
        if model is None or model == "":
            raise _bad("you must provide a model parameter")
        if type(model) is not str:
            raise _mistyped("model", "a string", model)
        if messages is None:
            raise _bad("Missing required parameter: 'messages'.", "messages", "missing_required_parameter")
        if type(messages) is not list:
            raise _mistyped("messages", "an array of objects", messages)
        if not messages:
            message = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead."  # noqa: E501
            raise _bad(message, "messages", "empty_array")
        if model.startswith("missing-"):
            raise Refusal(self._about_model(404, model), model)
        if model.startswith("forbidden-"):
            raise Refusal(self._forbidden(model), model)
        texts = [_message(message, at) for at, message in enumerate(messages)]
        legacy, modern = _positive(body, "max_tokens"), _positive(body, "max_completion_tokens")
        if legacy is not None and settings.strict_models and _REASONING_MODEL.match(model):
            message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."  # noqa: E501
            raise _bad(message, "max_tokens", "unsupported_parameter")
        _within(body, "temperature", 0, 2)
        _within(body, "top_p", 0, 1)
        stream, options = body.get("stream"), body.get("stream_options")
        if stream is not None and type(stream) is not bool:
            raise _mistyped("stream", "a boolean", stream)
        if options is not None and not stream:
            message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
            raise _bad(message, "stream_options")
        if options is not None and type(options) is not dict:
            raise _mistyped("stream_options", "an object", options)
        return chat(
            model,
            texts,
            legacy if modern is None else modern,
            stream=bool(stream),
            copies=_positive(body, "n") or 1,
            stream_usage=bool(options and options.get("include_usage")),
        )

    def stranger(self, secret: str | None) -> Answer:
        if secret is None:
            message = "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."  # noqa: E501
            return _error(401, message)
        kind, code, message = _ERRORS[401]
        return _error(401, message, kind, None, code)

    def too_large(self) -> Answer:
        kind, code, message = _ERRORS[413]
        return _error(413, message, kind, None, code)

    def denied(self, denial: Denial, model: str) -> Answer:
        unit, per = {
            "requests": ("requests", "requests per min (RPM)"),
            "tokens": ("tokens", "tokens per min (TPM)"),
            "day": ("requests", "requests per day (RPD)"),
        }[denial.what]
        numbers = f"Limit {denial.limit}, Requested {denial.requested}."
        if denial.too_large:
            message = f"Request too large for {model} in organization org-sandbox on {per}: {numbers} The input or output tokens must be reduced in order to run successfully."  # noqa: E501
            return _error(429, message, unit, None, "rate_limit_exceeded")
        numbers = f"Limit {denial.limit}, Used {denial.used}, Requested {denial.requested}."
        message = f"Rate limit reached for {model} in organization org-sandbox on {per}: {numbers} Please try again in {duration(denial.wait)}."  # noqa: E501
        answer = _error(429, message, unit, None, "rate_limit_exceeded")
        precise = b"retry-after-ms: %d\r\n" % max(1, -int(-denial.wait * 1000 // 1))
        return Answer(429, answer.body, retry_after(denial.wait) + precise)

    def failure(self, fault: Fault, model: str) -> Answer:
        if fault.kind in ("quota", "usage_limit"):
            status, kind, code = 429, "insufficient_quota", "insufficient_quota"
            message = "You exceeded your current quota, please check your plan and billing details."
        elif fault.kind == "context_length":
            status, kind, code = 400, _INVALID, "context_length_exceeded"
            message = "This model's maximum context length is 128000 tokens. However, your messages resulted in more. Please reduce the length of the messages."  # noqa: E501
        elif fault.kind == "content_filter":
            status, kind, code = 400, _INVALID, "content_filter"
            message = "The response was filtered due to the prompt triggering our content management policy."
        elif fault.kind == "model_forbidden":
            status, kind, code, message = 403, _INVALID, "model_not_found", _no_access(model)
        else:
            status = fault.status or _FAULT_STATUS.get(fault.kind, 500)
            fallback = _ERRORS[500] if status >= 500 else _ERRORS[400]
            kind, known, template = _ERRORS.get(status, fallback)
            code, message = known or "", template.replace("{model}", model)
        answer = _error(fault.status or status, fault.message or message, kind, None, fault.code or code or None)
        return Answer(answer.status, answer.body, retry_after(fault.retry_after))

    def _about_model(self, status: int, model: str) -> Answer:
        kind, code, message = _ERRORS[status]
        return _error(status, message.replace("{model}", model), kind, None, code)

    def _forbidden(self, model: str) -> Answer:
        return _error(403, _no_access(model), _INVALID, None, "model_not_found")

    def listing(self, names: list[str], model: str | None) -> Answer:
        if model is not None and model.startswith("missing-"):
            return self._about_model(404, model)
        entries = [
            {"id": name, "object": "model", "created": _CREATED, "owned_by": "sandbox"}
            for name in ([model] if model else names)
        ]
        return Answer(200, orjson.dumps(entries[0] if model else {"object": "list", "data": entries}))

    def whole(self, chat: Chat, reply: Reply, spoilt: str | None = None) -> bytes:
        message: dict[str, object] = {"role": "assistant", "content": reply.text, "refusal": None, "annotations": []}
        finish = _FINISH[reply.finish]
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
            "service_tier": "default",
            "system_fingerprint": "fp_sandbox",
        }
        if spoilt == "missing":
            del body["usage"]
        return orjson.dumps(body)

    def events(self, chat: Chat, reply: Reply, spoilt: str | None = None) -> list[bytes]:
        deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": ""}, None)]
        deltas += [({"content": piece}, None) for piece in pieces(reply.text)]
        deltas.append(({}, _FINISH[reply.finish]))
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
            "system_fingerprint": "fp_sandbox",
            "choices": choices,
        }
        if chat.stream_usage:
            body["usage"] = usage
        return b"data: %b\n\n" % orjson.dumps(body)

    def error_event(self, chat: Chat, fault: Fault) -> bytes:
        return b"data: %b\n\n" % self.failure(fault, chat.model).body

    def filtered(self, reply: Reply) -> Reply:
        return without_output(reply, 1)

    def headers(self, standing: Standing) -> bytes:
        lines = f"x-request-id: {request_id()}\r\nopenai-version: 2020-10-01\r\n".encode()
        return lines + _gauge("requests", standing.requests) + _gauge("tokens", standing.tokens)

    def charge(self, chat: Chat, usage: Usage) -> tuple[int, int]:
        """max(max_tokens, characters / 4) at arrival; nothing comes back."""
        return max(chat.max_tokens or 0, -(-len(chat.prompt) // 4)), 0


def _no_access(model: str) -> str:
    return f"Project `proj_sandbox` does not have access to model `{model}`"


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
