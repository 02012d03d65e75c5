/**
 * Cells and spots drawn by WebGL2 over the slide. Positions are uploaded once per table, one byte a
 * row per gene; colour is looked up in a 256 × 1 texture in the shader. Small marks are gl.POINTS;
 * marks beyond QUAD_FROM_PX are instanced squares, because large points vanish when their centre
 * leaves the view and some drivers limit their size.
 */

import type { PointGrid, Rectangle } from "./grid";

const QUAD_FROM_PX = 24;
const MIN_SIZE_PX = 2;

/** Screen position of a level-0 pixel in CSS pixels: (a·x + c·y + e, b·x + d·y + f). */
export interface Transform {
  a: number;
  b: number;
  c: number;
  d: number;
  e: number;
  f: number;
}

export interface Frame {
  transform: Transform;
  /** What can be seen, in level-0 pixels. */
  view: Rectangle;
  /** CSS pixels. */
  width: number;
  height: number;
  /** Diameter of a mark in level-0 pixels. */
  diameter: number;
}

export interface Colouring {
  bytes: Uint8Array;
  /** 256 RGBA entries. */
  colours: Uint8Array;
  /** Bytes that take the first and the last colour. */
  low: number;
  high: number;
  /** Leave out what takes the first colour: most genes are zero in most cells. */
  hideLowest: boolean;
  /** Draw the values far from mid-scale on top, not the high ones. */
  diverging: boolean;
  /** 255 for rows that are drawn grey beneath the others; null for none. */
  mask: Uint8Array | null;
}

const VERTEX = `#version 300 es
in vec2 position;
in float value;
in float mask;
#ifdef QUADS
in vec2 corner;
#endif
uniform mat3 toClip;
uniform vec2 sizeInClip;
uniform float sizeInPixels;
uniform vec2 range;
uniform bool hideLowest;
uniform bool diverging;
out vec2 across;
flat out float entry;
flat out float grey;
void main() {
  grey = mask;
  float byte = value * 255.0;
  entry = clamp((byte - range.x) / max(range.y - range.x, 1e-6), 0.0, 1.0);
  float rank = diverging ? abs(entry - 0.5) * 2.0 : entry;
  vec3 clip = toClip * vec3(position, 1.0);
  float depth = mask > 0.5 ? 0.95 : 0.9 - 1.8 * rank;
  if (hideLowest && byte <= range.x + 0.01) clip.xy = vec2(9.0);
#ifdef QUADS
  across = corner;
  gl_Position = vec4(clip.xy + corner * sizeInClip, depth, 1.0);
#else
  gl_Position = vec4(clip.xy, depth, 1.0);
  gl_PointSize = sizeInPixels;
#endif
}`;

const FRAGMENT = `#version 300 es
precision highp float;
in vec2 across;
flat in float entry;
flat in float grey;
uniform sampler2D colours;
uniform float sizeInPixels;
out vec4 colour;
void main() {
#ifdef QUADS
  float radius = length(across);
#else
  float radius = length(gl_PointCoord * 2.0 - 1.0);
#endif
  float edge = 2.0 / sizeInPixels;
  float cover = sizeInPixels < 3.0 ? 1.0 : 1.0 - smoothstep(1.0 - edge, 1.0, radius);
  if (cover < 0.05) discard;
  vec4 found = texture(colours, vec2((entry * 255.0 + 0.5) / 256.0, 0.5));
  if (found.a < 0.5) discard;
  vec3 rgb = mix(found.rgb, vec3(0.62), grey);
  colour = vec4(rgb * cover, cover);
}`;

interface Program {
  handle: WebGLProgram;
  uniform: (name: string) => WebGLUniformLocation | null;
}

const POSITION = 0;
const VALUE = 1;
const CORNER = 2;
const MASK = 3;

export class PointLayer {
  readonly canvas: HTMLCanvasElement;
  private readonly gl: WebGL2RenderingContext;
  private readonly points: Program;
  private readonly quads: Program;
  private readonly positions: WebGLBuffer;
  private readonly values: WebGLBuffer;
  private readonly corners: WebGLBuffer;
  private readonly masks: WebGLBuffer;
  private grid: PointGrid | null = null;
  private colouring: Colouring | null = null;
  private uploaded: Uint8Array | null = null;
  private uploadedMask: Uint8Array | null = null;

  /** Throws where WebGL2 is missing. */
  constructor() {
    this.canvas = document.createElement("canvas");
    this.canvas.className = "point-layer";
    this.canvas.dataset.drawn = "0";
    const gl = this.canvas.getContext("webgl2", { antialias: false, premultipliedAlpha: true });
    if (!gl) throw new Error("This browser offers no WebGL2, which drawing cells needs.");
    this.gl = gl;
    this.points = program(gl, "");
    this.quads = program(gl, "#define QUADS\n");
    this.positions = gl.createBuffer();
    this.values = gl.createBuffer();
    this.corners = gl.createBuffer();
    this.masks = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, this.corners);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) {
      gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    }
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.enable(gl.DEPTH_TEST);
    gl.depthFunc(gl.LEQUAL);
  }

  setPoints(x: Float32Array, y: Float32Array, grid: PointGrid): void {
    const gl = this.gl;
    const packed = new Float32Array(grid.order.length * 2);
    grid.order.forEach((row, position) => {
      packed[position * 2] = x[row];
      packed[position * 2 + 1] = y[row];
    });
    gl.bindBuffer(gl.ARRAY_BUFFER, this.positions);
    gl.bufferData(gl.ARRAY_BUFFER, packed, gl.STATIC_DRAW);
    this.grid = grid;
    this.uploaded = this.uploadedMask = null;
    this.setColouring(null);
  }

  setColouring(colouring: Colouring | null): void {
    const gl = this.gl;
    this.colouring = colouring;
    if (!colouring || !this.grid) return;
    if (colouring.bytes !== this.uploaded) {
      this.upload(this.values, colouring.bytes, this.grid.order);
      this.uploaded = colouring.bytes;
    }
    if (colouring.mask && colouring.mask !== this.uploadedMask) {
      this.upload(this.masks, colouring.mask, this.grid.order);
      this.uploadedMask = colouring.mask;
    }
    gl.texImage2D(
      gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, colouring.colours,
    );
  }

  /** One byte a row, in the order of the positions. */
  private upload(to: WebGLBuffer, bytes: Uint8Array, order: Uint32Array): void {
    const packed = new Uint8Array(order.length);
    for (let position = 0; position < order.length; position++) {
      packed[position] = bytes[order[position]];
    }
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, to);
    this.gl.bufferData(this.gl.ARRAY_BUFFER, packed, this.gl.DYNAMIC_DRAW);
  }

  /** Draws what can be seen; `canvas.dataset.drawn` says how many points that were. */
  draw(frame: Frame): void {
    const { gl, canvas, grid, colouring } = this;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(frame.width * ratio), Math.round(frame.height * ratio)];
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    if (!grid || !colouring) {
      canvas.dataset.drawn = "0";
      return;
    }
    const zoom = Math.hypot(frame.transform.a, frame.transform.b);
    const size = Math.max(frame.diameter * zoom, MIN_SIZE_PX) * ratio;
    const asQuads = size > QUAD_FROM_PX;
    const used = asQuads ? this.quads : this.points;
    gl.useProgram(used.handle);
    gl.uniformMatrix3fv(used.uniform("toClip"), false, clipMatrix(frame));
    gl.uniform2f(used.uniform("sizeInClip"), size / width, size / height);
    gl.uniform1f(used.uniform("sizeInPixels"), size);
    gl.uniform2f(used.uniform("range"), colouring.low, colouring.high);
    gl.uniform1i(used.uniform("hideLowest"), colouring.hideLowest ? 1 : 0);
    gl.uniform1i(used.uniform("diverging"), colouring.diverging ? 1 : 0);

    const margin = size / ratio / zoom;
    const runs = grid.runs({
      left: frame.view.left - margin,
      right: frame.view.right + margin,
      top: frame.view.top - margin,
      bottom: frame.view.bottom + margin,
    });
    let drawn = 0;
    for (const { start, end } of runs) {
      this.bind(start, asQuads);
      if (asQuads) gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, end - start);
      else gl.drawArrays(gl.POINTS, 0, end - start);
      drawn += end - start;
    }
    canvas.dataset.drawn = String(drawn);
  }

  destroy(): void {
    this.gl.getExtension("WEBGL_lose_context")?.loseContext();
    this.canvas.remove();
  }

  /** Points the attributes at position `start` of the buffers; per instance for squares. */
  private bind(start: number, asQuads: boolean): void {
    const gl = this.gl;
    const divisor = asQuads ? 1 : 0;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.positions);
    gl.enableVertexAttribArray(POSITION);
    gl.vertexAttribPointer(POSITION, 2, gl.FLOAT, false, 0, start * 8);
    gl.vertexAttribDivisor(POSITION, divisor);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.values);
    gl.enableVertexAttribArray(VALUE);
    gl.vertexAttribPointer(VALUE, 1, gl.UNSIGNED_BYTE, true, 0, start);
    gl.vertexAttribDivisor(VALUE, divisor);
    if (this.colouring?.mask) {
      gl.bindBuffer(gl.ARRAY_BUFFER, this.masks);
      gl.enableVertexAttribArray(MASK);
      gl.vertexAttribPointer(MASK, 1, gl.UNSIGNED_BYTE, true, 0, start);
      gl.vertexAttribDivisor(MASK, divisor);
    } else {
      gl.disableVertexAttribArray(MASK);
      gl.vertexAttrib1f(MASK, 0);
    }
    if (asQuads) {
      gl.bindBuffer(gl.ARRAY_BUFFER, this.corners);
      gl.enableVertexAttribArray(CORNER);
      gl.vertexAttribPointer(CORNER, 2, gl.FLOAT, false, 0, 0);
    } else {
      gl.disableVertexAttribArray(CORNER);
    }
  }
}

/** Column-major 3 × 3 from level-0 pixels to clip space. */
function clipMatrix({ transform: t, width, height }: Frame): Float32Array {
  const [sx, sy] = [2 / width, -2 / height];
  return new Float32Array([
    t.a * sx, t.b * sy, 0,
    t.c * sx, t.d * sy, 0,
    t.e * sx - 1, t.f * sy + 1, 1,
  ]);
}

function program(gl: WebGL2RenderingContext, define: string): Program {
  const handle = gl.createProgram();
  for (const [type, source] of [
    [gl.VERTEX_SHADER, VERTEX],
    [gl.FRAGMENT_SHADER, FRAGMENT],
  ] as const) {
    const shader = gl.createShader(type);
    if (!shader) throw new Error("The graphics context was lost.");
    gl.shaderSource(shader, source.replace("\n", `\n${define}`));
    gl.compileShader(shader);
    gl.attachShader(handle, shader);
  }
  gl.bindAttribLocation(handle, POSITION, "position");
  gl.bindAttribLocation(handle, VALUE, "value");
  gl.bindAttribLocation(handle, CORNER, "corner");
  gl.bindAttribLocation(handle, MASK, "mask");
  gl.linkProgram(handle);
  if (!gl.getProgramParameter(handle, gl.LINK_STATUS)) {
    throw new Error(`The point shader does not link: ${gl.getProgramInfoLog(handle)}`);
  }
  const places = new Map<string, WebGLUniformLocation | null>();
  return {
    handle,
    uniform: (name) => {
      if (!places.has(name)) places.set(name, gl.getUniformLocation(handle, name));
      return places.get(name) ?? null;
    },
  };
}
