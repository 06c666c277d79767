"""Finding and reading truckllm.yaml: which file, which variables, and one error that names every problem with its place.

It does not know what is right in a field (`models.config`, `models.config_fields`) or how YAML is read (`models.config_document`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from models.config import (
    ApiConfig,
    Config,
    KeyConfig,
    ModelConfig,
    Pricing,
    ProviderConfig,
    RouteConfig,
    SignalConfig,
    WorkerConfig,
)
from models.config_agreement import SEVERAL, Place, Problem, disagreements, yaml_path
from models.config_document import Document, Unreadable, read_document
from models.config_environment import VENDORS, found_keys, smallest
from models.config_fields import MASK, WRONG, nearest
from models.errors import ConfigError

FILE_NAMES = ("truckllm.yaml", "truckllm.yml", "truckllm.json")
_Part = TypeVar("_Part", bound=BaseModel)
_LONGEST_SHOWN = 24
_SHORTEST_SECRET = 6
_UNKNOWN = "is an unknown field"
_WORD = re.compile(r"[A-Za-z_]+|.{1,11}")
"""What a field may be called that is told in an error: no key looks like this."""
_THOUSANDS = re.compile(r"'\d{1,3}(,\d{3})+(\.\d+)?'")

STORAGE_VARIABLES = {"redis_url": "TRUCKLLM_REDIS_URL", "database_url": "TRUCKLLM_DATABASE_URL"}

SMALLEST = """\
providers:
  - id: openai
    keys:
      - id: oa-1
        secret: "${OPENAI_API_KEY}"
"""
"""The smallest configuration that works."""

_BELOW: dict[str, tuple[type[BaseModel], bool]] = {
    "providers": (ProviderConfig, True),
    "keys": (KeyConfig, True),
    "models": (ModelConfig, True),
    "routes": (RouteConfig, True),
    "pricing": (Pricing, False),
    "worker": (WorkerConfig, False),
    "api": (ApiConfig, False),
    "signals": (SignalConfig, True),
}
"""What a field holds, and whether in a list or mapping of several."""


def _fields_of(owner: type[BaseModel]) -> list[str]:
    """The names that its fields have in the file."""
    return [field.alias or name for name, field in owner.model_fields.items()]


_OWNERS = {
    "each provider": _fields_of(ProviderConfig),
    "each key": _fields_of(KeyConfig),
    "pricing": _fields_of(Pricing),
    "worker": _fields_of(WorkerConfig),
    "api": _fields_of(ApiConfig),
    "the top level": _fields_of(Config),
}
"""Where a field belongs that was found in the wrong place."""

_MISSING = {
    "id": "is missing: a short name, used in reports and options",
    "secret": 'is missing: the key itself, best as a variable: "${OPENAI_API_KEY}". For a server that asks for none, set '
    "keyless: true on the provider",
    "meaning": "is missing: what the refusal means, such as no_money or rate_limit",
    "keys": "is missing: a provider needs at least one key (id and secret)",
    "candidates": 'is missing: a list like ["openai/gpt-4o", "claude/claude-haiku-4-5"]',
    "input_token_cost": "is missing: the price of 1,000 input tokens (0 if they are free)",
    "output_token_cost": "is missing: the price of 1,000 output tokens (0 if they are free)",
}

_SHAPES = {
    "model_type": "should be a mapping of fields",
    "model_attributes_type": "should be a mapping of fields",
    "dict_type": "should be a mapping",
    "tuple_type": "should be a list",
    "list_type": "should be a list",
}


def load_config(path: str | Path | None = None, *, secrets: bool, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration from `path`, else $TRUCKLLM_CONFIG, else truckllm.yaml (.yml, .json) in the working directory, else one
    that the vendors' keys in the environment make; that one says so in its warnings.

    With `secrets=False`, for commands that call no provider, variables in secrets (and in headers and options) may be
    unset: such a secret can't be revealed. Raises ConfigError with every problem, its line and YAML path.
    """
    environ = os.environ if environ is None else environ
    file = _find(path, environ)
    if file is None:
        return _of_environment(secrets, environ)
    try:
        text = _decode(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file}: can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not UTF-8 (byte {error.start})") from None
    config = load_config_text(text, secrets=secrets, environ=environ, name=str(file))
    config._path = file
    for provider in config.providers:
        provider._folder = file.absolute().parent
    return config


def load_config_text(
    text: str, *, secrets: bool = True, environ: Mapping[str, str] | None = None, name: str = "configuration"
) -> Config:
    """The configuration in `text` (YAML or JSON), as `load_config` reads it. `name` is how errors call it."""
    environ = os.environ if environ is None else environ
    storage = {field: environ[variable] for field, variable in STORAGE_VARIABLES.items() if environ.get(variable)}

    def may_stay(place: Place) -> bool:
        return (not secrets and _may_hold_secrets(place)) or (len(place) == 1 and place[0] in storage)

    try:
        document = read_document(text, environ, may_stay)
    except Unreadable as error:
        raise ConfigError(_report(name, [(error.line, "", str(error))])) from None
    if document.data is not None and not isinstance(document.data, dict):
        raise ConfigError(f"{name}: should be a mapping that begins with providers:, like\n\n{SMALLEST}")
    data = {**(document.data or {}), **storage}
    if not data.get("providers"):
        for field in data:
            if field not in Config.model_fields and (near := nearest(field, ["providers"])):
                raise ConfigError(_report(name, [(document.line((field,)), field, f"is an unknown field{near}")]))
        raise ConfigError(f"{name}: names no providers; the smallest configuration that works is\n\n{SMALLEST}")
    config, problems = _checked(data, document)
    if config is None or problems:
        rows = dict.fromkeys((*_where(place, document, storage), what) for place, what in problems)
        report = _report(name, sorted(rows, key=lambda row: row[0] or 0))
        raise ConfigError(_scrubbed(report, _secret_texts(data) | _secret_names(problems)))
    return config


def _of_environment(secrets: bool, environ: Mapping[str, str]) -> Config:
    found = found_keys(environ)
    if not found:
        variables = ", ".join(name for vendor in VENDORS for name in vendor.variables)
        raise ConfigError(
            f"no configuration: there is no {FILE_NAMES[0]} here. Make one with `truckllm init`, name one with -c or "
            f"TRUCKLLM_CONFIG, set one of {variables} to do without, or begin with\n\n{SMALLEST}"
        )
    config = load_config_text(smallest(found), secrets=secrets, environ=environ, name="environment")
    config._keys_found = tuple(variable for _, variable in found)
    return config


def _find(path: str | Path | None, environ: Mapping[str, str]) -> Path | None:
    named = path or environ.get("TRUCKLLM_CONFIG")
    if named:
        file = Path(named).expanduser()
        if file.is_file() or (file.exists() and not file.is_dir()):
            return file
        by = "" if path else " (named by TRUCKLLM_CONFIG)"
        raise ConfigError(f"{file}{by}: {'is a folder, not a file' if file.is_dir() else 'no such file'}")
    for candidate in FILE_NAMES:
        if Path(candidate).is_file():
            return Path(candidate)
    return None


def _decode(content: bytes) -> str:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


def _may_hold_secrets(place: Place) -> bool:
    """Whether a text is only needed by those who call providers: providers[…].keys[…].secret, .headers.…, .options.…"""
    names = [part for part in place if isinstance(part, str)]
    return names[:3] == ["providers", "keys", "secret"] or (
        names[:1] == ["providers"] and names[1:2] in (["headers"], ["options"])
    )


def _checked(data: dict[str, Any], document: Document) -> tuple[Config | None, list[Problem]]:
    """The configuration, and all that is wrong with it: in fields, and between the parts that are right."""
    problems = list(document.problems)
    already = {place for place, _ in problems}
    try:
        return Config.model_validate(data), problems
    except ValidationError as error:
        found = [*_problems(error, document), *_between_parts(data)]
    return None, problems + [(place, what) for place, what in found if place not in already]


def _between_parts(data: dict[str, Any]) -> list[Problem]:
    """Disagreements between those parts that can be read; pydantic looks for them only if all can."""
    raw = data["providers"] if isinstance(data["providers"], list) else []
    ids = [part["id"] for part in raw if isinstance(part, dict) and isinstance(part.get("id"), str)]
    providers = {index: part for index, part in enumerate(_read(ProviderConfig, part) for part in raw) if part}
    given = data.get("routes")
    routes = {name: _read(RouteConfig, part) for name, part in given.items()} if isinstance(given, dict) else {}
    return disagreements(providers, {name: route for name, route in routes.items() if route}, ids)


def _read(kind: type[_Part], data: Any) -> _Part | None:
    try:
        return kind.model_validate(data)
    except ValidationError:
        return None


def _problems(error: ValidationError, document: Document) -> Iterator[Problem]:
    """pydantic's errors as places and sentences; values only from fields that hold no secret."""
    for item in error.errors(include_url=False, include_input=False):
        place: Place = tuple(part for part in item["loc"] if part != "[key]")
        kind = item["type"]
        if kind == SEVERAL:
            for below, what in item["ctx"]["problems"]:
                yield (*place, *below), what
        elif kind == "extra_forbidden":
            yield place, _unknown(place)
        elif kind == "missing":
            yield place, _MISSING.get(str(place[-1]), "is missing")
        elif kind == WRONG:
            shown = _shown(place, document)
            hint = " (write it without commas)" if _THOUSANDS.fullmatch(shown) else ""
            yield place, f"is {shown}{hint}; {item['msg']}" if shown else item["msg"]
        else:
            yield place, _SHAPES.get(kind, item["msg"])


def _unknown(place: Place) -> str:
    """What to say of a field that its surroundings don't know: the nearest known name, or where it belongs."""
    owner: type[BaseModel] | None = Config
    rest = list(place[:-1])
    while rest and owner is not None:
        owner, several = _BELOW.get(str(rest.pop(0)), (None, False))
        if several and rest:
            rest.pop(0)
    name, known = str(place[-1]), _fields_of(owner) if owner else []
    near = nearest(name, known)
    elsewhere = [label for label, fields in _OWNERS.items() if name in fields]
    if not near and elsewhere:
        near = f"; it belongs to {' or '.join(elsewhere)}"
    return f"{_UNKNOWN}{near or '; known here: ' + ', '.join(known)}"


def _shown(place: Place, document: Document) -> str:
    """A value as it stands in the file; nothing for long ones, which might be keys in the wrong place."""
    value: Any = document.raw.get(place)
    if value is None:
        value = document.data
        try:
            for part in place:
                value = value[part]
        except (KeyError, IndexError, TypeError):
            return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | Decimal) or (isinstance(value, str) and len(value) <= _LONGEST_SHOWN):
        text = repr(value) if isinstance(value, str) else str(value)
        return text if len(text) <= _LONGEST_SHOWN + 2 else ""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    return ""


def _where(place: Place, document: Document, storage: Mapping[str, str]) -> tuple[int | None, str]:
    if len(place) == 1 and place[0] in storage:
        return None, f"environment variable {STORAGE_VARIABLES[str(place[0])]}"
    return document.line(place), yaml_path(place)


def _report(name: str, rows: list[tuple[int | None, str, str]]) -> str:
    sentences = [(f"line {line}: " if line else "") + f"{place} {what}".strip() for line, place, what in rows]
    if len(sentences) == 1:
        return f"{name}, {sentences[0]}" if rows[0][0] else f"{name}: {sentences[0]}"
    return f"{name}: {len(sentences)} problems\n" + "\n".join(f"  {sentence}" for sentence in sentences)


def _secret_texts(data: Any, inside: bool = False) -> set[str]:
    """Every text that stands under a name like `secret`, however wrong the place."""
    if isinstance(data, dict):
        return {
            text
            for name, value in data.items()
            for text in _secret_texts(value, inside or "secret" in str(name).lower())
        }
    if isinstance(data, list):
        return {text for value in data for text in _secret_texts(value, inside)}
    return {str(data)} if inside and data is not None else set()


def _secret_names(problems: Iterable[Problem]) -> set[str]:
    """What may be a key among the names of wrong fields: `{id: a, secret:sk-…}` lacks a blank, `{id: a, sk-…}` a name."""
    names = {str(place[-1]) for place, what in problems if place and what.startswith(_UNKNOWN)}
    return {re.split(r"[:=]", name, maxsplit=1)[-1] for name in names if not _WORD.fullmatch(name)}


def _scrubbed(message: str, secrets: set[str]) -> str:
    """The last net: no text of a secret leaves, whichever check wrote the message."""
    for text in sorted(secrets, key=len, reverse=True):
        for form in (text, text.strip()):
            if len(form) >= _SHORTEST_SECRET:
                message = message.replace(form, MASK)
    return message
