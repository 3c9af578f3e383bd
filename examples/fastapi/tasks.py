import os
import time

from celery import Celery

import crisper

REDIS = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

app = Celery("shop", broker=REDIS, backend=REDIS)
crisper.install(app)


@app.task(acks_late=True)
def pack(order):
    time.sleep(30)
    return f"order {order} is packed"
