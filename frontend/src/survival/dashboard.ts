/** The page: one request at a time becomes curves, tables and an address that carries it. */
import { postJson } from "../shared/api";
import { copyText } from "../shared/clipboard";
import { byId } from "../shared/dom";
import { problemBody, toastError } from "../shared/toast";
import { Controls } from "./controls";
import { KmFigure } from "./figure";
import { readStrokes } from "./key";
import { downloadPng } from "./png";
import { Readout } from "./readout";
import { renderResults } from "./results";
import { alignRiskTable, columnsUnder, renderRiskTable, type PlotArea } from "./riskTable";
import { SavedAnalyses } from "./saved";
import type { Analysis, KmRequest, Page } from "./types";

export class Dashboard {
  private readonly results = byId("results");
  private readonly table = byId<HTMLTableElement>("risk-table");
  private readonly figure: KmFigure;
  private readonly readout = new Readout(byId("plot-frame"));
  private readonly controls: Controls;
  private readonly saved: SavedAnalyses;
  private request: KmRequest;
  private ticks: number[] = [];
  private asked = 0;

  constructor(private readonly page: Page) {
    this.request = page.opening;
    this.figure = new KmFigure(byId("plot"), (area) => this.align(area));
    this.controls = new Controls(page, page.opening, (request) => void this.show(request));
    this.saved = new SavedAnalyses(page.urls.saved, () => this.request);
    byId("copy-link").addEventListener("click", () => void copyText(window.location.href, "Link copied."));
    byId("copy-methods").addEventListener("click", () =>
      void copyText(byId("methods").textContent, "Methods copied."),
    );
    byId("export-png").addEventListener("click", () => {
      const svg = byId<HTMLAnchorElement>("export-svg").href;
      void downloadPng(svg, `${page.slug}-${this.request.endpoint}.png`).catch(toastError);
    });
  }

  start(): void {
    void this.show(this.page.opening);
    void this.saved.load().catch(toastError);
  }

  /** Asks, and draws the answer unless a later question has overtaken it. */
  private async show(request: KmRequest): Promise<void> {
    this.request = request;
    const turn = ++this.asked;
    this.results.setAttribute("aria-busy", "true");
    try {
      const analysis = await postJson<Analysis>(this.page.urls.km, request);
      if (turn === this.asked) await this.render(analysis);
    } catch (error) {
      if (turn === this.asked) this.refuse(error);
    } finally {
      if (turn === this.asked) {
        this.results.setAttribute("aria-busy", "false");
        document.documentElement.dataset.survival = "ready";
      }
    }
  }

  private async render(analysis: Analysis): Promise<void> {
    byId("problem").hidden = true;
    byId("km").hidden = false;
    this.results.classList.remove("refused");
    this.ticks = analysis.at_risk.ticks;
    readStrokes(analysis.figure);
    renderResults(analysis);
    renderRiskTable(this.table, analysis.at_risk);
    this.controls.show(analysis);
    this.carry(analysis.query);
    this.readout.show(analysis.figure, analysis.at_risk.strata.map(({ label }) => label));
    await this.figure.draw(analysis.figure);
  }

  /** A question that cannot be answered: what and why, in place of the curves. */
  private refuse(error: unknown): void {
    const place = byId("problem");
    place.replaceChildren(problemBody(error));
    place.hidden = false;
    byId("km").hidden = true;
    this.results.classList.add("refused");
    for (const id of ["headline", "badges"]) byId(id).replaceChildren();
    byId("figure-title").textContent = "No curve for this question";
  }

  private carry(query: string): void {
    window.history.replaceState(null, "", `?${query}`);
    byId<HTMLAnchorElement>("export-svg").href = `${this.page.urls.svg}?${query}`;
    byId<HTMLAnchorElement>("export-csv").href = `${this.page.urls.csv}?${query}`;
  }

  private align(area: PlotArea): void {
    this.readout.place(area);
    alignRiskTable(this.table, columnsUnder(this.ticks, area));
  }
}
