"""Crisper inside a Celery worker. The only package that imports celery and kombu."""

#: Where a publisher with Crisper names each message.
MESSAGE_ID_HEADER = "crisper_message_id"
