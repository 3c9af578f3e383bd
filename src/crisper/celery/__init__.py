"""Crisper inside a Celery worker. The only package that imports celery and kombu."""
