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
_PUBLIC_HEADERS = {"content-type", "accept", "user-agent", "anthropic-version", "anthropic-beta", "openai-beta"}
_REST = r"[\w.~+/=%*-]*"


def masked(text: str, secrets: Iterable[str]) -> str:
    """The text without these secrets: whole or cut, in any case, as they are or as they stand in a URL or an error's code."""
    pattern = _pattern(tuple(secrets))
    return text if pattern is None else pattern.sub(MASK, text)


@functools.lru_cache(maxsize=256)
def _pattern(secrets: tuple[str, ...]) -> re.Pattern[str] | None:
    found = []
    forms = {form for one in secrets for form in (one, quote(one, safe=""), re.sub(r"[^\w.-]+", "_", one))}
    for form in sorted(forms, key=lambda one: (-len(one), one)):
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
    keys = tuple(one for one in known if len(one) >= _BEGINNING)
    fields = ("finish_reason", "served_model", "request_id")
    told = {field: value for field in fields if (value := getattr(response, field))}
    shown: dict[str, Any] = {field: masked(value, keys) for field, value in told.items()}
    return response if shown == told else replace(response, **shown)


def provider_secrets(config: ProviderConfig) -> list[str]:
    """All that a provider's part of the configuration keeps secret: keys, and headers and options (gateways' keys)."""
    return [
        *(key.secret.reveal() for key in config.keys if key.secret.usable),
        *secret_headers(config.headers),
        *_texts(config.options),
    ]


def secret_headers(headers: Mapping[str, str]) -> list[str]:
    """The values of headers that may be keys: of all but those that everybody may know."""
    return [value for name, value in headers.items() if name.lower() not in _PUBLIC_HEADERS]


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
