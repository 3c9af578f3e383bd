"""Alembic's environment and the registry's revisions; run by `crisper.store.migrate`."""
