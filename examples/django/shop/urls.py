from django.contrib import admin
from django.http import JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST

from shop.models import Order
from shop.tasks import pack


@require_POST
def place(request, number):
    task = pack.delay(number)
    Order.objects.create(number=number, task_id=task.id)
    return JsonResponse({"task": task.id})


urlpatterns = [
    path("admin/", admin.site.urls),
    path("orders/<int:number>", place),
]
