"""`truckllm api`: serves batches, costs, keys and metrics over HTTP, until it is told to stop. `submit.api` is what it serves."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Annotated

import typer

from models.config_addresses import is_loopback
from models.config_file import load_config
from models.errors import UsageError
from submit.api.access import READ_TOKEN_VARIABLE, TOKEN_VARIABLE, found_access
from submit.api.app import application
from submit.api.asked import Api
from submit.api.server import ApiServer
from submit.cli.options import ConfigOption, stored
from submit.cli.output import note, say

DEFAULT_PORT = 8430
_MEGABYTE = 1024 * 1024


def api(
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port; 0 takes a free one.")
    ] = DEFAULT_PORT,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TLS certificate (PEM, with its chain): serve HTTPS.")
    ] = None,
    private_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The certificate's private key (PEM).")
    ] = None,
    expose: Annotated[
        bool, typer.Option("--expose", help="Allow plain HTTP where other machines can reach it, as behind a proxy.")
    ] = False,
    largest_upload: Annotated[
        int, typer.Option(min=1, metavar="MB", help="Megabytes that a submitted file may have.")
    ] = (4096),
    largest_unpacked: Annotated[
        int, typer.Option(min=1, metavar="MB", help="Megabytes that a compressed file may unpack to.")
    ] = (65536),
    config: ConfigOption = None,
) -> None:
    """Serve batches, costs, keys and metrics over HTTP, until it is told to stop.

    It works on no jobs: `truckllm worker` does. Who calls it needs a token: $TRUCKLLM_API_TOKEN, or the one in the state folder's
    api-token, made at the first start; $TRUCKLLM_API_READ_TOKEN may only read. /metrics is for Prometheus.
    """
    if (certificate is None) != (private_key is None):
        raise UsageError("--certificate and --private-key go together")
    if not is_loopback(host) and certificate is None and not expose:
        raise UsageError(
            f"--host {host}: other machines could read tokens and prompts on their way. Give --certificate and --private-key, or "
            "--expose if a proxy in front of it does TLS"
        )
    settings = load_config(config, secrets=False)
    access = found_access()
    with stored(settings, make=True) as database, _listening(host, port) as listener:
        state = Api(database, settings, largest_upload * _MEGABYTE, largest_unpacked * _MEGABYTE)
        app = application(state, access)
        scheme = "https" if certificate else "http"
        bound = listener.getsockname()
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        note(
            f"token: {access.made_in or f'that of ${TOKEN_VARIABLE}'}; ${READ_TOKEN_VARIABLE}: {'set' if access.read_token else 'not set'}"
        )
        say(f"serving {scheme}://{shown}:{bound[1]}")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _told)  # uvicorn ends by itself, then raises the signal again
        ApiServer(app, settings.api, state.stopping, certificate, private_key).run([listener])


def _told(_number: int, _frame: object) -> None:
    """Being told to stop is this command's usual end, not a failure."""


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise UsageError(
            f"can't listen on {host}:{port}: {error.strerror or error}; --port 0 takes a free one"
        ) from None
