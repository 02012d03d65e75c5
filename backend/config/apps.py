from django.apps import AppConfig


class ConfigConfig(AppConfig):
    """Holds the management commands and template tags that belong to no single app."""

    name = "backend.config"
    label = "config"
