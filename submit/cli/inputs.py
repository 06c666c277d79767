"""What commands that read an input have in common: its argument, and the options that make a batch of it.

It does not read the input; `submit.source` does.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from models.formats.reading import EmptyPrompts, LastAnswer, UnknownFields
from submit.batch_options import BatchOptions

InputArgument = Annotated[
    str,
    typer.Argument(
        help="JSONL, one request a line, or CSV, Excel or Parquet, as with --template; may be compressed; - is stdin.",
        metavar="FILE",
    ),
]


def batch_options(
    *,
    model: Annotated[
        str | None, typer.Option(help="Ask for this model instead of every line's own.", metavar="MODEL")
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(help="Ask this provider, for lines that name neither provider nor route.", metavar="PROVIDER"),
    ] = None,
    route: Annotated[
        str | None,
        typer.Option(help="Go by this route, for lines that name neither provider nor route.", metavar="ROUTE"),
    ] = None,
    no_fallback: Annotated[
        bool,
        typer.Option(
            "--no-fallback",
            help="Ask for nothing but the first choice: no fallback models, of a route its first candidate.",
        ),
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only so many lines.", metavar="N")] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="What to ask of each row of a table: 'Translate: {text}', with columns in braces.",
            metavar="TEXT",
        ),
    ] = None,
    sheet: Annotated[
        str | None, typer.Option(help="Sheet of an Excel file; else its first visible one.", metavar="NAME")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Encoding of a text file that isn't UTF-8, such as cp1252.", metavar="NAME")
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="System message for simple lines that have none.", metavar="TEXT")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="For simple lines that say none.", metavar="N")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="For simple lines that say none.", metavar="X")
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option(
            help="A JSON schema that answers to simple lines must fit; else a line's response_format.", metavar="FILE"
        ),
    ] = None,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Let bad lines be failed jobs instead of refusing the file.")
    ] = False,
    empty_answers: Annotated[
        str | None,
        typer.Option(
            help="What to do with a whole answer that holds nothing: keep, retry or fail; else what the configuration has.",
            metavar="WHAT",
        ),
    ] = None,
    empty_prompts: Annotated[
        EmptyPrompts,
        typer.Option(
            help="Lines with an empty prompt: fail as bad lines, be skipped (no row), or be asked all the same."
        ),
    ] = EmptyPrompts.FAIL,
    unknown_fields: Annotated[
        UnknownFields,
        typer.Option(
            help="Fields of simple lines that are no known parameters: fail, come back as metadata, or be sent."
        ),
    ] = UnknownFields.FAIL,
    last_answer: Annotated[
        LastAnswer | None,
        typer.Option(
            help="Simple lines that end with the assistant's message: drop it, or send it as the beginning of the answer.",
            show_default="a training example fails, a request sends it",
        ),
    ] = None,
) -> BatchOptions:
    """The options of a batch, each as the command line takes it. Raises UsageError."""
    return BatchOptions.of(
        model=model,
        provider=provider,
        route=route,
        no_fallback=no_fallback,
        limit=limit,
        template=template,
        sheet=sheet,
        encoding=encoding,
        system=system,
        max_tokens=max_tokens,
        temperature=temperature,
        schema=schema,
        skip_invalid=skip_invalid,
        empty_answers=empty_answers,
        empty_prompts=empty_prompts,
        unknown_fields=unknown_fields,
        last_answer=last_answer,
    )


def takes_batch_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command that has all options of `batch_options` in place of its keyword `options`, and is handed what they come to."""
    shared = inspect.signature(batch_options, eval_str=True).parameters

    @functools.wraps(command)
    def taking(**given: Any) -> None:
        options = batch_options(**{name: given.pop(name) for name in shared})
        command(options=options, **given)

    own = inspect.signature(command, eval_str=True)
    parameters = [
        parameter
        for name, mine in own.parameters.items()
        for parameter in (shared.values() if name == "options" else (mine,))
    ]
    taking.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    taking.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return taking
