"""Runs the migrations on the connection that `models.database.upgrade` hands over; it never opens one of its own."""

from __future__ import annotations

from alembic import context

from models.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_server_default=False,
)
context.run_migrations()
