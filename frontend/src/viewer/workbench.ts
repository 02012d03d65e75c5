/** The viewer page: keeps the state that the link carries and makes views and panel follow it. */
import { getJson } from "../shared/api";
import { Combobox } from "../shared/combobox";
import { byId } from "../shared/dom";
import { toast, toastError } from "../shared/toast";
import type { ColourMapName } from "./colormaps";
import { SlideData } from "./data";
import { AnnotationPanel } from "./annotationPanel";
import { byteOf, isModels, type Expression, type Origin } from "./expression";
import { bindKeys } from "./keys";
import { PageLink } from "./link";
import {
  countsText,
  geneNote,
  showBadges,
  showCaption,
  showChoices,
  showDeclined,
  showFacts,
  showHover,
  showTypesCaption,
} from "./panel";
import { fromQuery, type ViewState } from "./permalink";
import { colouringOf, layerOf, layersOf, loadPicture, offers, settle } from "./picture";
import { fullRange, percentileRange, ScalePanel, type ValueRange } from "./scalePanel";
import { SlideView } from "./slideView";
import { TileAccess } from "./tileAccess";
import { Toolbar } from "./toolbar";
import type { GeneInfo, LayerInfo, SlideInfo, TableInfo } from "./types";

const DEFAULT_CELL_UM = 8;

/** One view with what it shows; both are replaced together. */
interface Pane {
  view: SlideView;
  shown: Expression | null;
}

export class Workbench {
  private readonly state: ViewState = fromQuery(location.search);
  private readonly data = new SlideData();
  private readonly tiles = new TileAccess(
    async () => {
      this.slide = await getJson<SlideInfo>(this.api);
    },
    () => {
      for (const { view } of this.panes()) view.reloadTiles();
    },
  );
  private readonly first: Pane;
  private leader: SlideView;
  private second: Pane | null = null;
  private readonly toolbar: Toolbar;
  private readonly scale: ScalePanel;
  /** Expressions behind the present picture, for the pointer: measured, predicted or both. */
  private behind: Expression[] = [];
  private gene: GeneInfo | null = null;
  private readonly annotations: AnnotationPanel;
  private readonly link: PageLink;
  private turn = 0;
  private cellMicrons = DEFAULT_CELL_UM;

  constructor(
    private slide: SlideInfo,
    private readonly api: string,
  ) {
    this.first = { view: this.makeView(byId("view-first"), true), shown: null };
    this.leader = this.first.view;
    this.link = new PageLink(this.state, this.first.view);
    this.toolbar = new Toolbar(this.first.view, slide.mpp, () => this.panes().map((p) => p.view));
    this.scale = new ScalePanel((range, full) => this.setRange(range, full));
    this.annotations = new AnnotationPanel(
      this.state,
      this.data,
      () => void this.apply().catch(toastError),
      () => this.repaint(),
    );
    this.bindPanel();
    bindKeys({
      origin: (origin) => void this.setOrigin(origin).catch(toastError),
      split: () => this.toggleSplit(),
      hidePoints: (hide) => this.setOpacity(hide ? 0 : this.state.opacity),
      move: (key) => this.toolbar.onKey(key),
    });
  }

  async start(): Promise<void> {
    const { slide, state } = this;
    showFacts(slide);
    await this.first.view.opened;
    this.restoreViewport();
    showDeclined(slide);
    byId("no-cells").hidden = slide.tables.length > 0;
    byId("expression-panel").hidden = slide.tables.length === 0;
    if (slide.tables.length > 0) {
      const wanted = slide.tables.find(({ id }) => id === state.table);
      const fallback = slide.tables.find(({ measured }) => measured) ?? slide.tables[0];
      await this.useTable(wanted ?? fallback);
    }
    this.link.write();
  }

  private panes(): Pane[] {
    return this.second ? [this.first, this.second] : [this.first];
  }

  private get tableOrNone(): TableInfo | undefined {
    return this.slide.tables.find(({ id }) => id === this.state.table);
  }

  private get table(): TableInfo {
    const found = this.tableOrNone;
    if (!found) throw new Error("No table of cells is chosen.");
    return found;
  }

  private get layer(): LayerInfo | null {
    return layerOf(this.state, this.table);
  }

  private offers(origin: Origin): boolean {
    return offers(origin, this.table, this.layer, this.gene);
  }

  // ---- views -----------------------------------------------------------------------------------

  private makeView(figure: HTMLElement, isFirst: boolean): SlideView {
    const host = figure.querySelector<HTMLElement>(".view-host");
    if (!host) throw new Error("The page lacks a place for the slide.");
    const view = new SlideView({
      host,
      slide: this.slide,
      label: isFirst
        ? `Slide ${this.slide.code}. Arrow keys pan, plus and minus zoom, question mark lists keys.`
        : `Slide ${this.slide.code}, second view`,
      overview: isFirst,
      tileUrl: () => this.slide.tile_url,
      onTileFailed: () => void this.tiles.failed().catch(toastError),
    });
    view.onCommand = () => (this.leader = view);
    view.onMoved = () => this.moved(view);
    view.onRest = () => this.rested();
    view.onHover = (hover) => {
      const said = hover ? this.annotations.lines(hover.row, this.isPredicted) : [];
      showHover(hover, this.behind, said, this.tableOrNone, figure);
    };
    return view;
  }

  /** The view that a person moves leads; what the other does in answer moves nothing. */
  private moved(view: SlideView): void {
    if (view !== this.leader) return;
    for (const pane of this.panes()) {
      if (pane.view !== view && pane.view.viewer.isOpen()) pane.view.follow(view);
    }
    this.toolbar.update();
    this.link.writeSoon();
  }

  private rested(): void {
    this.toolbar.update();
    this.showCounts();
    this.link.writeSoon();
  }

  private restoreViewport(): void {
    const { x, y, magnification, rotation } = this.state;
    if (x !== null && y !== null && magnification !== null) {
      this.first.view.moveTo({ x, y, magnification, rotation }, true);
    }
    this.toolbar.update();
  }

  private async setSplit(split: boolean): Promise<void> {
    this.state.split = split && offers("difference", this.table, this.layer, null);
    const figure = byId("view-second");
    if (figure.hidden === this.state.split) this.first.view.keepFit();
    figure.hidden = !this.state.split;
    if (this.state.split && !this.second) {
      const pane: Pane = { view: this.makeView(figure, false), shown: null };
      this.second = pane;
      await pane.view.opened;
      pane.view.follow(this.first.view);
      document.dispatchEvent(new Event("views-changed"));
    } else if (!this.state.split && this.second) {
      this.second.view.destroy();
      this.second = null;
    }
    await this.apply();
  }

  // ---- what is shown ---------------------------------------------------------------------------

  private async useTable(table: TableInfo): Promise<void> {
    const { state } = this;
    state.table = table.id;
    if (!this.layer) state.layer = layersOf(table).at(0)?.id ?? null;
    if (!table.measured) state.origin = "predicted";
    else if (!this.layer) state.origin = "measured";
    await this.setSplit(state.split);
  }

  /** Fetches what the state asks for and draws it, unless the state moved on meanwhile. */
  private async apply(): Promise<void> {
    const turn = ++this.turn;
    document.documentElement.dataset.viewer = "loading";
    try {
      await this.load(turn);
    } catch (error) {
      if (turn === this.turn) document.documentElement.dataset.viewer = "error";
      throw error;
    }
  }

  private async load(turn: number): Promise<void> {
    const { state, table } = this;
    const points = await this.data.points(table);
    const gene = state.gene ? await this.data.gene(table, state.gene) : null;
    if (turn !== this.turn) return;
    this.gene = gene;
    const settled = settle(state, table, gene);
    if (settled) toast(settled);
    const annotate = await this.annotations.load(table, this.layer);
    if (turn !== this.turn) return;
    if (this.second && (!state.split || state.types)) {
      await this.setSplit(false);
      return;
    }
    showChoices(state, this.slide, table, gene);
    const { panes, behind } = await loadPicture(this.data, state, table, state.types ? null : gene);
    if (turn !== this.turn) return;
    annotate(panes.some((shown) => shown !== null && isModels(shown)));
    this.behind = behind;
    const diameter = (table.spot_diameter_um ?? this.cellMicrons) / this.slide.mpp;
    this.panes().forEach((pane, index) => {
      pane.view.setPoints(points, diameter);
      pane.view.setOpacity(state.opacity);
      pane.shown = panes.at(index) ?? null;
    });
    this.paint();
    this.describe();
    this.link.writeSoon();
    document.documentElement.dataset.viewer = "ready";
  }

  private get shown(): Expression[] {
    return this.panes().flatMap(({ shown }) => (shown ? [shown] : []));
  }

  /** Whether anything in the picture is a model's. */
  private get isPredicted(): boolean {
    const { types } = this.annotations;
    return types ? types.origin === "predicted" : this.shown.some(isModels);
  }

  private get range(): ValueRange {
    const { low, high } = this.state;
    return low !== null && high !== null ? { low, high } : percentileRange(this.shown);
  }

  private get colourMap(): ColourMapName {
    return this.shown.at(0)?.origin === "difference" ? "diverging" : this.state.colours;
  }

  /** Colours the points by the present range; no request is made. */
  private paint(): void {
    const { shown, state } = this;
    const { types } = this.annotations;
    byId("scale-section").hidden = shown.length === 0;
    for (const { view, shown: expression } of this.panes()) {
      const { canvas } = view.layer;
      canvas.dataset.gene = expression?.symbol ?? "";
      canvas.dataset.origin = expression?.origin ?? types?.origin ?? "";
      if (types) view.setColouring(this.annotations.colouring(types));
      else if (!expression) view.setColouring(null);
      else {
        const mask = this.annotations.mask(isModels(expression));
        const { range, colourMap } = this;
        view.setColouring(colouringOf(expression, range, colourMap, state.hideLowest, mask));
      }
    }
    if (shown.length > 0) this.scale.show(shown, this.range, this.colourMap);
  }

  private setRange(range: ValueRange | null, full: boolean): void {
    const wanted = full ? fullRange(this.shown) : range;
    this.state.low = wanted?.low ?? null;
    this.state.high = wanted?.high ?? null;
    this.repaint();
  }

  private repaint(): void {
    this.paint();
    this.showCounts();
    this.link.writeSoon();
  }

  private async setGene(gene: string): Promise<void> {
    if (gene !== this.state.gene) this.state.low = this.state.high = null;
    this.state.gene = gene;
    await this.apply();
  }

  private async setOrigin(origin: Origin): Promise<void> {
    if (!this.tableOrNone || !this.offers(origin)) return;
    this.state.origin = origin;
    this.state.low = this.state.high = null;
    await this.setSplit(false);
  }

  // ---- the panel -------------------------------------------------------------------------------

  private bindPanel(): void {
    const run = (work: Promise<void>): void => void work.catch(toastError);
    new Combobox({
      input: byId<HTMLInputElement>("gene"),
      search: async (text) =>
        (await this.data.genes(this.table, text)).map((gene) => ({
          value: gene.symbol,
          note: geneNote(gene, this.layer),
        })),
      choose: (symbol) => run(this.setGene(symbol)),
      none: (text) =>
        text ? `No gene of this slide's panels matches “${text}”.` : "This slide has no genes yet.",
    });
    const on = <T extends HTMLElement>(id: string, event: string, act: (input: T) => void): void => {
      const input = byId<T>(id);
      input.addEventListener(event, () => act(input));
    };
    on<HTMLSelectElement>("table", "change", ({ value }) => {
      const table = this.slide.tables.find(({ id }) => id === Number(value));
      this.state.low = this.state.high = null;
      if (table) run(this.useTable(table));
    });
    on<HTMLSelectElement>("layer", "change", ({ value }) => {
      this.state.layer = Number(value);
      run(this.apply());
    });
    byId("origins").addEventListener("change", (event) => {
      run(this.setOrigin((event.target as HTMLInputElement).value as Origin));
    });
    on<HTMLInputElement>("split", "change", ({ checked }) => {
      this.state.low = this.state.high = null;
      run(this.setSplit(checked));
    });
    on<HTMLInputElement>("hide-lowest", "change", ({ checked }) => {
      this.state.hideLowest = checked;
      this.setRange(this.range, false);
    });
    on<HTMLSelectElement>("colours", "change", ({ value }) => {
      this.state.colours = value === "cividis" ? "cividis" : "viridis";
      this.paint();
      this.link.writeSoon();
    });
    on<HTMLInputElement>("opacity", "input", ({ value }) => {
      this.state.opacity = Number(value);
      this.setOpacity(this.state.opacity);
      this.link.writeSoon();
    });
    on<HTMLInputElement>("cell-size", "input", ({ value }) => {
      this.cellMicrons = Number(value);
      run(this.apply());
    });
    byId("copy-link").addEventListener("click", () => run(this.link.copy()));
    byId("show-keys").addEventListener("click", () => byId<HTMLDialogElement>("keys").showModal());
  }

  private setOpacity(opacity: number): void {
    for (const { view } of this.panes()) view.setOpacity(opacity);
  }

  private toggleSplit(): void {
    if (!this.tableOrNone) return;
    this.state.low = this.state.high = null;
    void this.setSplit(!this.state.split).catch(toastError);
  }

  private describe(): void {
    const { types } = this.annotations;
    showBadges(this.behind, this.layer);
    if (types) showTypesCaption(byId("view-first"), types);
    else showCaption(byId("view-first"), this.first.shown, this.layer);
    showCaption(byId("view-second"), this.second?.shown ?? null, this.layer);
    this.showCounts();
  }

  private showCounts(): void {
    const { tableOrNone: table, state } = this;
    const counts = byId("counts");
    counts.hidden = !table;
    if (!table) return;
    const shown = this.first.shown;
    const lowest = shown && state.hideLowest ? byteOf(shown, this.range.low) + 0.01 : -1;
    const keep = this.annotations.types
      ? (row: number): boolean => this.annotations.keeps(row)
      : shown && ((row: number): boolean => shown.bytes[row] > lowest);
    const inView = keep && this.first.view.countInView(keep);
    counts.textContent = countsText(table, inView);
  }
}
