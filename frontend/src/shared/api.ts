/** Requests to `/api/v1`: CSRF token sent, RFC 9457 problems thrown as `Problem`. */

interface ProblemBody {
  title?: string;
  status?: number;
  detail?: string;
  code?: string;
  where?: string;
  what?: string;
  remedy?: string;
}

/** An answer the server refused, with what a person can do about it. */
export class Problem extends Error {
  readonly status: number;
  readonly code: string;
  readonly where: string;
  readonly remedy: string;

  constructor(status: number, body: ProblemBody) {
    super(body.what ?? body.detail ?? body.title ?? `The server answered ${status}.`);
    this.name = "Problem";
    this.status = status;
    this.code = body.code ?? "";
    this.where = body.where ?? "";
    this.remedy = body.remedy ?? remedyFor(status);
  }
}

function remedyFor(status: number): string {
  if (status === 401 || status === 403) {
    return "Log in again, or ask a study admin for this permission.";
  }
  if (status >= 500) return "Try again; if it persists, tell the administrator of this server.";
  return "";
}

async function problemOf(response: Response): Promise<Problem> {
  const type = response.headers.get("content-type") ?? "";
  const body = type.includes("json") ? ((await response.json()) as ProblemBody) : {};
  return new Problem(response.status, body);
}

async function send(url: string, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, { credentials: "same-origin", ...init });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Problem(0, {
      what: "The server could not be reached.",
      remedy: "Check that it runs and that you are connected, then try again.",
    });
  }
  if (!response.ok && response.status !== 304) throw await problemOf(response);
  return response;
}

export async function getJson<T>(url: string, signal?: AbortSignal): Promise<T> {
  const response = await send(url, { headers: { Accept: "application/json" }, signal });
  return (await response.json()) as T;
}

/** null when nothing is new (304). */
export async function getJsonIfNew<T>(url: string): Promise<T | null> {
  const response = await send(url, { headers: { Accept: "application/json" }, cache: "no-store" });
  return response.status === 304 ? null : ((await response.json()) as T);
}

export async function getBytes(url: string, signal?: AbortSignal): Promise<Uint8Array> {
  const response = await send(url, { signal });
  return new Uint8Array(await response.arrayBuffer());
}

export async function postJson<T>(url: string, body: unknown): Promise<T> {
  const response = await send(url, {
    method: "POST",
    headers: {
      Accept: "application/json",
      "Content-Type": "application/json",
      "X-CSRFToken": csrfToken(),
    },
    body: JSON.stringify(body),
  });
  return (response.status === 204 ? undefined : await response.json()) as T;
}

/** From a form's hidden field (works with an HttpOnly cookie too), else from the cookie. */
function csrfToken(): string {
  const field = document.querySelector<HTMLInputElement>("input[name=csrfmiddlewaretoken]");
  if (field) return field.value;
  return /(?:^|; )csrftoken=([^;]+)/.exec(document.cookie)?.[1] ?? "";
}

/** A list answer, paginated by Django REST framework or plain. */
export function results<T>(answer: T[] | { results: T[] }): T[] {
  return Array.isArray(answer) ? answer : answer.results;
}
