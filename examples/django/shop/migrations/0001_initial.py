from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(primary_key=True)),
                ("number", models.PositiveIntegerField()),
                ("task_id", models.CharField(editable=False, max_length=255)),
            ],
        ),
    ]
