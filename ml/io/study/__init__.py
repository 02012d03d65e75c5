"""The study folder: the one form in which a study enters, whoever made it.

::

    study.json        slug, name, question, limits, source, synthetic, endpoints, clinical columns
    patients.csv      patient, site, one column per clinical column; empty is missing
    outcomes.csv      patient, endpoint, entry, time, cause; months; cause 0 is censored
    specimens.csv     patient, specimen, anatomic_site, timepoint, kind, treatment
    slides.csv        slide, patient, specimen, block, section, stain, marker, path, mpp,
                      mpp_source, cells, row_kind, spot_diameter_um, synthetic (yes, no; empty is
                      as the study)
    parts.csv         patient, part (train, validation, test): the split planned beforehand
    patient_tables/   NAME.parquet or NAME.csv (index "patient", numbers), NAME.json (name, unit)
    truth/truth.json  what was planted in a synthetic study (:mod:`ml.io.study.truth`)

`cells` is an AnnData file (.h5ad or .zarr): X raw counts, ``var_names`` gene symbols,
``obsm["spatial"]`` level-0 pixels; ``obs["cell_type"]`` may name the cells that somebody labelled
(empty: unlabelled). Only study.json and patients.csv must be there.
"""

from ml.io.study.content import (
    ClinicalColumn,
    Endpoint,
    Outcome,
    Patient,
    PatientTable,
    SlideEntry,
    Specimen,
    StudyFolder,
    StudyHead,
)
from ml.io.study.convert import convert_study, detect_format, run_import
from ml.io.study.read import read_study

__all__ = [
    "ClinicalColumn",
    "Endpoint",
    "Outcome",
    "Patient",
    "PatientTable",
    "SlideEntry",
    "Specimen",
    "StudyFolder",
    "StudyHead",
    "convert_study",
    "detect_format",
    "read_study",
    "run_import",
]
