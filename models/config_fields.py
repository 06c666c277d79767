"""The kinds of values that truckllm.yaml holds (ids, counts, seconds, prices, secrets) and how each is checked.

It does not know which field holds which kind; `models.config` does. URLs and headers are in `models.config_addresses`.
"""

from __future__ import annotations

import difflib
import hmac
import importlib.util
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, PlainSerializer, PlainValidator
from pydantic_core import PydanticCustomError

from models.days import is_zone, nearest_zone
from models.errors import ConfigError
from models.money import price_per_million

MASK = "**********"

WRONG = "wrong"
"""Error type whose message may be shown together with the value."""
WRONG_UNSEEN = "wrong_unseen"
"""Error type of fields whose value must not be shown."""

Strategy = Literal["priority", "cost_first", "latency_first", "round_robin"]
EmptyAnswers = Literal["keep", "retry", "fail"]
Limits = Literal["fixed", "learn"]
"""What is done with an answer that is whole and holds nothing."""
STRATEGIES: tuple[str, ...] = get_args(Strategy)

MODALITIES = ("input_audio", "input_image", "input_video", "cached_audio", "output_audio", "output_image")
"""Tokens that may cost other than those of text: fresh input, cached input, output."""

PRICE_LISTS = ("genai-prices",)
"""Price lists that can be switched on: packages of that name."""

LIMIT_FIELDS = (
    "limit_req_per_min",
    "limit_tokens_per_min",
    "limit_input_tokens_per_min",
    "limit_output_tokens_per_min",
)
DAY_LIMIT_FIELDS = ("limit_req_per_day", "limit_tokens_per_day")

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_LARGEST_COUNT = 10**12


def wrong(message: str, kind: str = WRONG) -> PydanticCustomError:
    """An error of one field. The text is an argument, so that braces in it are no placeholders."""
    return PydanticCustomError(kind, "{text}", {"text": message})


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean X?" for the known name nearest to `name`, or an empty text."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


class Unexpanded(str):
    """Text in which `variables` stayed unresolved, because this command calls no provider. `path` is its YAML path."""

    variables: tuple[str, ...]
    path: str

    def __new__(cls, text: str, variables: tuple[str, ...], path: str) -> Unexpanded:
        self = super().__new__(cls, text)
        self.variables, self.path = variables, path
        return self


class Secret:
    """A text that shows itself to nobody but the caller of `reveal`: not in repr, str, errors or dumps."""

    __slots__ = ("_missing", "_text", "_where")

    def __init__(self, text: str, *, missing: tuple[str, ...] = (), where: str = "secret") -> None:
        self._text = text
        self._missing = missing
        self._where = where

    @property
    def usable(self) -> bool:
        """Whether `reveal` works: every variable in it was set when the configuration was read."""
        return not self._missing

    def reveal(self) -> str:
        """The text itself. Raises ConfigError, naming variable and key, if the configuration was read without it."""
        if self._missing:
            names = ", ".join(self._missing)
            raise ConfigError(f"{self._where}: environment variable {names} is not set, and a call needs it")
        return self._text

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode()) and self._missing == other._missing

    def __hash__(self) -> int:
        return hash((self._text, self._missing))


def text_of(value: object) -> str:
    """The value, which must be a text with something in it that every database takes."""
    if not isinstance(value, str):
        raise wrong("should be text; put it in quotes", WRONG_UNSEEN)
    if not value.strip():
        raise wrong("should not be empty", WRONG_UNSEEN)
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise wrong("should hold no NUL and no lone surrogate", WRONG_UNSEEN)
    return str(value)


def _id(value: object) -> str:
    text = text_of(value)
    if not _ID.fullmatch(text):
        raise wrong("should be 1 to 64 letters, digits and . _ : -, beginning with a letter or digit", WRONG_UNSEEN)
    return text


def _bool(value: object) -> bool:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise wrong("should be true or false")


def is_true(value: object) -> bool:
    """Whether a flag says yes; what is no flag at all says no."""
    try:
        return _bool(value)
    except PydanticCustomError:
        return False


def _class_path(value: object) -> str:
    text = text_of(value)
    if not _CLASS_PATH.fullmatch(text):
        right = "should be package.module:Class, like my_vendor:MyVendor for the class MyVendor in my_vendor.py beside this file"
        raise wrong(right)
    return text


def _number(value: object, right: str) -> Decimal:
    """An exact number from YAML (int, Decimal), from a variable (text) or from Python (int, float, Decimal)."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal | float | str):
        raise wrong(right)
    text = repr(value) if isinstance(value, float) else str(value).strip()
    if len(text) > 40 or not re.fullmatch(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d{1,6})?", text, re.ASCII):
        raise wrong(right)
    return Decimal(text)


def _whole(lowest: int, right: str) -> Callable[[object], int]:
    def check(value: object) -> int:
        number = _number(value, right)
        if not lowest <= number <= _LARGEST_COUNT or number % 1:
            raise wrong(right)
        return int(number)

    return check


def _seconds(lowest: float, right: str) -> Callable[[object], float]:
    def check(value: object) -> float:
        number = float(_number(value, right))
        if not lowest <= number <= 1e9:
            raise wrong(right)
        return number

    return check


def _share(value: object) -> float:
    right = "should be a share above 0 and up to 1, like 0.8"
    number = float(_number(value, right))
    if not 0 < number <= 1:
        raise wrong(right)
    return number


def _day_zone(value: object) -> str:
    right = "should be an IANA time zone, like America/Los_Angeles or UTC"
    if not isinstance(value, str):
        raise wrong(right)
    if not is_zone(value):
        near = nearest_zone(value)
        raise wrong(f"{right}{f'; did you mean {near}?' if near else ''}")
    return value


def _cost(value: object) -> Decimal:
    if isinstance(value, float):
        raise wrong('should be exact: give a Decimal or a text like "0.002", not a float')
    number = _number(value, "should be a price for 1,000 tokens, like 0.002")
    try:
        price_per_million(number)
    except ValueError as error:
        raise wrong(str(error)) from None
    return number


def _factor(value: object) -> Decimal:
    if isinstance(value, float):
        raise wrong('should be exact: give a Decimal or a text like "0.5", not a float')
    number = _number(value, "should be a factor, like 0.5")
    if not number.is_finite() or not 0 <= number <= 1000 or number.normalize().as_tuple().exponent < -6:  # type: ignore[operator]
        raise wrong("should be a factor from 0 to 1000 with at most 6 decimals, like 0.5")
    return number


def _currency(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch("[A-Za-z]{3}", value):
        raise wrong("should be three letters, like USD")
    return value.upper()


def _strategy(value: object) -> str:
    if not isinstance(value, str) or value not in STRATEGIES:
        near = nearest(value, STRATEGIES) if isinstance(value, str) else ""
        raise wrong(f"should be one of {', '.join(STRATEGIES)}{near}")
    return value


def _modality(value: object) -> str:
    if not isinstance(value, str) or value not in MODALITIES:
        near = nearest(value, MODALITIES) if isinstance(value, str) else ""
        raise wrong(f"should be one of {', '.join(MODALITIES)}{near}")
    return value


def _price_list(value: object) -> str | None:
    if value is False or (isinstance(value, str) and value.lower() in ("off", "none")):
        return None
    if not isinstance(value, str) or value not in PRICE_LISTS:
        raise wrong(f"should be {' or '.join(PRICE_LISTS)}, or off")
    if importlib.util.find_spec(value.replace("-", "_")) is None:
        raise wrong(f"needs the package {value}: pip install {value}")
    return value


def _candidate(value: object) -> str:
    text = text_of(value)
    provider, slash, model = text.partition("/")
    if not slash or not _ID.fullmatch(provider) or not model.strip():
        raise wrong('should be "provider/model", like "openai/gpt-4o"')
    return text


def _secret(value: object) -> Secret:
    if isinstance(value, Secret):
        return value
    right = 'should be the key as text, best as a variable: "${OPENAI_API_KEY}"'
    if isinstance(value, Unexpanded):
        return Secret("", missing=value.variables, where=value.path)
    if not isinstance(value, str):
        raise wrong(right, WRONG_UNSEEN)
    text = value.strip()  # a key read from a file often ends with a newline
    if not text:
        raise wrong(f"is empty; {right}", WRONG_UNSEEN)
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        raise wrong(
            "should hold no spaces, control characters or letters beyond ASCII: it is sent as a header", WRONG_UNSEEN
        )
    return Secret(text)


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def models_by_name(value: object) -> object:
    """`models` may be a plain list of names, and a name may stand without settings."""
    if isinstance(value, list | tuple):
        for index, name in enumerate(value):
            if not isinstance(name, str):
                raise wrong(f"entry {index} should be a model's name as text; put it in quotes", WRONG_UNSEEN)
            if name in value[:index]:
                raise wrong(f"names {name!r} twice", WRONG_UNSEEN)
        return {name: {} for name in value}
    if isinstance(value, dict):
        return {name: {} if settings is None else settings for name, settings in value.items()}
    raise wrong("should be a list of model names, or a mapping from name to settings", WRONG_UNSEEN)


def _options(value: object) -> object:
    """Options are a plugin's own: it gets plain JSON types, not the exact decimals that prices are read as."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: _options(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_options(inner) for inner in value]
    return value


def masked(values: dict[str, Any]) -> dict[str, str]:
    """The names, with masks for values."""
    return dict.fromkeys(values, MASK)


Text = Annotated[str, PlainValidator(text_of)]
Id = Annotated[str, PlainValidator(_id)]
Flag = Annotated[bool, PlainValidator(_bool)]
Count = Annotated[int, PlainValidator(_whole(1, "should be a whole number from 1"))]
Limit = Annotated[int, PlainValidator(_whole(1, "should be a whole number from 1; leave it out for no limit"))]
Seconds = Annotated[float, PlainValidator(_seconds(0.001, "should be seconds, a number above 0"))]
SecondsOrNone = Annotated[float, PlainValidator(_seconds(0, "should be seconds, 0 or more"))]
Share = Annotated[float, PlainValidator(_share)]
Factor = Annotated[Decimal, BeforeValidator(_factor)]
DayZone = Annotated[str, PlainValidator(_day_zone)]
CostPerThousand = Annotated[Decimal, BeforeValidator(_cost)]
Currency = Annotated[str, PlainValidator(_currency)]
StrategyName = Annotated[Strategy, PlainValidator(_strategy)]
Modality = Annotated[str, PlainValidator(_modality)]
PriceListName = Annotated[str | None, PlainValidator(_price_list)]
Candidate = Annotated[str, PlainValidator(_candidate)]
SecretText = Annotated[Secret, PlainValidator(_secret), PlainSerializer(str)]
ClassPath = Annotated[str, PlainValidator(_class_path)]
Options = Annotated[dict[str, Any], BeforeValidator(_options), PlainSerializer(masked)]
Names = Annotated[tuple[Text, ...], BeforeValidator(_one_or_many)]
