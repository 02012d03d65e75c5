from django.urls import path, re_path

from backend.studies import api

urlpatterns = [
    path("studies/", api.StudyListView.as_view(), name="api-studies"),
    # "import" is the registry's address for starting an import, and no study's slug.
    re_path(
        r"^studies/(?P<slug>(?!import/)[-\w]+)/$", api.StudyDetailView.as_view(), name="api-study"
    ),
    path("studies/<slug:slug>/patients/", api.PatientListView.as_view(), name="api-patients"),
]
