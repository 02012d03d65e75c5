from django.urls import path

from backend.slides import views

urlpatterns = [
    path("slides/<int:slide_id>/", views.viewer, name="slide"),
    path("tiles/<str:token>/<int:z>/<int:x>/<int:y>.jpg", views.tile, name="tile"),
    path("thumbnails/<str:token>.jpg", views.thumbnail, name="thumbnail"),
]
