// Who is there and what everybody is at: the graph or the crowd, a legend that counts, one peer in words, all in a table.

import { colour, glyph, Picture, text } from "./paint.js";
import { bytes, colourOf, element, GONE, number, percent, PHASES, plural, SAID, seconds, setText, SHAPE, sign } from "./words.js";

const ON_A_RING = 160; // more peers fill a disc
const LABELLED = 32;
const IN_TABLE = 512;
const EDGES_SEEN = 250;

export class Choice {
  peer = null;
  constructor() { this.heard = []; }
  choose(peer) {
    if (peer === this.peer) return;
    this.peer = peer;
    for (const hear of this.heard) hear();
  }
}

export class Topology {
  constructor(store, choice) {
    this.store = store;
    this.choice = choice;
    this.canvas = document.getElementById("topology");
    this.words = document.getElementById("topology-words");
    this.select = document.getElementById("chosen");
    this.chosen = document.getElementById("chosen-words");
    this.options = 1;
    this.places = [];
    this.counts = new Map();
    const legend = document.getElementById("phases");
    for (const [phase, said, shape] of PHASES) {
      if (phase === "serving") continue; // nodes that serve are shown in their chain
      const count = element("b");
      this.counts.set(phase, count);
      legend.append(element("li", {}, sign(shape, colourOf(phase)), said, count));
    }
    this.picture = new Picture(this.canvas, (...given) => this.draw(...given));
    this.canvas.addEventListener("click", (event) => this.point(event));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.select.addEventListener("change", () => choice.choose(this.select.value === "" ? null : Number(this.select.value)));
    choice.heard.push(() => {
      this.select.value = choice.peer ?? "";
      this.picture.stale();
      this.tell();
    });
  }

  names = ["peers", "head", "edges", "names", "now"];

  changed() {
    this.picture.stale();
    const { store } = this, counted = new Map();
    for (const peer of store.indices) {
      const what = store.row(peer)[0];
      counted.set(what, (counted.get(what) ?? 0) + 1);
    }
    for (const [phase, node] of this.counts) {
      setText(node, String(counted.get(phase) ?? 0));
      node.parentElement.toggleAttribute("data-none", !counted.has(phase));
    }
    for (; this.options - 1 < store.indices.length && this.options < 2000; this.options++) {
      this.select.append(element("option", { value: this.options - 1 }, store.name(this.options - 1)));
    }
    setText(this.words, this.said());
    this.tell();
  }

  said() {
    const { head, now } = this.store, sample = now?.sample;
    if (sample) {
      const who = sample.participants.map((peer) => this.store.name(peer));
      const names = who.length > 8 ? `${who.slice(0, 8).join(", ")} and ${who.length - 8} more` : who.join(", ");
      const found = sample.agreement, views = found ? ` ${found.view} of ${found.asked} see the same candidates.` : "";
      return `Sample of round ${sample.round}: ${names}; ${sample.trained.length} done.${views}`;
    }
    if (head.does === "serving") return "Nodes that answer clients, a part of the model each.";
    const edges = this.store.cell("edges", []);
    return edges.length ? `${head.topology}: ${plural(edges.length, "edge")}.` : head.topology ? `${head.topology}.` : "Whoever is drawn trains; nobody has been yet.";
  }

  lay(count, width, height) {
    const x = width / 2, y = height / 2, radius = Math.min(width, height) / 2 - (count <= LABELLED ? 34 : 16);
    return Array.from({ length: count }, (_, index) => {
      if (count <= ON_A_RING) {
        const angle = (2 * Math.PI * index) / count - Math.PI / 2;
        return [x + radius * Math.cos(angle), y + radius * Math.sin(angle), angle];
      }
      const angle = index * 2.399963, far = radius * Math.sqrt((index + 0.5) / count);
      return [x + far * Math.cos(angle), y + far * Math.sin(angle), angle];
    });
  }

  draw(context, width, height) {
    const { store, choice } = this, count = store.indices.length;
    if (!count) return;
    const places = (this.places = this.lay(count, width, height));
    const room = count <= ON_A_RING ? (Math.PI * (Math.min(width, height) - 60)) / count : (Math.min(width, height) * 1.5) / Math.sqrt(count);
    const r = Math.max(1.6, Math.min(9, room * 0.34)), ground = colour("card");
    const sample = store.now?.sample, inSample = new Set(sample?.participants), averages = new Set(sample?.aggregators);
    const edges = store.cell("edges", []), faint = edges.length > EDGES_SEEN ? 0.18 : 0.5;
    const stroke = (pairs, paint, lineWidth, alpha) => {
      context.globalAlpha = alpha;
      context.strokeStyle = paint;
      context.lineWidth = lineWidth;
      context.beginPath();
      for (const [a, b] of pairs) {
        if (a >= count || b >= count) continue;
        context.moveTo(places[a][0], places[a][1]);
        context.lineTo(places[b][0], places[b][1]);
      }
      context.stroke();
      context.globalAlpha = 1;
    };
    stroke(edges, colour("soft"), 1, choice.peer === null ? faint : faint / 2.5);
    if (choice.peer !== null) stroke(edges.filter((edge) => edge.includes(choice.peer)), colour("c1"), 1.75, 0.9);
    if (sample) {
      const to = sample.aggregators.length ? sample.aggregators : [];
      stroke(sample.participants.flatMap((one) => to.map((other) => [one, other])), colour("c0"), 1.25, 0.55);
    }
    for (let peer = 0; peer < count; peer++) {
      const [x, y] = places[peer], what = store.row(peer)[0], marked = inSample.has(peer) || averages.has(peer);
      if (marked) {
        context.globalAlpha = averages.has(peer) ? 0.34 : 0.2;
        context.fillStyle = colour(averages.has(peer) ? "c1" : "c0");
        context.beginPath();
        context.arc(x, y, r * 2, 0, 2 * Math.PI);
        context.fill();
        context.globalAlpha = 1;
      }
      glyph(context, SHAPE[what] ?? "ring", x, y, GONE.has(what) ? r * 0.8 : marked || !sample ? r : r * 0.8, colour(colourOf(what)), ground);
      if (peer === choice.peer) {
        context.strokeStyle = colour("c1");
        context.lineWidth = 2.25;
        context.beginPath();
        context.arc(x, y, r * 2 + 1, 0, 2 * Math.PI);
        context.stroke();
      }
      if (count <= LABELLED) {
        const angle = places[peer][2], far = r * 2 + 8, across = Math.cos(angle);
        const align = Math.abs(across) < 0.25 ? "center" : across > 0 ? "left" : "right";
        const words = store.cell("names", []).length ? store.name(peer).replace("stage-", "") : String(peer);
        text(context, words, x + far * across, y + far * Math.sin(angle), { align, ink: peer === choice.peer || marked ? "ink" : "soft", bold: peer === choice.peer });
      }
    }
    if (sample) {
      context.globalAlpha = 0.86;
      context.fillStyle = ground;
      context.beginPath();
      context.roundRect(width / 2 - 58, height / 2 - 24, 116, 46, 10);
      context.fill();
      context.globalAlpha = 1;
      text(context, `round ${sample.round}`, width / 2, height / 2 - 9, { align: "center", ink: "ink", bold: true });
      text(context, `${sample.trained.length} of ${sample.participants.length} trained`, width / 2, height / 2 + 9, { align: "center" });
    }
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect(), at = [event.clientX - box.left, event.clientY - box.top];
    let best = null, least = 24;
    this.places.forEach(([x, y], peer) => {
      const far = Math.hypot(x - at[0], y - at[1]);
      if (far < least) [best, least] = [peer, far];
    });
    this.choice.choose(best);
  }

  key(event) {
    const count = this.store.indices.length, step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") this.choice.choose(null);
    else if (event.key === "Home" && count) this.choice.choose(0);
    else if (event.key === "End" && count) this.choice.choose(count - 1);
    else if (step && count) this.choice.choose(this.choice.peer === null ? (step > 0 ? 0 : count - 1) : (this.choice.peer + step + count) % count);
    else return;
    event.preventDefault();
  }

  tell() {
    const { peer } = this.choice;
    if (peer === null) return setText(this.chosen, "");
    const [what, round, loss, accuracy, sent] = this.store.row(peer), trains = this.store.head.does !== "serving";
    const words = [SAID[what] ?? what];
    if (trains) words.push(`round ${round}`, `accuracy ${percent(accuracy)}`, `loss ${number(loss)}`, `${bytes(sent)} sent`);
    setText(this.chosen, words.join(" · "));
  }
}

export class Table {
  constructor(store) {
    this.store = store;
    this.table = document.getElementById("table");
    this.details = document.getElementById("table-details");
    this.rows = [];
    this.details.addEventListener("toggle", () => this.changed());
    this.at = 0;
  }

  names = ["peers", "names", "head"];

  // Only while it is open, and twice a second: nobody reads faster.
  changed() {
    if (!this.details.open) return;
    const wait = 500 - (performance.now() - this.at);
    if (wait > 0 && this.rows.length) {
      this.later ??= setTimeout(() => { this.later = undefined; this.changed(); }, wait);
      return;
    }
    this.at = performance.now();
    const { store } = this, count = Math.min(store.indices.length, IN_TABLE);
    if (this.rows.length !== count) this.build(count);
    for (let peer = 0; peer < count; peer++) {
      const [what, round, loss, accuracy, sent, since] = store.row(peer);
      const cells = [SAID[what] ?? what, seconds(since), String(round), number(loss), percent(accuracy), bytes(sent)];
      cells.forEach((words, place) => setText(this.rows[peer][place], words));
    }
  }

  build(count) {
    const heads = [["peer", "text"], ["is at", "text"], ["since", ""], ["round", ""], ["loss", ""], ["accuracy", ""], ["sent", ""]];
    this.rows = [];
    const body = element("tbody");
    for (let peer = 0; peer < count; peer++) {
      const cells = heads.slice(1).map(([, kind]) => element("td", { class: kind || null }));
      this.rows.push(cells);
      body.append(element("tr", {}, element("th", { scope: "row", class: "text" }, this.store.name(peer)), ...cells));
    }
    const left = this.store.indices.length - count, said = left > 0 ? `The first ${count} of ${count + left} peers.` : plural(count, "peer");
    this.table.replaceChildren(element("caption", {}, said), element("thead", {}, element("tr", {}, ...heads.map(([name, kind]) => element("th", { scope: "col", class: kind || null }, name)))), body);
  }
}
