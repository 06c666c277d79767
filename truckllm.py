"""TruckLLM's face: the public names, handed on when first used, and the entry of the `truckllm` script.

It is the one place that knows both rooms, submit and worker; it does no work of its own.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, NoReturn

_PUBLIC = {
    "Answer": "worker.providers.answers",
    "Call": "worker.providers.base",
    "Charge": "worker.limits.shapes",
    "Failure": "models.request",
    "FailureKind": "models.request",
    "FailureScope": "models.request",
    "JsonProvider": "worker.providers.plugin",
    "ModelInfo": "models.request",
    "Provider": "worker.providers.base",
    "ProviderConfig": "models.config",
    "ProviderContract": "worker.providers.contract",
    "Reply": "worker.providers.base",
    "Request": "models.request",
    "Response": "models.request",
    "SendError": "worker.providers.base",
    "StatedLimit": "models.request",
    "TruckError": "models.errors",
    "Untranslatable": "models.errors",
    "Usage": "models.request",
    "Wanted": "worker.providers.plugin",
    "submit_batch": "submit.producer",
}

__all__ = sorted([*_PUBLIC, "main"])  # noqa: PLE0605


def _worker_command() -> Any:
    from submit.stack import local_stack
    from worker.cli.worker import command

    return command(local_stack)


def _doctor_command() -> Any:
    from submit.valkey import described
    from worker.cli.doctor import command

    return command(described)


_WIRED = {"worker_command": _worker_command, "doctor_command": _doctor_command}
"""Commands of the worker room that need the local stack, which belongs to the other: only here do they meet."""


def __getattr__(name: str) -> Any:
    if name in _WIRED:
        return _WIRED[name]()
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'truckllm' has no attribute {name!r}")
    _find_our_rooms()
    if name == "ProviderContract" and module not in sys.modules:
        _explain_failures(module)
    return getattr(import_module(module), name)


def _explain_failures(module: str) -> None:
    """Has pytest show the values of a module's failing assertions, as it does for a test file. Raises ImportError without pytest."""
    try:
        import pytest
    except ModuleNotFoundError:
        raise ImportError("ProviderContract needs pytest: pip install 'truckllm[plugin]'") from None
    pytest.register_assert_rewrite(module)


_ROOMS = ("models", "submit", "worker")


def _find_our_rooms() -> None:
    """Makes sure that our packages are the ones that get imported, in a script whose folder has files of the same names.

    A script that is itself called submit.py is no obstacle. Any other file of that name is: it would get ours in its place, or we
    its, so that is an ImportError that says what to do.
    """
    here = Path(__file__).resolve().parent
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    for room in _ROOMS:
        loaded = sys.modules.get(room)
        found = loaded.__spec__ if loaded is not None else find_spec(room)
        origin = Path(found.origin).resolve() if found is not None and found.origin else None
        if origin == here / room / "__init__.py":
            continue
        if loaded is None and script is not None and origin == Path(script).resolve():
            _load(room, here / room / "__init__.py")
            continue
        raise ImportError(
            f"{origin or room} hides TruckLLM's own package {room!r}: rename it, or start your script with `python -P`"
        )


def _load(name: str, file: Path) -> None:
    spec = spec_from_file_location(name, file, submodule_search_locations=[str(file.parent)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


_COMMANDS = {
    "run": ("submit.cli.run:run", "Do the whole job: submit a file, work on it, write results and costs."),
    "estimate": ("submit.cli.estimate:estimate", "Say what a file will take: tokens, cost and time."),
    "try": ("submit.cli.trial:trial", "Make one call and show its request and its reply."),
    "submit": ("submit.cli.submit:submit", "Put a file into the queue and print the batch's number."),
    "worker": ("truckllm:worker_command", "Work on what is queued."),
    "status": ("submit.cli.status:status", "Show batches, or how far one is."),
    "jobs": ("submit.cli.jobs:jobs", "List a batch's jobs."),
    "results": ("submit.cli.results:results", "Write a batch's results, so far or final."),
    "rerun": ("submit.cli.rerun:rerun", "Put a batch's failed jobs back into the queue."),
    "verify": ("submit.cli.verify:verify", "Check that a batch's lines, jobs, results and ledger say the same."),
    "pause": ("submit.cli.steering:pause", "Stop a batch for now."),
    "resume": ("submit.cli.steering:resume", "Go on with a paused batch."),
    "priority": ("submit.cli.steering:priority", "Put a batch before others, or behind them."),
    "cancel": ("submit.cli.cancel:cancel", "Stop a batch."),
    "delete": ("submit.cli.delete:delete", "Delete a batch's prompts and replies."),
    "prune": ("submit.cli.delete:prune", "Delete all batches that ended long ago."),
    "costs": ("submit.cli.costs:costs", "Report tokens and money, by what you like."),
    "keys": ("submit.cli.keys:keys", "Show the keys and whether they are usable."),
    "workers": ("submit.cli.workers:workers", "Show the worker processes."),
    "models": ("worker.cli.models:models", "List the models that providers offer, free of charge."),
    "api": ("submit.cli.api:api", "Serve batches, costs, keys and metrics over HTTP."),
    "db": ("submit.cli.db:db", "Bring the database up to date: `truckllm db upgrade`."),
    "init": ("submit.cli.init:init", "Write a first truckllm.yaml from the keys in the environment."),
    "doctor": ("truckllm:doctor_command", "Check configuration, storage and keys, free of charge."),
    "sandbox": ("worker.cli.sandbox:sandbox", "Play OpenAI, Gemini and Claude on this machine, to rehearse for free."),
    "demo": ("submit.cli.demo:demo", "Run the main job against the sandbox."),
}
"""Every command: where its function is, and its line in `truckllm --help`."""


def main() -> NoReturn:
    """The `truckllm` command."""
    try:
        from submit.cli import app
    except KeyboardInterrupt:  # as `app.main` says it of a later one
        sys.exit(130)
    app.main({name: app.Entry(*entry) for name, entry in _COMMANDS.items()})


if __name__ == "__main__":
    main()
