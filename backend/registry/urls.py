from django.urls import path

from backend.registry import views

urlpatterns = [
    path("import/", views.import_study, name="import"),
    path("studies/<slug:slug>/", views.study, name="study"),
    path("studies/<slug:slug>/train/", views.train, name="train"),
    path("studies/<slug:slug>/models/", views.models, name="models"),
    path("models/<int:model_id>/", views.model, name="model"),
]
