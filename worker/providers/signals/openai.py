"""OpenAI's and Azure OpenAI's own signals."""

from __future__ import annotations

from models.request import FailureKind as Kind
from models.request import FailureScope as Scope
from models.signals import Signal

_CODES = "OpenAI docs: error codes"
_AZURE = "Azure docs: content filtering"
_AZURE_LIMITS = "Azure docs: Azure OpenAI quotas and limits"
_IMAGES = (
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
)

OPENAI: tuple[Signal, ...] = (
    Signal(
        "dashscope-minute",
        Kind.RATE_LIMIT,
        status=(429,),
        words=("allocated quota exceeded", "error-code#token-limit", "error-code#rate-limit"),
        scope=Scope.MODEL,
        source="Alibaba Cloud Model Studio docs: rate limits (insufficient_quota is its code of a minute's tokens)",
    ),
    Signal(
        "openai-no-money",
        Kind.QUOTA,
        code=(
            "insufficient_quota",
            "credit_balance_exhausted",
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
            "billing_hard_limit_reached",
            "billing_not_active",
        ),
        scope=Scope.POOL,
        source=_CODES,
    ),
    Signal(
        "openai-account-closed",
        Kind.AUTH,
        code=("access_terminated", "account_deactivated"),
        scope=Scope.POOL,
        source=_CODES,
    ),
    Signal("openai-bad-key", Kind.AUTH, code=("invalid_api_key",), scope=Scope.KEY, source=_CODES),
    Signal(
        "openai-no-access-to-model",
        Kind.KEY_MODEL,
        status=(403,),
        code=("model_not_found", "DeploymentNotFound"),
        scope=Scope.MODEL,
        source=_CODES,
    ),
    Signal(
        "openai-no-model",
        Kind.MODEL,
        code=("model_not_found", "DeploymentNotFound"),
        scope=Scope.MODEL,
        source="OpenAI docs: error codes; Azure docs: deployment errors",
    ),
    Signal("openai-too-long", Kind.CONTEXT_LENGTH, code=("context_length_exceeded",), source=_CODES),
    Signal(
        "azure-filtered",
        Kind.CONTENT_FILTER,
        code=("content_filter", "ResponsibleAIPolicyViolation", "content_management_policy"),
        source=_AZURE,
    ),
    Signal(
        "openai-filtered",
        Kind.CONTENT_FILTER,
        code=(
            "content_policy_violation",
            "image_content_policy_violation",
            "bio_policy",
            "misalignment_policy_violation",
        ),
        source=_CODES,
    ),
    Signal(
        "openai-flagged",
        Kind.CONTENT_FILTER,
        status=(200, 400, 403),
        words=("flagged as potentially violating", "content management policy"),
        source="OpenAI community: invalid_prompt; Azure docs: content filtering",
    ),
    Signal(
        "openai-bad-prompt",
        Kind.BAD_REQUEST,
        code=("invalid_prompt", "data_residency_mismatch", *_IMAGES),
        source="OpenAI API reference: response error codes",
    ),
    Signal(
        "openai-no-flex",
        Kind.SERVER,
        status=(429,),
        words=("resource unavailable", "resource_unavailable"),
        source="OpenAI docs: flex processing",
    ),
    Signal(
        "azure-model-limit",
        Kind.RATE_LIMIT,
        status=(429,),
        words=("exceeded token rate limit", "exceeded call rate limit", "exceeded the call rate limit"),
        scope=Scope.MODEL,
        source=_AZURE_LIMITS,
    ),
)
