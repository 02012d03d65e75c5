from django.urls import path

from backend.survival import api

_BASE = "studies/<slug:slug>/survival/"

urlpatterns = [
    path(f"{_BASE}figure/", api.StudyFigureView.as_view(), name="api-study-figure"),
    path(f"{_BASE}km/", api.KaplanMeierView.as_view(), name="api-km"),
    path(f"{_BASE}km.csv", api.KaplanMeierCsvView.as_view(), name="api-km-csv"),
    path(f"{_BASE}km.svg", api.KaplanMeierSvgView.as_view(), name="api-km-svg"),
    path(f"{_BASE}stratifiers/", api.StratifierListView.as_view(), name="api-stratifiers"),
    path(f"{_BASE}saved/", api.SavedAnalysisListView.as_view(), name="api-survival-saved"),
    path(
        f"{_BASE}saved/<int:analysis_id>/",
        api.SavedAnalysisView.as_view(),
        name="api-survival-saved-one",
    ),
    path(f"{_BASE}fit/", api.FitView.as_view(), name="api-survival-fit"),
]
