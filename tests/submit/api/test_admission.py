"""Which connections stay open, without sockets; and that what we use of uvicorn is where it was."""

from __future__ import annotations

import inspect
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn import Server
from uvicorn.protocols.http import h11_impl

from models.config import ApiConfig
from submit.api.admission import Admission, Slot, peer_of
from submit.api.failures import RefusedError

LIMITS = ApiConfig(connections=8, connections_per_peer=3)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans(), st.booleans(), st.booleans()), max_size=60))
def test_limits_hold_and_who_is_being_served_is_never_closed(
    arrivals: list[tuple[str, bool, bool, bool]],
) -> None:
    admission = Admission(LIMITS)
    slots: list[Slot] = []
    closed: dict[Slot, int] = {}

    def close(slot: Slot, error: RefusedError) -> None:
        assert not slot.busy
        others = [one for one in slots if not one.busy and not one.proven]
        assert not slot.proven or not others
        slots.remove(slot)
        closed[slot] = error.status

    for peer, proven, busy, leaves in arrivals:
        slot = Slot(peer, lambda error: None)
        slot.close = lambda error, slot=slot: close(slot, error)  # type: ignore[misc]
        try:
            admission.admit(slot)
        except RefusedError:
            assert any(one.busy for one in slots)
            continue
        slots.append(slot)
        slot.proven, slot.busy = proven, busy
        assert len(admission) == len(slots) <= 8
        assert max(Counter(one.peer for one in slots if not one.proven).values(), default=0) <= 3
        if leaves:
            admission.release(slot)
            slots.remove(slot)
    assert not set(slots) & set(closed)


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        (("192.0.2.7", 5), "192.0.2.7"),
        (("::ffff:192.0.2.7", 5, 0, 0), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 5, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::/64"),
        ("", ""),
    ],
)
def test_a_peer_is_an_address_or_a_network_of_ipv6(address: object, peer: str) -> None:
    assert peer_of(address) == peer


def test_what_we_use_of_uvicorn_is_where_it_was() -> None:
    """Fails before any test of the wire where a new version of uvicorn moves what `submit.api.protocol` builds upon."""
    protocol, cycle = h11_impl.H11Protocol, h11_impl.RequestResponseCycle
    for name in (
        "connection_made",
        "connection_lost",
        "data_received",
        "on_response_complete",
        "send_400_response",
        "shutdown",
        "_unset_keepalive_if_required",
    ):
        assert callable(getattr(protocol, name))
    assert list(inspect.signature(protocol).parameters) == ["config", "server_state", "app_state", "_loop"]
    made, served = inspect.getsource(protocol), inspect.getsource(cycle)
    for part in (
        "self.conn",
        "self.app",
        "self.cycle",
        "self.flow",
        "self.timeout_keep_alive_task",
        "self.conn.next_event()",
        "except h11.RemoteProtocolError",
    ):
        assert part in made
    for part in (
        "self.disconnected",
        "self.message_event",
        "self.response_started",
        "self.response_complete",
        "self.more_body",
        "self.transport.close()",
    ):
        assert part in served
    for name in ("startup", "shutdown", "on_tick", "server_state"):
        assert hasattr(Server, name) or name in inspect.getsource(Server.__init__)
