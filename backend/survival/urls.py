from django.urls import path

from backend.survival import views

urlpatterns = [path("studies/<slug:slug>/survival/", views.dashboard, name="survival")]
