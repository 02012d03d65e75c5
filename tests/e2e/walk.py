"""The main job as three people do it in a browser. Each step checks what it sees.

The smoke run walks it for its figures, the browser test for its checks; it is one walk.
"""

from __future__ import annotations

import io
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect

from tests.instance import PASSWORDS
from tests.session import Session

RESEARCH_ONLY = "Research use only – not for diagnosis or treatment"
JOB_SECONDS = 300


@dataclass
class Visitor:
    """Somebody with a role in front of a page of the application at `url`."""

    page: Page
    url: str

    def sign_in(self, role: str) -> None:
        self.page.goto(f"{self.url}/accounts/login/")
        self.page.get_by_label("User name").fill(role)
        self.page.get_by_label("Password").fill(PASSWORDS[role])
        self.page.get_by_role("button", name="Log in").click()
        expect(self.page.get_by_text(RESEARCH_ONLY).first).to_be_visible()

    def open(self, path: str) -> None:
        self.page.goto(self.url + path)
        expect(self.page.get_by_text(RESEARCH_ONLY).first).to_be_visible()

    def await_job(self) -> float:
        """Waits on a job's page for its success; returns the seconds it took."""
        expect(self.page).to_have_url(re.compile(r"/jobs/\d+/"))
        start = time.perf_counter()
        ends = ", ".join(f"html[data-job={end}]" for end in ("succeeded", "failed", "cancelled"))
        self.page.locator(ends).wait_for(state="attached", timeout=JOB_SECONDS * 1000)
        if not self.page.locator("html[data-job=succeeded]").count():
            raise AssertionError(self.page.locator("main").inner_text())
        return time.perf_counter() - start

    def canvas(self, figure: str = "#view-first") -> np.ndarray:
        """What stands in a view: (height, width, 3) uint8."""
        png = self.page.locator(f"{figure} .view-host").screenshot()
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def import_study(admin: Visitor, folder: Path, form: str = "auto") -> float:
    admin.open("/import/")
    admin.page.get_by_label("Folder on the server").fill(str(folder))
    admin.page.get_by_label("Format").select_option(form)
    admin.page.get_by_role("button", name="Import", exact=True).click()
    return admin.await_job()


def train(admin: Visitor, study: str, epochs: int | None = None, preset: str = "small") -> float:
    """Trains from the browser, sees a live metric, and ends on the registered model version."""
    admin.open(f"/studies/{study}/train/")
    admin.page.get_by_label("Size").select_option(preset)
    if epochs:
        admin.page.get_by_label("Epochs").fill(str(epochs))
    admin.page.get_by_role("button", name="Start training").click()
    seconds = admin.await_job()
    expect(admin.page.locator("#charts")).to_contain_text("Training loss")
    admin.page.locator("#links a").first.click()
    expect(admin.page.locator("h1")).to_contain_text("PAST v1")
    return seconds


def predict(admin: Visitor, study: str, slide: str) -> float:
    admin.open(f"/studies/{study}/")
    admin.page.get_by_label(f"Predict slide {slide}", exact=True).check()
    admin.page.get_by_role("button", name="Predict", exact=True).click()
    return admin.await_job()


def evaluate(admin: Visitor, study: str) -> None:
    """Makes the full report (of the cheap baselines), reads it, draws a gene, sets a gate."""
    page, session = admin.page, Session.login(admin.url, "admin")
    (model,) = session.get(f"/api/v1/studies/{study}/models/")["results"]
    cheap = {"baselines": ["mean", "colour_ridge", "frozen_ridge"]}
    session.wait(session.post(f"/api/v1/models/{model['id']}/evaluate/", cheap), JOB_SECONDS)
    admin.open(f"/models/{model['id']}/")
    page.get_by_role("link", name="Evaluation", exact=True).click()
    page.locator("html[data-evaluation=ready]").wait_for(state="attached")
    expect(page.locator("#verdict-title")).to_contain_text(re.compile("baseline", re.IGNORECASE))
    expect(page.locator(".verdict")).to_contain_text("a noiseless predictor would reach")
    gene = page.locator("#genes tbody tr").nth(3).locator("button")
    symbol = gene.inner_text()
    gene.click()
    page.locator(f"html[data-gene={symbol}]").wait_for(state="attached")
    expect(page.locator("#gene-name")).to_have_text(symbol)
    for figure in ("measured", "predicted", "residual"):
        png = page.locator(f"#map-{figure}").screenshot()
        drawn = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        assert drawn.reshape(-1, 3).std(axis=0).max() > 10, f"the map of {figure} is blank"
    page.get_by_role("button", name="Spearman").click()
    scores = page.locator("#genes tbody tr td:nth-child(5)").all_inner_texts()
    values = [float(s) for s in scores[:10] if re.match(r"^-?[\d.]+$", s)]
    assert values == sorted(values, reverse=True)
    page.get_by_text("Change the gate").click()
    page.get_by_label("The full report has been made").check()
    page.get_by_role("button", name="Set the gate").click()
    expect(page.locator(".gate")).to_contain_text("passes")


def view_gene(member: Visitor, study: str, slide: str, genes: tuple[str, str]) -> dict[str, float]:
    """Opens a predicted slide and colours it by two genes, one after the other."""
    member.open(f"/studies/{study}/")
    start = time.perf_counter()
    member.page.get_by_role("link", name=slide, exact=True).first.click()
    member.page.locator("html[data-viewer=ready]").wait_for(state="attached")
    opened = time.perf_counter() - start
    pictures, seconds = [], []
    for gene in genes:
        start = time.perf_counter()
        search_gene(member, gene)
        seconds.append(time.perf_counter() - start)
        pictures.append(member.canvas())
    expect(member.page.locator("#badges")).to_contain_text("predicted")
    for picture in pictures:
        assert picture.reshape(-1, 3).std(axis=0).max() > 10, "the view is blank"
    changed = np.abs(pictures[0].astype(int) - pictures[1]).max(axis=2) > 24
    assert changed.mean() > 0.002, "a second gene does not change the picture"
    return {"slide_open_s": opened, "gene_search_s": float(np.median(seconds))}


def view_types(member: Visitor, study: str, slide: str) -> None:
    """Colours a predicted slide by cell type, filters by the legend, and greys what is unlike."""
    page = member.page
    member.open(f"/studies/{study}/")
    page.get_by_role("link", name=slide, exact=True).first.click()
    page.locator("html[data-viewer=ready]").wait_for(state="attached")
    page.locator("#colour-by").get_by_text("Cell type", exact=True).click()
    page.locator("canvas[data-origin=predicted]").first.wait_for(state="attached")
    expect(page.locator("#view-first figcaption")).to_contain_text("predicted · PAST v1")
    legend = page.locator("#types-legend button")
    assert legend.count() >= 3, "fewer types than were drawn"
    all_types = member.canvas()
    legend.first.click(modifiers=["Alt"])
    expect(legend.nth(1)).to_have_attribute("aria-pressed", "false")
    expect(legend.first).to_have_attribute("aria-pressed", "true")
    expect(page).to_have_url(re.compile("without="))
    alone = member.canvas()
    assert (np.abs(all_types.astype(int) - alone).max(axis=2) > 24).mean() > 0.002
    page.get_by_role("button", name="Show all").click()
    expect(page.locator("#counts")).to_contain_text("cells shown")
    trust = page.locator("#trust")
    expect(trust).to_be_checked()
    greyed = member.canvas()
    trust.uncheck()
    expect(page).to_have_url(re.compile("grey=0"))
    assert not np.array_equal(greyed, member.canvas()), "unlike cells look the same"


def search_gene(member: Visitor, gene: str) -> None:
    """Types a gene, presses Enter, and waits for its points on the tissue."""
    field = member.page.get_by_role("combobox", name="Gene")
    field.fill(gene)
    member.page.get_by_role("option", name=re.compile(rf"^{gene}\b")).first.wait_for()
    field.press("Enter")
    drawn = f"canvas[data-gene='{gene}']:not([data-drawn='0'])"
    member.page.locator(drawn).first.wait_for(state="attached")


def read_survival(investigator: Visitor, study: str, stratifier: str) -> dict[str, float]:
    """Divides the cohort and reads curve, table and p; returns the seconds it took to be drawn."""
    investigator.open(f"/studies/{study}/survival/")
    page = investigator.page
    page.locator("html[data-survival=ready]").wait_for(state="attached")
    start = time.perf_counter()
    field = page.get_by_role("combobox", name="Divide by")
    field.fill(stratifier)
    page.get_by_role("option", name=re.compile(re.escape(stratifier))).first.wait_for()
    field.press("Enter")
    expect(page.locator("#figure-title")).to_contain_text(stratifier)
    seconds = time.perf_counter() - start
    assert page.locator("#plot .scatterlayer path.js-line").count() >= 2, "fewer than two curves"
    expect(page.locator("#risk-table")).to_contain_text("At risk")
    expect(page.locator("#headline")).to_contain_text(re.compile(r"p", re.IGNORECASE))
    assert page.locator("#risk-table td").count() >= 6
    return {"km_s": seconds}
