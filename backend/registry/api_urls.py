from django.urls import path

from backend.registry import api

urlpatterns = [
    path("studies/import/", api.ImportView.as_view(), name="api-import"),
    path("studies/<slug:slug>/slides/", api.SlideListView.as_view(), name="api-slides"),
    path("studies/<slug:slug>/train/", api.TrainView.as_view(), name="api-train"),
    path("studies/<slug:slug>/predict/", api.PredictView.as_view(), name="api-predict"),
    path("studies/<slug:slug>/models/", api.ModelListView.as_view(), name="api-models"),
    path("slides/<int:slide_id>/", api.SlideDetailView.as_view(), name="api-slide"),
    path(
        "layers/<int:layer_id>/expression/<str:symbol>/",
        api.PredictedExpressionView.as_view(),
        name="api-predicted-expression",
    ),
    path(
        "layers/<int:layer_id>/annotations/",
        api.LayerAnnotationsView.as_view(),
        name="api-layer-annotations",
    ),
    path("models/<int:model_id>/", api.ModelDetailView.as_view(), name="api-model"),
    path(
        "models/<int:model_id>/evaluations/<int:evaluation_id>/genes/",
        api.EvaluationGenesView.as_view(),
        name="api-evaluation-genes",
    ),
    path("models/<int:model_id>/promote/", api.PromoteView.as_view(), name="api-promote"),
]
