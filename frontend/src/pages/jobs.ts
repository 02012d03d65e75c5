/** The list of jobs, kept up to date while one of them waits or runs. */
import { getJson } from "../shared/api";
import { byId, element, pageData } from "../shared/dom";
import { formatDateTime, formatDuration } from "../shared/format";
import { failureText, isOver, secondsTaken, statusText, type Job } from "./jobTypes";

const PAGE_SIZE = 50;
const POLL_MS = 3000;

function progressOf(job: Job): HTMLElement {
  if (job.status === "failed") {
    const what = job.failure.where ? `${job.failure.where}: ${job.failure.what}` : job.failure.what;
    return element(
      "div",
      { class: "small" },
      element("strong", {}, `${failureText(job)}. `),
      what ?? "",
      element("div", {}, job.failure.remedy ?? ""),
    );
  }
  if (job.status === "queued") {
    return element("span", { class: "muted" }, `${job.queue_position ?? "–"} in the queue`);
  }
  if (isOver(job)) return element("span", {});
  const bar = element("progress", { max: 1, value: job.progress, "aria-label": job.stage });
  return element("div", {}, bar, element("div", { class: "muted small" }, job.stage));
}

function row(job: Job): HTMLTableRowElement {
  const taken = secondsTaken(job);
  return element(
    "tr",
    {},
    element("td", {}, element("a", { href: job.url }, job.title)),
    element("td", {}, job.study ? element("a", { href: `/studies/${job.study}/` }, job.study) : "–"),
    element("td", {}, element("span", { class: `badge badge-${job.status}` }, statusText(job))),
    element("td", {}, progressOf(job)),
    element("td", {}, job.created_by ?? "–"),
    element("td", { class: "nowrap" }, formatDateTime(job.created_at)),
    element("td", { class: "num" }, taken === null ? "–" : formatDuration(taken)),
  );
}

function show(jobs: Job[]): void {
  byId<HTMLTableElement>("jobs").tBodies[0].replaceChildren(...jobs.map(row));
}

async function follow(url: string): Promise<void> {
  const { results } = await getJson<{ results: Job[] }>(url);
  show(results);
  if (!results.every(isOver)) pollSoon(url);
}

/** A poll that fails is simply made again. */
function pollSoon(url: string): void {
  setTimeout(() => void follow(url).catch(() => pollSoon(url)), POLL_MS);
}

export function start(): void {
  const table = document.querySelector<HTMLElement>("#jobs");
  if (!table) return;
  const { jobs } = pageData<{ jobs: Job[] }>();
  show(jobs);
  const offset = (Number(table.dataset.page) - 1) * PAGE_SIZE;
  if (!jobs.every(isOver)) pollSoon(`/api/v1/jobs/?limit=${PAGE_SIZE}&offset=${offset}`);
}
