// The page: listens to the server, folds what comes, and draws what has changed once a frame.

import { Accuracy, Bytes } from "./curves.js";
import { Lanes } from "./lanes.js";
import { Choice, Table, Topology } from "./peers.js";
import { Chain, Pictures, ReceiptList, Told } from "./serving.js";
import { Store } from "./store.js";
import { bytes, element, percent, plural, seconds, setText } from "./words.js";

const SPOKEN = 10000; // milliseconds between what a screen reader is told
const store = new Store(), choice = new Choice();
const by = (id) => document.getElementById(id);

class Header {
  names = ["head", "running", "peers", "now"];

  constructor() {
    this.figures = new Map();
    this.spoken = 0;
  }

  changed() {
    const { head, now } = store;
    document.title = `${head.recipe ?? "…"} · decentral`;
    setText(by("name"), head.recipe ?? "…");
    const said = head.does === "serving" ? [`${plural(head.peers, "node")} serve ${head.model}`] : [`${head.algorithm} with ${plural(head.peers, "peer")}`, head.model];
    setText(by("about"), [...said, head.place ?? "", `seed ${head.seed}`, `recipe ${head.hash?.slice(0, 12)}`].join(" · "));
    by("simulated").hidden = !(head.simulated || store.cell("replicas", []).some((each) => each.behaviour));
    by("attack").hidden = !head.attack;
    setText(by("attack"), head.attack ? (head.does === "serving" ? head.attack : `attack: ${head.attack}`) : "");
    setText(by("foot"), `${head.where ?? ""}: ${plural(now.events, "event")}${now.unsound ? `, and ${now.unsound} that were not sound and are left out` : ""}. This page changes nothing.`);
    const problems = [...store.cells].filter(([name, value]) => name.startsWith("problem/") && value).map(([, value]) => value);
    by("problem").hidden = !problems.length;
    setText(by("problem"), problems.join("; "));
    this.numbers();
    this.speak();
  }

  numbers() {
    const { head, now } = store, sent = Object.values(now.sent).reduce((sum, each) => sum + each, 0);
    const gone = store.indices.length - now.present, time = seconds(store.seconds);
    const there = ["Peers", `${now.present} of ${store.indices.length}`, gone ? `${gone} gone` : "everybody is there"];
    if (head.does === "serving") {
      const replicas = store.cell("replicas", []), receipts = store.cell("receipts", []), run = replicas.filter((each) => each.running).length;
      const loads = replicas.map((each) => store.row(each.index)[6]).filter(Boolean), sum = (place) => loads.reduce((all, load) => all + load[place], 0);
      const queue = sum(0), answered = sum(1);
      const suspects = new Set(receipts.flatMap((each) => each.faults.map((fault) => fault.node))).size;
      this.show([
        ["Nodes", `${run} of ${replicas.length}`, "running"],
        ["Queue", String(queue), `${answered.toLocaleString("en")} answered`],
        ["Receipts", String(receipts.length), `${receipts.filter((each) => each.valid).length} count`],
        ["At fault", String(suspects), "by these receipts"],
        ["Time", time, "since the start"],
      ]);
      return;
    }
    const mean = head.experts && now.loss !== null ? ["Mean loss", Number(now.loss).toFixed(4), "of training"] : ["Mean accuracy", percent(now.accuracy), now.loss === null ? "" : `training loss ${Number(now.loss).toFixed(4)}`];
    this.show([
      mean,
      ["Rounds", String(now.ended), `of ${head.rounds}`, head.rounds ? now.ended / head.rounds : 0],
      there,
      ["Sent", bytes(sent), `${bytes(now.sent.model ?? 0)} of it models`],
      ["Time", time, head.simulated ? "virtual" : "since the start"],
    ]);
  }

  show(figures) {
    const box = by("numbers");
    if (this.figures.size !== figures.length || figures.some(([name]) => !this.figures.has(name))) {
      this.figures = new Map(figures.map(([name, , , share]) => [name, { value: element("dd"), more: element("dd", { class: "soft" }), bar: share === undefined ? null : element("i") }]));
      box.replaceChildren(...[...this.figures].map(([name, { value, more, bar }]) => element("dl", {}, element("dt", {}, name), value, more, bar ? element("div", { class: "bar", "aria-hidden": "true" }, bar) : null)));
    }
    for (const [name, value, more, share] of figures) {
      const made = this.figures.get(name);
      setText(made.value, value);
      setText(made.more, more);
      if (made.bar) made.bar.style.transform = `scaleX(${Math.min(1, share)})`;
    }
  }

  speak() {
    if (performance.now() - this.spoken < SPOKEN && this.spoken) return;
    this.spoken = performance.now();
    const { head, now } = store;
    setText(by("spoken"), head.does === "serving" ? "" : `Round ${now.ended} of ${head.rounds}, mean accuracy ${percent(now.accuracy)}, ${now.present} of ${plural(store.indices.length, "peer")} there.`);
  }
}

const views = [new Header(), new Topology(store, choice), new Accuracy(store, choice), new Lanes(store, choice), new Bytes(store), new Told(store), new Table(store), new Chain(store), new ReceiptList(store), new Pictures(store)];
const accuracy = views.find((view) => view instanceof Accuracy);
choice.heard.push(() => accuracy.picture.stale());

let touched = new Set(), asked = 0;
function update() {
  asked = 0;
  const these = touched;
  touched = new Set();
  const serving = store.head.does === "serving";
  for (const id of ["accuracy-card", "rounds-card", "bytes-card", "table-card"]) by(id).hidden = serving;
  by("topology-card").hidden = serving;
  for (const view of views) if (view.names.some((name) => these.has(name))) view.changed();
  by("main").removeAttribute("data-waiting");
  status();
}

let heard = false, lost = false;
function status() {
  const node = by("state"), running = store.cell("running"), live = heard && !lost && running;
  const [words, tone] = lost ? ["connection lost, trying again", "bad"] : !heard ? ["connecting", "plain"] : running ? ["live", "good"] : [store.head.does === "serving" ? "not running" : "ended", "plain"];
  setText(node, words);
  node.dataset.tone = tone;
  node.toggleAttribute("data-live", Boolean(live));
}

const stream = new EventSource("events");
stream.addEventListener("message", (event) => {
  heard = true;
  lost = false;
  for (const name of store.apply(JSON.parse(event.data))) touched.add(name);
  if (!asked) asked = requestAnimationFrame(update);
});
stream.addEventListener("open", () => { lost = false; status(); });
stream.addEventListener("error", () => { lost = true; status(); });
document.documentElement.dataset.ready = "";
export { store };
