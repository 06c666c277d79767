"""What the answers of a capped batch have shown of its estimates, and the part of a cap's spending that is assumed."""

import sqlalchemy as sa
from alembic import op

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

oldest = "0003"
"""The oldest schema whose code still works with this one: it was only added to."""


def upgrade() -> None:
    op.create_table(
        "budget_estimates",
        sa.Column("batch_id", BIG, autoincrement=False, nullable=False, comment="The capped batch"),
        sa.Column("provider", sa.String(100), nullable=False, comment="Provider id"),
        sa.Column("model", sa.String(300), nullable=False, comment="The model that was asked for"),
        sa.Column(
            "kept",
            BIG,
            server_default="0",
            nullable=False,
            comment="Answers in a row that cost no more than was estimated",
        ),
        sa.Column(
            "excess_nanos",
            BIG,
            server_default="0",
            nullable=False,
            comment="Added to each estimate: by so much an answer was dearer, and a quarter more",
        ),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["budgets.batch_id"], name=op.f("fk_budget_estimates_batch_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("batch_id", "provider", "model", name=op.f("pk_budget_estimates")),
        comment="What answers have shown of the estimates of capped batches",
    )
    op.add_column(
        "budgets",
        sa.Column(
            "assumed_nanos",
            BIG,
            nullable=True,
            comment="Of spent_nanos: reservations of calls whose cost nobody knows; NULL: none yet",
        ),
    )
    op.add_column(
        "budget_reservations",
        sa.Column(
            "base_nanos", BIG, nullable=True, comment="Its estimate before anything was learned; NULL: nothing to learn"
        ),
    )


def downgrade() -> None:
    with op.batch_alter_table("budget_reservations", schema=None) as batch_op:
        batch_op.drop_column("base_nanos")
    with op.batch_alter_table("budgets", schema=None) as batch_op:
        batch_op.drop_column("assumed_nanos")
    op.drop_table("budget_estimates")
