// Canvases: sharp on every screen, in the colours of the page, and drawn only while they are seen.

const style = getComputedStyle(document.documentElement);
const colours = new Map();
export function colour(name) {
  if (!colours.has(name)) colours.set(name, style.getPropertyValue(`--${name}`).trim());
  return colours.get(name);
}

const all = new Set();
for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)"]) {
  matchMedia(query).addEventListener("change", () => {
    colours.clear();
    for (const each of all) each.stale();
  });
}

export const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';
const waiting = new Set();
let asked = 0;

const BUDGET = 7; // milliseconds of a frame for pictures; what is left is drawn in the next

function draw() {
  asked = 0;
  const began = performance.now();
  for (const each of waiting) {
    if (performance.now() - began > BUDGET) break;
    waiting.delete(each);
    each.paint();
  }
  if (waiting.size) asked = requestAnimationFrame(draw);
}

// Something drawn on a canvas by `draw(context, width, height)` when it has changed, and then not before `rest`
// milliseconds are over.
export class Picture {
  constructor(canvas, draw, rest = 0) {
    this.rest = rest;
    this.painted = -Infinity;
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.draw = draw;
    this.seen = false;
    this.dirty = true;
    this.width = this.height = 0;
    new ResizeObserver(() => this.measure()).observe(canvas);
    new IntersectionObserver((entries) => {
      this.seen = entries.at(-1).isIntersecting;
      if (this.seen && this.dirty) this.ask();
    }).observe(canvas);
    all.add(this);
  }

  measure() {
    const { width, height } = this.canvas.getBoundingClientRect();
    const scale = Math.min(devicePixelRatio || 1, 3);
    if (width === this.width && height === this.height && scale === this.scale) return;
    Object.assign(this, { width, height, scale });
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    this.stale();
  }

  stale() {
    this.dirty = true;
    if (this.seen) this.ask();
  }

  ask() {
    const wait = this.painted + this.rest - performance.now();
    if (wait > 0) {
      this.later ??= setTimeout(() => {
        this.later = undefined;
        this.ask();
      }, wait);
      return;
    }
    waiting.add(this);
    if (!asked) asked = requestAnimationFrame(draw);
  }

  paint() {
    if (!this.width || !this.seen) return;
    this.dirty = false;
    this.painted = performance.now();
    const context = this.context;
    context.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    context.font = FONT;
    context.lineCap = context.lineJoin = "round";
    this.draw(context, this.width, this.height);
  }
}

export function glyph(context, shape, x, y, r, paint, ground) {
  context.fillStyle = context.strokeStyle = paint;
  context.lineWidth = Math.max(1.25, r / 3.2);
  context.beginPath();
  switch (shape) {
    case "circle": context.arc(x, y, r, 0, 2 * Math.PI); context.fill(); break;
    case "dot": context.arc(x, y, r * 0.55, 0, 2 * Math.PI); context.fill(); break;
    case "diamond": polygon(context, x, y, r * 1.25, 4, 0); context.fill(); break;
    case "square": context.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8); context.fill(); break;
    case "triangle": case "up": polygon(context, x, y + r * 0.15, r * 1.25, 3, 0); context.fill(); break;
    case "hexagon": polygon(context, x, y, r * 1.1, 6, 0); context.fill(); break;
    case "cross":
      context.moveTo(x - r, y - r); context.lineTo(x + r, y + r); context.moveTo(x + r, y - r); context.lineTo(x - r, y + r);
      context.stroke(); break;
    case "minus": context.moveTo(x - r, y); context.lineTo(x + r, y); context.stroke(); break;
    case "plus": context.moveTo(x - r, y); context.lineTo(x + r, y); context.moveTo(x, y - r); context.lineTo(x, y + r); context.stroke(); break;
    default:
      context.arc(x, y, r * 0.85, 0, 2 * Math.PI);
      context.fillStyle = ground;
      context.fill();
      if (shape === "dotted") context.setLineDash([2, 2.5]);
      context.stroke();
      context.setLineDash([]);
  }
}

function polygon(context, x, y, r, corners, turn) {
  for (let corner = 0; corner < corners; corner++) {
    const angle = turn - Math.PI / 2 + (2 * Math.PI * corner) / corners;
    context[corner ? "lineTo" : "moveTo"](x + r * Math.cos(angle), y + r * Math.sin(angle));
  }
  context.closePath();
}

// Round numbers from low to high, about `many` of them.
export function ticks(low, high, many, whole = false) {
  const span = high - low || 1, raw = span / Math.max(1, many), power = 10 ** Math.floor(Math.log10(raw));
  let step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw * 0.999);
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(Number(at.toPrecision(12)));
  return found;
}

export function text(context, words, x, y, { align = "left", base = "middle", ink = "soft", bold = false } = {}) {
  context.font = bold ? `600 ${FONT}` : FONT;
  context.textAlign = align;
  context.textBaseline = base;
  context.fillStyle = colour(ink);
  context.fillText(words, x, y);
}
