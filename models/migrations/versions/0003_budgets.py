"""Caps on what batches may cost."""

import sqlalchemy as sa
from alembic import op

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "budgets",
        sa.Column("batch_id", BIG, autoincrement=False, nullable=False, comment="The capped batch"),
        sa.Column("most_nanos", BIG, nullable=False, comment="The cap, 10^-9 of the currency"),
        sa.Column("currency", sa.String(8), nullable=False, comment="Of the cap; calls priced in another aren't sent"),
        sa.Column(
            "spent_nanos", BIG, server_default="0", nullable=False, comment="What ended calls cost, or may have cost"
        ),
        sa.Column("reserved_nanos", BIG, server_default="0", nullable=False, comment="What calls under way may cost"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_budgets_batch_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_budgets")),
        comment="Caps on what batches may cost",
    )
    op.create_table(
        "budget_reservations",
        sa.Column("attempt_id", BIG, autoincrement=False, nullable=False, comment="A call that was announced"),
        sa.Column("batch_id", BIG, nullable=False, comment="Its batch"),
        sa.Column("nanos", BIG, nullable=False, comment="What it may cost"),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["budgets.batch_id"], name=op.f("fk_budget_reservations_batch_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("attempt_id", name=op.f("pk_budget_reservations")),
        comment="What is reserved of budgets; a call whose end nobody knows stays here",
    )
    op.create_index("ix_budget_reservations_batch", "budget_reservations", ["batch_id"], unique=False)


def downgrade() -> None:
    op.drop_table("budget_reservations")
    op.drop_table("budgets")
