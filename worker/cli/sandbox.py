"""`truckllm sandbox`: run the local server that plays OpenAI, Gemini and Claude, until it is told to stop.

It parses options and prints; serving is `worker.sandbox`.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from models.errors import ConfigError
from worker.sandbox.server import Sandbox, serve
from worker.sandbox.settings import Account, ProviderName, SandboxSettings, explain, load_settings

DEFAULT_PORT = 8400
_PROVIDERS: tuple[ProviderName, ...] = ("openai", "gemini", "claude")
# per 1,000 tokens, so that a rehearsal shows a cost report
_PRICES: dict[ProviderName, tuple[str, str]] = {
    "openai": ("0.0025", "0.01"),
    "gemini": ("0.0003", "0.0025"),
    "claude": ("0.003", "0.015"),
}


def sandbox(
    port: Annotated[int | None, typer.Option(help=f"Port; 0 takes a free one. [default: {DEFAULT_PORT}]")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    settings: Annotated[
        Path | None, typer.Option(help="YAML file with accounts, limits, faults and the rest; options overrule it.")
    ] = None,
    latency: Annotated[float | None, typer.Option(help="Seconds until each reply.")] = None,
    jitter: Annotated[float | None, typer.Option(help="Spread of the latency (sigma of a log-normal).")] = None,
    rpm: Annotated[int | None, typer.Option(help="Requests a minute for each key, if no accounts are set.")] = None,
    tpm: Annotated[int | None, typer.Option(help="Tokens a minute for each key, if no accounts are set.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of latency and of fault rates.")] = None,
    log: Annotated[Path | None, typer.Option(help="Append one JSON line a call to this file.")] = None,
    ready_file: Annotated[Path | None, typer.Option(help="Write the URL to this file once it listens.")] = None,
    until_stdin_closes: Annotated[
        bool, typer.Option(help="Stop when standard input ends, as with its parent.")
    ] = False,
    expose: Annotated[bool, typer.Option(help="Allow a host that other machines can reach.")] = False,
) -> None:
    """Play OpenAI, Gemini and Claude on this machine: rehearse a batch before paying for it."""
    given = {"port": port, "host": host, "latency": latency, "jitter": jitter, "seed": seed, "log": log}
    try:
        chosen = merged(
            load_settings(settings) if settings else SandboxSettings(port=DEFAULT_PORT),
            {name: value for name, value in given.items() if value is not None} | ({"expose": True} if expose else {}),
            rpm,
            tpm,
        )
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    try:
        _run(_serve(chosen, ready_file, until_stdin_closes))
    except OSError as error:
        typer.echo(f"can't listen on {chosen.host}:{chosen.port}: {error.strerror or error}; try --port 0", err=True)
        raise typer.Exit(2) from None


def merged(base: SandboxSettings, options: dict[str, Any], rpm: int | None, tpm: int | None) -> SandboxSettings:
    """Settings with the options laid over them; raises ConfigError if they don't fit together."""
    values = {name: getattr(base, name) for name in base.model_fields_set} | options
    if "port" not in values:
        values["port"] = DEFAULT_PORT
    if rpm is not None or tpm is not None:
        if base.accounts:
            raise ConfigError(
                "--rpm and --tpm limit keys of a sandbox without accounts; set the limits of each account"
            )
        stated = {"rpm": rpm, "tpm": tpm}
        values["limits"] = base.limits.model_dump() | {name: value for name, value in stated.items() if value}
    try:
        return SandboxSettings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def _run(main: Coroutine[Any, Any, None]) -> None:
    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run
    if sys.platform != "win32":
        import uvloop

        run = uvloop.run
    run(main)


async def _serve(settings: SandboxSettings, ready_file: Path | None, until_stdin_closes: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    box = await serve(settings)
    try:
        _announce(box, ready_file)
        if until_stdin_closes:
            loop.add_reader(sys.stdin.fileno(), _watch_stdin, stop)
        await stop.wait()
    finally:
        await box.close()


def _watch_stdin(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stop.set()


def _announce(box: Sandbox, ready_file: Path | None) -> None:
    """The first line is for programs, the rest for people."""
    lines = [f"sandbox ready {box.url}", ""]
    lines += [f"  {provider:<7} {box.base_url(provider)}" for provider in _PROVIDERS]
    lines += [f"  control {box.url}/_sandbox/  (GET log, summary, health; POST faults, accounts, reset)", ""]
    lines += ["For truckllm.yaml:", "", yaml_block(box)]
    typer.echo("\n".join(lines))
    sys.stdout.flush()
    if ready_file is not None:
        # whoever waits for the file must never see half of it
        written = ready_file.with_name(f"{ready_file.name}.{os.getpid()}")
        written.write_text(box.url + "\n", encoding="utf-8")
        written.replace(ready_file)


def yaml_block(box: Sandbox) -> str:
    """The `providers` block of truckllm.yaml for this sandbox; keys of accounts are named by variables, never shown."""
    settings = box.house.settings
    lines = ["providers:"]
    for provider in _PROVIDERS:
        accounts = [account for account in settings.accounts if account.provider == provider]
        if settings.accounts and not accounts:
            continue
        lines += [f"  - id: {provider}", f'    base_url: "{box.base_url(provider)}"', "    keys:"]
        if not settings.accounts:
            secret = f"sandbox-{provider}-key"
            lines += _key_lines(provider, 1, secret, settings.limits.rpm, settings.limits.tpm, None)
        for number, account in enumerate(accounts, 1):
            secret = f"${{SANDBOX_{provider.upper()}_KEY_{number}}}"
            lines += _key_lines(provider, number, secret, *_own(account, settings), account.pool)
    return "\n".join(lines)


def _own(account: Account, settings: SandboxSettings) -> tuple[int | None, int | None]:
    """The limits an account really has: those of its pool."""
    for other in settings.accounts if account.pool else ():
        if other.pool == account.pool and other.stated:
            return other.rpm, other.tpm
    return account.rpm, account.tpm


def _key_lines(
    provider: ProviderName, number: int, secret: str, rpm: int | None, tpm: int | None, pool: str | None
) -> list[str]:
    entry = [f'id: "{provider}-{number}"', f'secret: "{secret}"']
    entry += [f'pool: "{pool}"'] if pool else []
    entry += [f"limit_req_per_min: {rpm}"] if rpm else []
    entry += [f"limit_tokens_per_min: {tpm}"] if tpm else []
    price_in, price_out = _PRICES[provider]
    entry += [f"pricing: {{input_token_cost: {price_in}, output_token_cost: {price_out}, currency: USD}}"]
    return [("      - " if at == 0 else "        ") + line for at, line in enumerate(entry)]
