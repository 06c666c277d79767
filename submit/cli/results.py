"""`truckllm results`: writes a batch's results, so far or final."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.formats.form import Form
from models.wording import counted
from submit.cli.options import BatchArgument, ConfigOption, FormatOption, JsonOption, found_config, stored
from submit.cli.output import note, print_json
from submit.exports import export, kept_sentence


def results(
    batch: BatchArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            help="Where to; - is stdout. Else beside the input: prompts.jsonl gives prompts.results.jsonl, or "
            "prompts.partial.jsonl while the batch is unfinished; stdin gives batch-N.results.jsonl here.",
        ),
    ] = None,
    form: FormatOption = Form.JSONL,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Write a batch's results: one line a job, in the order of the input, and in its form unless --format says another.

    While the batch is unfinished, its open jobs get lines with status queued or running. Without -o no answer in an older file is
    ever lost: results that don't hold them all go to prompts.batch-N.results.jsonl. --json says on stdout what was written: {path,
    lines, succeeded, failed, cancelled, unfinished}.
    """
    if json and str(out) == "-":
        raise typer.BadParameter("--json and -o - would write into each other")
    with stored(found_config(config)) as database:
        done = export(database, batch, out, partial=True, form=form)
    if done.kept is not None:
        note(kept_sentence(done.kept))
    if json:
        print_json(
            {
                "path": str(done.path),
                "lines": done.lines,
                "succeeded": done.succeeded,
                "failed": done.failed,
                "cancelled": done.cancelled,
                "unfinished": done.unfinished,
            }
        )
        return
    parts = [f"{done.succeeded:,} succeeded", f"{done.failed:,} failed"]
    parts += [f"{done.cancelled:,} cancelled"] if done.cancelled else []
    parts += [f"{done.unfinished:,} not done yet"] if done.unfinished else []
    note(f"{done.path or 'stdout'}: {counted(done.lines, 'line')} ({', '.join(parts)})")
