from django.contrib import admin

from backend.slides.models import Slide


@admin.register(Slide)
class SlideAdmin(admin.ModelAdmin):
    """Slides are made by imports; here they are looked at and deleted."""

    list_display = ["code", "study", "stain", "synthetic", "width", "height", "mpp", "mpp_source"]
    list_filter = ["study", "stain", "synthetic"]
    list_select_related = ["study"]
    search_fields = ["code"]

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False
