"""What a request asks: the query, checked, the batch in its path, and what all endpoints share: database and configuration."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from models.config import Config
from models.database import Database
from models.errors import NotFoundError, StorageError, UsageError
from submit.damages import told_errors


class TooLargeError(UsageError):
    """A body is larger than this server takes."""


class NoRoomError(StorageError):
    """A body can't be kept: the disk is full."""


Query = TypeVar("Query", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Api:
    """Holds the database, the configuration and the limits of all endpoints.

    `largest_upload` bounds a body, `largest_unpacked` what an archive in it holds, in bytes. `stopping` is set when the server is on its
    way out.
    """

    database: Database
    config: Config
    largest_upload: int
    largest_unpacked: int = 64 * 1024**3
    stopping: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def of(cls, request: Request) -> Api:
        """That of the application which serves this request."""
        found = request.app.state.api
        assert isinstance(found, cls)
        return found


def stored(database: Database) -> AbstractContextManager[None]:
    """Turns the driver's errors, and what stumbles over a damaged row, into StorageError."""
    return told_errors(database)


def batch_number(request: Request) -> int:
    """The batch in the path. Raises NotFoundError for what is no number."""
    text = request.path_params["batch"]
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise NotFoundError(f"there is no batch {text[:40]!r}: batches have numbers")
    return int(text)


def query(request: Request, kind: type[Query]) -> Query:
    """The query parameters. Raises UsageError that names each one that is wrong, unknown or given twice."""
    given: dict[str, str | list[str]] = {}
    several = {info.alias or name for name, info in kind.model_fields.items() if info.annotation == list[str]}
    for name, value in request.query_params.multi_items():
        if name in several:
            given[name] = [*given.get(name, ()), value]
            continue
        if name in given:
            raise UsageError(f"{name[:40]} is given twice")
        if "\0" in value:
            raise UsageError(f"{name[:40]} holds a NUL")
        given[name] = value
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'query'}: {one['msg']}" for one in error.errors())
        raise UsageError(f"query: {wrong}") from None
