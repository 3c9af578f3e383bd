"""`crisper serve`: sweeper, JSON API, metrics and dashboard in one process."""
