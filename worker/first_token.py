"""A bound on the time to the first token of a stream, for as long as another candidate could take the job.

The engine sets it around one call; the HTTP client keeps it. Plugins build and read calls without knowing it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

FIRST_TOKEN_TIMEOUT = "first_token_timeout"
"""The error code of a call that was left for this."""
LOOK_SECONDS = 1.0
"""Once the time is over: the interval of checks for another free candidate."""
_TOKEN = re.compile(
    rb'"(?:content|text|reasoning|reasoning_content|thinking|delta|partial_json|arguments|refusal|output_text)"\s*:\s*"[^"]'
    rb'|"(?:tool_calls|functionCall|function_call|inlineData|audio|error)"\s*:\s*[\[{]|"(?:finish_reason|finishReason|stop_reason)"\s*:\s*"'
)
"""A piece of an answer, or its end, in any dialect; first chunks with nothing but a role and an empty text are none."""
_LONGEST_TOKEN = 64


class FirstToken:
    """The bound of one call. `may_leave` is asked when it is over: without another candidate the call goes on."""

    def __init__(self, seconds: float, may_leave: Callable[[], Awaitable[bool]]) -> None:
        self.seconds = seconds
        self.arrived = False
        self._may_leave = may_leave
        self._tail = b""

    def take(self, chunk: bytes) -> None:
        """Takes in the next bytes of the stream."""
        if not self.arrived:
            seen = self._tail + chunk
            self.arrived = _TOKEN.search(seen) is not None
            self._tail = seen[-_LONGEST_TOKEN:]

    async def watch(self, scope: asyncio.Timeout) -> None:
        """Ends the scope when the bound is over, no token has come, and the call may be left."""
        await asyncio.sleep(self.seconds)
        while not self.arrived:
            if await self._may_leave() and not self.arrived:
                scope.reschedule(asyncio.get_running_loop().time())
                return
            await asyncio.sleep(LOOK_SECONDS)


_BOUND: ContextVar[FirstToken | None] = ContextVar("first_token", default=None)


def current() -> FirstToken | None:
    """The bound of the call that is being made."""
    return _BOUND.get()


@contextmanager
def bounded(bound: FirstToken | None) -> Iterator[None]:
    """Calls made within are under this bound."""
    token = _BOUND.set(bound)
    try:
        yield
    finally:
        _BOUND.reset(token)
