"""Google's signals: the Gemini API, natively and behind its OpenAI endpoint."""

from __future__ import annotations

from models.request import FailureKind as Kind
from models.request import FailureScope as Scope
from models.signals import MIDNIGHT, Signal, Wait

_DOCS = "Gemini API docs: troubleshooting"
_LIMITS = "Gemini API docs: rate limits"
_CALIFORNIA = Wait(until=MIDNIGHT, zone="America/Los_Angeles")
_KEY_CODES = ("API_KEY_INVALID", "API_KEY_EXPIRED", "API_KEY_NOT_FOUND")

GOOGLE: tuple[Signal, ...] = (
    Signal("google-bad-key", Kind.AUTH, status=(400, 401, 403), code=_KEY_CODES, scope=Scope.KEY, source=_DOCS),
    Signal(
        "google-bad-key-in-words",
        Kind.AUTH,
        status=(400, 401, 403),
        words=("API key not valid", "API key not found", "API key expired", "API key is invalid", "valid API key"),
        scope=Scope.KEY,
        source=_DOCS,
    ),
    Signal(
        "google-billing-off",
        Kind.QUOTA,
        status=(400,),
        code=("FAILED_PRECONDITION",),
        words=("billing", "credit", "prepay"),
        scope=Scope.POOL,
        source=_DOCS,
    ),
    Signal(
        "google-region",
        Kind.AUTH,
        status=(400,),
        code=("FAILED_PRECONDITION",),
        scope=Scope.POOL,
        source="Gemini API docs: available regions; google-gemini/deprecated-generative-ai-js#151",
    ),
    Signal(
        "google-too-long",
        Kind.CONTEXT_LENGTH,
        status=(400,),
        words=("token count * exceeds", "exceeds the maximum number of tokens"),
        source=_DOCS,
    ),
    Signal("google-too-large", Kind.TOO_LARGE, status=(400,), words=("payload size exceeds",), source=_DOCS),
    Signal(
        "google-tuned-model",
        Kind.KEY_MODEL,
        status=(403,),
        code=("PERMISSION_DENIED",),
        words=("{model}", "tuned model", "tunedModel"),
        scope=Scope.MODEL,
        source=_DOCS,
    ),
    Signal(
        "google-billing-disabled",
        Kind.QUOTA,
        status=(400, 403),
        code=("BILLING_DISABLED",),
        scope=Scope.POOL,
        source="Google Cloud docs: ErrorInfo reasons",
    ),
    Signal(
        "google-service-off",
        Kind.AUTH,
        status=(403,),
        code=(
            "SERVICE_DISABLED",
            "API_KEY_SERVICE_BLOCKED",
            "CONSUMER_SUSPENDED",
            "CONSUMER_INVALID",
            "API_KEY_HTTP_REFERRER_BLOCKED",
            "API_KEY_IP_ADDRESS_BLOCKED",
            "ACCESS_TOKEN_*",
        ),
        scope=Scope.POOL,
        source="Google Cloud docs: ErrorInfo reasons",
    ),
    Signal(
        "google-file",
        Kind.BAD_REQUEST,
        status=(403, 404),
        code=("PERMISSION_DENIED", "NOT_FOUND"),
        words=("access the file", "file * not found", "fileuri", "cached content", "cachedContent"),
        scope=Scope.REQUEST,
        source="Gemini API docs: files, context caching",
    ),
    Signal(
        "google-plan-lacks-model",
        Kind.KEY_MODEL,
        status=(429,),
        code=("quotaValue:0",),
        scope=Scope.MODEL,
        source=_LIMITS,
    ),
    Signal(
        "google-limit-zero",
        Kind.KEY_MODEL,
        status=(429,),
        code=("RESOURCE_EXHAUSTED",),
        words=("limit: 0",),
        scope=Scope.MODEL,
        source=_LIMITS,
    ),
    Signal(
        "google-day-of-one-model",
        Kind.RATE_LIMIT,
        status=(429,),
        code=("quotaId:*PerDay*PerModel*", "quotaId:*PerModel*PerDay*", "quotaId:*PerDay*dimension:model"),
        scope=Scope.MODEL,
        wait=_CALIFORNIA,
        source="Gemini API docs: rate limits; google-gemini/gemini-cli#8437",
    ),
    Signal(
        "google-day",
        Kind.QUOTA,
        status=(429,),
        code=("quotaId:*PerDay*",),
        scope=Scope.POOL,
        wait=_CALIFORNIA,
        source=_LIMITS,
    ),
    Signal(
        "google-no-credit",
        Kind.QUOTA,
        status=(429,),
        words=(
            "credits are depleted",
            "credit is depleted",
            "credits have been depleted",
            "prepayment",
            "out of credit",
            "spending cap",
        ),
        scope=Scope.POOL,
        source="Gemini API docs: billing",
    ),
    Signal(
        "google-minute-of-one-model",
        Kind.RATE_LIMIT,
        status=(429,),
        code=("quotaId:*PerModel*", "quotaId:*dimension:model"),
        scope=Scope.MODEL,
        source=_LIMITS,
    ),
    Signal("google-exhausted", Kind.RATE_LIMIT, status=(429,), code=("RESOURCE_EXHAUSTED",), source=_DOCS),
    Signal("google-cancelled", Kind.SERVER, status=(499,), source=_DOCS),
)
