/** One job: its events, asked for each second until it is over. */
import { getJsonIfNew, postJson } from "../shared/api";
import { byId, element, pageData } from "../shared/dom";
import { formatDuration, formatNumber, formatTime } from "../shared/format";
import { LineChart, type Point } from "../shared/lineChart";
import { toastError } from "../shared/toast";
import { failureText, isOver, secondsTaken, statusText, type Job } from "./jobTypes";

const POLL_MS = 1000;
const SLOW_POLL_MS = 5000;
const METRIC_NAMES: Record<string, string> = {
  train_loss: "Training loss",
  validation_pcc: "Validation: median Pearson",
  alignment_loss: "Alignment loss",
  validation_recall_at_10: "Validation: recall at 10 of 256",
  test_pcc: "Held out: median Pearson",
};

interface JobEvent {
  seq: number;
  at: string;
  kind: "status" | "stage" | "progress" | "metric" | "log";
  data: { name?: string; value?: number | null; step?: number | null; text?: string; status?: string };
}

interface Answer {
  job: Job;
  events: JobEvent[];
}

class JobPage {
  private last = 0;
  private readonly charts = new Map<string, LineChart>();
  private readonly singles = new Map<string, HTMLElement>();

  constructor(private job: Job) {
    this.show();
    showParameters(job);
    const form = byId<HTMLFormElement>("cancel");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.cancel(form).catch(toastError);
    });
    this.poll();
  }

  private get api(): string {
    return `/api/v1/jobs/${this.job.id}`;
  }

  private async cancel(form: HTMLFormElement): Promise<void> {
    const button = form.querySelector("button");
    if (button) button.disabled = true;
    try {
      this.job = await postJson<Job>(`${this.api}/cancel/`, {});
      this.show();
    } finally {
      if (button) button.disabled = false;
    }
  }

  private poll(): void {
    getJsonIfNew<Answer>(`${this.api}/events/?after=${this.last}`)
      .then((answer) => {
        byId("polling").hidden = true;
        if (answer) this.take(answer);
        else this.showTime();
        // After the end one more answer may hold the last events.
        if (!isOver(this.job) || answer) setTimeout(() => this.poll(), POLL_MS);
      })
      .catch(() => {
        byId("polling").hidden = false;
        setTimeout(() => this.poll(), SLOW_POLL_MS);
      });
  }

  private take({ job, events }: Answer): void {
    this.job = job;
    const metrics = new Map<string, Point[]>();
    for (const event of events) {
      this.last = Math.max(this.last, event.seq);
      if (event.kind === "metric") this.metric(event, metrics);
      else this.log(event);
    }
    for (const [name, points] of metrics) this.chart(name).add(points);
    this.show();
  }

  private metric({ data }: JobEvent, series: Map<string, Point[]>): void {
    const name = data.name ?? "";
    if (typeof data.value !== "number") return;
    byId("metrics").hidden = false;
    if (typeof data.step === "number") {
      const points = series.get(name) ?? [];
      points.push({ step: data.step, value: data.value });
      series.set(name, points);
    } else {
      this.single(name).textContent = formatNumber(data.value, 4);
    }
  }

  private chart(name: string): LineChart {
    let chart = this.charts.get(name);
    if (!chart) {
      chart = new LineChart(METRIC_NAMES[name] ?? name.replaceAll("_", " "));
      this.charts.set(name, chart);
      byId("charts").appendChild(chart.figure);
    }
    return chart;
  }

  /** A figure that is told once, such as the score on held-out slides. */
  private single(name: string): HTMLElement {
    let value = this.singles.get(name);
    if (!value) {
      value = element("dd", {});
      const label = METRIC_NAMES[name] ?? name.replaceAll("_", " ");
      const box = element("dl", { class: "counts" }, element("div", {}, element("dt", {}, label), value));
      this.singles.set(name, value);
      byId("charts").prepend(box);
    }
    return value;
  }

  private log(event: JobEvent): void {
    const text = {
      log: event.data.text,
      stage: event.data.name,
      status: event.data.status,
      progress: undefined,
      metric: undefined,
    }[event.kind];
    if (!text) return;
    byId("log-empty").hidden = true;
    const list = byId("log");
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 8;
    const time = element("time", { datetime: event.at, class: "muted" }, formatTime(event.at));
    list.appendChild(element("li", { class: `log-${event.kind}` }, time, text));
    if (atEnd) list.scrollTop = list.scrollHeight;
  }

  private show(): void {
    const { job } = this;
    document.documentElement.dataset.job = job.status;
    const badge = byId("status");
    badge.className = `badge badge-${job.status}`;
    badge.textContent = statusText(job);
    byId("cancel").hidden = !job.may_cancel;
    byId("stage").textContent = {
      queued: `Waiting: ${job.queue_position ?? "–"} in the queue`,
      running: job.stage || "Starting",
      cancelling: "Stopping…",
      cancelled: "Cancelled",
      succeeded: "Done",
      failed: "Failed",
    }[job.status];
    byId<HTMLProgressElement>("progress").value = job.progress;
    this.showTime();
    this.showFailure();
    this.showResult();
  }

  private showTime(): void {
    const { job } = this;
    const taken = secondsTaken(job);
    const parts = [
      taken === null ? "" : `${isOver(job) ? "took" : "running for"} ${formatDuration(taken)}`,
      job.eta_seconds === null ? "" : `about ${formatDuration(job.eta_seconds)} left in this stage`,
      job.attempt > 1 ? `attempt ${job.attempt}` : "",
    ];
    byId("eta").textContent = parts.filter(Boolean).join(" · ");
  }

  private showFailure(): void {
    const { job } = this;
    byId("failure").hidden = job.status !== "failed";
    if (job.status !== "failed") return;
    const { where, what, remedy } = job.failure;
    byId("failure-kind").textContent = failureText(job);
    byId("failure-what").textContent = where ? `${where}: ${what}` : (what ?? "");
    byId("failure-remedy").textContent = remedy ?? "";
  }

  private showResult(): void {
    const { status, result } = this.job;
    byId("results").hidden = status !== "succeeded";
    if (status !== "succeeded") return;
    byId("links").replaceChildren(
      ...(result.links ?? []).map(({ label, url }) =>
        element("a", { class: "button button-primary", href: url }, label),
      ),
    );
    const facts = Object.entries(result).flatMap(([name, value]) =>
      typeof value === "number" ? [fact(name, formatNumber(value))] : [],
    );
    byId("facts").replaceChildren(...facts.flat());
  }
}

function fact(name: string, value: string): HTMLElement[] {
  return [element("dt", {}, name.replaceAll("_", " ")), element("dd", {}, value)];
}

function showParameters({ parameters }: Job): void {
  const shown = Object.entries(parameters).filter(([, value]) => value !== null);
  byId("asked").hidden = shown.length === 0;
  byId("parameters").replaceChildren(
    ...shown.flatMap(([name, value]) => fact(name, parameterText(value))),
  );
}

function parameterText(value: unknown): string {
  if (Array.isArray(value)) return value.map(parameterText).join(", ");
  return typeof value === "string" ? value : JSON.stringify(value);
}

export function start(): void {
  new JobPage(pageData<{ job: Job }>().job);
}
