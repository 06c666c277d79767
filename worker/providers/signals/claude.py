"""Anthropic's own signals."""

from __future__ import annotations

from models.request import FailureKind as Kind
from models.request import FailureScope as Scope
from models.signals import MONTH, Signal, Wait

_ERRORS = "Anthropic docs: errors"
_LIMITS = "Anthropic docs: rate limits, spend limits"

CLAUDE: tuple[Signal, ...] = (
    Signal(
        "claude-limit-with-day",
        Kind.QUOTA,
        words=("you will regain access on",),
        scope=Scope.POOL,
        source=_LIMITS,
    ),
    Signal(
        "claude-spend-limit",
        Kind.QUOTA,
        code=("enforced_spend_limit_reached", "contract_spend_limit_reached"),
        scope=Scope.POOL,
        wait=Wait(until=MONTH),
        source=_LIMITS,
    ),
    Signal(
        "claude-no-money",
        Kind.QUOTA,
        status=(400, 403, 429),
        words=("API usage limits", "credit balance is too low", "out of extra usage"),
        scope=Scope.POOL,
        source="Anthropic docs: errors; bespokelabsai/curator#296",
    ),
    Signal("claude-billing", Kind.QUOTA, type=("billing_error",), scope=Scope.POOL, source=_ERRORS),
    Signal(
        "claude-too-long",
        Kind.CONTEXT_LENGTH,
        status=(400, 413),
        words=("prompt is too long", "exceed context limit", "context window", "maximum context"),
        source=_ERRORS,
    ),
    Signal(
        "claude-long-context-unpaid",
        Kind.CONTEXT_LENGTH,
        status=(429,),
        words=("required for long context requests",),
        scope=Scope.REQUEST,
        source="Anthropic docs: long context (a 429 that no wait ends)",
    ),
    Signal(
        "claude-filtered",
        Kind.CONTENT_FILTER,
        status=(400,),
        words=("blocked by content filtering",),
        source=_ERRORS,
    ),
    Signal(
        "claude-disabled",
        Kind.AUTH,
        status=(400, 401, 403),
        words=("organization has been disabled",),
        scope=Scope.POOL,
        source="Anthropic API: public reports of 400 'This organization has been disabled'",
    ),
    Signal("claude-on-hold", Kind.AUTH, status=(403,), code=("organization*",), scope=Scope.POOL, source=_ERRORS),
    Signal(
        "claude-region",
        Kind.AUTH,
        status=(403,),
        words=("request not allowed",),
        scope=Scope.POOL,
        source="stackblitz/bolt.new#57: forbidden, outside the supported regions",
    ),
    Signal("claude-overloaded", Kind.SERVER, type=("overloaded_error",), scope=Scope.PROVIDER, source=_ERRORS),
)
