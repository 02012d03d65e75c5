from django.urls import path

from backend.studies import views

urlpatterns = [
    path("", views.home, name="home"),
    path("studies/<slug:slug>/cohort/", views.cohort, name="cohort"),
]
