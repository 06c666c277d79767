"""The Celery app and its settings; `celery-facts` of the design say why each is as it is.

It starts nothing: `worker.process` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from celery import Celery
from kombu import Queue  # type: ignore[attr-defined]

from models.queues import TRANSPORT_OPTIONS, broker_url, queue_name
from worker import transport

EARLY = (
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.apps.worker",
    "celery.events",
    "celery.loaders.app",
    "celery.worker.consumer",
    "kombu.pidbox",
    "kombu.transport.redis",
)
"""What Celery imports when it is first needed. Its consumer and whoever sends the first ticket do that from two threads at once,
and now and then each waits for the other's import lock: Python ends one of them with a deadlock error, and the worker with it."""


def make_app(redis_url: str, providers: Sequence[str]) -> Celery:
    """An app that takes the tickets of these providers. SQL is the truth, so it has no result backend."""
    for module in EARLY:
        import_module(module)
    transport.use()
    app = Celery("truckllm", broker=broker_url(redis_url), set_as_current=False)
    app.amqp.Connection = transport.Connection
    app.conf.update(
        task_acks_late=True,
        task_acks_on_failure_or_timeout=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_queues=[Queue(queue_name(provider)) for provider in providers],  # type: ignore[no-untyped-call]
        task_create_missing_queues=False,
        task_default_queue=queue_name(providers[0]),
        worker_prefetch_multiplier=1,
        worker_disable_rate_limits=True,
        worker_send_task_events=False,
        worker_enable_remote_control=False,  # nobody needs it, and whoever can write to Redis could stop workers by it
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # a Redis that is full, can't save or has become a replica refuses commands on a connection that stands
        broker_channel_error_retry=True,
        broker_transport_options=transport_options(redis_url),
    )
    return app


LOCAL_POLL_SECONDS = 0.2
"""How long one blocking read of the queues lasts on a socket of this machine: a worker that ends has to wait for the last one."""


def transport_options(redis_url: str) -> dict[str, Any]:
    """Celery's settings for the broker. Far off, each read costs a round trip, so there it keeps to kombu's own second."""
    if not redis_url.startswith("unix:"):
        return TRANSPORT_OPTIONS
    return {**TRANSPORT_OPTIONS, "polling_interval": LOCAL_POLL_SECONDS}
