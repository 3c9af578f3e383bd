import time

from celery import shared_task


@shared_task(acks_late=True)
def pack(order):
    time.sleep(30)
    return f"order {order} is packed"
