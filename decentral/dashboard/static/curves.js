// Accuracy by round, and bytes over time.

import { colour, Picture, text, ticks } from "./paint.js";
import { bytes, element, KINDS, percent, plural, setText } from "./words.js";

const REST = 250; // milliseconds between two drawings: curves grow slowly
const TOLD_APART = 8; // peers whose curves have colours of their own
const LEFT = 52, RIGHT = 12, TOP = 10, BOTTOM = 38;

function frame(context, width, height, [x0, x1], [y0, y1], title, write, whole) {
  const right = width - RIGHT, bottom = height - BOTTOM;
  const x = (value) => LEFT + ((value - x0) / (x1 - x0 || 1)) * (right - LEFT);
  const y = (value) => bottom - ((value - y0) / (y1 - y0 || 1)) * (bottom - TOP);
  context.lineWidth = 1;
  context.strokeStyle = colour("line");
  context.beginPath();
  const levels = ticks(y0, y1, height / 55), step = levels.length > 1 ? levels[1] - levels[0] : 1;
  for (const tick of levels) {
    const at = Math.round(y(tick)) + 0.5;
    context.moveTo(LEFT, at);
    context.lineTo(right, at);
    text(context, write(tick, step), LEFT - 8, at, { align: "right" });
  }
  context.stroke();
  for (const tick of ticks(x0, x1, (right - LEFT) / 70, whole)) text(context, tick.toLocaleString("en"), x(tick), bottom + 14, { align: "center" });
  text(context, title, (LEFT + right) / 2, height - 7, { align: "center" });
  return { x, y, right, bottom };
}

function line(context, points, { x, y }, paint, width, alpha = 1, dash = []) {
  if (!points.length) return;
  context.globalAlpha = alpha;
  context.strokeStyle = context.fillStyle = paint;
  context.lineWidth = width;
  context.setLineDash(dash);
  context.beginPath();
  points.forEach(([at, value], place) => context[place ? "lineTo" : "moveTo"](x(at), y(value)));
  context.stroke();
  context.setLineDash([]);
  if (points.length === 1) {
    context.beginPath();
    context.arc(x(points[0][0]), y(points[0][1]), Math.max(2, width), 0, 2 * Math.PI);
    context.fill();
  }
  context.globalAlpha = 1;
}

export class Accuracy {
  constructor(store, choice) {
    this.store = store;
    this.choice = choice;
    this.words = document.getElementById("accuracy-words");
    this.table = document.getElementById("accuracy-table");
    this.details = this.table.closest("details");
    this.picture = new Picture(document.getElementById("accuracy"), (...given) => this.draw(...given), REST);
    this.details.addEventListener("toggle", () => this.tell());
  }

  names = ["mean", "peer/", "head"];

  changed() {
    this.picture.stale();
    const { head } = this.store, mean = this.store.items("mean"), curves = this.curves();
    const whose = head.experts ? "Of the router, on noisy images" : head.draws ? "Of the aggregate of each round" : "Of each peer’s own model";
    const last = mean.at(-1);
    const thick = curves.length ? "; bold: the mean" : "";
    setText(this.words, last ? `${whose}${thick}. Mean ${percent(last[1])} after round ${last[0]}.` : `${whose}. Nothing has been evaluated yet.`);
    this.tell();
  }

  curves() {
    return this.store.indices.filter((peer) => this.store.items(`peer/${peer}`).length);
  }

  draw(context, width, height) {
    const mean = this.store.items("mean"), peers = this.curves(), aside = new Set(this.store.head.aside);
    let low = 1, high = 0, last = 1;
    for (const points of [mean, ...peers.map((peer) => this.store.items(`peer/${peer}`))]) {
      for (const [x, y] of points) {
        low = Math.min(low, y);
        high = Math.max(high, y);
        last = Math.max(last, x);
      }
    }
    if (high < low) [low, high] = [0, 1];
    low = Math.max(0, Math.floor(low * 10 - 0.2) / 10);
    high = Math.min(1, Math.max(low + 0.1, Math.ceil(high * 20) / 20));
    const rounds = this.store.head.rounds || last, shown = this.store.cell("running") && last < rounds ? Math.min(rounds, Math.max(last * 1.25, 5)) : last;
    const first = Math.min(mean[0]?.[0] ?? 0, ...peers.map((peer) => this.store.items(`peer/${peer}`)[0][0]), 1);
    const axes = frame(context, width, height, [first, Math.max(shown, first + 1)], [low, high], "round", (value, step) => value.toFixed(step < 0.099 ? 2 : 1), true);
    const few = peers.length <= TOLD_APART, chosen = this.choice.peer;
    for (const peer of peers) {
      if (peer === chosen) continue;
      const paint = few ? colour(`c${peer % TOLD_APART}`) : colour("soft");
      line(context, this.store.items(`peer/${peer}`), axes, paint, few ? 1.5 : 1, few ? (chosen === null ? 0.9 : 0.3) : 0.28, aside.has(peer) ? [4, 4] : []);
    }
    line(context, mean, axes, colour("accent"), 2.75);
    if (chosen !== null) line(context, this.store.items(`peer/${chosen}`), axes, colour("c1"), 2.5);
    if (!mean.length) text(context, "nothing has been evaluated yet", (LEFT + axes.right) / 2, height / 2 - 12, { align: "center" });
  }

  tell() {
    if (!this.details.open) return;
    const peers = this.curves();
    const rows = this.store.items("mean").slice(-24).map(([round, mean]) => {
      const values = peers.map((peer) => this.store.items(`peer/${peer}`).find(([at]) => at === round)?.[1]).filter((value) => value !== undefined);
      const spread = values.length > 1 ? [percent(Math.min(...values)), percent(Math.max(...values))] : ["–", "–"];
      return element("tr", {}, ...[round.toLocaleString("en"), percent(mean), ...spread].map((cell) => element("td", {}, cell)));
    });
    const heads = ["round", "mean", "lowest", "highest"].map((name) => element("th", { scope: "col" }, name));
    this.table.replaceChildren(element("caption", {}, `The last ${plural(rows.length, "round")} that were evaluated.`), element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows.reverse()));
  }
}

export class Bytes {
  constructor(store) {
    this.store = store;
    this.words = document.getElementById("bytes-words");
    this.legend = document.getElementById("kinds");
    this.values = new Map();
    for (const [kind, said] of KINDS) {
      const box = element("i"), value = element("b");
      box.style.background = `var(--${kind})`;
      this.values.set(kind, value);
      this.legend.append(element("li", {}, box, said, value));
    }
    this.picture = new Picture(document.getElementById("bytes"), (...given) => this.draw(...given), REST);
  }

  names = ["bytes/"];

  changed() {
    this.picture.stale();
    const sent = this.store.now?.sent ?? {}, total = KINDS.reduce((sum, [kind]) => sum + (sent[kind] ?? 0), 0);
    setText(this.words, `${bytes(total)} after encoding, by what they carried, in the course of time.`);
    for (const [kind, value] of this.values) {
      setText(value, bytes(sent[kind] ?? 0));
      value.parentElement.toggleAttribute("data-none", !sent[kind]);
    }
  }

  draw(context, width, height) {
    const stacks = KINDS.map(([kind]) => this.store.items(`bytes/${kind}`)).map((points) => (points.length ? [[0, 0], ...points] : points));
    const longest = stacks.reduce((best, each) => (each.length > best.length ? each : best), []);
    const sums = longest.map(([, ], place) => stacks.reduce((sum, each) => sum + (each[place]?.[1] ?? each.at(-1)?.[1] ?? 0), 0));
    const most = Math.max(1, ...sums), unit = most >= 1e9 ? 1e9 : most >= 1e6 ? 1e6 : most >= 1e3 ? 1e3 : 1;
    const written = { 1: "B", 1e3: "kB", 1e6: "MB", 1e9: "GB" }[unit];
    const last = longest.at(-1)?.[0] ?? 1;
    const axes = frame(context, width, height, [0, Math.max(last, 0.001)], [0, (most / unit) * 1.05], "seconds", (value) => (value ? `${value.toLocaleString("en")} ${written}` : "0"));
    if (!longest.length) return text(context, "nothing has been sent yet", (LEFT + axes.right) / 2, height / 2 - 12, { align: "center" });
    const under = longest.map(() => 0);
    KINDS.forEach(([kind], which) => {
      const points = stacks[which];
      if (!points.some(([, value]) => value)) return;
      context.beginPath();
      longest.forEach(([at], place) => {
        const top = under[place] + (points[place]?.[1] ?? points.at(-1)?.[1] ?? 0) / unit;
        context[place ? "lineTo" : "moveTo"](axes.x(at), axes.y(top));
      });
      for (let place = longest.length - 1; place >= 0; place--) context.lineTo(axes.x(longest[place][0]), axes.y(under[place]));
      context.closePath();
      context.fillStyle = colour(kind);
      context.fill();
      longest.forEach((_, place) => { under[place] += (points[place]?.[1] ?? points.at(-1)?.[1] ?? 0) / unit; });
    });
  }
}
