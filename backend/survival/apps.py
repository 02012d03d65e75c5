from django.apps import AppConfig


class SurvivalConfig(AppConfig):
    name = "backend.survival"
    label = "survival"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from backend.survival.kinds import register_kinds

        register_kinds()
