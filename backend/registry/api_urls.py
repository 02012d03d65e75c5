from django.urls import path

from backend.registry import api, evaluation_api

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
        evaluation_api.EvaluationGenesView.as_view(),
        name="api-evaluation-genes",
    ),
    path(
        "models/<int:model_id>/evaluations/<int:evaluation_id>/genes/<str:symbol>/",
        evaluation_api.EvaluationGeneView.as_view(),
        name="api-evaluation-gene",
    ),
    path(
        "models/<int:model_id>/evaluations/<int:evaluation_id>/files/<str:name>",
        evaluation_api.EvaluationFileView.as_view(),
        name="api-evaluation-file",
    ),
    path(
        "models/<int:model_id>/evaluate/",
        evaluation_api.EvaluateView.as_view(),
        name="api-evaluate",
    ),
    path(
        "models/<int:model_id>/card.md",
        evaluation_api.ModelCardView.as_view(),
        name="api-model-card",
    ),
    path(
        "models/<int:model_id>/data-card.md",
        evaluation_api.DataCardView.as_view(),
        name="api-data-card",
    ),
    path("studies/<slug:slug>/gate/", evaluation_api.GateView.as_view(), name="api-gate"),
    path("models/<int:model_id>/promote/", api.PromoteView.as_view(), name="api-promote"),
]
