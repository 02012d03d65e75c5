from django.apps import AppConfig


class CellsConfig(AppConfig):
    name = "backend.cells"
    label = "cells"
    default_auto_field = "django.db.models.BigAutoField"
