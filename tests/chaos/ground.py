"""The ground a scenario stands on: database, Valkey, sandbox, worker processes; how to start, kill and end them, and to wait.

It judges nothing; `tests.chaos.verdict` does, from the sandbox's log and the database.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil
import sqlalchemy as sa
import yaml

from models.config import Config
from models.config_file import load_config
from models.database import Database, upgrade
from models.states import JobStatus, Outcome
from models.tables import attempts, batches, jobs, workers
from submit.producer import submit_batch
from tests.chaos.casualties import Kill as Kill
from tests.chaos.casualties import Stop as Stop
from tests.chaos.casualties import Worker as Worker
from tests.servers import TRUCKLLM, SandboxProcess, Valkey

T = TypeVar("T")
Row = dict[str, Any]
Started = subprocess.Popen[bytes]

DOOMED = Path(__file__).parent / "doomed.py"
MODELS = {"openai": "gpt-a", "gemini": "gemini-a", "claude": "claude-a"}
NUMBERS = 1 << 32
"""So many numbers each worker has for its calls, from its own number times as many on."""
PRICING = {"input_token_cost": "0.002", "output_token_cost": "0.01", "currency": "USD"}


class StuckError(Exception):
    """Something was waited for in vain; says in what state all was."""


@dataclass
class Ground:
    """Made for one scenario on one database; `with` ends whatever was started on it.

    `rng` is seeded by suite seed, scenario and database. `scale` is 1.0 in the full suite, less in `make test`: use `some(n)` for numbers of kills and rows.
    """

    name: str
    folder: Path
    url: str
    seed: int
    scale: float = 1.0
    workers: list[Worker] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    """Of workers."""
    stops: list[Stop] = field(default_factory=list)
    """Of workers that went on later."""
    cuts: list[float] = field(default_factory=list)
    """When (unix seconds) the open connections between workers and providers were cut."""
    strikes: list[str] = field(default_factory=list)
    """Whatever else was killed, cut or stopped: servers, producers, `run`."""
    expected: int = 0
    """Rows that must have an outcome at the end."""
    may_fail: int = 0
    """How many of them may fail."""
    broken: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.kind = "sqlite" if self.url.startswith("sqlite") else "postgresql"
        self.rng = random.Random(f"{self.seed}/{self.name}/{self.kind}")
        self.began = time.monotonic()
        self._numbers = iter(range(10**9))
        self._bounded = False
        self._stack = contextlib.ExitStack()
        self.processes: list[Started] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in [*(worker.process for worker in self.workers), *self.processes]:
            if process.poll() is None:
                family = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()
                for one in family:
                    with contextlib.suppress(psutil.Error):
                        one.kill()
        self._stack.close()

    # Setting up

    def at_end(self, work: Callable[[], object]) -> None:
        """What is to be done after the last look at everything, latest first."""
        self._stack.callback(work)

    def start(
        self,
        *,
        latency: float = 0.3,
        rpm: int | None = 1200,
        providers: Sequence[str] = ("openai", "claude"),
        limits: dict[str, dict[str, int]] | None = None,
        settings: dict[str, dict[str, Any]] | None = None,
        sandbox: dict[str, Any] | None = None,
        upgraded: bool = True,
        **config: Any,
    ) -> None:
        """Starts sandbox and Valkey, makes the tables, writes the configuration.

        `rpm` is the limit of each provider's one key (None: none), which also paces the work. `limits` are others in its place,
        by provider, of tokens: then every line bounds its answer, to 50 to 150 tokens (100 on average). `settings` replaces
        fields of providers, `sandbox` adds settings of the sandbox, `config` adds to the configuration's top level. Not `upgraded`:
        the database stays empty.
        """
        self._bounded = bool(limits)
        self.sandbox = self._start_sandbox(latency=latency, seed=self.seed, **(sandbox or {}))
        self.valkey = Valkey()
        self._stack.callback(self.valkey.close)
        self.database = Database(self.url)
        self._stack.callback(self.database.close)
        if upgraded:
            upgrade(self.database)
        requests = {"limit_req_per_min": rpm} if rpm else {}
        held = {name: (limits or {}).get(name, requests) for name in providers}
        self.providers = list(providers)
        tree = {
            "providers": [
                {
                    "id": name,
                    "base_url": f"{self.sandbox.url}/{name}/v1",
                    "keys": [{"id": f"{name}-1", "secret": f"sk-chaos-{name}-1", "pricing": PRICING, **held[name]}],
                    **(settings or {}).get(name, {}),
                }
                for name in providers
            ],
            "worker": {"concurrency": 64, "grace_seconds": 10},
            **config,
        }
        self.config_path = self.folder / "truckllm.yaml"
        self.config_path.write_text(yaml.safe_dump(tree))
        self.config = self.load()

    def load(self) -> Config:
        """The configuration as a worker reads it."""
        urls = {"TRUCKLLM_REDIS_URL": self.valkey.url, "TRUCKLLM_DATABASE_URL": self.url}
        return load_config(self.config_path, secrets=True, environ=urls)

    def _start_sandbox(self, **settings: Any) -> SandboxProcess:
        path = self.folder / "sandbox.json"
        path.write_text(json.dumps({"log": str(self.folder / "calls.jsonl"), **settings}))
        command = [sys.executable, "-m", "worker.sandbox", "--port", "0", "--settings", str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first = process.stdout.readline().split()
        assert first[:2] == ["sandbox", "ready"], first

        def end() -> None:
            process.kill()
            process.wait()

        self._stack.callback(end)
        return SandboxProcess(process, first[2])

    @property
    def environment(self) -> dict[str, str]:
        """Of every process started here: both URLs, and a state folder of this ground's own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TRUCKLLM_")}
        urls = {"TRUCKLLM_REDIS_URL": self.valkey.url, "TRUCKLLM_DATABASE_URL": self.url}
        return {**kept, **urls, "TRUCKLLM_HOME": str(self.folder / "home")}

    @property
    def local_environment(self) -> dict[str, str]:
        """The same without a Redis URL: commands start the local stack."""
        return {name: value for name, value in self.environment.items() if name != "TRUCKLLM_REDIS_URL"}

    def some(self, full: int, least: int = 1) -> int:
        """A number of the full suite at this ground's scale."""
        return max(least, round(full * self.scale))

    # Work

    def lines(self, count: int, *, words: str = "question", **more: Any) -> list[Row]:
        """So many simple lines in turn for the providers; no two prompts of a ground are alike."""
        found = []
        for _ in range(count):
            number = next(self._numbers)
            provider = self.providers[number % len(self.providers)]
            prompt = f"{words} {number} of {self.name}"
            bound = {"max_tokens": 50 + number * 37 % 101} if self._bounded else {}
            line = {"id": f"row-{number}", "provider": provider, "model": MODELS[provider], "prompt": prompt}
            found.append({**line, **bound, **more})
        return found

    def submit(self, lines: int | Sequence[Row]) -> int:
        """A batch of these lines; its rows are expected to end. Its number."""
        rows = self.lines(lines) if isinstance(lines, int) else lines
        self.expected += len(rows)
        return submit_batch(rows, config=self.config, database=self.database).batch_id

    def write(self, rows: Iterable[Row], name: str = "prompts.jsonl") -> Path:
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    # Processes

    def start_worker(
        self,
        point: str = "",
        nth: int = 1,
        *,
        after: float = 0.0,
        config: Path | None = None,
        command: Sequence[str] = (),
        **env: str,
    ) -> Worker:
        """A worker process. With a `point` (of `tests.chaos.doomed`) it kills itself when it comes there the nth time, `after`
        so many seconds. `command` is what to run in the place of `truckllm`."""
        name = f"worker{len(self.workers)}"
        output, marker = self.folder / f"{name}.output", self.folder / f"{name}.died"
        start = command or self.doomed(point, nth, after, marker)
        command = [*start, "worker", "-c", str(config or self.config_path)]
        with output.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=self.folder, env={**self.environment, **env}, stdout=out, stderr=subprocess.STDOUT
            )
        self.workers.append(Worker(process, output, point, marker))
        return self.workers[-1]

    def begin(self, *arguments: object, name: str, command: Sequence[str] = TRUCKLLM, **env: str) -> Started:
        """Starts a `truckllm` command, on the local stack unless `env` gives a Redis URL, and leaves it running."""
        self.processes.append(
            subprocess.Popen(
                [*command, *map(str, arguments)],
                cwd=self.folder,
                env={**self.local_environment, **env},
                stdout=(self.folder / f"{name}.output").open("wb"),
                stderr=subprocess.STDOUT,
            )
        )
        return self.processes[-1]

    def doomed(self, point: str, nth: int, after: float, marker: Path) -> list[str]:
        """The command `truckllm`, or one that kills itself at this point."""
        if not point:
            return TRUCKLLM
        return [sys.executable, "-P", str(DOOMED), point, str(nth), str(after), str(marker)]

    def kill(self, worker: Worker) -> None:
        """`kill -9`, now."""
        self.kills.append(Kill(time.time(), "random"))
        worker.process.kill()
        worker.process.wait()
        worker.over = True

    def stop(self, worker: Worker, seconds: float = 30.0) -> int:
        """SIGTERM; its exit code."""
        worker.process.terminate()
        worker.over = True
        self.until(lambda: not worker.alive, f"worker {worker.pid} to end on SIGTERM", seconds)
        return int(worker.process.wait())

    def died(self, worker: Worker, seconds: float = 60.0) -> None:
        """Waits until a doomed worker has killed itself, and notes when and where."""
        self.until(lambda: not worker.alive, f"a worker to die {worker.point}", seconds)
        if worker.process.returncode != -signal.SIGKILL:
            raise StuckError(f"exit code {worker.process.returncode} instead of a death {worker.point}: {self.state()}")
        self.kills.append(Kill(float(worker.marker.read_text()), worker.point))
        worker.over = True

    def note_deaths(self, marker: Path, what: str) -> None:
        """Notes as kills the deaths that processes have written into a file, of which nobody waits."""
        if marker.exists():
            self.kills += [Kill(float(line), what) for line in marker.read_text().splitlines()]

    def unexpected(self) -> list[Worker]:
        """Workers that ended by themselves."""
        return [worker for worker in self.workers if not worker.over and not worker.alive]

    # Looking and waiting

    def rows(self, query: Any) -> list[Row]:
        with self.database.read() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def number(self, query: Any) -> int:
        with self.database.read() as connection:
            return int(connection.execute(query).scalar() or 0)

    def ended(self) -> int:
        """How many rows have their outcome."""
        over = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)
        return self.number(sa.select(sa.func.count()).select_from(jobs).where(jobs.c.status.in_(over)))

    def left(self) -> int:
        """How many of the expected rows have none yet."""
        return self.expected - self.ended()

    def number_of(self, worker: Worker) -> int:
        """A worker's present number in the database; 0 when it has none."""
        return self.number(sa.select(workers.c.id).where(workers.c.pid == worker.pid))

    def living(self) -> set[int]:
        """The numbers of the workers and their processes that live."""
        crew = self.rows(sa.select(workers.c.id, workers.c.pid))
        return {int(row["id"]) for row in crew if psutil.pid_exists(row["pid"])}

    def running(self, worker: Worker) -> int:
        """How many rows a worker has claimed."""
        mine = sa.select(workers.c.id).where(workers.c.pid == worker.pid).scalar_subquery()
        running = jobs.c.status == JobStatus.RUNNING
        return self.number(sa.select(sa.func.count()).select_from(jobs).where(running, jobs.c.worker_id == mine))

    def calling(self, worker: Worker) -> int:
        """How many calls of a worker are announced and have no outcome yet."""
        mine = sa.select(workers.c.id).where(workers.c.pid == worker.pid).scalar_subquery()
        its = (attempts.c.id >= mine * NUMBERS, attempts.c.id < (mine + 1) * NUMBERS)
        unknown = attempts.c.outcome == Outcome.UNKNOWN
        return self.number(sa.select(sa.func.count()).select_from(attempts).where(unknown, *its))

    def outcomes(self) -> dict[str, int]:
        """The ledger's calls by outcome."""
        count = sa.func.count().label("n")
        return {
            row["outcome"]: int(row["n"])
            for row in self.rows(sa.select(attempts.c.outcome, count).group_by(attempts.c.outcome))
        }

    def registered(self, worker: Worker) -> bool:
        return bool(self.number_of(worker))

    def log(self) -> list[Row]:
        """The calls for text that the sandbox has seen, oldest first."""
        return [row for row in self.sandbox.log() if not row["path"].rstrip("/").endswith("/models")]

    def until(self, condition: Callable[[], T], what: str, seconds: float = 60.0, *, every: float = 0.02) -> T:
        """The condition's first true value. Raises StuckError, with the state of everything, when it doesn't come."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise StuckError(f"waited {seconds:.0f} s in vain for {what}: {self.state()}")
            time.sleep(every)
        return value

    def quiet(self, seconds: float) -> None:
        """Lets the others work for so long: the moment of what comes next is the seed's choice."""
        time.sleep(seconds)

    def finish(self, seconds: float = 120.0) -> None:
        """Waits until every batch is completed, every expected row has ended and no call is open."""
        open_batches = (
            sa.select(sa.func.count())
            .select_from(batches)
            .where(batches.c.finished_at.is_(None), batches.c.status != "loading")
        )
        self.until(
            lambda: self.left() <= 0 and not self.number(open_batches),
            f"{self.expected} rows to end",
            seconds,
            every=0.1,
        )
        self.until(lambda: all(row["finished_at"] for row in self.log()), "the last calls to end", 30, every=0.1)

    def keep(self) -> None:
        """Writes kills and ledger beside the sandbox's log, for whoever looks into a failure."""
        told = {"kills": [(kill.at, kill.what) for kill in self.kills], "attempts": self.rows(sa.select(attempts))}
        (self.folder / "ledger.json").write_text(json.dumps(told, default=str))

    def promise(self, kept: bool, sentence: str) -> None:
        """Notes a promise of the scenario's own that is broken; `sentence` says what is wrong."""
        if not kept:
            self.broken.append(sentence)

    def state(self) -> str:
        """All that helps to see why something hangs."""
        try:
            by_status = self.rows(
                sa.select(jobs.c.status, jobs.c.error_code, sa.func.count().label("n")).group_by(
                    jobs.c.status, jobs.c.error_code
                )
            )
            calls = self.outcomes()
            crew = [(row["id"], row["pid"], row["beat"]) for row in self.rows(sa.select(workers))]
            held = self.rows(sa.select(batches.c.id, batches.c.status, batches.c.total))
            known = f"rows {by_status}, calls {calls}, workers {crew}, batches {held}"
        except sa.exc.SQLAlchemyError as error:
            known = f"the database doesn't answer: {type(error).__name__}"
        ends = "\n".join(
            f"--- {worker.output.name}, {'alive' if worker.alive else worker.process.returncode}:\n"
            + worker.output.read_text(errors="replace")[-1200:]
            for worker in self.workers[-4:]
        )
        ends += "\n".join(f"--- {path.name}:\n{path.read_text()[-1200:]}" for path in self.folder.glob("run*.output"))
        return f"{known}; seed {self.seed}\n{ends}"


def new_folder() -> Path:
    """A folder for one ground, with a short path."""
    return Path(tempfile.mkdtemp(prefix="chaos"))
