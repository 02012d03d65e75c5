"""Writes a corpus, or adds to it, shard by shard; a build that was killed goes on where it was."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from ml.errors import InputError
from ml.evaluation.look_alikes import Picture, similarity
from ml.inference.crops import crop_sides
from ml.inference.features import stop_if_asked
from ml.io.celltable import CellTable
from ml.io.slides import open_slide
from ml.io.store import content_hash
from ml.report import Report
from ml.tokens.files import VocabularyFile
from ml.training.shards.crops import write_crops
from ml.training.shards.cut import SlideCells, bounds, read_cells, shard_arrays
from ml.training.shards.layout import (
    MANIFEST,
    SCHEMA,
    VOCABULARY,
    Manifest,
    Settings,
    ShardRecord,
    SlideRecord,
    shard_record,
    text_hash,
    written_whole,
)
from ml.training.shards.sources import Source, fitted_vocabulary, vocabulary_of

_LOCK, _UNFINISHED, _PICTURES = ".build.lock", ".unfinished", "pictures"
# Similarity of pictures from which on a pair is kept: below any limit that an audit may have.
RESEMBLING = 0.35


def build_corpus(
    out: Path,
    sources: list[Source],
    report: Report,
    *,
    vocabulary: VocabularyFile | None = None,
    fit_on: list[Source] | None = None,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Adds slides to the corpus at `out`, which is made where there is none.

    A slide that is there already is left alone, unless files of it are missing: those are written
    again. A slide appears in the manifest when all its shards are on the disk.

    Args:
        sources: see :func:`ml.training.shards.sources.read_sources`.
        vocabulary: of the new corpus; the corpus's own where there is one; else one is fitted.
            Each slide is tokenised with the means of its technology.
        fit_on: slides that a vocabulary is fitted to; all sources where None. Name the training
            patients' where others are among the sources: training refuses to hold out patients
            that the means were fitted to.
        settings: of the new corpus; likewise.

    Returns:
        ``cells``, ``left_out``, ``slides``, ``shards`` of the whole corpus and ``added`` slides.

    Raises:
        InputError: ``corpus.busy``, ``corpus.folder_in_use``, ``corpus.other_vocabulary``,
            ``corpus.other_settings``, ``corpus.no_technology``, ``corpus.unknown_technology``,
            ``corpus.slide_changed``, ``corpus.same_cells``, or whatever is wrong with a source.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _only_build(out):
        manifest, vocabulary = _begun(out, sources, vocabulary, fit_on, settings, report)
        builder = _Builder(out, manifest, vocabulary, report)
        added = 0
        for number, source in enumerate(sources):
            report.stage(f"Slide {source.slide} of {source.study} ({number + 1}/{len(sources)})")
            added += builder.add(source)
    return {
        "cells": manifest.rows,
        "left_out": sum(slide.left_out for slide in manifest.slides),
        "slides": len(manifest.slides),
        "shards": len(manifest.shards),
        "added": added,
    }


@contextmanager
def _only_build(out: Path) -> Iterator[None]:
    """Holds the corpus against other builds, and removes what killed ones left half-written."""
    with (out / _LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                "corpus.busy",
                str(out),
                "Another build is writing to this corpus.",
                "Wait until it has finished.",
            ) from error
        for part in [*out.glob(".*.part"), *out.glob("*/.*.part")]:
            part.unlink()
        yield


def _begun(
    out: Path,
    sources: list[Source],
    vocabulary: VocabularyFile | None,
    fit_on: list[Source] | None,
    settings: Settings | None,
    report: Report,
) -> tuple[Manifest, VocabularyFile]:
    """The manifest and vocabulary at `out`, if they are those asked for; else new ones."""
    if (out / MANIFEST).exists():
        manifest, own = _continued(out, vocabulary, fit_on, settings)
        for source in sources:
            vocabulary_of(own, source)
        return manifest, own
    strangers = {path.name for path in out.iterdir()} - {_LOCK, VOCABULARY, f"{VOCABULARY}.part"}
    if strangers:
        raise InputError(
            "corpus.folder_in_use",
            str(out),
            f"The folder is no corpus, yet holds files ({min(strangers)}).",
            "Name a new or empty folder.",
        )
    if vocabulary is None:
        vocabulary = fitted_vocabulary(sources if fit_on is None else fit_on, report)
    for source in sources:
        vocabulary_of(vocabulary, source)
    manifest = Manifest(settings or Settings(), vocabulary.sha256, vocabulary.provenance)
    # A killed build may have left one without a manifest.
    shutil.rmtree(out / VOCABULARY, ignore_errors=True)
    vocabulary.save(out / VOCABULARY)
    _write(out / MANIFEST, manifest.as_json())
    return manifest, vocabulary


def _continued(
    out: Path,
    vocabulary: VocabularyFile | None,
    fit_on: list[Source] | None,
    settings: Settings | None,
) -> tuple[Manifest, VocabularyFile]:
    manifest = Manifest.from_json((out / MANIFEST).read_text(encoding="utf-8"), str(out))
    if vocabulary is not None and vocabulary.sha256 != manifest.vocabulary_sha256:
        raise InputError(
            "corpus.other_vocabulary",
            str(out),
            "The corpus was built with another gene vocabulary: its token ids mean other genes.",
            f"Use the corpus's own ({VOCABULARY} in its folder), or build a new corpus.",
        )
    if fit_on is not None and not _was_fitted_on(manifest, fit_on):
        raise InputError(
            "corpus.other_vocabulary",
            str(out),
            "The corpus has a vocabulary already, fitted to other slides.",
            "Leave out what it should be fitted to, or build a new corpus.",
        )
    if settings is not None and settings != manifest.settings:
        has, given = asdict(manifest.settings), asdict(settings)
        differ = ", ".join(f"{key} {has[key]}" for key in has if has[key] != given[key])
        raise InputError(
            "corpus.other_settings",
            str(out),
            f"The corpus was built with {differ}.",
            "Leave these options out, or build a new corpus.",
        )
    return manifest, read_vocabulary(out / VOCABULARY, manifest)


def _was_fitted_on(manifest: Manifest, sources: list[Source]) -> bool:
    tables = manifest.vocabulary_from.get("tables", [])
    fitted = {(t.get("study"), t.get("slide")) for t in tables}
    return fitted == {(s.study, s.slide) for s in sources}


def read_vocabulary(folder: Path, manifest: Manifest) -> VocabularyFile:
    """The vocabulary of a corpus.

    Raises:
        InputError: ``corpus.vocabulary_damaged``.
    """
    try:
        found = VocabularyFile.load(folder)
        if found.sha256 == manifest.vocabulary_sha256:
            return found
    except InputError:
        pass
    raise InputError(
        "corpus.vocabulary_damaged",
        str(folder),
        "This is not the vocabulary that the corpus was built with.",
        "Restore the folder from a copy of the corpus, or build a new corpus.",
    )


@dataclass
class _Builder:
    out: Path
    manifest: Manifest
    vocabulary: VocabularyFile
    report: Report

    def add(self, source: Source) -> bool:
        """Adds a slide, or what is missing of it; False if all of it was there."""
        table = CellTable.open(source.table)
        record = self._record(source, table)
        index = self._index(record, source)
        known = index < len(self.manifest.slides)
        if known and self._intact(index):
            self.report.log(f"{source.where} is in the corpus already.")
            return False
        vocabulary = vocabulary_of(self.vocabulary, source)
        cells = read_cells(table, source.mpp, vocabulary, self.manifest.settings, source.where)
        record = replace(
            record,
            left_out=cells.left_out,
            genes_left_out=cells.genes_left_out,
            panel=self.manifest.panel_number(cells.panel),
        )
        self._tell(record, source)
        shards = self._shards(record, index, source, cells)
        if known:
            again = {shard.name: shard for shard in shards}
            self.manifest.shards = [again.get(s.name, s) for s in self.manifest.shards]
        else:
            self.manifest.slides.append(record)
            self.manifest.shards += shards
            self._compare(index, source, record)
        _write(self.out / MANIFEST, self.manifest.as_json())
        for shard in shards:
            (self.out / _UNFINISHED / shard.name).unlink(missing_ok=True)
        return not known

    def _compare(self, index: int, source: Source, record: SlideRecord) -> None:
        """Notes which slides of the corpus the new one resembles: trainings keep those together."""
        if self.manifest.settings.crops == "none":
            return
        folder = self.out / _PICTURES
        folder.mkdir(exist_ok=True)
        picture = Picture.of(source.where, open_slide(source.image), source.mpp)
        if picture.too_small:
            return
        with written_whole(folder / f"{record.identity[:16]}.npz") as part:
            picture.save(part)
        for other in self.manifest.compared:
            kept = folder / f"{self.manifest.slides[other].identity[:16]}.npz"
            value = similarity(picture, Picture.load(kept))
            if value >= RESEMBLING:
                self.manifest.alike.append((other, index, round(value, 3)))
        self.manifest.compared.append(index)

    def _record(self, source: Source, table: CellTable) -> SlideRecord:
        """The slide as the manifest has it, before anybody has looked at its cells."""
        settings = self.manifest.settings
        record = SlideRecord(
            study=source.study,
            slide=source.slide,
            patient=source.patient,
            site=source.site,
            technology=source.technology,
            row_kind=table.row_kind,
            mpp=source.mpp,
            rows=table.n_rows,
            left_out=0,
            genes_left_out=0,
            panel=-1,
            sides_um=crop_sides(table.row_kind, table.spot_diameter_um),
            table_sha256=content_hash(source.table)[0],
            slide_sha256="" if settings.crops == "none" else content_hash(source.image)[0],
            identity="",
        )
        made_from = [SCHEMA, asdict(record), asdict(settings), self.manifest.vocabulary_sha256]
        return replace(record, identity=text_hash(json.dumps(made_from)))

    def _index(self, record: SlideRecord, source: Source) -> int:
        """The slide's number in the corpus; the next one if it is new."""
        for index, known in enumerate(self.manifest.slides):
            if (known.study, known.slide) == (record.study, record.slide):
                if known.identity != record.identity:
                    raise InputError(
                        "corpus.slide_changed",
                        source.where,
                        "The corpus has this slide with other cells, pixels or details.",
                        "A corpus only grows: build a new one.",
                    )
                return index
            if known.table_sha256 == record.table_sha256:
                raise InputError(
                    "corpus.same_cells",
                    source.where,
                    f"The corpus has the same cells as slide {known.slide} of {known.study}.",
                    "Leave this slide out: each cell may be in a corpus once.",
                )
        return len(self.manifest.slides)

    def _intact(self, index: int) -> bool:
        return all(self._present(shard) for shard in self.manifest.shards if shard.slide == index)

    def _present(self, shard: ShardRecord) -> bool:
        """Whether the shard's files are there with the size they should have."""
        files = [(self.out / shard.path(s), size) for s, (_, size) in shard.files.items()]
        return all(path.is_file() and path.stat().st_size == size for path, size in files)

    def _tell(self, record: SlideRecord, source: Source) -> None:
        if record.left_out:
            self.report.log(
                f"{source.where}: {record.left_out} of {record.rows} rows express no gene of the "
                "vocabulary and were left out."
            )
        if record.genes_left_out:
            self.report.log(
                f"{source.where}: {record.genes_left_out} genes are not in the vocabulary."
            )

    def _shards(
        self, record: SlideRecord, index: int, source: Source, cells: SlideCells
    ) -> list[ShardRecord]:
        shards = []
        for part, (first, stop) in enumerate(
            bounds(len(cells), self.manifest.settings.shard_cells)
        ):
            stop_if_asked(self.report)
            digest = hashlib.sha256(f"{record.identity} {part}".encode()).hexdigest()[:16]
            name = f"{digest}-{re.sub(r'[^A-Za-z0-9]+', '-', record.slide)[:40]}-{part:03d}"
            shard = self._finished(name)
            if shard is None:
                shard = self._write_shard(name, record, source, cells, first, stop)
            shards.append(replace(shard, slide=index))
        return shards

    def _finished(self, name: str) -> ShardRecord | None:
        """The shard as an earlier build left it, if that build got so far."""
        note = self.out / _UNFINISHED / name
        if not note.exists():
            known = [shard for shard in self.manifest.shards if shard.name == name]
            return known[0] if known and self._present(known[0]) else None
        shard = shard_record(json.loads(note.read_text(encoding="utf-8")))
        return shard if self._present(shard) else None

    def _write_shard(
        self,
        name: str,
        record: SlideRecord,
        source: Source,
        cells: SlideCells,
        first: int,
        stop: int,
    ) -> ShardRecord:
        settings = self.manifest.settings
        arrays = shard_arrays(cells, first, stop, vocabulary_of(self.vocabulary, source))
        base = self.out / name[:2] / name
        paths = {".safetensors": base.with_name(f"{name}.safetensors")}
        if settings.crops != "none":
            paths[".crops"] = base.with_name(f"{name}.crops")
            with written_whole(paths[".crops"]) as part:
                arrays |= write_crops(
                    open_slide(source.image), cells.xy_px[first:stop], source.mpp,
                    record.sides_um, settings, part, self.report,
                )  # fmt: skip
        with written_whole(paths[".safetensors"]) as part:
            save_file(arrays, part)
        shard = ShardRecord(
            name=name,
            slide=-1,
            rows=stop - first,
            halo=len(arrays["row"]) - (stop - first),
            tokens=int(arrays["starts"][stop - first]),
            files={suffix: content_hash(path) for suffix, path in paths.items()},
        )
        # The note is what says that both files are whole, until the manifest does.
        _write(self.out / _UNFINISHED / name, json.dumps(asdict(shard)))
        return shard


def _write(path: Path, text: str) -> None:
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")
