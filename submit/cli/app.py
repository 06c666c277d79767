"""The `truckllm` command line: finds the command that was asked for, runs it, and turns errors into sentences and exit codes.

It does not import any other command: asking for the status never pays for what a worker needs.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.main import get_command

from models.errors import InputError, StorageError, TruckError

INTERRUPTED = 130
UNREAD = 128 + signal.SIGPIPE
"""What a shell says of a program that wrote to nobody."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: `target` is "module:name" of its typer function or, where it has commands of its own, of its Typer; `help` is the
    line in the list of commands.
    """

    target: str
    help: str


def main(entries: Mapping[str, Entry], arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits with its code (models.errors has the list)."""
    _open_streams()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    code: str | int | None
    try:
        try:
            _run(entries, arguments)
        finally:
            sys.stdout.flush()  # what can't be written is told by us, not by the interpreter at its end
        code = 0
    except SystemExit as end:
        code = end.code
    except BrokenPipeError:
        code = _unread()
    except TruckError as error:
        _say(error)
        if isinstance(error, InputError) and "--json" in arguments:
            _print_json(error)
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except OSError as error:
        _say(": ".join(str(part) for part in (error.filename, error.strerror) if part) or str(error))
        code = StorageError.exit_code
    except Exception as error:
        if not _of_database(error):
            raise
        _say(str(getattr(error, "orig", None) or error).strip())
        code = StorageError.exit_code
    sys.exit(code)


def _run(entries: Mapping[str, Entry], arguments: Sequence[str]) -> None:
    command = get_command(_app(entries, _asked(_completed() or arguments)))
    stdout, stderr = sys.stdout, sys.stderr
    try:
        command.main(args=arguments, prog_name="truckllm", standalone_mode=True)
    except SystemExit:
        if sys.stdout is stdout:
            raise
        # what it does about a reader that has gone is to wrap the streams and to end with 1
        sys.stdout, sys.stderr = stdout, stderr
        raise BrokenPipeError from None


def _unread() -> int:
    """Nobody reads what is written any more, as behind `| head`: that ends a command without a word, as it ends others."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # or what is held yet would fail once more
    return UNREAD


_REFUSING = ("strict", "surrogateescape")
"""How standard streams treat letters that their encoding lacks, by Python's own choice: the second is that of the locale C."""


def _open_streams() -> None:
    """Nothing fails for a standard stream that its caller has closed, nor for a letter that a stream's encoding lacks.

    A closed one's number would go to the next file that is opened, and whatever writes to that stream would write into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115
        elif number and isinstance(stream, io.TextIOWrapper) and stream.errors in _REFUSING:
            stream.reconfigure(errors="backslashreplace")


def _asked(arguments: Sequence[str]) -> str | None:
    """The command's name: the first argument that isn't an option. Options before it take no values."""
    return next((argument for argument in arguments if not argument.startswith("-")), None)


def _completed() -> list[str]:
    """The words of the line that a shell wants completed, without the program's name; none when it is no shell that asks."""
    if "_TRUCKLLM_COMPLETE" not in os.environ:
        return []
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS") or ""
    return line.split()[1:]


def _app(entries: Mapping[str, Entry], asked: str | None) -> typer.Typer:
    """All commands by name; only the one that is asked for is imported."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.callback()(_root)
    for name, entry in entries.items():
        add(app, name, entry.help, load(entry.target) if name == asked else _unasked)
    return app


def add(app: typer.Typer, name: str, short_help: str, command: typer.Typer | Callable[..., Any]) -> None:
    """Puts a command, or a group of commands, under its name."""
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name, short_help=short_help)
    else:
        app.command(name, short_help=short_help)(command)


def load(target: str) -> typer.Typer | Callable[..., Any]:
    """What an entry's target names."""
    module, _, name = target.partition(":")
    found: typer.Typer | Callable[..., Any] = getattr(import_module(module), name)
    return found


def _unasked() -> None:
    """Stands in the list of commands for one that is not imported."""


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata  # it takes longer than a sentence to be said

        typer.echo(f"truckllm {metadata.version('truckllm')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Runs batches of LLM calls at the speed that your keys allow, with every token accounted for.

    `truckllm run FILE` is the whole job in one command. Exit codes: 0 all succeeded, 1 some jobs failed, 2 bad usage or
    input, 3 blocked (no usable key) or paused, 4 disk or database, 130 interrupted.
    """


def _say(error: Exception | str) -> None:
    print(f"truckllm: {error}", file=sys.stderr)  # noqa: T201
    if isinstance(error, InputError):
        from submit.causes import sentences

        for line in sentences(error.causes, error.count):
            print(f"  {line}", file=sys.stderr)  # noqa: T201


def _print_json(error: InputError) -> None:
    """The bad lines for a program that asked for JSON, in the HTTP API's form."""
    from submit.cli.output import print_json
    from submit.shapes import input_error

    print_json({"error": {"message": str(error), **input_error(error)}})
    sys.stdout.flush()


def _of_database(error: Exception) -> bool:
    sqlalchemy = sys.modules.get("sqlalchemy.exc")
    return sqlalchemy is not None and isinstance(error, sqlalchemy.SQLAlchemyError)
