"""Words that many vendors use alike: long prompts, money, moderation, regions, capacity, models that are gone."""

from __future__ import annotations

from models.request import FailureKind as Kind
from models.request import FailureScope as Scope
from models.signals import Signal

_REQUEST = (400, 403, 404, 406, 412, 413, 416, 422, 500, 503)
"""Statuses under which servers report a prompt that is too long."""
_MONEY = (400, 401, 402, 403, 412, 429)
_REFUSED = (400, 403, 406, 422, 451)

PHRASES: tuple[Signal, ...] = (
    Signal(
        "no-such-path",
        Kind.BAD_REQUEST,
        status=(400, 403, 404, 405, 410, 500, 501),
        words=(
            "unexpected endpoint",  # LM Studio
            "unknown request url",  # Groq
            "unknown endpoint",
            "unrecognized request url",  # OpenAI
            "invalid url (",  # OpenAI
            "cannot post",  # Express
            "no route matched",  # Kong
            "no route for",  # Cloudflare
            "no such endpoint",
            "no such route",
            "no such path",
            "endpoint not found",
            "route not found",
            "path not found",
            "url not found",
            "requested url * was not found on this server",  # Google's front end, Apache
            "method not allowed",  # FastAPI
            "missing authentication token",  # AWS API Gateway
            "plain http request was sent to https port",  # nginx
        ),
        scope=Scope.ENDPOINT,
        source="the servers named beside the words; lmstudio-ai/lmstudio-bug-tracker#618",
    ),
    Signal(
        "model-lacks",
        Kind.BAD_REQUEST,
        status=(400, 404, 422),
        words=(
            "assistant message prefill",
            "prefilling assistant",
            "assistant prefill",
            "model does not support",
            "model doesn't support",
            "supported with this model",
            "support * with this model",
            "supported for this model",
            "supported by this model",
            "supported in this model",
            "is not enabled for models/",
            "no endpoints found that support",
        ),
        scope=Scope.MODEL,
        source="Anthropic docs: prefill (Claude Opus 4.6); OpenAI, Groq, Gemini and OpenRouter error messages",
    ),
    Signal(
        "too-long",
        Kind.CONTEXT_LENGTH,
        status=_REQUEST,
        code=("exceed_context_size_error", "context_window_exceeded", "model_context_window_exceeded", "*too_long*"),
        scope=Scope.REQUEST,
        source="llama.cpp server (exceed_context_size_error); Z.AI; UCloud docs (tokens_too_long)",
    ),
    Signal(
        "too-long-in-words",
        Kind.CONTEXT_LENGTH,
        status=_REQUEST,
        words=(
            "context_length_exceeded",
            # OpenAI, MiniMax, LiteLLM
            "context window",
            "ContextWindowExceeded",
            # Groq, vLLM
            "reduce the length of the messages",
            "reduce the length of the input",
            # llama.cpp
            "exceeds the available context size",
            # OpenAI, vLLM, SGLang, DeepSeek, OpenRouter, Mistral, Together, Ollama, LM Studio
            "context length",
            "context-length",
            "input length * exceeds the maximum allowed",
            "exceeds the maximum allowed length",
            # xAI
            "maximum prompt length is",
            # Ollama
            "exceeds maximum context",
            # LM Studio
            "the context overflows",
            # TGI
            "must have less than * tokens",
            "`inputs` tokens + `max_new_tokens` must be <=",
            "inputs tokens + max_new_tokens must be <=",
            # Bedrock
            "input is too long for requested model",
            # Anthropic's words behind gateways
            "prompt is too long",
            # Moonshot, GitHub Copilot
            "exceeded model token limit",
            "prompt token count * exceeds the limit",
            "configured context size is",
            # Gemini's words behind gateways
            "exceeds the maximum number of tokens allowed",
        ),
        scope=Scope.REQUEST,
        source="the vendors' docs and public error reports, as named beside the words",
    ),
    Signal(
        "too-large",
        Kind.TOO_LARGE,
        status=(413, 429),
        words=("request too large", "request entity too large"),
        scope=Scope.REQUEST,
        source="OpenAI and Groq docs: rate limits; CodeBoarding/CodeBoarding#42",
    ),
    Signal("too-large-code", Kind.TOO_LARGE, code=("request_too_large",), scope=Scope.REQUEST, source="Anthropic docs"),
    Signal(
        "flagged",
        Kind.CONTENT_FILTER,
        status=_REFUSED,
        words=(
            "was flagged",
            "requires moderation",
            "content policy",
            "content filter",
            "content filtering",
            "content moderation",
            "blocked by * moderation",
            "inappropriate content",
            "sensitive content",
            "sensitive words",
            "unsafe or sensitive",
            "safety system",
            "prohibited content",
            "violates our usage policies",
            "violates * usage policy",
            "responsible ai policy",
            "blocked by guardrail",
            "guardrail intervened",
        ),
        scope=Scope.REQUEST,
        source="OpenRouter docs: errors (403); Azure docs: content filtering; Z.AI docs; Amazon Bedrock guardrails",
    ),
    Signal(
        "flagged-code",
        Kind.CONTENT_FILTER,
        status=_REFUSED,
        code=("content_filter*", "content_policy*", "moderation*", "*sensitive*", "*guardrail*", "SAFETY_CHECK*"),
        scope=Scope.REQUEST,
        source="LiteLLM docs: exception mapping; Moonshot AI docs (content_filter)",
    ),
    Signal(
        "no-money",
        Kind.QUOTA,
        status=_MONEY,
        words=(
            "insufficient balance",
            "insufficient account balance",
            "insufficient credit",
            "insufficient credits",
            "insufficient funds",
            "insufficient_quota",
            "insufficient quota",
            "balance is insufficient",
            "balance is too low",
            "balance too low",
            "not enough balance",
            "not enough credit",
            "not enough credits",
            "credit balance",
            "credit limit",
            "out of credit",
            "out of credits",
            "no credits",
            "credits exhausted",
            "credits have been exhausted",
            "exceeded your current quota",
            "quota is not enough",
            "account is in arrears",
            "account is in good standing",
            "overdue payment",
            "payment required",
            "spending limit",
            "spend limit",
            "spending cap",
            "budget exceeded",
            "budget exhausted",
            "purchase more credits",
            "check your billing",
            "billing details",
            "recharge",
            "余额不足",
            "额度不足",
            "额度已用尽",
            "欠费",
        ),
        scope=Scope.POOL,
        source="error reports of vendors and gateways: continuedev/continue#9942, songquanpeng/one-api#1270, OpenAI docs",
    ),
    Signal(
        "no-money-code",
        Kind.QUOTA,
        status=_MONEY,
        code=("*insufficient_balance*", "*insufficient_credit*", "*insufficient_quota*", "*payment_required*"),
        scope=Scope.POOL,
        source="the same vendors' codes",
    ),
    Signal(
        "region",
        Kind.AUTH,
        status=(400, 403, 451),
        code=("unsupported_country_region_territory", "*unsupported_country*", "*unsupported_region*"),
        scope=Scope.POOL,
        source="OpenAI docs: supported countries; songquanpeng/one-api#1692",
    ),
    Signal(
        "region-in-words",
        Kind.AUTH,
        status=(400, 403, 451),
        words=(
            "country, region, or territory not supported",
            "not available in your country",
            "not available in your region",
            "not supported in your region",
            "location is not supported",
            "has banned the country or region",
            "error 1009",
        ),
        scope=Scope.POOL,
        source="OpenAI and Gemini docs: available regions; Cloudflare docs: error 1009",
    ),
    Signal(
        "firewall-page",
        Kind.KEY_MODEL,
        status=(403,),
        type=("html_page",),
        scope=Scope.REQUEST,
        source="Cloudflare docs: WAF block page; Akamai and AWS WAF pages",
    ),
    Signal(
        "bad-key",
        Kind.AUTH,
        status=(400, 403),
        code=("invalid_api_key", "InvalidApiKey", "authentication_error", "invalid_authentication_error"),
        scope=Scope.KEY,
        source="jiekou.ai docs: error codes (403 INVALID_API_KEY); Alibaba Cloud Model Studio docs",
    ),
    Signal(
        "loading",
        Kind.SERVER,
        status=(400, 404, 500, 503),
        words=("loading model", "model is loading", "is currently loading", "model is still loading"),
        scope=Scope.MODEL,
        source="llama.cpp server (503 Loading model); Hugging Face docs: inference (estimated_time)",
    ),
    Signal(
        "overloaded",
        Kind.SERVER,
        status=(498, 500, 502, 503, 504, 529),
        words=("overloaded", "at capacity", "capacity exceeded", "out of capacity", "no capacity"),
        scope=Scope.PROVIDER,
        source="TGI (Model is overloaded), Groq docs (498), Together docs (503, 529)",
    ),
    Signal(
        "no-model",
        Kind.MODEL,
        status=(400, 404, 410, 422),
        code=("model_not_found", "model_not_available", "ModelNotFound*", "unknown_model", "model_decommissioned"),
        scope=Scope.MODEL,
        source="OpenAI docs and those who follow them",
    ),
    Signal(
        "no-model-in-words",
        Kind.MODEL,
        status=(400, 404, 410, 422),
        words=(
            "model {model} not found",
            "model '{model}' not found",
            'model "{model}" not found',
            "{model} * does not exist",
            "{model} is not found",
            "{model} * has been decommissioned",
            "{model} * is no longer",
            "{model} * has been deprecated",
            "{model} * has been retired",
            "invalid model: {model}",
            "invalid model '{model}'",
            "unknown model * {model}",
            "no such model * {model}",
            "{model} is not a valid model",
            "{model} is not supported",
        ),
        scope=Scope.MODEL,
        source="Ollama, vLLM, Mistral, Perplexity, Cloudflare Workers AI error bodies",
    ),
    Signal(
        "rate-limit-in-words",
        Kind.RATE_LIMIT,
        status=(400, 403),
        words=("rate limit exceeded", "rate limit reached", "too many requests", "requests per minute"),
        source="gateways that answer 400 or 403: BerriAI/litellm#27823",
    ),
)
