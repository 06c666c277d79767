"""Batches that are finalized, suspects of crashes, what stood beside a line's body, and which code may use this schema."""

import sqlalchemy as sa
from alembic import op

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

oldest = "0003"
"""The oldest schema whose code still works with this one: it was only added to."""

UNFINISHED = "status IN ('loading', 'queued', 'running', 'paused')"
UNFINISHED_NOW = "status IN ('loading', 'queued', 'running', 'paused', 'finalizing')"
FAILED = "status = 'failed'"
SUSPECT = "status = 'queued' AND rescues >= 2"


def upgrade() -> None:
    op.add_column(
        "batches",
        sa.Column(
            "no_fallback",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="1: its jobs use no fallback model and no second candidate",
        ),
    )
    op.add_column(
        "batches",
        sa.Column(
            "finalizer", sa.String(64), nullable=True, comment="While finalizing: a random mark of who reconciles it"
        ),
    )
    op.add_column(
        "batches",
        sa.Column("checked_at", sa.Double(), nullable=True, comment="While finalizing: when its finalizer last wrote"),
    )
    op.add_column(
        "batches",
        sa.Column(
            "problem",
            sa.Text(),
            nullable=True,
            comment="While finalizing: what doesn't add up, for people; NULL: nothing found so far",
        ),
    )
    op.add_column(
        "jobs",
        sa.Column(
            "solo_crashes",
            sa.SmallInteger(),
            server_default="0",
            nullable=False,
            comment="Times its worker died while it ran alone",
        ),
    )
    op.add_column(
        "job_inputs",
        sa.Column(
            "metadata",
            sa.LargeBinary(),
            nullable=True,
            comment="What stood beside a vendor's body in its line, as JSON: it comes back with the result; NULL for simple "
            "lines, whose body has it",
        ),
    )
    op.add_column(
        "workers",
        sa.Column(
            "alone_for",
            BIG,
            nullable=True,
            comment="The worker that started this one to run suspects alone; NULL: an ordinary worker",
        ),
    )
    op.add_column(
        "workers",
        sa.Column(
            "schema",
            sa.String(16),
            server_default="0003",
            nullable=False,
            comment="The schema that its code was made for",
        ),
    )
    op.create_table(
        "schema_floor",
        sa.Column(
            "oldest", sa.String(16), nullable=False, comment="Code made for an older schema than this can't work here"
        ),
        sa.PrimaryKeyConstraint("oldest", name=op.f("pk_schema_floor")),
        comment="One row: which code may use this database, beside code of its own schema",
    )
    # jobs that came back into a cancelled batch had no time of their end
    op.execute(
        sa.text(
            "UPDATE jobs SET finished_at = created_at "
            "WHERE status IN ('succeeded', 'failed', 'cancelled') AND finished_at IS NULL"
        )
    )
    op.create_index(
        "ix_jobs_suspects",
        "jobs",
        ["lane", "batch_id", "position"],
        unique=False,
        sqlite_where=sa.text(SUSPECT),
        postgresql_where=sa.text(SUSPECT),
    )
    _replace("ix_jobs_failed", "jobs", ["batch_id", "status", "position"], FAILED)
    _replace("uq_batches_unfinished", "batches", ["input_sha256", "options_hash", "again"], UNFINISHED_NOW, unique=True)


def downgrade() -> None:
    op.execute(sa.text("UPDATE batches SET status = 'completed' WHERE status = 'finalizing'"))
    _replace("uq_batches_unfinished", "batches", ["input_sha256", "options_hash", "again"], UNFINISHED, unique=True)
    _replace("ix_jobs_failed", "jobs", ["batch_id", "position"], FAILED)
    op.drop_index("ix_jobs_suspects", table_name="jobs")
    op.drop_table("schema_floor")
    for table, columns in (
        ("workers", ("schema", "alone_for")),
        ("job_inputs", ("metadata",)),
        ("jobs", ("solo_crashes",)),
        ("batches", ("problem", "checked_at", "finalizer", "no_fallback")),
    ):
        with op.batch_alter_table(table, schema=None) as batch_op:
            for column in columns:
                batch_op.drop_column(column)


def _replace(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    op.drop_index(name, table_name=table)
    op.create_index(name, table, columns, unique=unique, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
