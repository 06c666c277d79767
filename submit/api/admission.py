"""Which connections stay open: so many in all, so many of one peer, and always room for one more that sends its request at once.

A connection is *proven* once a request on it had a valid token. Where there is no room, the oldest one that has proven nothing and has no
request under way is closed. So half-sent requests, however many, can't keep a health check or a caller with a token out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field

from models.config import ApiConfig
from submit.api.failures import RefusedError

_SITE_BITS = 64
"""An IPv6 subscriber has a network of this length: its addresses are one peer."""


def peer_of(address: object) -> str:
    """The peer behind a socket's remote address: its IPv4 address, or its IPv6 network."""
    host = str(address[0]) if isinstance(address, tuple) and address else ""
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found, _SITE_BITS), strict=False))


@dataclass(eq=False, slots=True)
class Slot:
    """The place of one connection. `busy`: a request is being answered. `close` ends the connection with an error."""

    peer: str
    close: Callable[[RefusedError], None] = field(repr=False)
    proven: bool = False
    busy: bool = False


class Admission:
    """The slots of a server."""

    def __init__(self, limits: ApiConfig) -> None:
        self._limits = limits
        self._slots: dict[Slot, None] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def admit(self, slot: Slot) -> None:
        """Takes a new connection in, closing another one if there is no room. Raises RefusedError (429, 503) if none can be closed."""
        unproven = [one for one in self._slots if one.peer == slot.peer and not one.proven]
        if len(unproven) >= self._limits.connections_per_peer:
            most = self._limits.connections_per_peer
            self._make_room(
                [one for one in unproven if not one.busy],
                RefusedError(429, f"more than {most} connections of your address have shown no token", retry_after=1),
            )
        if len(self._slots) >= self._limits.connections:
            idle = [one for one in self._slots if not one.busy]
            self._make_room(
                sorted(idle, key=lambda one: one.proven),  # the sort keeps their order
                RefusedError(503, "too many connections are open", code="overloaded", retry_after=1),
            )
        self._slots[slot] = None

    def release(self, slot: Slot) -> None:
        """Forgets a connection that is closed."""
        self._slots.pop(slot, None)

    def _make_room(self, candidates: list[Slot], error: RefusedError) -> None:
        if not candidates:
            raise error
        self.release(candidates[0])
        candidates[0].close(error)
