"""Records the requests and replies of a traced batch's call, where they are sent.

The engine sets a trace around one call, and the HTTP client fills it in. A plugin that sends by itself leaves no exchange in it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from models.errors import Untranslatable
from models.request import Failure
from worker.providers.base import Call, Reply, SendError

MOST_EXCHANGES = 20
"""A plugin may make several; a loop of them is no trace."""


@dataclass(slots=True)
class Exchange:
    """One request, and what came of it. `headers` are those that were sent, the client's own too."""

    call: Call
    headers: dict[str, str]
    reply: Reply | None = None
    error: SendError | None = None


@dataclass(slots=True)
class Trace:
    """The record of one call. `text` is the answer's; `raised` is the traceback of a plugin that failed; `failure` what was made of it, `next` what an ordinary job would do
    then."""

    exchanges: list[Exchange] = field(default_factory=list)
    text: str | None = None
    raised: str | None = None
    failure: Failure | None = None
    next: dict[str, Any] | None = None

    async def through(
        self, call: Call, headers: dict[str, str], send: Callable[[], Coroutine[Any, Any, Reply]]
    ) -> Reply:
        """Sends a call and takes it down."""
        exchange = Exchange(call, headers)
        if len(self.exchanges) < MOST_EXCHANGES:
            self.exchanges.append(exchange)
        try:
            exchange.reply = await send()
        except SendError as error:
            exchange.error, exchange.reply = error, error.partial
            raise
        return exchange.reply

    def fell(self, error: Exception) -> None:
        """Takes down a plugin's exception. One that only refuses the request by name has no traceback that helps."""
        if isinstance(error, Untranslatable):
            if error.__cause__ is None:
                return
            error = error.__cause__ if isinstance(error.__cause__, Exception) else error
        self.raised = "".join(traceback.format_exception(error))


_TRACE: ContextVar[Trace | None] = ContextVar("trace", default=None)


def current() -> Trace | None:
    """The trace of the call that is being made; None for ordinary calls."""
    return _TRACE.get()


@contextmanager
def into(trace: Trace | None) -> Iterator[None]:
    """Calls sent within are taken down in this trace."""
    token = _TRACE.set(trace)
    try:
        yield
    except Exception as error:
        if trace is not None and not isinstance(error, SendError):
            trace.fell(error)
        raise
    finally:
        _TRACE.reset(token)
