from django.urls import path

from backend.cells import api

urlpatterns = [
    path("studies/<slug:slug>/genes/", api.StudyGenesView.as_view(), name="api-study-genes"),
    path(
        "cell-tables/<int:table_id>/coordinates/",
        api.CoordinatesView.as_view(),
        name="api-coordinates",
    ),
    path(
        "cell-tables/<int:table_id>/cell-types/",
        api.AnnotatedTypesView.as_view(),
        name="api-annotated-types",
    ),
    path("cell-tables/<int:table_id>/genes/", api.TableGenesView.as_view(), name="api-table-genes"),
    path(
        "cell-tables/<int:table_id>/expression/<str:symbol>/",
        api.MeasuredExpressionView.as_view(),
        name="api-measured-expression",
    ),
]
