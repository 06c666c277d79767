"""The first schema."""

import sqlalchemy as sa
from alembic import op

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", BIG, autoincrement=False, nullable=False, comment="worker_id * 2^32 + running number"),
        sa.Column("job_id", BIG, nullable=False, comment="Its job; the ledger outlives jobs, so no foreign key"),
        sa.Column("batch_id", BIG, nullable=False, comment="Its job's batch"),
        sa.Column("epoch", sa.Integer(), nullable=False, comment="The job's epoch when the call was announced"),
        sa.Column("provider", sa.String(length=100), nullable=False, comment="Where it went"),
        sa.Column("key_id", sa.String(length=100), nullable=False, comment="The key that it used, by its id"),
        sa.Column("requested_model", sa.String(length=300), nullable=False, comment="The model that was asked for"),
        sa.Column("served_model", sa.String(length=300), nullable=True, comment="As the reply names it"),
        sa.Column(
            "outcome", sa.String(length=16), nullable=False, comment="models.states.Outcome; unknown = maybe billed"
        ),
        sa.Column("http_status", sa.Integer(), nullable=True, comment="Of the reply; NULL: none came"),
        sa.Column(
            "error_code", sa.String(length=100), nullable=True, comment="What went wrong, short; NULL: nothing did"
        ),
        sa.Column(
            "booked_tokens", BIG, server_default="0", nullable=False, comment="What the limiter booked at the start"
        ),
        sa.Column("input_tokens", BIG, nullable=True, comment="All of it, cached included; NULL: the reply told none"),
        sa.Column("output_tokens", BIG, nullable=True, comment="All of it, reasoning included"),
        sa.Column("cached_tokens", BIG, nullable=True, comment="Of the input, those read from the provider's cache"),
        sa.Column(
            "cache_write_tokens", BIG, nullable=True, comment="Of the input, those written to the provider's cache"
        ),
        sa.Column("reasoning_tokens", BIG, nullable=True, comment="Of the output, those spent on reasoning"),
        sa.Column("cost_nanos", BIG, nullable=True, comment="10^-9 of the currency; NULL: unpriced or unknown"),
        sa.Column("currency", sa.String(length=8), nullable=True, comment="Of the cost; NULL: unpriced or unknown"),
        sa.Column("latency_ms", BIG, nullable=True, comment="From sending to the reply's last byte"),
        sa.Column("started_at", sa.Double(), nullable=False, comment="When it was announced, just before it was sent"),
        sa.Column("finished_at", sa.Double(), nullable=True, comment="When its end was recorded; NULL: it wasn't"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
        comment="The ledger: one row for every call that left the machine, written before it left",
    )
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.create_index("ix_attempts_batch", ["batch_id"], unique=False)
        batch_op.create_index(
            "ix_attempts_open",
            ["batch_id"],
            unique=False,
            sqlite_where=sa.text("outcome = 'unknown'"),
            postgresql_where=sa.text("outcome = 'unknown'"),
        )
        batch_op.create_index("ix_attempts_started", ["started_at"], unique=False)
        batch_op.create_index("uq_attempts_job_epoch", ["job_id", "epoch"], unique=True)

    op.create_table(
        "batches",
        sa.Column("id", BIG, nullable=False, comment="The batch's number, as people type it"),
        sa.Column(
            "name",
            sa.String(length=200),
            nullable=False,
            comment="What people call it; the input's file name by default",
        ),
        sa.Column("input_name", sa.Text(), nullable=False, comment="The input file as it was given"),
        sa.Column("input_sha256", sa.String(length=64), nullable=False, comment="Of the input's bytes"),
        sa.Column("options_hash", sa.String(length=64), nullable=False, comment="Of the options that change calls"),
        sa.Column(
            "again",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="0, or the batch's number when forced by --new",
        ),
        sa.Column("status", sa.String(length=16), nullable=False, comment="models.states.BatchStatus"),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False, comment="Higher goes first"),
        sa.Column("defaults", sa.Text(), server_default="{}", nullable=False, comment="The options, as JSON"),
        sa.Column("total", BIG, server_default="0", nullable=False, comment="Jobs in the batch; final once loaded"),
        sa.Column(
            "loader",
            sa.String(length=64),
            nullable=True,
            comment="While loading: a random mark of the process that loads it",
        ),
        sa.Column("loaded_at", sa.Double(), nullable=True, comment="While loading: when its loader last wrote"),
        sa.Column("created_at", sa.Double(), nullable=False, comment="When it was submitted"),
        sa.Column("started_at", sa.Double(), nullable=True, comment="When its first job was claimed"),
        sa.Column("finished_at", sa.Double(), nullable=True, comment="When its last job ended"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        comment="Submitted files",
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("batches", schema=None) as batch_op:
        batch_op.create_index("ix_batches_status", ["status"], unique=False)
        batch_op.create_index(
            "uq_batches_unfinished",
            ["input_sha256", "options_hash", "again"],
            unique=True,
            sqlite_where=sa.text("status IN ('loading', 'queued', 'running', 'paused')"),
            postgresql_where=sa.text("status IN ('loading', 'queued', 'running', 'paused')"),
        )

    op.create_table(
        "key_states",
        sa.Column("provider", sa.String(length=100), nullable=False, comment="Provider id"),
        sa.Column("key_id", sa.String(length=100), nullable=False, comment="The key's id in the configuration"),
        sa.Column(
            "fingerprint",
            sa.String(length=64),
            nullable=False,
            comment="HMAC of the secret: a changed secret is another key",
        ),
        sa.Column(
            "pool", sa.String(length=200), nullable=False, comment="The quota that it shares; its own id if none"
        ),
        sa.Column("state", sa.String(length=16), nullable=False, comment="active, quarantined"),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why it is in that state"),
        sa.Column(
            "probes", sa.Integer(), server_default="0", nullable=False, comment="Free probes since it was quarantined"
        ),
        sa.Column("since", sa.Double(), nullable=False, comment="Since when it is in that state"),
        sa.Column("until", sa.Double(), nullable=True, comment="When it is tried again; NULL: a person has to act"),
        sa.PrimaryKeyConstraint("provider", "key_id", "fingerprint", name=op.f("pk_key_states")),
        comment="Keys that something is known about",
    )
    op.create_table(
        "workers",
        sa.Column("id", BIG, nullable=False, comment="Its number, never used again"),
        sa.Column("host", sa.String(length=255), nullable=False, comment="The machine it runs on"),
        sa.Column(
            "boot_id", sa.String(length=64), nullable=False, comment="Of the host, so that a pid means something"
        ),
        sa.Column("pid", sa.Integer(), nullable=False, comment="Its process id there"),
        sa.Column(
            "pid_started", sa.Double(), nullable=False, comment="When the process started, so that a pid isn't mistaken"
        ),
        sa.Column("queues", sa.Text(), nullable=False, comment="Providers it serves: 'a,b'"),
        sa.Column(
            "config_hash",
            sa.String(length=64),
            nullable=False,
            comment="Of its settings, to tell whether workers agree",
        ),
        sa.Column("tickets", BIG, server_default="0", nullable=False, comment="Celery messages it has taken"),
        sa.Column("started_at", sa.Double(), nullable=False, comment="When it signed in"),
        sa.Column(
            "beat",
            BIG,
            server_default="0",
            nullable=False,
            comment="Raised by each heartbeat; equal for 45 s means dead",
        ),
        sa.Column("heartbeat_at", sa.Double(), nullable=False, comment="When it last gave a sign of life"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
        comment="Worker processes that are alive, or not yet known to be dead",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "batch_counts",
        sa.Column("batch_id", BIG, autoincrement=False, nullable=False, comment="Its batch"),
        sa.Column(
            "shard",
            sa.Integer(),
            autoincrement=False,
            nullable=False,
            comment="Worker's number modulo 16, against lock queues",
        ),
        sa.Column(
            "succeeded",
            BIG,
            server_default="0",
            nullable=False,
            comment="Jobs that ended so, counted in their own transactions",
        ),
        sa.Column("failed", BIG, server_default="0", nullable=False, comment="As above"),
        sa.Column("cancelled", BIG, server_default="0", nullable=False, comment="As above"),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("fk_batch_counts_batch_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("batch_id", "shard", name=op.f("pk_batch_counts")),
        comment="How many jobs of a batch have ended, and how",
    )
    op.create_table(
        "batch_spend",
        sa.Column("batch_id", BIG, autoincrement=False, nullable=False, comment="Its batch"),
        sa.Column("shard", sa.Integer(), autoincrement=False, nullable=False, comment="As in batch_counts"),
        sa.Column("provider", sa.String(length=100), nullable=False, comment="Provider id"),
        sa.Column("currency", sa.String(length=8), nullable=False, comment="Of the cost; empty for unpriced calls"),
        sa.Column("succeeded", BIG, server_default="0", nullable=False, comment="Jobs that this provider answered"),
        sa.Column("calls", BIG, server_default="0", nullable=False, comment="Calls whose end is known"),
        sa.Column("input_tokens", BIG, server_default="0", nullable=False, comment="Sum over those calls"),
        sa.Column("output_tokens", BIG, server_default="0", nullable=False, comment="Sum over those calls"),
        sa.Column(
            "cost_nanos", BIG, server_default="0", nullable=False, comment="Sum over those calls, 10^-9 of the currency"
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_batch_spend_batch_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("batch_id", "shard", "provider", "currency", name=op.f("pk_batch_spend")),
        comment="Running sums for live views; the ledger is `attempts`",
    )
    op.create_table(
        "jobs",
        sa.Column("id", BIG, nullable=False, comment="Its number, in the order of loading"),
        sa.Column("batch_id", BIG, nullable=False, comment="Its batch"),
        sa.Column("position", BIG, nullable=False, comment="Order of input, from 0"),
        sa.Column("custom_id", sa.String(length=512), nullable=False, comment="The user's own id of the line"),
        sa.Column("lane", sa.String(length=100), nullable=False, comment="Where it waits: a provider or a route"),
        sa.Column(
            "model",
            sa.String(length=300),
            nullable=False,
            comment="What the user asked for; empty if the route names it",
        ),
        sa.Column("provider", sa.String(length=100), nullable=True, comment="Where it last went"),
        sa.Column(
            "excluded",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="Providers of the route that failed it: ',a,b,'",
        ),
        sa.Column("status", sa.String(length=16), nullable=False, comment="models.states.JobStatus"),
        sa.Column("not_before", sa.Double(), nullable=True, comment="Snoozed until then; NULL: claimable now"),
        sa.Column(
            "epoch",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Raised by each claim and each move out of running",
        ),
        sa.Column("worker_id", BIG, nullable=True, comment="Who runs it"),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False, comment="Calls made for it"),
        sa.Column(
            "rescues", sa.Integer(), server_default="0", nullable=False, comment="Times its worker died while it ran"
        ),
        sa.Column("error_code", sa.String(length=100), nullable=True, comment="Why it failed, short"),
        sa.Column("error_message", sa.Text(), nullable=True, comment="Why it failed, in the provider's words"),
        sa.Column("input_bytes", BIG, nullable=False, comment="Size of its body"),
        sa.Column("created_at", sa.Double(), nullable=False, comment="When it was loaded"),
        sa.Column("finished_at", sa.Double(), nullable=True, comment="When it reached its final state"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_jobs_batch_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        comment="One row a line of input",
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index(
            "ix_jobs_claimable",
            ["batch_id", "lane", "position"],
            unique=False,
            sqlite_where=sa.text("status = 'queued' AND not_before IS NULL"),
            postgresql_where=sa.text("status = 'queued' AND not_before IS NULL"),
        )
        batch_op.create_index(
            "ix_jobs_failed",
            ["batch_id", "position"],
            unique=False,
            sqlite_where=sa.text("status = 'failed'"),
            postgresql_where=sa.text("status = 'failed'"),
        )
        batch_op.create_index(
            "ix_jobs_passed_on",
            ["lane", "batch_id"],
            unique=False,
            sqlite_where=sa.text("status = 'queued' AND not_before IS NULL AND excluded <> ''"),
            postgresql_where=sa.text("status = 'queued' AND not_before IS NULL AND excluded <> ''"),
        )
        batch_op.create_index(
            "ix_jobs_running",
            ["worker_id"],
            unique=False,
            sqlite_where=sa.text("status = 'running'"),
            postgresql_where=sa.text("status = 'running'"),
        )
        batch_op.create_index(
            "ix_jobs_snoozed",
            ["lane", "not_before"],
            unique=False,
            sqlite_where=sa.text("status = 'queued' AND not_before IS NOT NULL"),
            postgresql_where=sa.text("status = 'queued' AND not_before IS NOT NULL"),
        )
        batch_op.create_index("uq_jobs_batch_custom", ["batch_id", "custom_id"], unique=True)
        batch_op.create_index("uq_jobs_batch_position", ["batch_id", "position"], unique=True)

    op.create_table(
        "job_inputs",
        sa.Column("job_id", BIG, autoincrement=False, nullable=False, comment="Its job"),
        sa.Column("body", sa.LargeBinary(), nullable=False, comment="The line's own body, untouched"),
        sa.Column("dialect", sa.String(length=32), nullable=False, comment="simple, openai, …"),
        sa.Column("operation", sa.String(length=32), nullable=False, comment="chat, …"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_inputs_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_inputs")),
        comment="What the jobs ask",
    )
    op.create_table(
        "results",
        sa.Column("job_id", BIG, autoincrement=False, nullable=False, comment="Its job"),
        sa.Column("attempt_id", BIG, nullable=False, comment="The call that answered"),
        sa.Column(
            "finish_reason",
            sa.String(length=64),
            nullable=True,
            comment="Why the model stopped, in the provider's words",
        ),
        sa.Column("request_id", sa.String(length=200), nullable=True, comment="The provider's own id of the call"),
        sa.Column("response", sa.LargeBinary(), nullable=False, comment="The reply's raw bytes, zstd"),
        sa.Column(
            "text", sa.LargeBinary(), nullable=True, comment="The answer's text in UTF-8, zstd; NULL: it has none"
        ),
        sa.Column("input_tokens", BIG, nullable=True, comment="Of that attempt"),
        sa.Column("output_tokens", BIG, nullable=True, comment="Of that attempt"),
        sa.Column("cached_tokens", BIG, nullable=True, comment="Of that attempt"),
        sa.Column("cost_nanos", BIG, nullable=True, comment="Of that attempt, 10^-9 of the currency"),
        sa.Column("currency", sa.String(length=8), nullable=True, comment="Of that attempt"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_results_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_results")),
        comment="The answers; tokens and cost are those of the attempt",
    )


def downgrade() -> None:
    op.drop_table("results")
    op.drop_table("job_inputs")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index("uq_jobs_batch_position")
        batch_op.drop_index("uq_jobs_batch_custom")
        batch_op.drop_index(
            "ix_jobs_snoozed",
            sqlite_where=sa.text("status = 'queued' AND not_before IS NOT NULL"),
            postgresql_where=sa.text("status = 'queued' AND not_before IS NOT NULL"),
        )
        batch_op.drop_index(
            "ix_jobs_running",
            sqlite_where=sa.text("status = 'running'"),
            postgresql_where=sa.text("status = 'running'"),
        )
        batch_op.drop_index(
            "ix_jobs_failed", sqlite_where=sa.text("status = 'failed'"), postgresql_where=sa.text("status = 'failed'")
        )
        batch_op.drop_index(
            "ix_jobs_claimable",
            sqlite_where=sa.text("status = 'queued' AND not_before IS NULL"),
            postgresql_where=sa.text("status = 'queued' AND not_before IS NULL"),
        )

    op.drop_table("jobs")
    op.drop_table("batch_spend")
    op.drop_table("batch_counts")
    op.drop_table("workers")
    op.drop_table("key_states")
    with op.batch_alter_table("batches", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_batches_unfinished",
            sqlite_where=sa.text("status IN ('loading', 'queued', 'running', 'paused')"),
            postgresql_where=sa.text("status IN ('loading', 'queued', 'running', 'paused')"),
        )
        batch_op.drop_index("ix_batches_status")

    op.drop_table("batches")
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.drop_index("uq_attempts_job_epoch")
        batch_op.drop_index("ix_attempts_started")
        batch_op.drop_index(
            "ix_attempts_open",
            sqlite_where=sa.text("outcome = 'unknown'"),
            postgresql_where=sa.text("outcome = 'unknown'"),
        )
        batch_op.drop_index("ix_attempts_batch")

    op.drop_table("attempts")
