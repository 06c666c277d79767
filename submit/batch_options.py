"""What a submission says about all of its lines at once: which model, how many, what to fill in, what to do with bad ones.

It does not read or store anything; `models.formats.lines` does the one, `submit.loading` the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from models.errors import BadLine, UsageError
from models.formats.lines import Line, read_lines
from models.lanes import Lanes


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """Options that change calls, so that another value of one makes another batch of the same input.

    `model` is asked for instead of every line's own. `limit` takes only so many lines. `template` makes prompts of a table's
    rows. Raises UsageError for a value that can't be.
    """

    model: str | None = None
    limit: int | None = None
    template: str | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit is {self.limit}: it must be 1 or more")

    def lines(self, stream: BinaryIO, lanes: Lanes) -> Iterator[Line | BadLine]:
        """The lines of an input under these options."""
        return read_lines(stream, lanes, model=self.model, limit=self.limit)

    def stored(self) -> str:
        """As JSON in one spelling, for the batch's row; those that aren't given leave no trace."""
        given = {"model": self.model, "limit": self.limit, "template": self.template}
        return json.dumps({name: value for name, value in given.items() if value is not None}, sort_keys=True)
