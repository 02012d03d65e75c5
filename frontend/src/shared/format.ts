/** Numbers, dates and durations in the reader's locale. */

const locales = (): string[] => [...navigator.languages];

export function formatNumber(value: number, digits = 3): string {
  const options =
    Number.isInteger(value) || Math.abs(value) >= 1000
      ? { maximumFractionDigits: 0 }
      : { maximumFractionDigits: digits };
  return new Intl.NumberFormat(locales(), options).format(value);
}

/** A fixed number of decimals, so that columns of scores line up. */
export function formatFixed(value: number, digits: number): string {
  return new Intl.NumberFormat(locales(), {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
    signDisplay: "negative", // not "-0.00"
  }).format(value);
}

export function formatDateTime(iso: string): string {
  return new Intl.DateTimeFormat(locales(), { dateStyle: "medium", timeStyle: "short" }).format(
    new Date(iso),
  );
}

export function formatTime(iso: string): string {
  return new Intl.DateTimeFormat(locales(), { timeStyle: "medium" }).format(new Date(iso));
}

/** "8 s", "3 min 20 s", "2 h 5 min": two units at most. */
export function formatDuration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor((whole % 3600) / 60);
  if (hours > 0) return minutes > 0 ? `${hours} h ${minutes} min` : `${hours} h`;
  if (minutes > 0) return whole % 60 > 0 ? `${minutes} min ${whole % 60} s` : `${minutes} min`;
  return `${whole} s`;
}

/** Rewrites `<time datetime>` and `<data value data-number>` below `root` for the reader. */
export function localise(root: ParentNode): void {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const iso = time.getAttribute("datetime") ?? "";
    if (!Number.isNaN(Date.parse(iso))) time.textContent = formatDateTime(iso);
  }
  for (const data of root.querySelectorAll<HTMLDataElement>("data[data-number]")) {
    const value = Number(data.value);
    if (data.value === "" || !Number.isFinite(value)) continue;
    const digits = data.dataset.number;
    data.textContent = digits ? formatFixed(value, Number(digits)) : formatNumber(value);
  }
}
