"""Adoption through settings alone: `imports = ("crisper.autoload",)` (Django: `CELERY_IMPORTS`).

Celery imports this while the app that names it is the current one.
"""

from celery import current_app

import crisper

crisper.install(current_app._get_current_object())
