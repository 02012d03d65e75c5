"""The one curve that a study's own page shows, and why it is this one."""

from __future__ import annotations

from collections.abc import Iterator

from backend.registry.models import PatientColumn, PatientTable
from backend.registry.selectors import best_genes, promoted_model
from backend.studies.models import Study
from backend.survival.models import RiskModel
from backend.survival.questions import FeatureRef, FitParams, KaplanMeierRequest, StratifierRef
from backend.survival.selectors import analysis_of, opening_request
from ml.errors import InputError
from ml.tasks.survival_analysis import Analysis


def study_figure(study: Study) -> tuple[KaplanMeierRequest, Analysis] | None:
    """The first question that the cohort can answer; None where the study has no outcomes.

    The first predicted feature of the newest risk model, else the genes that the model in use
    predicts best on held-out patients, divided at the median; else what the dashboard opens with.
    """
    opening = opening_request(study)
    if opening is None:
        return None
    for table, gene in _predicted_columns(study):
        request = KaplanMeierRequest(
            endpoint=opening.endpoint,
            stratifier=StratifierRef(source="predicted", table=table, name=gene),
            cut="median",
        )
        try:
            return request, analysis_of(study, request)
        except InputError:
            continue  # e.g. everybody with an outcome trained the model
    return opening, analysis_of(study, opening)


def _predicted_columns(study: Study) -> Iterator[tuple[int, str]]:
    """Patient table and gene, the most telling first."""
    fitted = RiskModel.objects.filter(study=study).select_related("job").order_by("-created_at")
    for risk in fitted[:1]:
        features = FitParams.model_validate(risk.job.parameters).features if risk.job else []
        yield from _still_there(study, features)
    model = promoted_model(study)
    table = (
        model
        and study.patient_tables.filter(
            source=PatientTable.Source.PREDICTED, model_artifact=model.artifact_id
        ).first()
    )
    if model and table:
        genes = [FeatureRef(table=table.pk, name=score["gene"]) for score in best_genes(model)]
        yield from _still_there(study, genes)


def _still_there(study: Study, features: list[FeatureRef]) -> Iterator[tuple[int, str]]:
    """Those of the features that are predicted columns of the study today, in their order."""
    columns = set(
        PatientColumn.objects.filter(
            table__study=study,
            table__source=PatientTable.Source.PREDICTED,
            table__in={feature.table for feature in features},
            fold=None,
        ).values_list("table_id", "name")
    )
    for feature in features:
        if (feature.table, feature.name) in columns:
            yield feature.table, feature.name
