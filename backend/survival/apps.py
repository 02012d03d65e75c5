from django.apps import AppConfig


class SurvivalConfig(AppConfig):
    name = "backend.survival"
    label = "survival"
    default_auto_field = "django.db.models.BigAutoField"
