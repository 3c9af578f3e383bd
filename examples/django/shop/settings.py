import os
from pathlib import Path

from crisper.contrib.django import registry_url

REDIS = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",  # of one host; PostgreSQL or MariaDB for more
        "NAME": Path(__file__).resolve().parent.parent / "db.sqlite3",
    }
}

CELERY_BROKER_URL = CELERY_RESULT_BACKEND = REDIS
CELERY_CRISPER_REGISTRY_URL = registry_url(DATABASES["default"])
CELERY_CRISPER_LOSS_BUDGET = 5

CRISPER_SERVE_URL = "http://127.0.0.1:8555"

SECRET_KEY = os.environ.get("SECRET_KEY", "only for this example")
ROOT_URLCONF = "shop.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
