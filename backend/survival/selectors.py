"""Reads of the survival dashboard: analyses, what can be stratified by, what was saved."""

from __future__ import annotations

from typing import Any

from django.db.models import Case, IntegerField, Q, QuerySet, Value, When
from django.http import Http404

from backend.accounts.models import User
from backend.accounts.permissions import Role
from backend.registry.models import PatientColumn, PatientTable
from backend.studies.models import ClinicalColumn, Study
from backend.survival import cohorts
from backend.survival.models import RiskModel, SurvivalAnalysis
from backend.survival.questions import KaplanMeierRequest, StratifierRef
from ml.errors import InputError
from ml.tasks.survival_analysis import Analysis, Question, analyse
from ml.tasks.survival_strata import Cut

FOUND_AT_MOST = 30


def analysis_of(study: Study, request: KaplanMeierRequest) -> Analysis:
    """Compute what was asked, on the data of today.

    Raises:
        InputError: the study lacks what is named, or the cohort cannot answer.
    """
    endpoint = cohorts.endpoint_of(study, request.endpoint)
    frame = cohorts.outcomes(study, endpoint, request.causes)
    column = _column(study, request.stratifier)
    left_out = []
    if column is not None:
        if not request.include_training:
            frame, left_out = cohorts.without_exposed(frame, column)
        frame = frame.assign(value=frame["patient"].map(column.values))
    question = Question(
        study=study.name,
        endpoint=endpoint.code,
        endpoint_label=endpoint.label,
        time_zero=endpoint.time_zero,
        stratifier=column.stratifier if column else None,
        cut=_cut(request, column),
        value=request.value,
        chosen_levels=tuple(request.levels),
        horizon=request.horizon,
        landmark=request.landmark,
        causes=tuple(endpoint.causes[str(c)] for c in request.causes) or None,
        synthetic=study.synthetic,
        trained_on=_trained_on(frame, column) if request.include_training else 0,
    )
    return analyse(question, frame, left_out)


def _column(study: Study, ref: StratifierRef | None) -> cohorts.Column | None:
    if ref is None:
        return None
    if ref.table is None:
        return cohorts.clinical_column(study, ref.name)
    return cohorts.table_column(study, ref.source, ref.table, ref.name)


def _cut(request: KaplanMeierRequest, column: cohorts.Column | None) -> Cut:
    if column is None:
        return Cut.NONE
    if request.cut:
        return Cut(request.cut)
    return Cut.MEDIAN if column.stratifier.numeric else Cut.LEVELS


def _trained_on(frame: Any, column: cohorts.Column | None) -> int:
    return int(frame["patient"].isin(column.exposed).sum()) if column else 0


def stratifiers(study: Study, search: str = "", limit: int = FOUND_AT_MOST) -> dict[str, Any]:
    """What the cohort can be divided by: clinical columns, then risks, then genes.

    Names that begin with `search` come first. `total` counts all that match, shown or not.
    """
    clinical = study.clinical_columns.filter(
        Q(name__icontains=search) | Q(label__icontains=search)
    ).order_by("position", "name")
    columns = (
        PatientColumn.objects.filter(table__study=study, fold=None)
        .filter(Q(name__icontains=search) | Q(label__icontains=search))
        .select_related("table__artifact")
        .annotate(
            rank=Case(
                When(table__source=PatientTable.Source.RISK, then=Value(0)),
                When(name__iexact=search, then=Value(1)),
                When(name__istartswith=search, then=Value(2)),
                default=Value(3),
                output_field=IntegerField(),
            )
        )
        .order_by("rank", "name", "-table__created_at", "table_id")
    )
    found = [_clinical_option(column) for column in clinical[:limit]]
    found += [_table_option(column) for column in columns[: limit - len(found)]]
    return {"total": clinical.count() + columns.count(), "results": found}


def _clinical_option(column: ClinicalColumn) -> dict[str, Any]:
    return {
        "source": "clinical",
        "table": None,
        "table_name": "",
        "name": column.name,
        "label": column.label or column.name,
        "unit": column.unit,
        "model": "",
        "numeric": column.kind == ClinicalColumn.Kind.NUMBER,
        "levels": column.levels,
    }


def _table_option(column: PatientColumn) -> dict[str, Any]:
    table = column.table
    return {
        "source": table.source,
        "table": table.pk,
        "table_name": table.name,
        "name": column.name,
        "label": cohorts.column_label(table, column.name, column.label),
        "unit": table.unit,
        "model": cohorts.model_name(table),
        "numeric": True,
        "levels": [],
    }


def opening_request(study: Study) -> KaplanMeierRequest | None:
    """What the dashboard shows first: the first endpoint, by a stage or grade that divides the
    cohort where there is one, else everybody. None where the study has no outcomes."""
    endpoint = study.endpoints.filter(outcomes__cause__gt=0).order_by("code").distinct()
    first = endpoint.filter(code="OS").first() or endpoint.first()
    if first is None:
        return None
    for column in study.clinical_columns.filter(kind=ClinicalColumn.Kind.CATEGORY):
        if not any(word in column.name.lower() for word in ("stage", "grade")):
            continue
        request = KaplanMeierRequest(
            endpoint=first.code, stratifier=StratifierRef(source="clinical", name=column.name)
        )
        try:
            analysis_of(study, request)
        except InputError:
            continue
        return request
    return KaplanMeierRequest(endpoint=first.code)


def saved_analyses(user: User, study: Study) -> QuerySet[SurvivalAnalysis]:
    """Saved analyses of the study, newest first, with who saved them."""
    return (
        SurvivalAnalysis.objects.visible_to(user)
        .filter(study=study)
        .select_related("created_by")
        .order_by("-created_at", "-pk")
    )


def saved_analysis(user: User, study: Study, analysis_id: int) -> SurvivalAnalysis:
    found = saved_analyses(user, study).filter(pk=analysis_id).first()
    if found is None:
        raise Http404("No such saved analysis.")
    return found


def may_delete(user: User, study: Study, analysis: SurvivalAnalysis) -> bool:
    """Whoever saved an analysis may delete it, and so may the study's admins."""
    return analysis.created_by_id == user.pk or study.role_of(user) == Role.ADMIN


def saved_json(user: User, study: Study, analysis: SurvivalAnalysis) -> dict[str, Any]:
    request = KaplanMeierRequest.model_validate(analysis.request)
    return {
        "id": analysis.pk,
        "name": analysis.name,
        "request": request.model_dump(mode="json"),
        "query": request.query(),
        "created_by": analysis.created_by.display_name,
        "created_at": analysis.created_at,
        "deletable": may_delete(user, study, analysis),
    }


def risk_models(user: User, study: Study) -> list[dict[str, Any]]:
    """Fitted risk models, newest first, with their out-of-fold concordance."""
    found = (
        RiskModel.objects.visible_to(user)
        .filter(study=study)
        .select_related("endpoint", "risks")
        .order_by("-created_at", "-pk")
    )
    return [
        {
            "id": model.pk,
            "name": model.risks.name,
            "endpoint": model.endpoint.code,
            "table": model.risks_id,
            "metrics": model.metrics,
            "created_at": model.created_at,
        }
        for model in found
    ]
