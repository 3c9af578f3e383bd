from fastapi import FastAPI

from tasks import pack

api = FastAPI()


@api.post("/orders/{order}")
def place(order: int):  # not async: publishing waits for the broker
    return {"task": pack.delay(order).id}
