// What everybody was at, in the course of time: the whole run as a line of rounds, and a lane for each peer.

import { colour, glyph, Picture, text, ticks } from "./paint.js";
import { colourOf, element, MARKS, plural, SAID, moment, setText, sign } from "./words.js";

const RIGHT = 12, AXIS = 26, OVERVIEW = 62, GAP = 26;
const MOST_LANES = 256;

export class Lanes {
  constructor(store, choice) {
    this.store = store;
    this.choice = choice;
    this.words = document.getElementById("rounds-words");
    this.window = "all";
    const legend = document.getElementById("marks");
    for (const phase of ["train", "exchange", "merge", "evaluate", "away"]) {
      const box = element("i");
      box.style.background = `var(--${phase})`;
      legend.append(element("li", {}, box, SAID[phase] ?? phase));
    }
    for (const [kind, said, shape] of MARKS) legend.append(element("li", {}, sign(shape, colourOf(kind)), said));
    this.picture = new Picture(document.getElementById("rounds"), (...given) => this.draw(...given));
    for (const input of document.querySelectorAll('input[name="window"]')) {
      input.addEventListener("change", () => { this.window = input.value; this.changed(); });
    }
    choice.heard.push(() => this.picture.stale());
  }

  names = ["spans", "marks", "rounds", "peers", "now"];

  changed() {
    this.picture.stale();
    const { now, head } = this.store, marks = this.store.items("marks");
    const crashed = marks.filter(([kind]) => kind === "crashed").length, back = marks.filter(([kind]) => kind === "rejoined").length;
    const rounds = head.rounds ? `${now?.ended ?? 0} of ${plural(head.rounds, "round")} ended` : "";
    const came = crashed ? `${plural(crashed, "crash", "crashes")}, ${back} rejoined` : "nobody crashed";
    setText(this.words, `${rounds}; ${came}. ${head.simulated ? "Virtual seconds" : "Seconds"} since the start.`);
  }

  draw(context, width, height) {
    const { store } = this, now = Math.max(store.seconds, 0.001), count = Math.min(store.indices.length, MOST_LANES);
    const names = store.indices.slice(0, count).map((peer) => (count <= 24 ? store.name(peer) : String(peer)));
    const left = count <= 24 ? Math.min(96, 14 + Math.max(0, ...names.map((name) => context.measureText(name).width))) : 34;
    const right = width - RIGHT;
    const top = OVERVIEW + GAP, bottom = height - AXIS, lane = (bottom - top) / Math.max(count, 1);
    const spans = store.items("spans"), kept = store.series.get("spans")?.first ? spans[0][2] : 0;
    const begun = spans.length ? Math.max(0, spans[0][2] - 0.03 * (now - spans[0][2])) : 0;
    this.overview(context, left, right, kept ? 0 : begun, now);
    const from = this.window === "all" ? Math.max(begun, kept) : Math.max(0, now - Number(this.window));
    const x = (at) => left + ((Math.min(Math.max(at, from), now) - from) / (now - from || 1)) * (right - left);
    context.fillStyle = colour("wash");
    if (lane >= 5) for (let peer = 0; peer < count; peer++) context.fillRect(left, top + peer * lane + lane * 0.14, right - left, lane * 0.72);
    else context.fillRect(left, top, right - left, bottom - top);
    const pad = lane >= 5 ? lane * 0.14 : lane > 2 ? 0.5 : 0;
    const bar = (peer, what, start, end) => {
      if (peer >= count || end < from) return;
      context.fillStyle = colour(what);
      context.fillRect(x(start), top + peer * lane + pad, Math.max(x(end) - x(start), 0.75), Math.max(lane - 2 * pad, 0.75));
    };
    for (const [peer, what, start, end] of spans) bar(peer, what, start, end);
    for (let peer = 0; peer < count; peer++) {
      const [what, , , , , since] = store.row(peer);
      if (["train", "exchange", "merge", "evaluate"].includes(what)) bar(peer, what, since, now);
      else if (["crashed", "left"].includes(what)) bar(peer, "away", since, now);
    }
    for (const [kind, peer, at] of store.items("marks")) {
      if (peer < count && at >= from) this.mark(context, kind, x(at), top + (peer + 0.5) * lane, Math.min(5, Math.max(3.2, lane * 0.3)));
    }
    const every = lane >= 11 ? 1 : [2, 5, 10, 20, 50, 100].find((each) => each * lane >= 13) ?? 100;
    names.forEach((name, peer) => {
      const chosen = peer === this.choice.peer;
      if (!chosen && (peer % every || (this.choice.peer !== null && Math.abs(peer - this.choice.peer) * lane < 13))) return;
      text(context, name, left - 8, top + (peer + 0.5) * lane, { align: "right", ink: chosen ? "ink" : "soft", bold: chosen });
    });
    if (this.choice.peer !== null && this.choice.peer < count) {
      context.strokeStyle = colour("c1");
      context.lineWidth = 1.5;
      context.strokeRect(left - 1, top + this.choice.peer * lane - 0.5, right - left + 2, lane + 1);
    }
    const along = ticks(from, now, (right - left) / 80), step = along.length > 1 ? along[1] - along[0] : 1;
    for (const tick of along) text(context, moment(tick, step), x(tick), bottom + 14, { align: tick === from ? "left" : x(tick) > right - 20 ? "right" : "center" });
  }

  // Rounds against time, over the whole run.
  overview(context, left, right, from, now) {
    const ended = this.store.items("rounds"), marks = this.store.items("marks"), most = Math.max(this.store.head.rounds || 0, ended.at(-1)?.[1] ?? 0, 1);
    const x = (at) => left + ((Math.min(Math.max(at, from), now) - from) / (now - from || 1)) * (right - left), base = OVERVIEW - 2, y = (round) => base - (round / most) * (OVERVIEW - 18);
    context.strokeStyle = colour("line");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(left, base + 0.5);
    context.lineTo(right, base + 0.5);
    context.moveTo(left, Math.round(y(most)) + 0.5);
    context.lineTo(right, Math.round(y(most)) + 0.5);
    context.stroke();
    text(context, String(most), left - 8, y(most), { align: "right" });
    text(context, "0", left - 8, base, { align: "right" });
    context.beginPath();
    context.moveTo(x(from), y(0));
    for (const [at, round] of ended) context.lineTo(x(at), y(round));
    context.lineTo(x(now), y(ended.at(-1)?.[1] ?? 0));
    context.lineTo(x(now), base);
    context.closePath();
    context.fillStyle = colour("c0");
    context.globalAlpha = 0.16;
    context.fill();
    context.globalAlpha = 1;
    context.strokeStyle = colour("c0");
    context.lineWidth = 1.75;
    context.beginPath();
    context.moveTo(x(from), y(0));
    for (const [at, round] of ended) context.lineTo(x(at), y(round));
    context.stroke();
    for (const [kind, , at] of marks) this.mark(context, kind, x(at), base, 3.6);
    text(context, "rounds ended", left + 2, 6, { base: "middle" });
  }

  mark(context, kind, x, y, r) {
    const found = MARKS.find(([name]) => name === kind);
    if (!found) return;
    context.fillStyle = colour("card");
    context.globalAlpha = 0.85;
    context.beginPath();
    context.arc(x, y, r + 2, 0, 2 * Math.PI);
    context.fill();
    context.globalAlpha = 1;
    glyph(context, found[2], x, y, r, colour(colourOf(kind)), colour("card"));
  }
}
