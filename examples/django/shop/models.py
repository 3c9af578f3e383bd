from django.db import models


class Order(models.Model):
    number = models.PositiveIntegerField()
    task_id = models.CharField(max_length=255, editable=False)

    def __str__(self):
        return f"order {self.number}"
