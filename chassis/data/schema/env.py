"""The script that alembic runs around revisions; migrations.py has the transaction, version table and settings."""

from alembic import context

attributes = context.config.attributes
if context.is_offline_mode():
    context.configure(
        dialect_name="postgresql", literal_binds=True, version_table=attributes["version_table"]
    )
else:
    context.configure(connection=attributes["connection"], version_table=attributes["version_table"])
context.run_migrations()
