"""The parts of kombu and Celery that are overridden or reached into: a release that moves them fails here first, not in a worker."""

from __future__ import annotations

import inspect
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import celery.worker.state
import pytest
from celery import Celery
from celery.apps.worker import Worker
from kombu.asynchronous import get_event_loop, set_event_loop
from kombu.connection import Connection
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis
from kombu.transport.virtual import base
from packaging.requirements import Requirement

from worker import transport

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["celery", "kombu"])
def test_the_version_has_an_upper_bound_and_the_installed_one_keeps_it(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (required,) = [one for one in map(Requirement, project["dependencies"]) if one.name == name]
    assert any(bound.operator == "<" for bound in required.specifier)
    assert required.specifier.contains(version(name))


@pytest.mark.parametrize(
    ("place", "name", "parameters"),
    [
        (
            Connection,
            "_ensure_connection",
            ["self", "errback", "max_retries", "interval_start", "interval_step", "interval_max"],
        ),
        (kombu_redis.QoS, "ack", ["self", "delivery_tag"]),
        (kombu_redis.Channel, "_brpop_read", ["self", "options"]),
        (kombu_redis.Transport, "_deliver", ["self", "message", "queue"]),
    ],
)
def test_what_is_overridden_is_there_with_the_parameters_that_it_is_called_by(
    place: type, name: str, parameters: list[str]
) -> None:
    assert list(inspect.signature(getattr(place, name)).parameters)[: len(parameters)] == parameters


@pytest.mark.parametrize(
    ("caller", "called"),
    [
        (Connection.ensure_connection, "_ensure_connection("),
        (kombu_redis.Channel._brpop_read, "_deliver("),
        (kombu_redis.Channel, "self._brpop_read"),  # among the handlers that its poller looks up
        (base.QoS, "self.restore_at_shutdown"),
        (base.Channel, "self.QoS("),
        (base.Transport, "self.Channel("),
        (Worker, "self.install_platform_tweaks("),
        (Celery, "self.amqp.Connection("),
    ],
)
def test_what_is_overridden_is_still_used(caller: Any, called: str) -> None:
    assert called in inspect.getsource(caller)


def test_what_is_set_from_outside_is_there() -> None:
    assert kombu_redis.QoS.restore_at_shutdown is True
    assert hasattr(celery.worker.state, "should_stop")
    set_event_loop(None)
    assert get_event_loop() is None


def test_our_transport_is_found_by_its_scheme() -> None:
    before = dict(TRANSPORT_ALIASES)
    try:
        transport.use()
        assert isinstance(Connection("redis://127.0.0.1:1/0").transport, transport.Transport)
    finally:
        TRANSPORT_ALIASES.clear()
        TRANSPORT_ALIASES.update(before)
