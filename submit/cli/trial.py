"""`truckllm try PROVIDER PROMPT`: one call, shown whole: request, reply, and what came of it.

It is a batch of one row, so limits, caps, keys in quarantine and the ledger are those of any run; its worker keeps the call without
secrets (`worker.redaction`). It is never repeated.
"""

from __future__ import annotations

import contextlib
import sys
import uuid
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
import typer

from models.config import Config, ProviderConfig
from models.config_file import load_config
from models.database import Database, storage_errors
from models.errors import ConflictError, StorageError, UsageError
from models.money import DEFAULT_CURRENCY
from models.packing import Unpacker
from models.store import outcomes, traces
from submit import steering
from submit.batch_options import BatchOptions
from submit.calls import as_text
from submit.cli.options import ConfigOption, CurrencyOption, JsonOption, MaxCostOption, cap
from submit.cli.output import print_json
from submit.cli.run import Job, Run, do
from submit.exports import STDOUT
from submit.producer import Progress, Submitted, submit_with
from submit.progress import Snapshot


@dataclass(frozen=True, slots=True)
class Trial(Job):
    """One call. `line` is the only line of its batch."""

    line: dict[str, Any] | None = None


def trial(
    provider: Annotated[str, typer.Argument(help="The provider's id in the configuration.", metavar="PROVIDER")],
    prompt: Annotated[str, typer.Argument(help="The question, or the text to embed; - is stdin.", metavar="PROMPT")],
    *,
    model: Annotated[
        str | None, typer.Option(help="The model; else the only one that the configuration lists.", metavar="MODEL")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.", metavar="TEXT")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Bound of the answer.", metavar="N")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Ask for a stream.")] = False,
    embed: Annotated[bool, typer.Option("--embed", help="Ask for the vector of PROMPT.")] = False,
    config: ConfigOption = None,
    max_cost: MaxCostOption = None,
    currency: CurrencyOption = DEFAULT_CURRENCY,
    json: JsonOption = False,
) -> None:
    """Make one call and show its request and its reply.

    It is a batch of one row: limits, caps, the ledger and keys in quarantine are as in `run`. Keys are shown as ***. The call is
    never repeated, and goes to no fallback model; after a failure it shows what an ordinary job would do next. Exit codes: 0 answered, 1 failed, 2 bad usage,
    3 blocked (no usable key) or over the cap, 4 disk or database, 130 interrupted. --json: {batch_id, provider, model, key, status, text, finish_reason,
    served_model, input_tokens, output_tokens, cached_tokens, cost (10^-9 of the currency), currency, latency_ms, error: {code, message} or null, failure: {kind, code, message,
    http_status, retry_after, resets_in, scope} or null, next: {fails, seconds, leaves, about} or null, raised (a plugin's traceback) or null,
    calls: [{method, url, headers, body, reply: {status, headers, body, bytes, latency_ms} or null, error}]}.
    """
    settings = load_config(config, secrets=True)
    chosen = settings.provider(provider)
    if embed and (stream or system or max_tokens):
        raise UsageError("--embed takes none of --stream, --system and --max-tokens: a vector has no answer")
    asked = sys.stdin.read() if prompt == "-" else prompt
    line: dict[str, Any] = {"id": f"try-{uuid.uuid4().hex[:12]}", "model": model or _only_model(chosen)}
    line["embed" if embed else "prompt"] = asked
    line |= {"stream": True} if stream else {}
    options = BatchOptions.of(provider=provider, no_fallback=True, system=system, max_tokens=max_tokens)
    job = Trial(f"try {provider}", STDOUT, options, True, as_json=json, cap=cap(max_cost, currency), line=line)
    raise typer.Exit(do(job, settings, _Run))


def _only_model(provider: ProviderConfig) -> str:
    """The model that is configured. Raises UsageError unless it is exactly one."""
    known = list(dict.fromkeys([*provider.models, *(name for key in provider.keys for name in key.models)]))
    if len(known) == 1:
        return known[0]
    if not known:
        raise UsageError(
            f"{provider.id} lists no models in the configuration: add --model MODEL (`truckllm models` lists what it offers)"
        )
    raise UsageError(f"{provider.id} lists {len(known)} models: add --model, one of {', '.join(known)}")


class _Run(Run):
    """The run of one call. What doesn't come to an end is cancelled, so that nobody pays for it later."""

    job: Trial

    def __init__(self, job: Trial, config: Config, *rest: Any) -> None:
        super().__init__(job, config, *rest)
        self._database: Database | None = None

    def _submit(self, database: Database, progress: Progress) -> Submitted:
        self._database = database
        assert self.job.line is not None
        return submit_with(
            self.job.options,
            [self.job.line],
            config=self.config,
            cap=self.job.cap,
            database=database,
            name=self.job.source,
            new=True,
            ring=False,
            here=self.stack is not None,
            progress=progress,
            traced=True,
        )

    def _finish(self, database: Database, end: Snapshot, found: str) -> int:
        with storage_errors(database), database.read() as connection:
            (row,) = outcomes.page(connection, end.batch_id, -1, replies=True)
            packed = traces.of_batch(connection, end.batch_id)
        unpack = Unpacker()
        trace = {} if packed is None else orjson.loads(unpack(packed))
        shown = {
            "batch_id": end.batch_id,
            "provider": self.job.options.provider,
            "model": row["requested_model"] or (self.job.line or {}).get("model"),
            "key": row["key_id"],
            "status": row["status"],
            "text": trace.get("text") if row["status"] == "succeeded" else None,
            **{name: row[name] for name in ("finish_reason", "served_model", "input_tokens", "output_tokens")},
            "cached_tokens": row["cached_tokens"],
            "cost": row["cost_nanos"],
            "currency": row["currency"],
            "latency_ms": row["latency_ms"],
            "error": {"code": row["error_code"], "message": row["error_message"]} if row["error_code"] else None,
            "failure": trace.get("failure"),
            "next": trace.get("next"),
            "raised": trace.get("raised"),
            "calls": trace.get("calls", []),
        }
        if self.job.as_json:
            print_json(shown)
        else:
            sys.stdout.write(as_text(shown))
            sys.stdout.flush()
        if not end.finished and end.problem is None:
            self._tell(f"no call was made: {end.blocked or end.paused or end.status}")
            self._cancel(end.batch_id)
        return end.exit_code

    def _say_interrupted(self, batch_id: int) -> None:
        self._cancel(batch_id)

    def _cancel(self, batch_id: int) -> None:
        assert self._database is not None
        with contextlib.suppress(ConflictError, StorageError):  # it has ended meanwhile, or nothing can be stored
            stopped = steering.cancel(self._database, batch_id)
            under_way = "; its call is under way, and the ledger will have it" if stopped.running else ""
            self._tell(f"batch {batch_id} is cancelled{under_way}")
