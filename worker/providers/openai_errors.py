"""What the codes, statuses and words of OpenAI's errors mean.

It does not build failures from them: `openai` does, with the request and its secrets at hand.
"""

from __future__ import annotations

import re
from typing import Any

from models.request import FailureKind
from worker.providers.base import Reply, http_failure
from worker.providers.failures import forbidden_kind, missing_kind
from worker.providers.replies import at

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


def kind_of(model: str, reply: Reply, error: Any, message: str) -> FailureKind:
    """What an error means: by its codes, then by its status and its (already cleaned) words."""
    codes = [value for key in ("code", "type") if isinstance(value := at(error, key), str)]
    status = status_of(reply, error)
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
        return forbidden_kind(message, model)
    if status == 404:
        return missing_kind(message, model)
    if (status < 300 or status in (400, 422)) and _TOO_LONG.search(message):
        return FailureKind.CONTEXT_LENGTH
    if (status < 300 or status == 400) and _FLAGGED.search(message):
        return FailureKind.CONTENT_FILTER
    if status < 300:
        return next((_BY_CODE_IN_200[code] for code in codes if code in _BY_CODE_IN_200), FailureKind.SERVER)
    return http_failure(Reply(status, {}, b"")).kind


def status_of(reply: Reply, error: Any) -> int:
    """The status of an error: inside a 200, gateways put the one that they got into the body."""
    told = at(error, "code")
    return told if reply.status < 300 and isinstance(told, int) and 400 <= told < 600 else reply.status
