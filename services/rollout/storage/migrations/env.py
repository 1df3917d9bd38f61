"""Alembic's entry: migrations over the connection that `database` hands in, within one transaction."""

from alembic import context

from services.rollout.storage.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=False)
with context.begin_transaction():
    context.run_migrations()
