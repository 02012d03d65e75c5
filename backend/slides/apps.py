from django.apps import AppConfig


class SlidesConfig(AppConfig):
    name = "backend.slides"
    label = "slides"
    default_auto_field = "django.db.models.BigAutoField"
