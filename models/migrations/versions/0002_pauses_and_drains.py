"""Why a batch is paused, workers that are told to end, and since when a job was rerun."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "batches", sa.Column("paused_reason", sa.Text(), nullable=True, comment="While paused: why, for people")
    )
    op.add_column(
        "workers",
        sa.Column(
            "draining",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="1: it was told to finish and to end",
        ),
    )
    op.add_column(
        "jobs",
        sa.Column(
            "rerun_epoch",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Its epoch when a person reran it: earlier calls count for no retry any more",
        ),
    )


def downgrade() -> None:
    for table, column in (("jobs", "rerun_epoch"), ("workers", "draining"), ("batches", "paused_reason")):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column(column)
