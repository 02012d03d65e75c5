/** Jobs as `/api/v1/jobs/` shows them. */

export type JobStatus = "queued" | "running" | "cancelling" | "cancelled" | "succeeded" | "failed";

export interface Failure {
  code?: string;
  where?: string;
  what?: string;
  remedy?: string;
}

export interface Job {
  id: number;
  kind: string;
  title: string;
  study: string | null;
  status: JobStatus;
  stage: string;
  progress: number;
  attempt: number;
  queue_position: number | null;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
  created_by: string | null;
  failure_kind: string;
  failure: Failure;
  parameters: Record<string, unknown>;
  result: Record<string, unknown> & { links?: { label: string; url: string }[] };
  eta_seconds: number | null;
  may_cancel: boolean;
  url: string;
}

const SAID: Record<JobStatus, string> = {
  queued: "queued",
  running: "running",
  cancelling: "stopping…",
  cancelled: "cancelled",
  succeeded: "succeeded",
  failed: "failed",
};

const WHOSE: Record<string, string> = {
  input: "The input needs a change",
  code: "A fault of this software",
  infrastructure: "The machine or a service failed",
};

export const statusText = (job: Job): string => SAID[job.status];
export const failureText = (job: Job): string => WHOSE[job.failure_kind] ?? "The job failed";
export const isOver = ({ status }: Job): boolean =>
  status === "cancelled" || status === "succeeded" || status === "failed";

/** Seconds the job ran, up to now if it still does; null before it started. */
export function secondsTaken(job: Job): number | null {
  if (!job.started_at) return null;
  const end = job.finished_at ? Date.parse(job.finished_at) : Date.now();
  return (end - Date.parse(job.started_at)) / 1000;
}
