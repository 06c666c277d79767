"""`truckllm cancel`: stops a batch. Nothing of it is claimed from then on; calls under way finish and are kept."""

from __future__ import annotations

from models.wording import counted
from submit import steering
from submit.cli.options import BatchArgument, ConfigOption, found_config, stored
from submit.cli.output import note


def cancel(batch: BatchArgument, config: ConfigOption = None) -> None:
    """Stop a batch: its queued jobs are cancelled; calls under way finish, and their results are kept (they are paid for)."""
    with stored(found_config(config)) as database:
        done = steering.cancel(database, batch)
    held = f", {done.held:,} more held by workers" + ("" if done.lost else ", which give them up within seconds")
    running = f"{done.running:,} {'is' if done.running == 1 else 'are'} under way"
    running += "" if done.lost else " and will finish"
    note(
        f"batch {batch}: {counted(done.cancelled, 'job')} cancelled"
        + (held if done.held else "")
        + (f", {running}" if done.running else "")
    )
    if done.lost:
        note(
            "no worker lives that could end what had been begun: the next `truckllm worker` or `truckllm run` does, of whatever file"
        )
