"""Calls whose request and reply are kept: those of `truckllm try`."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

oldest = "0003"
"""The oldest schema whose code still works with this one: it was only added to."""

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TRACED = "1: each job makes one call, whose request and reply are kept; NULL: an ordinary batch"


def upgrade() -> None:
    op.add_column("batches", sa.Column("traced", sa.Integer(), nullable=True, comment=TRACED))
    op.create_table(
        "traces",
        sa.Column("job_id", BIG, autoincrement=False, nullable=False, comment="Its job, of a traced batch"),
        sa.Column(
            "trace",
            sa.LargeBinary(),
            nullable=False,
            comment="Request, reply and what came of it, without secrets: JSON, zstd",
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_traces_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_traces")),
        comment="The calls of traced batches",
    )


def downgrade() -> None:
    op.drop_table("traces")
    with op.batch_alter_table("batches", schema=None) as batch_op:
        batch_op.drop_column("traced")
