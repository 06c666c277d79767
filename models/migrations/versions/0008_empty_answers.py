"""What is done with empty answers, how many there are, and what providers themselves say that calls cost."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

oldest = "0003"
"""The oldest schema whose code still works with this one: it was only added to."""

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

COLUMNS: dict[str, tuple[tuple[str, Any, str], ...]] = {
    "batches": (("empty_answers", sa.String(8), "keep, retry or fail; NULL: as the worker's configuration has it"),),
    "batch_counts": (("empty", BIG, "Of those that succeeded, the empty answers; NULL: none"),),
    "attempts": (
        ("reported_nanos", BIG, "What the provider says that it cost, 10^-9 of that currency; NULL: it says nothing"),
        ("reported_currency", sa.String(8), "Of what the provider says"),
    ),
}


def upgrade() -> None:
    for table, columns in COLUMNS.items():
        for name, kind, comment in columns:
            op.add_column(table, sa.Column(name, kind, nullable=True, comment=comment))


def downgrade() -> None:
    for table, columns in COLUMNS.items():
        with op.batch_alter_table(table, schema=None) as batch_op:
            for name, _, _ in columns:
                batch_op.drop_column(name)
