"""The process's HTTP server: uvicorn, with an accept loop of its own, which decides about a connection before TLS costs anything.

It knows no path; the application does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import threading
from pathlib import Path
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from models.config import ApiConfig
from submit.api.admission import Admission, Slot, peer_of
from submit.api.failures import RefusedError, raw_response
from submit.api.protocol import LimitedProtocol

log = logging.getLogger("truckllm.api")

_LONGEST_TICK = 0.5
"""Seconds that count at most between two checks: a machine that stood still is no caller that was slow."""
_RETRY_ACCEPT_SECONDS = 0.2
_LAST_SECONDS = 5.0
"""From the end of `grace_seconds` to the end of the process, whatever a thread does."""


class ApiServer(uvicorn.Server):
    """Serves an application within limits until SIGTERM or SIGINT, then for `grace_seconds` more."""

    def __init__(
        self,
        app: ASGIApp,
        limits: ApiConfig,
        stopping: threading.Event,
        certificate: Path | None = None,
        private_key: Path | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # a caller's word about its own address
                lifespan="off",
                ws="none",
                http="h11",
                ssl_certfile=certificate,
                ssl_keyfile=private_key,
                timeout_keep_alive=cast(int, limits.idle_seconds),  # asyncio takes fractions
                timeout_graceful_shutdown=cast(int, limits.grace_seconds),
            )
        )
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # its lines are the callers' faults, one each
        self.stopping = stopping
        self._limits = limits
        self._admission = Admission(limits)
        self._checked: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, for sockets that listen already."""
        await self.lifespan.startup()
        accepting = [
            _Acceptor(one, self.config, self.server_state, self._limits, self._admission) for one in sockets or ()
        ]
        self.servers = cast(list[Any], accepting)
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        now = asyncio.get_running_loop().time()
        seconds = 0.0 if self._checked is None else min(now - self._checked, _LONGEST_TICK)
        self._checked = now
        for connection in list(self.server_state.connections):
            if isinstance(connection, LimitedProtocol):
                connection.check(seconds)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's. A thread can't be cancelled: what still runs in one at the end doesn't hold up the process."""
        await super().shutdown(sockets)
        self.stopping.set()
        leave = threading.Timer(_LAST_SECONDS, _leave)
        leave.daemon = True
        leave.start()


def _leave() -> None:
    log.error(
        "a request could not be ended in time: what it stored so far is whole, or is taken up when it is sent again"
    )
    os._exit(0)


class _Acceptor:
    """Takes connections from one listening socket; in uvicorn's list it stands where asyncio's own server would."""

    def __init__(
        self,
        listener: socket.socket,
        config: uvicorn.Config,
        state: Any,
        limits: ApiConfig,
        admission: Admission,
    ) -> None:
        self._listener = listener
        self._config = config
        self._state = state
        self._limits = limits
        self._admission = admission
        self._greetings: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        self._task = asyncio.create_task(self._accept())

    def close(self) -> None:
        self._task.cancel()
        for greeting in self._greetings:
            greeting.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(self._task, *self._greetings, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(self._listener)
            except OSError as error:  # the caller is gone again, or there are no more files
                log.warning("a connection could not be accepted: %s", error.strerror or error)
                await asyncio.sleep(_RETRY_ACCEPT_SECONDS)
                continue
            greeting = _Greeting(accepted, peer_of(address))
            try:
                self._admission.admit(greeting.slot)
            except RefusedError as error:
                greeting.turn_away(error, plain=self._config.ssl is None)
                continue
            task = loop.create_task(self._greet(greeting))
            greeting.task = task
            self._greetings.add(task)
            task.add_done_callback(self._greetings.discard)

    async def _greet(self, greeting: _Greeting) -> None:
        """Makes a protocol of an accepted socket; with TLS, once the handshake is done."""
        context: ssl.SSLContext | None = self._config.ssl
        patience = {} if context is None else {"ssl_handshake_timeout": self._limits.head_seconds}

        def protocol() -> LimitedProtocol:
            return LimitedProtocol(self._config, self._state, self._limits, self._admission, greeting.slot)

        connected = False
        try:
            _, made = await asyncio.get_running_loop().connect_accepted_socket(
                protocol, greeting.accepted, ssl=context, **patience
            )
            greeting.protocol = made
            connected = True
        except (TimeoutError, OSError):  # ssl.SSLError is an OSError
            pass
        finally:
            if not connected:
                self._admission.release(greeting.slot)
                greeting.accepted.close()


class _Greeting:
    """A connection from when it is accepted: its slot, and what closes it, before and after TLS is agreed."""

    def __init__(self, accepted: socket.socket, peer: str) -> None:
        accepted.setblocking(False)
        self.accepted = accepted
        self.slot = Slot(peer, self._close)
        self.task: asyncio.Task[None] | None = None
        self.protocol: LimitedProtocol | None = None

    def turn_away(self, error: RefusedError, *, plain: bool) -> None:
        """Closes a connection that has no protocol yet."""
        if plain:
            with contextlib.suppress(OSError):
                self.accepted.send(raw_response(error))
        self.accepted.close()

    def _close(self, error: RefusedError) -> None:
        if self.protocol is not None:
            self.protocol.close_for(error)
        elif self.task is not None:
            self.task.cancel()
