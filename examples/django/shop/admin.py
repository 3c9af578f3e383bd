from urllib.parse import urlencode

from django.conf import settings
from django.contrib import admin
from django.utils.html import format_html

from shop.models import Order


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ("number", "task")

    @admin.display(description="task")
    def task(self, order):
        page = f"{settings.CRISPER_SERVE_URL}/task?{urlencode({'id': order.task_id})}"
        return format_html('<a href="{}">{}</a>', page, order.task_id)
