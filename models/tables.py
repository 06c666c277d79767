"""The tables. SQL is the truth: a job exists, is owned, is finished and is paid for exactly as its rows say.

It holds no queries; those are in `models.store`. Times are unix seconds (UTC) as doubles, by the database server's clock.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)

Big = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits on both databases; SQLite numbers rows by itself only for INTEGER."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)

UNFINISHED_SQL = "status IN ('loading', 'queued', 'running', 'paused', 'finalizing')"

batches = Table(
    "batches",
    metadata,
    Column("id", Big, primary_key=True, comment="The batch's number, as people type it"),
    Column("name", String(200), nullable=False, comment="What people call it; the input's file name by default"),
    Column("input_name", Text, nullable=False, comment="The input file as it was given"),
    Column("input_sha256", String(64), nullable=False, comment="Of the input's bytes"),
    Column("options_hash", String(64), nullable=False, comment="Of the options that change calls"),
    Column(
        "again", Integer, nullable=False, server_default="0", comment="0, or the batch's number when forced by --new"
    ),
    Column("status", String(16), nullable=False, comment="models.states.BatchStatus"),
    Column("paused_reason", Text, comment="While paused: why, for people"),
    Column("priority", Integer, nullable=False, server_default="0", comment="Higher goes first"),
    Column("defaults", Text, nullable=False, server_default="{}", comment="The options, as JSON"),
    Column("total", Big, nullable=False, server_default="0", comment="Jobs in the batch; final once loaded"),
    Column("loader", String(64), comment="While loading: a random mark of the process that loads it"),
    Column("loaded_at", Double, comment="While loading: when its loader last wrote"),
    Column("created_at", Double, nullable=False, comment="When it was submitted"),
    Column("started_at", Double, comment="When its first job was claimed"),
    Column("finished_at", Double, comment="When its last job ended"),
    Column(
        "no_fallback",
        Integer,
        nullable=False,
        server_default="0",
        comment="1: its jobs use no fallback model and no second candidate",
    ),
    Column("empty_answers", String(8), comment="keep, retry or fail; NULL: as the worker's configuration has it"),
    Column(
        "traced",
        Integer,
        comment="1: each job makes one call, whose request and reply are kept; NULL: an ordinary batch",
    ),
    Column("finalizer", String(64), comment="While finalizing: a random mark of who reconciles it"),
    Column("checked_at", Double, comment="While finalizing: when its finalizer last wrote"),
    Column("problem", Text, comment="While finalizing: what doesn't add up, for people; NULL: nothing found so far"),
    Index(
        "uq_batches_unfinished",
        "input_sha256",
        "options_hash",
        "again",
        unique=True,
        sqlite_where=text(UNFINISHED_SQL),
        postgresql_where=text(UNFINISHED_SQL),
    ),
    Index("ix_batches_status", "status"),
    comment="Submitted files",
    sqlite_autoincrement=True,
)

batch_counts = Table(
    "batch_counts",
    metadata,
    Column(
        "batch_id",
        Big,
        ForeignKey("batches.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="Its batch",
    ),
    Column(
        "shard",
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="Worker's number modulo 16, against lock queues",
    ),
    Column(
        "succeeded",
        Big,
        nullable=False,
        server_default="0",
        comment="Jobs that ended so, counted in their own transactions",
    ),
    Column("failed", Big, nullable=False, server_default="0", comment="As above"),
    Column("cancelled", Big, nullable=False, server_default="0", comment="As above"),
    Column("empty", Big, comment="Of those that succeeded, the empty answers; NULL: none"),
    comment="How many jobs of a batch have ended, and how",
)

batch_spend = Table(
    "batch_spend",
    metadata,
    Column(
        "batch_id",
        Big,
        ForeignKey("batches.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="Its batch",
    ),
    Column("shard", Integer, primary_key=True, autoincrement=False, comment="As in batch_counts"),
    Column("provider", String(100), primary_key=True, comment="Provider id"),
    Column("currency", String(8), primary_key=True, comment="Of the cost; empty for unpriced calls"),
    Column("succeeded", Big, nullable=False, server_default="0", comment="Jobs that this provider answered"),
    Column("calls", Big, nullable=False, server_default="0", comment="Calls whose end is known"),
    Column("input_tokens", Big, nullable=False, server_default="0", comment="Sum over those calls"),
    Column("output_tokens", Big, nullable=False, server_default="0", comment="Sum over those calls"),
    Column(
        "cost_nanos", Big, nullable=False, server_default="0", comment="Sum over those calls, 10^-9 of the currency"
    ),
    comment="Running sums for live views; the ledger is `attempts`",
)

_CLAIMABLE = "status = 'queued' AND not_before IS NULL"
_SNOOZED = "status = 'queued' AND not_before IS NOT NULL"
_RUNNING = "status = 'running'"
_FAILED = "status = 'failed'"
_SUSPECT = "status = 'queued' AND rescues >= 2"
_PASSED_ON = "status = 'queued' AND not_before IS NULL AND excluded <> ''"

jobs = Table(
    "jobs",
    metadata,
    Column("id", Big, primary_key=True, comment="Its number, in the order of loading"),
    Column("batch_id", Big, ForeignKey("batches.id", ondelete="CASCADE"), nullable=False, comment="Its batch"),
    Column("position", Big, nullable=False, comment="Order of input, from 0"),
    Column("custom_id", String(512), nullable=False, comment="The user's own id of the line"),
    Column("lane", String(100), nullable=False, comment="Where it waits: a provider or a route"),
    Column("model", String(300), nullable=False, comment="What the user asked for; empty if the route names it"),
    Column("provider", String(100), comment="Where it last went"),
    Column(
        "excluded", Text, nullable=False, server_default="", comment="Providers of the route that failed it: ',a,b,'"
    ),
    Column("status", String(16), nullable=False, comment="models.states.JobStatus"),
    Column("not_before", Double, comment="Snoozed until then; NULL: claimable now"),
    Column(
        "epoch",
        Integer,
        nullable=False,
        server_default="0",
        comment="Raised by each claim and each move out of running",
    ),
    Column(
        "rerun_epoch",
        Integer,
        nullable=False,
        server_default="0",
        comment="Its epoch when a person reran it: earlier calls count for no retry any more",
    ),
    Column("worker_id", Big, comment="Who runs it"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="Calls made for it"),
    Column("rescues", Integer, nullable=False, server_default="0", comment="Times its worker died while it ran"),
    Column("error_code", String(100), comment="Why it failed, short"),
    Column("error_message", Text, comment="Why it failed, in the provider's words"),
    Column("input_bytes", Big, nullable=False, comment="Size of its body"),
    Column("created_at", Double, nullable=False, comment="When it was loaded"),
    Column("finished_at", Double, comment="When it reached its final state"),
    Column(
        "solo_crashes",
        SmallInteger,
        nullable=False,
        server_default="0",
        comment="Times its worker died while it ran alone",
    ),
    Index("uq_jobs_batch_custom", "batch_id", "custom_id", unique=True),
    Index("uq_jobs_batch_position", "batch_id", "position", unique=True),
    Index(
        "ix_jobs_claimable",
        "batch_id",
        "lane",
        "position",
        sqlite_where=text(_CLAIMABLE),
        postgresql_where=text(_CLAIMABLE),
    ),
    Index("ix_jobs_snoozed", "lane", "not_before", sqlite_where=text(_SNOOZED), postgresql_where=text(_SNOOZED)),
    Index("ix_jobs_running", "worker_id", sqlite_where=text(_RUNNING), postgresql_where=text(_RUNNING)),
    Index(
        "ix_jobs_passed_on",
        "lane",
        "batch_id",
        sqlite_where=text(_PASSED_ON),
        postgresql_where=text(_PASSED_ON),
    ),
    Index(
        "ix_jobs_suspects", "lane", "batch_id", "position", sqlite_where=text(_SUSPECT), postgresql_where=text(_SUSPECT)
    ),
    # `status` too, or SQLite takes the unique index of all positions for the better one
    Index(
        "ix_jobs_failed", "batch_id", "status", "position", sqlite_where=text(_FAILED), postgresql_where=text(_FAILED)
    ),
    comment="One row a line of input",
    sqlite_autoincrement=True,
)

job_inputs = Table(
    "job_inputs",
    metadata,
    Column(
        "job_id",
        Big,
        ForeignKey("jobs.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="Its job",
    ),
    Column("body", LargeBinary, nullable=False, comment="The line's own body, untouched"),
    Column("dialect", String(32), nullable=False, comment="simple, openai, …"),
    Column("operation", String(32), nullable=False, comment="chat, …"),
    Column(
        "metadata",
        LargeBinary,
        comment="What stood beside a vendor's body in its line, as JSON: it comes back with the result; NULL for simple "
        "lines, whose body has it",
    ),
    comment="What the jobs ask",
)

_OPEN = "outcome = 'unknown'"

attempts = Table(
    "attempts",
    metadata,
    Column("id", Big, primary_key=True, autoincrement=False, comment="worker_id * 2^32 + running number"),
    Column("job_id", Big, nullable=False, comment="Its job; the ledger outlives jobs, so no foreign key"),
    Column("batch_id", Big, nullable=False, comment="Its job's batch"),
    Column("epoch", Integer, nullable=False, comment="The job's epoch when the call was announced"),
    Column("provider", String(100), nullable=False, comment="Where it went"),
    Column("key_id", String(100), nullable=False, comment="The key that it used, by its id"),
    Column("requested_model", String(300), nullable=False, comment="The model that was asked for"),
    Column("served_model", String(300), comment="As the reply names it"),
    Column("outcome", String(16), nullable=False, comment="models.states.Outcome; unknown = maybe billed"),
    Column("http_status", Integer, comment="Of the reply; NULL: none came"),
    Column("error_code", String(100), comment="What went wrong, short; NULL: nothing did"),
    Column("booked_tokens", Big, nullable=False, server_default="0", comment="What the limiter booked at the start"),
    Column("input_tokens", Big, comment="All of it, cached included; NULL: the reply told none"),
    Column("output_tokens", Big, comment="All of it, reasoning included"),
    Column("cached_tokens", Big, comment="Of the input, those read from the provider's cache"),
    Column("cache_write_tokens", Big, comment="Of the input, those written to the provider's cache"),
    Column("reasoning_tokens", Big, comment="Of the output, those spent on reasoning"),
    Column("cost_nanos", Big, comment="10^-9 of the currency; NULL: unpriced or unknown"),
    Column("currency", String(8), comment="Of the cost; NULL: unpriced or unknown"),
    Column("price", Text, comment="By what its cost was counted, for people; NULL: no cost, or counted by older code"),
    Column(
        "reported_nanos",
        Big,
        comment="What the provider says that it cost, 10^-9 of that currency; NULL: it says nothing",
    ),
    Column("reported_currency", String(8), comment="Of what the provider says"),
    Column("latency_ms", Big, comment="From sending to the reply's last byte"),
    Column("started_at", Double, nullable=False, comment="When it was announced, just before it was sent"),
    Column("finished_at", Double, comment="When its end was recorded; NULL: it wasn't"),
    Index("uq_attempts_job_epoch", "job_id", "epoch", unique=True),
    Index("ix_attempts_batch", "batch_id"),
    Index("ix_attempts_started", "started_at"),
    Index("ix_attempts_open", "batch_id", sqlite_where=text(_OPEN), postgresql_where=text(_OPEN)),
    comment="The ledger: one row for every call that left the machine, written before it left",
)

results = Table(
    "results",
    metadata,
    Column(
        "job_id",
        Big,
        ForeignKey("jobs.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="Its job",
    ),
    Column("attempt_id", Big, nullable=False, comment="The call that answered"),
    Column("finish_reason", String(64), comment="Why the model stopped, in the provider's words"),
    Column("request_id", String(200), comment="The provider's own id of the call"),
    Column("response", LargeBinary, nullable=False, comment="The reply's raw bytes, zstd"),
    Column("text", LargeBinary, comment="The answer's text in UTF-8, zstd; NULL: it has none"),
    Column("input_tokens", Big, comment="Of that attempt"),
    Column("output_tokens", Big, comment="Of that attempt"),
    Column("cached_tokens", Big, comment="Of that attempt"),
    Column("cost_nanos", Big, comment="Of that attempt, 10^-9 of the currency"),
    Column("currency", String(8), comment="Of that attempt"),
    comment="The answers; tokens and cost are those of the attempt",
)

traces = Table(
    "traces",
    metadata,
    Column(
        "job_id",
        Big,
        ForeignKey("jobs.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="Its job, of a traced batch",
    ),
    Column(
        "trace", LargeBinary, nullable=False, comment="Request, reply and what came of it, without secrets: JSON, zstd"
    ),
    comment="The calls of traced batches",
)

workers = Table(
    "workers",
    metadata,
    Column("id", Big, primary_key=True, comment="Its number, never used again"),
    Column("host", String(255), nullable=False, comment="The machine it runs on"),
    Column("boot_id", String(64), nullable=False, comment="Of the host, so that a pid means something"),
    Column("pid", Integer, nullable=False, comment="Its process id there"),
    Column("pid_started", Double, nullable=False, comment="When the process started, so that a pid isn't mistaken"),
    Column("queues", Text, nullable=False, comment="Providers it serves: 'a,b'"),
    Column("config_hash", String(64), nullable=False, comment="Of its settings, to tell whether workers agree"),
    Column("tickets", Big, nullable=False, server_default="0", comment="Celery messages it has taken"),
    Column("draining", Integer, nullable=False, server_default="0", comment="1: it was told to finish and to end"),
    Column("started_at", Double, nullable=False, comment="When it signed in"),
    Column(
        "beat", Big, nullable=False, server_default="0", comment="Raised by each heartbeat; equal for 45 s means dead"
    ),
    Column("heartbeat_at", Double, nullable=False, comment="When it last gave a sign of life"),
    Column(
        "alone_for", Big, comment="The worker that started this one to run suspects alone; NULL: an ordinary worker"
    ),
    Column(
        "schema", String(16), nullable=False, server_default="0003", comment="The schema that its code was made for"
    ),
    comment="Worker processes that are alive, or not yet known to be dead",
    sqlite_autoincrement=True,
)

key_states = Table(
    "key_states",
    metadata,
    Column("provider", String(100), primary_key=True, comment="Provider id"),
    Column("key_id", String(100), primary_key=True, comment="The key's id in the configuration"),
    Column("fingerprint", String(64), primary_key=True, comment="HMAC of the secret: a changed secret is another key"),
    Column("pool", String(200), nullable=False, comment="The quota that it shares; its own id if none"),
    Column("state", String(16), nullable=False, comment="active, quarantined"),
    Column("reason", Text, nullable=False, comment="Why it is in that state"),
    Column("probes", Integer, nullable=False, server_default="0", comment="Free probes since it was quarantined"),
    Column("since", Double, nullable=False, comment="Since when it is in that state"),
    Column("until", Double, comment="When it is tried again; NULL: a person has to act"),
    comment="Keys that something is known about",
)

cooldowns = Table(
    "cooldowns",
    metadata,
    Column("pool", String(220), primary_key=True, comment="The quota on which nothing starts"),
    Column("model", String(300), primary_key=True, comment="The model that cools down there; empty: all of them"),
    Column("provider", String(100), nullable=False, comment="Provider id of the call that was refused"),
    Column("key_id", String(100), nullable=False, comment="Key id of that call"),
    Column("named", Integer, nullable=False, server_default="0", comment="1: the provider named the model itself"),
    Column("reason", Text, nullable=False, comment="What the provider said"),
    Column("since", Double, nullable=False, comment="When it said so"),
    Column("until", Double, nullable=False, comment="When one call goes again"),
    Column("lifted", Double, comment="When a person ended it; NULL: nobody did"),
    comment="Waits of more than 30 s that providers have asked for",
)

learned_limits = Table(
    "learned_limits",
    metadata,
    Column("pool", String(220), primary_key=True, comment="The quota that the limits are of; empty in a reset of all"),
    Column("model", String(300), primary_key=True, comment="The model that they are of; empty in a reset of all"),
    Column("requests_per_min", Double, comment="Requests a minute; NULL: configured ones hold"),
    Column("tokens_per_min", Double, comment="Tokens a minute; NULL: configured ones hold"),
    Column("in_flight", Double, comment="Calls at once; NULL: not limited"),
    Column("counting", Text, comment="How the provider counts tokens, JSON; NULL: unknown"),
    Column(
        "configured",
        String(64),
        nullable=False,
        comment="Fingerprint of the configuration that they were learned under",
    ),
    Column("updated_at", Double, nullable=False, comment="When they were last stored"),
    Column("reset_at", Double, comment="When a person reset them; NULL: they hold"),
    comment="Limits that were learned from providers' refusals",
)

budgets = Table(
    "budgets",
    metadata,
    Column(
        "batch_id",
        Big,
        ForeignKey("batches.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="The capped batch",
    ),
    Column("most_nanos", Big, nullable=False, comment="The cap, 10^-9 of the currency"),
    Column("currency", String(8), nullable=False, comment="Of the cap; calls priced in another aren't sent"),
    Column("spent_nanos", Big, nullable=False, server_default="0", comment="What ended calls cost, or may have cost"),
    Column("reserved_nanos", Big, nullable=False, server_default="0", comment="What calls under way may cost"),
    Column(
        "assumed_nanos", Big, comment="Of spent_nanos: reservations of calls whose cost nobody knows; NULL: none yet"
    ),
    comment="Caps on what batches may cost",
)

budget_reservations = Table(
    "budget_reservations",
    metadata,
    Column("attempt_id", Big, primary_key=True, autoincrement=False, comment="A call that was announced"),
    Column("batch_id", Big, ForeignKey("budgets.batch_id", ondelete="CASCADE"), nullable=False, comment="Its batch"),
    Column("nanos", Big, nullable=False, comment="What it may cost"),
    Column("base_nanos", Big, comment="Its estimate before anything was learned; NULL: nothing to learn"),
    Index("ix_budget_reservations_batch", "batch_id"),
    comment="What is reserved of budgets; a call whose end nobody knows stays here",
)

budget_estimates = Table(
    "budget_estimates",
    metadata,
    Column(
        "batch_id",
        Big,
        ForeignKey("budgets.batch_id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="The capped batch",
    ),
    Column("provider", String(100), primary_key=True, comment="Provider id"),
    Column("model", String(300), primary_key=True, comment="The model that was asked for"),
    Column(
        "kept",
        Big,
        nullable=False,
        server_default="0",
        comment="Answers in a row that cost no more than was estimated",
    ),
    Column(
        "excess_nanos",
        Big,
        nullable=False,
        server_default="0",
        comment="Added to each estimate: by so much an answer was dearer, and a quarter more",
    ),
    comment="What answers have shown of the estimates of capped batches",
)

schema_floor = Table(
    "schema_floor",
    metadata,
    Column("oldest", String(16), primary_key=True, comment="Code made for an older schema than this can't work here"),
    comment="One row: which code may use this database, beside code of its own schema",
)
