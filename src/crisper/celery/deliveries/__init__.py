"""What a worker holds."""

from crisper.celery.deliveries.deliveries import Deliveries

__all__ = ["Deliveries"]
