/** The part of Plotly's API that the dashboards use; the strict bundle carries no types. */
declare module "plotly.js-strict-dist-min" {
  interface PlotlyApi {
    newPlot(
      root: HTMLElement,
      data: unknown[],
      layout?: unknown,
      config?: unknown,
    ): Promise<HTMLElement>;
    react(
      root: HTMLElement,
      data: unknown[],
      layout?: unknown,
      config?: unknown,
    ): Promise<HTMLElement>;
    relayout(root: HTMLElement, update: unknown): Promise<HTMLElement>;
    purge(root: HTMLElement): void;
    toImage(
      root: HTMLElement,
      options: { format: "svg" | "png"; width: number; height: number; scale?: number },
    ): Promise<string>;
    Plots: { resize(root: HTMLElement): Promise<void> };
  }
  const Plotly: PlotlyApi;
  export default Plotly;
}
