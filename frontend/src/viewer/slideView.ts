/** One OpenSeadragon view of a slide with its point layer, scale bar and overview. */
import OpenSeadragon from "openseadragon";

import { element } from "../shared/dom";
import type { TablePoints } from "./data";
import type { Rectangle } from "./grid";
import { PointLayer, type Colouring, type Frame, type Transform } from "./pointLayer";
import { imageZoom, magnification, scaleBar } from "./scale";
import type { SlideInfo } from "./types";

const SCALE_BAR_PX = 160;
const HOVER_PX = 10;
const OVERVIEW_PX = 150;
/** How far one may zoom in beyond the slide's own pixels. */
const MAX_PIXEL_RATIO = 8;

export interface Viewport {
  /** Centre in level-0 pixels. */
  x: number;
  y: number;
  magnification: number;
  rotation: number;
}

export interface Hover {
  row: number;
  /** CSS pixels within the view. */
  left: number;
  top: number;
}

export interface SlideViewOptions {
  host: HTMLElement;
  slide: SlideInfo;
  label: string;
  overview: boolean;
  /** Called on every tile, so that a renewed token takes effect. */
  tileUrl: () => string;
  onTileFailed: () => void;
}

export class SlideView {
  readonly viewer: OpenSeadragon.Viewer;
  readonly opened: Promise<void>;
  readonly layer: PointLayer;
  /** A person is about to move this view, by pointer or by a control. */
  onCommand: () => void = () => undefined;
  onMoved: () => void = () => undefined;
  onRest: () => void = () => undefined;
  onHover: (hover: Hover | null) => void = () => undefined;
  private readonly slide: SlideInfo;
  private readonly barLine = element("span", { class: "scale-bar-line" });
  private readonly barLabel = element("span", { class: "scale-bar-label" });
  private points: TablePoints | null = null;
  private diameter = 1;

  constructor(private readonly options: SlideViewOptions) {
    this.slide = options.slide;
    this.layer = new PointLayer();
    refuseInlineStyle();
    this.viewer = new OpenSeadragon.Viewer(this.viewerOptions());
    this.viewer.canvas.setAttribute("role", "application");
    this.viewer.canvas.setAttribute("aria-label", options.label);
    this.viewer.canvas.appendChild(this.layer.canvas);
    const bar = element("div", { class: "scale-bar" }, this.barLine, this.barLabel);
    const loading = element("div", { class: "tile-loading", role: "status" }, "Loading image…");
    options.host.append(bar, loading);

    this.opened = new Promise((resolve, reject) => {
      this.viewer.addOnceHandler("open", () => {
        const image = this.viewer.world.getItemAt(0);
        image.addHandler("fully-loaded-change", (event: { fullyLoaded: boolean }) => {
          loading.hidden = event.fullyLoaded;
        });
        resolve();
      });
      this.viewer.addOnceHandler("open-failed", (event) => reject(new Error(event.message)));
    });
    this.viewer.addHandler("update-viewport", () => this.draw());
    this.viewer.addHandler("viewport-change", () => this.onMoved());
    this.viewer.addHandler("animation-finish", () => this.onRest());
    this.viewer.addHandler("after-resize", () => this.onRest());
    this.viewer.addHandler("tile-load-failed", () => options.onTileFailed());
    this.followPointer();
  }

  setPoints(points: TablePoints | null, diameter: number): void {
    if (points && points !== this.points) this.layer.setPoints(points.x, points.y, points.grid);
    this.points = points;
    this.diameter = diameter;
    this.redraw();
  }

  setColouring(colouring: Colouring | null): void {
    this.layer.setColouring(colouring);
    this.redraw();
  }

  setOpacity(opacity: number): void {
    this.layer.canvas.style.opacity = String(opacity);
  }

  /** A CSS filter on the image alone: neither the points nor any stored pixel change. */
  setImageFilter(filter: string): void {
    this.viewer.drawer.canvas.style.filter = filter;
  }

  redraw(): void {
    if (this.viewer.isOpen()) this.draw();
  }

  get viewport(): Viewport {
    const centre = this.viewer.viewport.viewportToImageCoordinates(
      this.viewer.viewport.getCenter(),
    );
    return {
      x: centre.x,
      y: centre.y,
      magnification: magnification(this.slide.mpp / this.zoom(false)),
      rotation: ((this.viewer.viewport.getRotation() % 360) + 360) % 360,
    };
  }

  moveTo(target: Partial<Viewport>, immediately = false): void {
    const { viewport } = this.viewer;
    this.onCommand();
    if (target.rotation !== undefined) viewport.setRotation(target.rotation, immediately);
    if (target.magnification !== undefined) {
      const zoom = imageZoom(target.magnification, this.slide.mpp);
      viewport.zoomTo(viewport.imageToViewportZoom(zoom), undefined, immediately);
    }
    if (target.x !== undefined && target.y !== undefined) {
      viewport.panTo(viewport.imageToViewportCoordinates(target.x, target.y), immediately);
    }
    viewport.applyConstraints(immediately);
  }

  fit(): void {
    this.onCommand();
    this.viewer.viewport.goHome();
  }

  zoomBy(factor: number): void {
    this.onCommand();
    this.viewer.viewport.zoomBy(factor).applyConstraints();
  }

  /** Shares of the view's width and height. */
  panBy(right: number, down: number): void {
    this.onCommand();
    const { viewport } = this.viewer;
    const size = viewport.getContainerSize();
    const pixels = new OpenSeadragon.Point(size.x * right, size.y * down);
    viewport.panBy(viewport.deltaPointsFromPixels(pixels)).applyConstraints();
  }

  /** A slide that is shown whole stays so when the view is about to change its size. */
  keepFit(): void {
    const { viewport } = this.viewer;
    if (Math.abs(viewport.getZoom() / viewport.getHomeZoom() - 1) > 0.01) return;
    // OpenSeadragon moves the view once more after it says so.
    this.viewer.addOnceHandler("after-resize", () => {
      setTimeout(() => {
        this.onCommand();
        viewport.goHome(true);
      });
    });
  }

  /** Forgets tiles that failed, and asks for them again. */
  reloadTiles(): void {
    this.viewer.world.resetItems();
  }

  /** Takes over another view's viewport at once, springs included. */
  follow(leader: SlideView): void {
    const [from, to] = [leader.viewer.viewport, this.viewer.viewport];
    to.setRotation(from.getRotation(true), true);
    to.zoomTo(from.getZoom(true), undefined, true);
    to.panTo(from.getCenter(true), true);
  }

  /** Rows in view for which `keep` holds. */
  countInView(keep: (row: number) => boolean): number {
    const { points } = this;
    if (!points || !this.viewer.isOpen()) return 0;
    const { transform: t, view, width, height } = this.frame();
    return points.grid.count(view, (row) => {
      const [x, y] = [points.x[row], points.y[row]];
      const [left, top] = [t.a * x + t.c * y + t.e, t.b * x + t.d * y + t.f];
      return left >= 0 && left <= width && top >= 0 && top <= height && keep(row);
    });
  }

  destroy(): void {
    this.layer.destroy();
    this.viewer.destroy();
    this.options.host.replaceChildren();
  }

  private viewerOptions(): OpenSeadragon.Options {
    const { slide, host, overview, tileUrl } = this.options;
    const shrink = OVERVIEW_PX / Math.max(slide.width, slide.height);
    const overviewSize = { width: slide.width * shrink, height: slide.height * shrink };
    return {
      element: host,
      tileSources: [tileSource(slide, tileUrl)],
      drawer: "canvas",
      showNavigationControl: false,
      showNavigator: overview,
      navigatorPosition: "TOP_RIGHT",
      navigatorWidth: `${overviewSize.width}px`,
      navigatorHeight: `${overviewSize.height}px`,
      navigatorAutoFade: false,
      navigatorRotate: false,
      navigatorOpacity: 1,
      navigatorBackground: "#f6f5f3",
      navigatorBorderColor: "#8a99a3",
      navigatorDisplayRegionColor: "#b3470a",
      keyboardNavEnabled: false,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      animationTime: 0.4,
      springStiffness: 9,
      visibilityRatio: 0.3,
      minZoomImageRatio: 0.7,
      maxZoomPixelRatio: MAX_PIXEL_RATIO,
      preserveImageSizeOnResize: true,
      imageLoaderLimit: 8,
      tileRetryMax: 4,
      tileRetryDelay: 800,
      maxImageCacheCount: 500,
    };
  }

  /** Screen (CSS) pixels per level-0 pixel. */
  private zoom(current: boolean): number {
    return this.viewer.viewport.viewportToImageZoom(this.viewer.viewport.getZoom(current));
  }

  private frame(): Frame {
    const { viewport } = this.viewer;
    const { width: imageWidth, height: imageHeight } = this.slide;
    const onScreen = (x: number, y: number): OpenSeadragon.Point =>
      viewport.pixelFromPoint(viewport.imageToViewportCoordinates(x, y), true);
    const origin = onScreen(0, 0);
    const right = onScreen(imageWidth, 0);
    const below = onScreen(0, imageHeight);
    const transform: Transform = {
      a: (right.x - origin.x) / imageWidth,
      b: (right.y - origin.y) / imageWidth,
      c: (below.x - origin.x) / imageHeight,
      d: (below.y - origin.y) / imageHeight,
      e: origin.x,
      f: origin.y,
    };
    const size = viewport.getContainerSize();
    const bounds = viewport.getBounds(true).getBoundingBox();
    const seen = viewport.viewportToImageRectangle(bounds);
    const view: Rectangle = {
      left: seen.x,
      top: seen.y,
      right: seen.x + seen.width,
      bottom: seen.y + seen.height,
    };
    return { transform, view, width: size.x, height: size.y, diameter: this.diameter };
  }

  private draw(): void {
    this.layer.draw(this.frame());
    const bar = scaleBar(this.slide.mpp / this.zoom(true), SCALE_BAR_PX);
    this.barLine.style.width = `${bar.pixels}px`;
    this.barLabel.textContent = bar.label;
  }

  private followPointer(): void {
    const { canvas } = this.viewer;
    for (const name of ["pointerdown", "wheel"]) {
      canvas.addEventListener(name, () => this.onCommand(), { capture: true, passive: true });
    }
    canvas.addEventListener("pointermove", (event) => {
      if (!this.points || event.buttons !== 0 || !this.viewer.isOpen()) {
        this.onHover(null);
        return;
      }
      const box = canvas.getBoundingClientRect();
      const [left, top] = [event.clientX - box.left, event.clientY - box.top];
      const at = this.viewer.viewport.viewerElementToImageCoordinates(
        new OpenSeadragon.Point(left, top),
      );
      const radius = Math.max(this.diameter / 2, HOVER_PX / this.zoom(true));
      const row = this.points.grid.nearest(at.x, at.y, radius);
      this.onHover(row < 0 ? null : { row, left, top });
    });
    canvas.addEventListener("pointerleave", () => this.onHover(null));
  }
}

/**
 * OpenSeadragon adds an inline style for touch devices, which the Content-Security-Policy forbids,
 * unless it finds its mark. An element that is called style but is none carries the mark; the rule
 * itself stands in viewer.css.
 */
function refuseInlineStyle(): void {
  const mark = "data-openseadragon-mobile-css";
  if (document.querySelector(`style[${mark}]`)) return;
  const inert = document.createElementNS("urn:past:inert", "style");
  inert.setAttribute(mark, "true");
  document.head.appendChild(inert);
}

/** Large-image's z/x/y: z 0 is the smallest level, and edge tiles are padded to full size. */
function tileSource(slide: SlideInfo, tileUrl: () => string): OpenSeadragon.TileSource {
  const source = new OpenSeadragon.TileSource({
    width: slide.width,
    height: slide.height,
    tileSize: slide.tile_size,
    minLevel: 0,
    maxLevel: slide.levels - 1,
  });
  source.getTileUrl = (z, x, y) =>
    tileUrl().replace("{z}", String(z)).replace("{x}", String(x)).replace("{y}", String(y));
  const boundsOf = source.getTileBounds.bind(source);
  source.getTileBounds = (level, x, y, isSource) => {
    const bounds = boundsOf(level, x, y, isSource);
    if (isSource) {
      // A level's size is rounded down; the last fraction of a pixel would show the padding.
      bounds.width = Math.max(1, Math.floor(bounds.width));
      bounds.height = Math.max(1, Math.floor(bounds.height));
    }
    return bounds;
  };
  return source;
}
