"""By what price each call of the ledger was counted."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

oldest = "0003"
"""The oldest schema whose code still works with this one: it was only added to."""


def upgrade() -> None:
    op.add_column(
        "attempts",
        sa.Column(
            "price",
            sa.Text(),
            nullable=True,
            comment="By what its cost was counted, for people; NULL: no cost, or counted by older code",
        ),
    )


def downgrade() -> None:
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.drop_column("price")
