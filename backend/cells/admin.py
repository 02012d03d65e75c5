from django.contrib import admin

from backend.cells.models import CellTable, Layer


class LayerInline(admin.TabularInline):
    model = Layer
    extra = 0
    fields = readonly_fields = ["kind", "unit", "model_artifact", "created_at"]
    can_delete = False

    def has_add_permission(self, request, obj=None):
        return False


@admin.register(CellTable)
class CellTableAdmin(admin.ModelAdmin):
    """Cell tables are made by jobs; here they are looked at and deleted."""

    list_display = ["slide", "source", "row_kind", "n_rows", "n_genes"]
    list_filter = ["slide__study", "row_kind"]
    list_select_related = ["slide"]
    inlines = [LayerInline]

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False
