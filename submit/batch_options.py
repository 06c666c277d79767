"""What a submission says about all of its lines at once: whom to ask, how many, what to fill in, what to do with bad ones.

It does not read or store anything; `models.formats.lines` does the one, `submit.loading` the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, TypedDict, TypeVar, Unpack, get_args

from models.config_fields import EmptyAnswers
from models.errors import BadLine, UsageError
from models.formats.defaults import Defaults, response_format
from models.formats.lines import Line, read_lines
from models.formats.reading import EmptyPrompts, LastAnswer, Reading, SkippedLine, UnknownFields
from models.lanes import Lanes, NoLane
from submit.encodings import checked_encoding

Schema = str | Path | Mapping[str, Any]
"""A JSON schema, or the file that holds it."""


LARGEST_PRIORITY = 1_000_000
EMPTY_ANSWERS: tuple[str, ...] = get_args(EmptyAnswers)


def checked_priority(number: int) -> int:
    """A batch's priority. Raises UsageError for one that no database takes."""
    if abs(number) > LARGEST_PRIORITY:
        raise UsageError(f"priority: it must be between {-LARGEST_PRIORITY} and {LARGEST_PRIORITY}")
    return number


class Given(TypedDict, total=False):
    """The options as people give them, by name; None and False stand for "not given"."""

    model: str | None
    provider: str | None
    route: str | None
    no_fallback: bool
    limit: int | None
    template: str | None
    sheet: str | None
    encoding: str | None
    system: str | None
    max_tokens: int | None
    temperature: float | None
    schema: Schema | None
    skip_invalid: bool
    empty_answers: str | None
    empty_prompts: str | None
    unknown_fields: str | None
    last_answer: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """Options that change calls, so that another value of one makes another batch of the same input.

    `model` is asked for instead of every line's own. `provider` or `route` is for lines that name neither. With `no_fallback`
    a job uses no fallback model, and of a route only the first candidate. `limit` takes only so many lines. `template` makes
    prompts of a table's rows; `sheet` is a workbook's, `encoding` a text's that isn't UTF-8. `defaults` are filled into simple lines.
    With `skip_invalid` bad lines become failed jobs. `empty_answers` is one of EMPTY_ANSWERS; None is what the workers' configuration
    has. `reading` holds the choices for empty prompts, unknown fields and last answers. Raises
    UsageError for a value that can't be.
    """

    model: str | None = None
    provider: str | None = None
    route: str | None = None
    no_fallback: bool = False
    limit: int | None = None
    template: str | None = None
    sheet: str | None = None
    encoding: str | None = None
    defaults: Defaults = field(default_factory=Defaults)
    skip_invalid: bool = False
    empty_answers: str | None = None
    reading: Reading = Reading()

    def __post_init__(self) -> None:
        if self.empty_answers not in (None, *EMPTY_ANSWERS):
            raise UsageError(f"empty_answers is {self.empty_answers!r}: it must be one of {', '.join(EMPTY_ANSWERS)}")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit is {self.limit}: it must be 1 or more")
        if self.route is not None and self.provider is not None:
            raise UsageError("provider and route: a line waits for one of them; keep one")
        if self.route is not None and self.model is not None:
            raise UsageError("route and model: a route's candidates name their models; keep one of them")

    @property
    def asks_empty(self) -> bool:
        """True where lines with an empty prompt are asked."""
        return self.reading.empty_prompts is EmptyPrompts.ASK

    @classmethod
    def of(cls, **given: Unpack[Given]) -> BatchOptions:
        """The options as people give them. Raises UsageError, also for a schema that can't be read."""
        schema = given.get("schema")
        return cls(
            model=given.get("model"),
            provider=given.get("provider"),
            route=given.get("route"),
            no_fallback=bool(given.get("no_fallback")),
            limit=given.get("limit"),
            template=given.get("template"),
            sheet=given.get("sheet"),
            encoding=checked_encoding(given.get("encoding")),
            defaults=Defaults(
                given.get("system"),
                given.get("max_tokens"),
                given.get("temperature"),
                None if schema is None else _shape(schema),
            ),
            skip_invalid=bool(given.get("skip_invalid")),
            empty_answers=given.get("empty_answers"),
            reading=_reading(given),
        )

    def lines(self, stream: BinaryIO, lanes: Lanes) -> Iterator[Line | BadLine | SkippedLine]:
        """Yields the lines of an input under these options. Raises UsageError for a provider or route that isn't configured."""
        try:
            lanes.check(provider=self.provider, route=self.route)
        except NoLane as unknown:
            raise UsageError(str(unknown)) from None
        return read_lines(
            stream,
            lanes,
            model=self.model,
            provider=self.provider,
            route=self.route,
            limit=self.limit,
            defaults=self.defaults,
            alone=self.no_fallback,
            keep_bad=self.skip_invalid,
            reading=self.reading,
        )

    def stored(self) -> str:
        """As JSON in one spelling, for the batch's row; those that aren't given leave no trace."""
        names = (
            *("model", "provider", "route", "no_fallback", "limit", "template", "sheet", "encoding"),
            *("skip_invalid", "empty_answers"),
        )
        given = {
            **{name: getattr(self, name) or None for name in names},
            **self.reading.given(),
            **self.defaults.given(),
        }
        return json.dumps({name: value for name, value in given.items() if value is not None}, sort_keys=True)


_Choice = TypeVar("_Choice", bound=StrEnum)


def _reading(given: Given) -> Reading:
    usual = Reading()
    empty, unknown, last = (given.get(name) for name in ("empty_prompts", "unknown_fields", "last_answer"))
    return Reading(
        _chosen(EmptyPrompts, "empty_prompts", empty) or usual.empty_prompts,
        _chosen(UnknownFields, "unknown_fields", unknown) or usual.unknown_fields,
        _chosen(LastAnswer, "last_answer", last),
    )


def _chosen(kind: type[_Choice], name: str, value: object) -> _Choice | None:
    try:
        return None if value is None else kind(str(value))
    except ValueError:
        raise UsageError(f"{name} is {value!r:.60}: it must be one of {', '.join(kind)}") from None


def _shape(schema: Schema) -> dict[str, Any]:
    if isinstance(schema, Mapping):
        return response_format(schema)
    path = Path(schema)
    try:
        read = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"can't read the schema {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"the schema {path} is not JSON: {error}") from None
    try:
        return response_format(read, path.stem)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
