"""The meaning of a bare status: the last rows of every table. Together they match every failure."""

from __future__ import annotations

from models.request import FailureKind as Kind
from models.request import FailureScope as Scope
from models.signals import Signal

_HTTP = "RFC 9110"
_ACCOUNT = (
    "API key",
    "API-key",
    "api_key",
    "apikey",
    "account",
    "organization",
    "organisation",
    "workspace",
    "project",
    "billing",
    "country",
    "region",
    "credential",
    "credentials",
    "oauth",
    "suspended",
    "consumer",
)

BY_STATUS: tuple[Signal, ...] = (
    Signal("401", Kind.AUTH, status=(401,), scope=Scope.KEY, source=_HTTP),
    Signal("402", Kind.QUOTA, status=(402,), scope=Scope.POOL, source="DeepSeek API docs: error codes"),
    Signal(
        "403-model",
        Kind.KEY_MODEL,
        status=(403,),
        words=("{model}", "model"),
        scope=Scope.MODEL,
        source=_HTTP,
        known_status=True,
    ),
    Signal("403-account", Kind.AUTH, status=(403,), words=_ACCOUNT, scope=Scope.KEY, source=_HTTP, known_status=True),
    Signal("403", Kind.KEY_MODEL, status=(403,), scope=Scope.REQUEST, source=_HTTP),
    Signal(
        "404-model",
        Kind.MODEL,
        status=(404, 410),
        words=("{model}",),
        scope=Scope.MODEL,
        source=_HTTP,
        known_status=True,
    ),
    Signal("404", Kind.BAD_REQUEST, status=(404, 410), source=_HTTP),
    Signal(
        "408-409",
        Kind.SERVER,
        status=(408, 409, 424, 425),
        source="RFC 9110; TGI docs (424: generation error); Amazon Bedrock docs (424: model error)",
    ),
    Signal("413", Kind.TOO_LARGE, status=(413,), scope=Scope.REQUEST, source=_HTTP),
    Signal(
        "429-model",
        Kind.RATE_LIMIT,
        status=(429,),
        words=("{model}", "for this model"),
        scope=Scope.MODEL,
        source="OpenAI docs: rate limits (the message names the model)",
        known_status=True,
    ),
    Signal("429", Kind.RATE_LIMIT, status=(429,), source="RFC 6585"),
    Signal(
        "498-529",
        Kind.SERVER,
        status=(498, 499, 529),
        scope=Scope.PROVIDER,
        source="Groq docs: flex processing (498); nginx (499); Anthropic docs: errors (529)",
    ),
    Signal("4xx", Kind.BAD_REQUEST, status=tuple(range(400, 500)), source=_HTTP),
    Signal("501", Kind.BAD_REQUEST, status=(501, 505), source=_HTTP),
    Signal("other", Kind.SERVER, source=_HTTP),
)
