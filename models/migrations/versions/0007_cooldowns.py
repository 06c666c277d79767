"""Waits that providers have asked for, where people can see and end them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

oldest = "0003"
"""The oldest schema whose code still works with this one: it was only added to."""


def upgrade() -> None:
    op.create_table(
        "cooldowns",
        sa.Column("pool", sa.String(length=220), nullable=False, comment="The quota on which nothing starts"),
        sa.Column(
            "model",
            sa.String(length=300),
            nullable=False,
            comment="The model that cools down there; empty: all of them",
        ),
        sa.Column(
            "provider", sa.String(length=100), nullable=False, comment="Provider id of the call that was refused"
        ),
        sa.Column("key_id", sa.String(length=100), nullable=False, comment="Key id of that call"),
        sa.Column(
            "named", sa.Integer(), server_default="0", nullable=False, comment="1: the provider named the model itself"
        ),
        sa.Column("reason", sa.Text(), nullable=False, comment="What the provider said"),
        sa.Column("since", sa.Double(), nullable=False, comment="When it said so"),
        sa.Column("until", sa.Double(), nullable=False, comment="When one call goes again"),
        sa.Column("lifted", sa.Double(), nullable=True, comment="When a person ended it; NULL: nobody did"),
        sa.PrimaryKeyConstraint("pool", "model", name=op.f("pk_cooldowns")),
        comment="Waits of more than 30 s that providers have asked for",
    )


def downgrade() -> None:
    op.drop_table("cooldowns")
