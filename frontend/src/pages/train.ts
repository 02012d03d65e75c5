/** The training form: parts of the slides, settings, and a summary before the start. */
import { byId, element, pageData } from "../shared/dom";
import { formatDuration, formatNumber } from "../shared/format";
import { goToJob, onApiSubmit } from "../shared/forms";

export type Part = "train" | "validation" | "test";

interface Measured {
  slide: string;
  patient: string;
  row_kind: "cell" | "spot";
  n_rows: number;
  /** The part planned for the patient before anything was trained; "" for none. */
  planned: Part | "";
}

interface TrainPage {
  train_url: string;
  measured: Measured[];
  estimate: { seconds: number; rows: number; job: number } | null;
}

/** Whether the study's own plan makes the split: every patient has a part, some train, some test. */
export function isPlanned(parts: (Part | "")[]): boolean {
  return parts.every(Boolean) && parts.includes("train") && parts.includes("test");
}

let page: TrainPage;
const isOwnSplit = (): boolean =>
  document.querySelector<HTMLInputElement>("input[name=split]:checked")?.value === "own";
const rowKind = (): string => byId<HTMLSelectElement>("row-kind").value;
const usable = (): Measured[] => page.measured.filter(({ row_kind }) => row_kind === rowKind());

const usesPlan = (): boolean => isPlanned(usable().map(({ planned }) => planned));

function partOf({ slide }: Measured): Part {
  const row = document.querySelector(`tr[data-slide="${CSS.escape(slide)}"]`);
  return (row?.querySelector<HTMLSelectElement>("select")?.value ?? "train") as Part;
}

function chosen(part: Part): Measured[] {
  return usable().filter((slide) => partOf(slide) === part);
}

function sum(slides: Measured[]): number {
  return slides.reduce((total, { n_rows }) => total + n_rows, 0);
}

/** What will happen, in a sentence or two: data, parts, starting point, time. */
function summary(): string[] {
  const kinds = `${rowKind()}s`;
  const all = usable();
  const lines: string[] = [];
  if (isOwnSplit()) {
    const said = (part: Part, verb: string): string => {
      const slides = chosen(part);
      return `${verb} ${slides.length} (${formatNumber(sum(slides))} ${kinds})`;
    };
    lines.push(
      `Slides: ${said("train", "trains on")}, ${said("validation", "validates on")}, ${said("test", "holds out")}.`,
    );
  } else {
    const how = usesPlan()
      ? "validation and held-out patients are as planned in the study, before anything was trained"
      : "validation and held-out patients are drawn by the seed";
    lines.push(`${all.length} slides with ${formatNumber(sum(all))} ${kinds}; ${how}.`);
  }
  lines.push("A new dataset version records the split. No parent model: training starts from the encoder's own weights.");
  const { estimate } = page;
  if (estimate && estimate.rows > 0) {
    const seconds = (estimate.seconds * sum(all)) / estimate.rows;
    lines.push(`About ${formatDuration(seconds)}, going by this study's last training (job ${estimate.job}).`);
  } else {
    lines.push("Time unknown before the first training of this study; the job's page shows it as it runs.");
  }
  return lines;
}

const PLANNED: Record<Part, string> = { train: "train", validation: "validate", test: "hold out" };

/** The part that the split gives a slide, as far as it is known before the start. */
function partText(code: string | undefined): string {
  const planned = usable().find(({ slide }) => slide === code)?.planned;
  return planned && usesPlan() ? `${PLANNED[planned]}, as planned` : "by the split";
}

function update(): void {
  byId("split-auto").textContent = usesPlan()
    ? "As planned in the study"
    : "Split by patient, drawn by the seed";
  for (const row of document.querySelectorAll<HTMLTableRowElement>("tr[data-slide]")) {
    row.hidden = row.dataset.kind !== rowKind();
    for (const part of row.querySelectorAll<HTMLElement>("select, select + span")) {
      part.hidden = (part.tagName === "SELECT") !== isOwnSplit();
      if (part.tagName === "SPAN") part.textContent = partText(row.dataset.slide);
    }
  }
  byId("summary").replaceChildren(...summary().map((line) => element("p", {}, line)));
}

function fillRowKinds(): void {
  const kinds = [...new Set(page.measured.map(({ row_kind }) => row_kind))];
  byId("row-kind").replaceChildren(
    ...kinds.map((kind) => element("option", { value: kind }, `${kind}s`)),
  );
  byId("row-kind-field").hidden = kinds.length < 2;
}

function body(): Record<string, unknown> {
  const epochs = byId<HTMLInputElement>("epochs").value;
  const seed = byId<HTMLInputElement>("seed").value;
  const codes = (part: Part): string[] => chosen(part).map(({ slide }) => slide);
  return {
    row_kind: rowKind(),
    encoder: byId<HTMLSelectElement>("encoder").value,
    preset: byId<HTMLSelectElement>("preset").value,
    ...(epochs && { epochs: Number(epochs) }),
    ...(seed && { seed: Number(seed) }),
    ...(isOwnSplit() && { validation: codes("validation"), test: codes("test") }),
  };
}

export function start(): void {
  const form = document.querySelector<HTMLFormElement>("#train");
  if (!form) return;
  page = pageData<TrainPage>();
  fillRowKinds();
  form.addEventListener("change", update);
  update();
  onApiSubmit(form, page.train_url, body, goToJob);
}
