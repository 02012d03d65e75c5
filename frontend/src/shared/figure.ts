/** Draws a Plotly figure into its place in the page's type, and keeps it as wide as the place. */
import Plotly from "./plotly";
import { toastError } from "./toast";

export interface Plot {
  data: Record<string, unknown>[];
  layout: Record<string, unknown>;
}

const CONFIG = { displayModeBar: false, responsive: false, scrollZoom: false, doubleClick: false };
const AXIS = { fixedrange: true, gridcolor: "#e3e8eb" };
const watched = new WeakSet<HTMLElement>();

export async function draw(host: HTMLElement, { data, layout }: Plot): Promise<void> {
  const style = getComputedStyle(document.body);
  const whole = {
    ...layout,
    xaxis: { ...AXIS, ...(layout.xaxis as object) },
    yaxis: { ...AXIS, ...(layout.yaxis as object) },
    width: host.clientWidth,
    height: host.clientHeight,
    font: { family: style.fontFamily, size: 13, color: style.color },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    dragmode: false,
  };
  await Plotly.react(host, data, whole, CONFIG);
  if (watched.has(host)) return;
  watched.add(host);
  let width = host.clientWidth;
  new ResizeObserver(() => {
    if (host.clientWidth === width || host.clientWidth === 0) return;
    width = host.clientWidth;
    void Plotly.relayout(host, { width }).catch(toastError);
  }).observe(host);
}
