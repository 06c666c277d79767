"""What submit and worker share about Celery: the broker's URL as kombu must read it."""

from __future__ import annotations

import ssl

import pytest
from kombu import Connection

from models.queues import broker_url


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("redis://localhost", "redis://localhost/0"),
        ("redis://localhost:6380/3", "redis://localhost:6380/3"),
        ("redis://user:p%40ss@host:6379/1", "redis://user:p%40ss@host:6379/1"),
        ("redis://host?db=2&socket_timeout=3", "redis://host/2"),
        ("rediss://host:6379/0", "rediss://host:6379/0?ssl_cert_reqs=required"),
        ("rediss://host/0?ssl_cert_reqs=none", "rediss://host/0?ssl_cert_reqs=none"),
        ("unix:///run/valkey/s", "redis+socket:///run/valkey/s?virtual_host=0"),
        ("unix:///run/valkey/s?db=4", "redis+socket:///run/valkey/s?virtual_host=4"),
        ("unix:///s?password=a%2Fb", "redis+socket://:a%2Fb@/s?virtual_host=0"),
    ],
)
def test_a_redis_url_becomes_one_that_kombu_reads(given: str, expected: str) -> None:
    assert broker_url(given) == expected


def test_kombu_takes_password_and_database_from_it() -> None:
    connection = Connection(broker_url("redis://user:p%40ss@host:6390/7"))
    assert (connection.userid, connection.password, connection.hostname) == ("user", "p@ss", "host")
    assert (connection.port, connection.virtual_host) == (6390, "7")


def test_tls_checks_certificates_unless_told_otherwise() -> None:
    assert Connection(broker_url("rediss://host")).ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
