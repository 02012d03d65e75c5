"""The split: by patient, seeded, and honest about a study of one patient."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.registry.splits import Section, split_sections
from ml.errors import InputError

DEMO = [Section(f"c{n}", f"P{n}", 100) for n in range(10)] + [Section("big", "P99", 1600)]


def patients_by_part(sections, split):
    patients = defaultdict(set)
    for section in sections:
        patients[split.parts[section.slide]].add(section.patient)
    return patients


def test_default_tests_on_the_one_large_patient_and_validates_on_a_fifth_of_the_rest():
    split = split_sections(DEMO)
    patients = patients_by_part(DEMO, split)
    assert patients["test"] == {"P99"} and not split.same_patient
    assert len(patients["validation"]) == 2 and len(patients["train"]) == 8


def test_the_seed_draws_the_validation_patients():
    drawn = {frozenset(s for s, p in split_sections(DEMO, seed=n).parts.items()
                       if p == "validation") for n in range(8)}  # fmt: skip
    assert len(drawn) > 1
    assert split_sections(DEMO, seed=3) == split_sections(list(reversed(DEMO)), seed=3)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5000)), min_size=2, max_size=20),
    st.integers(0, 100),
)
def test_no_patient_is_in_two_parts_and_something_is_left_to_train_on(drawn, seed):
    sections = [Section(f"s{n}", f"P{p}", rows) for n, (p, rows) in enumerate(drawn)]
    split = split_sections(sections, seed=seed)
    assert set(split.parts) == {section.slide for section in sections}
    parts = set(split.parts.values())
    assert {"train", "test"} <= parts
    one_patient = len({section.patient for section in sections}) == 1
    assert split.same_patient == one_patient
    if not one_patient:
        patients = patients_by_part(sections, split)
        assert sum(map(len, patients.values())) == len(set().union(*patients.values()))


def test_one_patient_is_split_by_section_and_says_so():
    sections = [Section(code, "C", 180) for code in ("C2", "C4", "C5", "C6")]
    split = split_sections(sections, test=["C6"])
    assert split.same_patient
    assert split.parts["C6"] == "test"
    assert sorted(split.parts.values()) == ["test", "train", "train", "validation"]


def test_an_empty_choice_leaves_the_part_empty():
    split = split_sections(DEMO, validation=[], test=["c1"])
    assert set(split.parts.values()) == {"train", "test"}


class TestPlanned:
    PLAN = [Section("a1", "A", 900, "train"), Section("a2", "A", 10, "train"),
            Section("b", "B", 10, "train"), Section("c", "C", 10, "validation"),
            Section("d", "D", 10, "test"), Section("e", "E", 10, "test")]  # fmt: skip

    def test_the_plan_holds_where_nobody_chose(self):
        split = split_sections(self.PLAN, seed=5)
        assert split.by == "planned"
        assert split.parts == {"a1": "train", "a2": "train", "b": "train", "c": "validation",
                               "d": "test", "e": "test"}  # fmt: skip

    @pytest.mark.parametrize(
        "change", [{"b": ""}, {"d": "validation", "e": "train"}, {"a1": "test", "a2": "test",
                                                                  "b": "validation"}]
    )  # fmt: skip
    def test_half_a_plan_is_none(self, change):
        sections = [replace(s, planned=change.get(s.slide, s.planned)) for s in self.PLAN]
        split = split_sections(sections)
        assert split.by == "drawn"
        assert split.parts == split_sections([replace(s, planned="") for s in sections]).parts

    def test_a_plan_without_validation_is_one(self):
        sections = [s for s in self.PLAN if s.planned != "validation"]
        split = split_sections(sections)
        assert split.by == "planned" and set(split.parts.values()) == {"train", "test"}

    def test_what_is_chosen_wins(self):
        split = split_sections(self.PLAN, test=["b"], validation=["d"])
        assert split.by == "chosen"
        assert [split.parts[s] for s in ("a1", "b", "c", "d", "e")] == [
            "train", "test", "train", "validation", "train",
        ]  # fmt: skip

    def test_the_plan_fills_the_part_that_nobody_chose(self):
        split = split_sections(self.PLAN, validation=["d"])
        assert split.by == "chosen"
        assert [split.parts[s] for s in "bcde"] == ["train", "train", "validation", "test"]
        split = split_sections(self.PLAN, validation=["d", "e"])  # no planned test is left
        assert list(split.parts.values()).count("test") == 2  # both slides of A, the largest

    def test_one_patient_has_no_plan_to_hold(self):
        sections = [Section(code, "C", 180, "train") for code in ("C2", "C4", "C5")]
        split = split_sections(sections)
        assert split.same_patient and split.by == "drawn"
        assert "test" in split.parts.values()


@pytest.mark.parametrize(
    ("chosen", "code"),
    [
        ({"test": ["nowhere"]}, "split.unknown_slide"),
        ({"test": ["a1", "a2"], "validation": ["a1"]}, "split.slide_in_two_parts"),
        ({"test": ["a1"]}, "split.patient_in_two_parts"),
        ({"test": ["a1"], "validation": ["a2"]}, "split.patient_in_two_parts"),
        ({"test": ["a1", "a2"], "validation": ["b"]}, "split.nothing_to_train_on"),
    ],
)
def test_refused(chosen, code):
    sections = [Section("a1", "A", 10), Section("a2", "A", 10), Section("b", "B", 10)]
    with pytest.raises(InputError) as error:
        split_sections(sections, **chosen)
    assert error.value.code == code and error.value.remedy


def test_one_slide_cannot_be_split():
    with pytest.raises(InputError, match="at least two"):
        split_sections(DEMO[:1])
