"""What can be asked: the requests of the dashboard and of a fit, validated. Saved as they are."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from django.http import QueryDict
from pydantic import BaseModel, ConfigDict, Field, model_validator

Months = Annotated[float, Field(gt=0, lt=2400)]
Name = Annotated[str, Field(min_length=1, max_length=160)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StratifierRef(_Request):
    """A clinical column by name, or a column of a patient table by the table's id and name."""

    source: Literal["clinical", "measured", "predicted", "risk"]
    table: int | None = None
    name: Name

    @model_validator(mode="after")
    def _named_where_it_is(self) -> StratifierRef:
        if (self.source == "clinical") == (self.table is not None):
            raise ValueError("table is given for measured, predicted and risk, and only for them")
        return self


class KaplanMeierRequest(_Request):
    """A Kaplan–Meier analysis. Months since the endpoint's time zero.

    Without a stratifier there is one curve. `cut` None: levels for a category, median for a number.
    `causes` [] means any cause. `include_training` keeps patients whose predictions come from a
    model that was trained on them.
    """

    endpoint: Name
    stratifier: StratifierRef | None = None
    cut: Literal["median", "tertiles", "quartiles", "value", "levels"] | None = None
    value: float | None = None
    levels: list[str] = Field(default_factory=list, max_length=50)
    horizon: Months | None = None
    landmark: Months | None = None
    causes: list[int] = Field(default_factory=list, max_length=20)
    include_training: bool = False

    @classmethod
    def from_query(cls, query: QueryDict) -> KaplanMeierRequest:
        """From the parameters of an address; those it does not know are left to others."""
        plain: dict[str, Any] = {
            name: query[name]
            for name in ("endpoint", "cut", "value", "horizon", "landmark", "include_training")
            if query.get(name)
        }
        for name in ("levels", "causes"):
            if query.getlist(name):
                plain[name] = query.getlist(name)
        if query.get("source"):
            plain["stratifier"] = {
                "source": query["source"],
                "table": query.get("table") or None,
                "name": query.get("name", ""),
            }
        return cls.model_validate(plain)

    def query(self) -> str:
        """The address's parameters that `from_query` reads back."""
        flat = self.model_dump(mode="json", exclude_defaults=True, exclude={"stratifier"})
        if flat.get("include_training"):
            flat["include_training"] = "true"
        if self.stratifier:
            flat |= self.stratifier.model_dump(exclude_none=True)
        return urlencode(flat, doseq=True)


class FeatureRef(_Request):
    """A column of one of the study's patient tables."""

    table: int
    name: Name


class FitParams(_Request):
    """Clinical columns and features of a Cox risk model of one endpoint."""

    endpoint: Name
    clinical: list[Name] = Field(default_factory=list, max_length=50)
    features: list[FeatureRef] = Field(default_factory=list, max_length=200)
    folds: int = Field(default=5, ge=2, le=10)
    seed: int = Field(default=1, ge=0, lt=2**31)


class SaveParams(_Request):
    name: str = Field(min_length=1, max_length=120)
    request: KaplanMeierRequest
