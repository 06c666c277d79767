"""One connection of the API: uvicorn's h11 protocol, with time limits, minimum rates in both directions, and errors as JSON.

uvicorn bounds none of these (0.54): half-sent requests and callers who never read stay for ever. What is used of it beyond its documented
interface is in this module and in `submit.api.server`, and `tests/submit/api` fails where a new version moves it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from typing import Any, cast

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from models.config import ApiConfig
from submit.api.admission import Admission, Slot
from submit.api.failures import PROVEN, RefusedError, error_response, raw_response
from submit.api.strict import StrictConnection

log = logging.getLogger("truckllm.api")

LINGER_SECONDS = 2.0
LINGER_BYTES = 1024 * 1024
"""What a caller still sends behind its last answer is thrown away for so long; closing at once would reset the connection, and the
answer could be lost."""

_NO_LINGER = struct.pack("ii", 1, 0)


class SlowBodyError(RefusedError):
    """A body comes too slowly."""

    def __init__(self, message: str) -> None:
        super().__init__(408, message)


class LimitedProtocol(H11Protocol):
    """A connection that holds what `limits` say. `check` has to be called several times a second."""

    def __init__(self, config: Config, state: ServerState, limits: ApiConfig, admission: Admission, slot: Slot) -> None:
        super().__init__(config, state, {})
        self._parser = StrictConnection()
        self.conn = self._parser
        self._limits = limits
        self._admission = admission
        self._slot = slot
        self._inner: ASGIApp = cast(ASGIApp, self.app)
        self.app = cast(Any, self._answer)
        self._wire: asyncio.Transport | None = None
        self.ending = False
        """The last answer is written."""
        self._dropped = 0
        self._head = _Clock()
        self._body = _Clock()
        self._end = _Clock()
        self._incoming = _Rate(limits)
        self._outgoing = _Rate(limits)
        self._received = 0
        self._asks_for_body = False
        self._too_slow: SlowBodyError | None = None

    # asyncio's calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._wire = transport
        super().connection_made(cast(asyncio.Transport, _Transport(transport, self)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._admission.release(self._slot)
        self._unset_keepalive_if_required()
        self.ending = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.ending:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES:
                self._abort()
            return
        self._received += len(data)
        super().data_received(data)
        self._note_state()

    # uvicorn's calls

    def send_400_response(self, msg: str) -> None:
        """Answers what the parser refuses."""
        failure = self._parser.failure
        status = failure.error_status_hint if failure is not None else 400
        self._refuse(RefusedError(status, str(failure or msg)))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._note_state()

    def shutdown(self) -> None:
        if self.ending:
            self._abort()
        else:
            super().shutdown()

    # ours

    def check(self, seconds: float) -> None:
        """Ends what takes too long; `seconds` have gone by since the last call."""
        if self._wire is None:
            return
        waiting = self._wire.get_write_buffer_size()
        sent = cast(_Transport, self.transport).written - waiting
        if waiting and self._outgoing.is_too_slow(sent, seconds):
            self._abort(reset=True)
        elif not waiting:
            self._outgoing.restart(sent)
        if self.ending:
            if self._end.passes(seconds, LINGER_SECONDS) and not waiting:
                self._abort()
        elif self.timeout_keep_alive_task is None and self.conn.their_state is h11.IDLE and not self._is_busy():
            if self._head.passes(seconds, self._limits.head_seconds):
                self._end_head()
        elif self._asks_for_body and not self.flow.read_paused and self.conn.their_state is h11.SEND_BODY:
            self._check_body(seconds)

    def close_for(self, error: RefusedError) -> None:
        """Ends the connection, which no request is under way on, because others need its place."""
        self._refuse(error)

    def _end_head(self) -> None:
        if self.conn.trailing_data[0]:
            self._refuse(RefusedError(408, f"no whole request came within {self._limits.head_seconds:g} s"))
        else:
            self.end_gently()

    def _check_body(self, seconds: float) -> None:
        limits = self._limits
        if self._incoming.is_too_slow(self._received, seconds):
            self._fail_body(f"the body comes at less than {limits.bytes_per_second:,} bytes a second")
        elif self._body.passes(seconds, limits.body_seconds):
            self._fail_body(f"the body took longer than {limits.body_seconds:g} s")

    def _fail_body(self, message: str) -> None:
        self._too_slow = SlowBodyError(message)
        self.cycle.message_event.set()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, as uvicorn calls it for each request."""
        cycle = self.cycle
        self._body.restart()
        self._incoming.restart(self._received)
        scope["extensions"] = {PROVEN: self._prove}

        async def limited_receive() -> Message:
            self._asks_for_body = True
            try:
                message = await receive()
            finally:
                self._asks_for_body = False
            if self._too_slow is not None:
                raise self._too_slow
            return message

        async def closing_send(message: Message) -> None:
            if self.ending:
                return
            if message["type"] == "http.response.start" and cycle.more_body:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        try:
            await self._inner(scope, limited_receive, closing_send)
        except asyncio.CancelledError:
            await _give_up(cycle, scope, closing_send, RefusedError(503, "the server is stopping", retry_after=5))
        except Exception as error:
            if not cycle.response_complete:
                log.error("a request failed: %s", type(error).__name__, exc_info=error)
                await _give_up(cycle, scope, closing_send, RefusedError(500, "something is wrong here; see the log"))
        if not cycle.response_complete and not self.ending:
            self._abort(reset=True)  # a part of an answer must not pass for the whole

    def _prove(self) -> None:
        self._slot.proven = True

    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _note_state(self) -> None:
        """Keeps what depends on whether a request is under way."""
        self._slot.busy = self._is_busy()
        if self._slot.busy or self.conn.their_state is not h11.IDLE:
            self._head.restart()

    def _refuse(self, error: RefusedError) -> None:
        """Answers outside of the application, then ends. Where an answer has begun, nothing may be added to it."""
        if self.ending or self._wire is None:
            return
        if self._is_busy():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self._abort(reset=True)
                return
        self.transport.write(raw_response(error))
        self.end_gently()

    def end_gently(self) -> None:
        """Closes behind the last answer; what still comes in is thrown away for a while, so that the caller gets that answer."""
        if self.ending or self._wire is None or self._wire.is_closing():
            return
        unread = self.conn.their_state in (h11.SEND_BODY, h11.ERROR) or self._parser.failure is not None
        unread = unread or bool(self.conn.trailing_data[0])
        self.ending = True
        self._slot.busy = False
        self._unset_keepalive_if_required()
        if self.conn.our_state is not h11.ERROR:
            self.conn.send_failed()
        if not unread:
            self._wire.close()
            return
        self.flow.resume_reading()
        if self._wire.can_write_eof():
            self._wire.write_eof()

    def _abort(self, *, reset: bool = False) -> None:
        """Closes at once. With `reset` the system also drops what it still holds for a caller who doesn't read."""
        self.ending = True
        if self._wire is None:
            return
        if reset and (connected := self._wire.get_extra_info("socket")) is not None:
            with contextlib.suppress(OSError):
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._wire.abort()


class _Transport:
    """A transport whose `close` is ours, and which counts what is written to it."""

    def __init__(self, wire: asyncio.Transport, owner: LimitedProtocol) -> None:
        self._wire = wire
        self._owner = owner
        self.written = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wire, name)

    def write(self, data: bytes) -> None:
        if not self._wire.is_closing():
            self.written += len(data)
            self._wire.write(data)

    def close(self) -> None:
        self._owner.end_gently()

    def is_closing(self) -> bool:
        return self._owner.ending or self._wire.is_closing()


class _Clock:
    """Seconds that the other side was waited for. Time in which this process stood still isn't in them."""

    def __init__(self) -> None:
        self._waited = 0.0

    def passes(self, seconds: float, most: float) -> bool:
        """Adds `seconds`; whether it is more than `most` now."""
        self._waited += seconds
        return self._waited > most

    def restart(self) -> None:
        self._waited = 0.0


class _Rate:
    """A number of bytes that has to grow by so many each second, looked at over windows of `stall_seconds`."""

    def __init__(self, limits: ApiConfig) -> None:
        self._window = limits.stall_seconds
        self._least = limits.bytes_per_second * limits.stall_seconds
        self._waited = 0.0
        self._from = 0

    def is_too_slow(self, total: int, seconds: float) -> bool:
        """Whether a window is over in which too little came; `total` is what came so far in all."""
        self._waited += seconds
        if self._waited < self._window:
            return False
        grown = total - self._from
        self.restart(total)
        return grown < self._least

    def restart(self, total: int) -> None:
        self._waited, self._from = 0.0, total


async def _give_up(cycle: RequestResponseCycle, scope: Scope, send: Send, error: RefusedError) -> None:
    """Answers with an error, where no answer has begun."""
    if not cycle.response_started:
        headers = {**error.headers(), "Connection": "close"}
        await error_response(error.status, error.message, headers)(scope, _nothing, send)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
