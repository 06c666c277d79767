"""Why a batch is paused, and workers that are told to end."""

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
