"""The error tree; each class says which exit code the command line gives it.

It does not hold failures of single calls: those are values (`models.request.Failure`), judged in `worker.failover`.

    TruckError                    something a person can act on
    ├── UsageError         (2)    the command, the input file or the configuration is wrong; nothing was changed
    │   ├── ConfigError           truckllm.yaml (or what should be one)
    │   ├── InputError            lines of the input file
    │   ├── ConflictError         a batch's state doesn't allow it, or its file is being worked on with other options
    │   └── NotFoundError         no such batch, provider, key, route
    ├── BlockedError       (3)    work is left and no key can do it
    ├── StorageError       (4)    disk or database
    │   ├── SchemaError           the database is older or newer than this code
    │   └── DatabaseFileLost      the SQLite file was deleted or replaced while in use
    └── Untranslatable     (2)    a request that a provider's dialect can't express; names the field
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class TruckError(Exception):
    """Something a person can act on. `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(TruckError):
    """The command, its input or its configuration is wrong; nothing was changed."""

    exit_code = 2


class ConfigError(UsageError):
    """The configuration is wrong. The message lists every problem with its YAML path."""


class ConflictError(UsageError):
    """What is asked doesn't go with a batch's state, or the same file is already being worked on with other options."""


class NotFoundError(UsageError):
    """A name that the database or the configuration doesn't know."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """One input line that can't become a job. `number` counts from 1; `reason` says what is wrong and what would be right."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Cause:
    """Bad lines that share a cause: how many, the numbers of the first of them, and the reason of the first.

    `varies`: the others' reasons have other names or numbers in them.
    """

    reason: str
    count: int
    lines: tuple[int, ...]
    varies: bool = False


class InputError(UsageError):
    """Input lines that can't become jobs: the first of them in `lines`, all of them counted in `count`, and their `causes`.

    Where `causes` aren't given, each of the lines is its own.
    """

    def __init__(
        self,
        message: str,
        lines: Sequence[BadLine] = (),
        count: int | None = None,
        causes: Sequence[Cause] | None = None,
    ) -> None:
        super().__init__(message)
        self.lines = tuple(lines)
        self.count = len(self.lines) if count is None else count
        own = [Cause(line.reason, 1, (line.number,)) for line in self.lines]
        self.causes = tuple(own if causes is None else causes)


class BlockedError(TruckError):
    """Work is left, and no key in its lane can do it."""

    exit_code = 3


class StorageError(TruckError):
    """The disk or the database failed."""

    exit_code = 4


class SchemaError(StorageError):
    """The database's schema doesn't fit this code."""


class DatabaseFileLost(StorageError):
    """The SQLite file was deleted or replaced while this process used it."""


class Untranslatable(UsageError):
    """A request that the provider's dialect can't express. `field` is the field that has no place there."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
