from django.urls import path

from backend.jobs import api

urlpatterns = [
    path("jobs/", api.JobListView.as_view(), name="api-jobs"),
    path("jobs/<int:number>/", api.JobDetailView.as_view(), name="api-job"),
    path("jobs/<int:number>/cancel/", api.JobCancelView.as_view(), name="api-job-cancel"),
    path("jobs/<int:number>/events/", api.JobEventsView.as_view(), name="api-job-events"),
]
