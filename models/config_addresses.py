"""The URLs, headers and paths that truckllm.yaml holds, and how each is checked.

It does not know which field holds which; `models.config` does. Other values are in `models.config_fields`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic import PlainSerializer, PlainValidator

from models.config_fields import MASK, WRONG_UNSEEN, Text, masked, text_of, wrong

_ESCAPED = "; in its password, write @ as %40, / as %2F, ? as %3F, # as %23, [ as %5B, % as %25"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def public_url(url: str) -> str:
    """The URL as it may be shown: without user, password and query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return MASK
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def checked_base_url(url: object, *, allow_http: bool) -> str:
    """A provider's base URL without its trailing slash. Messages don't hold the URL: it might hold a password."""
    text = text_of(url)
    parts = _split(text, ("https", "http"), 'should be like "https://api.example.com/v1"')
    if not parts.hostname:
        raise wrong('has no host; should be like "https://api.example.com/v1"', WRONG_UNSEEN)
    if "@" in parts.netloc or "?" in text or "#" in text:
        raise wrong("should hold no user, password, ?query or #fragment; the key goes into secret", WRONG_UNSEEN)
    if parts.scheme == "http" and not allow_http and not is_loopback(parts.hostname):
        raise wrong(
            "begins with http://, which would send the key unencrypted: use https://, or set allow_http: true on this provider",
            WRONG_UNSEEN,
        )
    return text.rstrip("/")


def _split(text: str, schemes: tuple[str, ...], right: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - reading it is what checks it
    except ValueError:
        raise wrong(f"is no URL; {right}", WRONG_UNSEEN) from None
    if parts.scheme not in schemes or any(c.isspace() or not c.isprintable() for c in text):
        raise wrong(f"is no URL of a known kind; {right}", WRONG_UNSEEN)
    return parts


def _model_path(value: object) -> str:
    text = text_of(value)
    if (
        not re.fullmatch(r"/[A-Za-z0-9._~/{}-]*", text)
        or text.count("{model}") != 1
        or re.search(r"[{}]", text.replace("{model}", ""))
    ):
        raise wrong('should be a path that holds {model} once, like "/deployments/{model}"')
    return text.rstrip("/")


def _query_value(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise wrong("should be text; put it in quotes", WRONG_UNSEEN)
    text = str(value)
    if not re.fullmatch(r"[\x20-\x7e]*", text):
        raise wrong("should hold no line breaks, control characters or letters beyond ASCII", WRONG_UNSEEN)
    return text


def _header_name(value: object) -> str:
    text = text_of(value)
    if not _HEADER_NAME.fullmatch(text):
        raise wrong("is no name of an HTTP header", WRONG_UNSEEN)
    return text


def _header_value(value: object) -> str:
    if not isinstance(value, str):
        raise wrong("should be text; put it in quotes", WRONG_UNSEEN)
    if not re.fullmatch(r"[\x20-\x7e]*", value):
        raise wrong("should hold no line breaks, control characters or letters beyond ASCII", WRONG_UNSEEN)
    return str(value)


def _header_text(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]{1,200}", value):
        raise wrong("should be an id as text, without blanks")
    return str(value)


def _right(text: str, right: str) -> str:
    return right + _ESCAPED if "@" in text else right


def _check_password(rest: str, right: str) -> None:
    """What stands behind the first part with a user holds no @: else a password was cut at a letter of its own, and its end would
    be taken for the host, and shown."""
    if "@" in rest:
        raise wrong(f"holds an @ that ends no user or password; {right}", WRONG_UNSEEN)


_REDIS_NUMBERS = frozenset({"socket_timeout", "socket_connect_timeout", "health_check_interval", "max_connections"})
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_WHOLE = re.compile(r"-?[0-9]{1,9}")


def _redis_url(value: object) -> str:
    text = text_of(value)
    right = _right(
        text, "should be like redis://host:6379/0, rediss://user:password@host:6379/0 (TLS) or unix:///path/to.sock"
    )
    parts = _split(text, ("redis", "rediss", "unix"), right)
    if parts.scheme != "unix":
        _check_password(parts.path + parts.query + parts.fragment, right)
    if not (parts.path if parts.scheme == "unix" else parts.hostname):
        raise wrong(f"is incomplete; {right}", WRONG_UNSEEN)
    number = "" if parts.scheme == "unix" else parts.path.strip("/")
    options = parse_qsl(parts.query, keep_blank_values=True)
    for name, given in [("db", number or "0"), *options]:
        if (name in _REDIS_NUMBERS and not _NUMBER.fullmatch(given)) or (name == "db" and not _WHOLE.fullmatch(given)):
            what = "a database that is no number" if name == "db" else f"a {name} that is no number"
            raise wrong(f"names {what}; {right}", WRONG_UNSEEN)
    return text


def _database_url(value: object) -> str:
    text = text_of(value)
    right = _right(
        text, "should be like postgresql://user:password@host:5432/truckllm?sslmode=require or sqlite:////path/to.db"
    )
    parts = _split(text, ("postgresql", "postgres", "postgresql+psycopg", "sqlite"), right)
    if parts.scheme != "sqlite":
        _check_password(parts.netloc.partition("@")[2] + parts.path + parts.fragment, right)
    if not parts.path.strip("/") and "dbname=" not in parts.query:
        raise wrong(f"names no database; {right}", WRONG_UNSEEN)
    return text


ModelPath = Annotated[str, PlainValidator(_model_path)]
HeaderName = Annotated[str, PlainValidator(_header_name)]
Headers = Annotated[
    dict[HeaderName, Annotated[str, PlainValidator(_header_value)]],
    PlainSerializer(masked),
]
Query = dict[Text, Annotated[str, PlainValidator(_query_value)]]
HeaderText = Annotated[str, PlainValidator(_header_text)]
RedisUrl = Annotated[str, PlainValidator(_redis_url), PlainSerializer(public_url)]
DatabaseUrl = Annotated[str, PlainValidator(_database_url), PlainSerializer(public_url)]
