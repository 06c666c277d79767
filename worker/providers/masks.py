"""Secrets taken out of texts that are stored, logged or shown: keys that a provider, or a plugin's bug, repeats.

It knows which texts of a configuration are secret; it does not clean messages of anything else.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlsplit

from models.config import Config, ProviderConfig
from models.request import Response

MASK = "***"
SHORTEST = 6
"""A shorter "key" is a word of a local server's choice, and may be any word of its messages."""
_BEGINNING = 12
"""So much of a longer secret is enough to know it by: texts get cut, codes get lower-case letters."""
SECRET_NAME = re.compile(r"key|token|secret|sig|auth|pass|credential|^code$", re.IGNORECASE)
"""Parts of a URL's query whose value may be a key."""
PUBLIC_HEADERS = {"content-type", "accept", "user-agent", "anthropic-version", "anthropic-beta", "openai-beta"}
_REST = r"[\w.~+/=%*-]*"


def masked(text: str, secrets: Iterable[str]) -> str:
    """The text without these secrets: whole or cut, in any case, as they are or as they stand in a URL or an error's code."""
    known = tuple(secrets)
    pattern = _pattern(known)
    return text if pattern is None or _free_of(text, known) else pattern.sub(MASK, text)


def _free_of(text: str, secrets: tuple[str, ...]) -> bool:
    """Whether the text surely holds none of these: nearly all do, and a search for plain words takes a tenth of the pattern's time."""
    beginnings = _beginnings(secrets)
    if beginnings is None or not text.isascii():
        return False
    lowered = text.lower()
    return not any(one in lowered for one in beginnings)


@functools.lru_cache(maxsize=256)
def _beginnings(secrets: tuple[str, ...]) -> tuple[str, ...] | None:
    """How each form of these secrets begins, in lower case; None where one isn't ASCII, and case is no simple matter."""
    found = {form[:_BEGINNING].lower() for form in _forms(secrets) if len(form) >= SHORTEST}
    return tuple(sorted(found)) if all(map(str.isascii, secrets)) else None


def _forms(secrets: tuple[str, ...]) -> set[str]:
    return {form for one in secrets for form in (one, quote(one, safe=""), re.sub(r"[^\w.-]+", "_", one))}


@functools.lru_cache(maxsize=256)
def _pattern(secrets: tuple[str, ...]) -> re.Pattern[str] | None:
    found = []
    for form in sorted(_forms(secrets), key=lambda one: (-len(one), one)):
        if len(form) >= _BEGINNING:
            found.append(f"(?i:{re.escape(form)}|{re.escape(form[:_BEGINNING])}{_REST})")
        elif len(form) >= SHORTEST:
            found.append(re.escape(form))
    return re.compile("|".join(found)) if found else None


def without_secrets(response: Response, secrets: Iterable[str]) -> Response:
    """The response with no secret in its failure, nor in the names that become columns. Its body and its text are the user's own.

    In names only what is as long as a real key counts: a local server's key may well be the name of its models.
    """
    known = tuple(secrets)
    if response.failure is not None:
        failure = response.failure
        code, message = masked(failure.code, known).strip("*") or "error", masked(failure.message, known)
        if (code, message) != (failure.code, failure.message):
            response = replace(response, failure=replace(failure, code=code, message=message))
    keys = _long(known)
    told = f"{response.finish_reason}\n{response.served_model}\n{response.request_id}"
    if not keys or _free_of(told, keys):
        return response
    shown: dict[str, Any] = {
        field: masked(value, keys)
        for field in ("finish_reason", "served_model", "request_id")
        if (value := getattr(response, field))
    }
    return replace(response, **shown)


@functools.lru_cache(maxsize=256)
def _long(secrets: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(one for one in secrets if len(one) >= _BEGINNING)


def provider_secrets(config: ProviderConfig) -> list[str]:
    """All that a provider's part of the configuration keeps secret: keys, and headers, options and parts of the query (gateways' keys)."""
    return [
        *(key.secret.reveal() for key in config.keys if key.secret.usable),
        *secret_headers(config.headers),
        *(value for name, value in config.query.items() if SECRET_NAME.search(name)),
        *_texts(config.options),
    ]


def secret_headers(headers: Mapping[str, str]) -> list[str]:
    """The values of headers that may be keys: of all but those that everybody may know."""
    return [value for name, value in headers.items() if name.lower() not in PUBLIC_HEADERS]


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [text for one in value for text in _texts(one)]
    return [value] if isinstance(value, str) else []


class MaskingFormatter(logging.Formatter):
    """Writes log lines without a configuration's secrets: a plugin's exception, and its traceback, may hold anything."""

    def __init__(self, layout: str, config: Config, *addresses: str | None) -> None:
        super().__init__(layout)
        found = [secret for provider in config.providers for secret in provider_secrets(provider)]
        found += [password for url in addresses if url and (password := _password(url))]
        self._secrets = tuple(one for one in found if len(one) >= _BEGINNING)

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record), self._secrets)


def _password(url: str) -> Any:
    try:
        return urlsplit(url).password
    except ValueError:
        return None
