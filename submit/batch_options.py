"""What a submission says about all of its lines at once: which model, how many, what to fill in, what to do with bad ones.

It does not read or store anything; `models.formats.lines` does the one, `submit.loading` the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from models.errors import BadLine, UsageError
from models.formats.defaults import Defaults, response_format
from models.formats.lines import Line, read_lines
from models.lanes import Lanes

Schema = str | Path | Mapping[str, Any]
"""A JSON schema, or the file that holds it."""


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """Options that change calls, so that another value of one makes another batch of the same input.

    `model` is asked for instead of every line's own. `limit` takes only so many lines. `template` makes prompts of a table's
    rows. `defaults` are filled into simple lines. With `skip_invalid` bad lines become failed jobs. Raises UsageError for a value
    that can't be.
    """

    model: str | None = None
    limit: int | None = None
    template: str | None = None
    defaults: Defaults = field(default_factory=Defaults)
    skip_invalid: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit is {self.limit}: it must be 1 or more")

    @classmethod
    def of(
        cls,
        *,
        model: str | None = None,
        limit: int | None = None,
        template: str | None = None,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        schema: Schema | None = None,
        skip_invalid: bool = False,
    ) -> BatchOptions:
        """The options as people give them. Raises UsageError, also for a schema that can't be read."""
        shape = None if schema is None else _shape(schema)
        return cls(model, limit, template, Defaults(system, max_tokens, temperature, shape), skip_invalid)

    def lines(self, stream: BinaryIO, lanes: Lanes) -> Iterator[Line | BadLine]:
        """The lines of an input under these options."""
        return read_lines(
            stream, lanes, model=self.model, limit=self.limit, defaults=self.defaults, keep_bad=self.skip_invalid
        )

    def stored(self) -> str:
        """As JSON in one spelling, for the batch's row; those that aren't given leave no trace."""
        given = {"model": self.model, "limit": self.limit, "template": self.template, **self.defaults.given()}
        given["skip_invalid"] = self.skip_invalid or None
        return json.dumps({name: value for name, value in given.items() if value is not None}, sort_keys=True)


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
