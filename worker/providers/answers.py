"""What a dialect makes of a body or a stream, before it becomes a Response.

It does not read anything itself; each dialect does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.request import Failure, Usage


@dataclass(frozen=True, slots=True)
class Answer:
    """What a body says. `failure` is set when the answer isn't usable; its usage is kept, for it is billed all the same. `empty` is set
    for a whole answer that holds nothing at all."""

    usage: Usage | None = None
    text: str | None = None
    finish_reason: str | None = None
    served_model: str | None = None
    failure: Failure | None = None
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream put together: the `body` it stands for, an error `event` that came in it, `whole` if it reached its end."""

    body: dict[str, Any]
    error: Any
    whole: bool
