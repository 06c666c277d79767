"""Limits that were learned from providers' refusals, by pool and model."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

oldest = "0003"
"""The oldest schema whose code still works with this one: it was only added to."""


def upgrade() -> None:
    op.create_table(
        "learned_limits",
        sa.Column(
            "pool", sa.String(220), nullable=False, comment="The quota that the limits are of; empty in a reset of all"
        ),
        sa.Column(
            "model", sa.String(300), nullable=False, comment="The model that they are of; empty in a reset of all"
        ),
        sa.Column(
            "requests_per_min", sa.Double(), nullable=True, comment="Requests a minute; NULL: configured ones hold"
        ),
        sa.Column("tokens_per_min", sa.Double(), nullable=True, comment="Tokens a minute; NULL: configured ones hold"),
        sa.Column("in_flight", sa.Double(), nullable=True, comment="Calls at once; NULL: not limited"),
        sa.Column("counting", sa.Text(), nullable=True, comment="How the provider counts tokens, JSON; NULL: unknown"),
        sa.Column(
            "configured",
            sa.String(64),
            nullable=False,
            comment="Fingerprint of the configuration that they were learned under",
        ),
        sa.Column("updated_at", sa.Double(), nullable=False, comment="When they were last stored"),
        sa.Column("reset_at", sa.Double(), nullable=True, comment="When a person reset them; NULL: they hold"),
        sa.PrimaryKeyConstraint("pool", "model", name=op.f("pk_learned_limits")),
        comment="Limits that were learned from providers' refusals",
    )


def downgrade() -> None:
    op.drop_table("learned_limits")
