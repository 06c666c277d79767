"""Rings for work: puts tickets into the Celery queues of the providers that have queued jobs.

It never fails a submission: SQL holds the jobs, and the workers' janitor finds them without a ticket a few seconds later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from sqlalchemy.engine import Connection, RowMapping

from models import processes
from models.config import Config
from models.queues import DRAIN, TRANSPORT_OPTIONS, Ticket, broker_url, queue_name
from models.store import workers

LIVE_SECONDS = 45.0
"""A worker whose last heartbeat is older is taken for dead here; the janitor judges by its own clock."""

ROWS_A_TICKET = 100
_TIMEOUT_SECONDS = 5
_PING_SECONDS = 2.0


def providers_of(config: Config, lane: str) -> tuple[str, ...]:
    """The providers that may take jobs from a lane; none when the configuration doesn't know it."""
    if lane in config.routes:
        return tuple(dict.fromkeys(provider for provider, _ in config.routes[lane].pairs()))
    return (lane,) if any(provider.id == lane for provider in config.providers) else ()


def is_live(worker: RowMapping, now: float) -> bool:
    """Whether a worker's heartbeat is fresh; one of this very machine must live, too."""
    if worker["heartbeat_at"] <= now - LIVE_SECONDS:
        return False
    here = (worker["host"], worker["boot_id"]) == (processes.host(), processes.boot_id())
    return not here or processes.started(worker["pid"]) == worker["pid_started"]


def live_workers(connection: Connection, now: float) -> dict[str, int]:
    """How many live workers serve each provider."""
    serving: dict[str, int] = {}
    for row in workers.everyone(connection):
        if is_live(row, now):
            for provider in filter(None, row["queues"].split(",")):
                serving[provider] = serving.get(provider, 0) + 1
    return serving


def tickets(config: Config, rows: Mapping[str, int], serving: Mapping[str, int]) -> dict[str, int]:
    """How many tickets each provider gets: `rows` are the queued jobs by lane, `serving` the live workers by provider.

    Enough for every worker to be woken, no more than there is work for.
    """
    by_provider: dict[str, int] = {}
    for lane, number in rows.items():
        for provider in providers_of(config, lane):
            by_provider[provider] = by_provider.get(provider, 0) + number
    return {
        provider: min(serving.get(provider, 0) or 1, math.ceil(number / ROWS_A_TICKET))
        for provider, number in by_provider.items()
        if number > 0
    }


def ring(redis_url: str, numbers: Mapping[str, int]) -> str | None:
    """Sends so many tickets to each provider's queue. A sentence for people when that failed, else None."""
    from celery import Celery
    from kombu.exceptions import KombuError

    app = Celery("truckllm", broker=broker_url(redis_url), set_as_current=False)
    app.conf.update(
        broker_transport_options={**TRANSPORT_OPTIONS, "socket_timeout": _TIMEOUT_SECONDS},
        broker_connection_timeout=_TIMEOUT_SECONDS,
        task_serializer="json",
        task_ignore_result=True,
        result_backend=None,
    )
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=_TIMEOUT_SECONDS)
            with app.amqp.Producer(connection, auto_declare=False) as producer:
                for provider, number in numbers.items():
                    for _ in range(number):
                        app.send_task(
                            DRAIN,
                            kwargs=dict(Ticket(provider=provider, hops=0)),
                            queue=queue_name(provider),
                            producer=producer,
                            retry=False,
                        )
    except (KombuError, OSError, ValueError) as error:
        return f"could not wake the workers ({_reason(error)}); they will find the jobs within seconds by themselves"
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "redis":
            raise
        return f"could not wake the workers ({_reason(error)}); they will find the jobs within seconds by themselves"
    finally:
        app.close()
    return None


def unheard(redis_url: str) -> str | None:
    """Returns a sentence for people where Redis doesn't answer within two seconds, or refuses; else None."""
    import redis

    try:
        with redis.Redis.from_url(
            redis_url, socket_timeout=_PING_SECONDS, socket_connect_timeout=_PING_SECONDS
        ) as client:
            client.ping()
    except (redis.ResponseError, redis.AuthenticationError) as error:
        return f"Redis refuses this ({str(error)[:100]}): no new call starts until redis_url or the server is mended"
    except (redis.RedisError, OSError) as error:
        return f"Redis does not answer ({_reason(error)}): no new call starts until it does"
    return None


def _reason(error: Exception) -> str:
    """What went wrong, in a word that holds no URL and so no password."""
    return type(error).__name__
