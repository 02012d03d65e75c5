from django.urls import path

from backend.registry import evaluation_page, views

urlpatterns = [
    path("import/", views.import_study, name="import"),
    path("studies/<slug:slug>/", views.study, name="study"),
    path("studies/<slug:slug>/planted/", views.what_was_planted, name="planted"),
    path("studies/<slug:slug>/planted/truth.json", views.planted_document, name="planted-document"),
    path("studies/<slug:slug>/train/", views.train, name="train"),
    path("studies/<slug:slug>/models/", views.models, name="models"),
    path("models/<int:model_id>/", views.model, name="model"),
    path("models/<int:model_id>/evaluation/", evaluation_page.evaluation, name="evaluation"),
]
