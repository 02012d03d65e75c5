/** The training form: parts of the slides, settings, and a summary before the start. */
import { byId, element, pageData } from "../shared/dom";
import { formatDuration, formatNumber } from "../shared/format";
import { goToJob, onApiSubmit } from "../shared/forms";

interface Measured {
  slide: string;
  patient: string;
  row_kind: "cell" | "spot";
  n_rows: number;
}

interface TrainPage {
  train_url: string;
  measured: Measured[];
  estimate: { seconds: number; rows: number; job: number } | null;
}

type Part = "train" | "validation" | "test";

const page = pageData<TrainPage>();
const isOwnSplit = (): boolean =>
  document.querySelector<HTMLInputElement>("input[name=split]:checked")?.value === "own";
const rowKind = (): string => byId<HTMLSelectElement>("row-kind").value;
const usable = (): Measured[] => page.measured.filter(({ row_kind }) => row_kind === rowKind());

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
    lines.push(
      `${all.length} slides with ${formatNumber(sum(all))} ${kinds}; validation and held-out patients are drawn by the seed.`,
    );
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

function update(): void {
  for (const row of document.querySelectorAll<HTMLTableRowElement>("tr[data-slide]")) {
    row.hidden = row.dataset.kind !== rowKind();
    for (const part of row.querySelectorAll<HTMLElement>("select, select + span")) {
      part.hidden = (part.tagName === "SELECT") !== isOwnSplit();
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
  fillRowKinds();
  form.addEventListener("change", update);
  update();
  onApiSubmit(form, page.train_url, body, goToJob);
}
