import os
import time

from celery import Celery, Task, shared_task
from flask import Flask

import crisper

REDIS = os.environ.get("REDIS_URL", "redis://localhost:6379/0")


def create_app():
    app = Flask("shop")
    app.config["CELERY"] = {"broker_url": REDIS, "result_backend": REDIS, "crisper_loss_budget": 5}
    celery_init_app(app)

    @app.post("/orders/<int:order>")
    def place(order):
        return {"task": pack.delay(order).id}

    return app


def celery_init_app(app):
    class FlaskTask(Task):
        def __call__(self, *args, **kwargs):
            with app.app_context():
                return self.run(*args, **kwargs)

    celery_app = Celery(app.name, task_cls=FlaskTask)
    celery_app.config_from_object(app.config["CELERY"])
    celery_app.set_default()
    crisper.install(celery_app)
    app.extensions["celery"] = celery_app
    return celery_app


@shared_task(acks_late=True)
def pack(order):
    time.sleep(30)
    return f"order {order} is packed"
