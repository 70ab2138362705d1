// A model that is served: its stages, their replicas and what is thought of them, receipts and why one does not count.

import { colourOf, element, plural, SAID, setText, SHAPE, sign } from "./words.js";

export class Chain {
  constructor(store) {
    this.store = store;
    this.card = document.getElementById("chain-card");
    this.words = document.getElementById("chain-words");
    this.list = document.getElementById("chain");
  }

  names = ["parts", "replicas", "receipts", "peers", "ledger"];

  changed() {
    const parts = this.store.cell("parts"), replicas = this.store.cell("replicas", []);
    this.card.hidden = !parts;
    if (!parts) return;
    const shown = JSON.stringify([parts, replicas, this.store.cell("receipts", []).map((receipt) => receipt.faults), replicas.map((each) => [this.store.row(each.index)[0], this.store.row(each.index)[6]])]);
    if (shown === this.shown) return;
    this.shown = shown;
    const ledger = this.store.cell("ledger", "");
    setText(this.words, `An input passes through the stages in turn. The bar: how good an answer of a replica is expected to be, by what this machine’s client has seen of it${ledger ? ` (${ledger})` : ""}.`);
    const faults = this.faults();
    this.list.replaceChildren(...parts.map((part) => this.part(part, replicas.filter((each) => each.part === part.name), faults)));
  }

  // The newest fault of each node.
  faults() {
    const found = new Map();
    for (const receipt of this.store.cell("receipts", [])) for (const fault of receipt.faults) if (!found.has(fault.node)) found.set(fault.node, fault);
    return found;
  }

  part(part, replicas, faults) {
    const where = part.at === "client" ? "computed by the client itself" : plural(replicas.length, "replica");
    const proved = part.circuit ? " · proved" : "", digest = part.digest ? element("code", { title: part.digest }, part.digest.slice(0, 8)) : null;
    return element("li", {}, element("h3", {}, part.name), element("p", { class: "soft" }, `${where}${proved} `, digest), element("ul", { class: "replicas" }, ...replicas.map((each) => this.replica(each, faults.get(each.name)))));
  }

  replica(each, fault) {
    const phase = this.store.row(each.index)[0], is = each.running ? phase : phase === "serving" || phase === "starting" ? "not running" : phase;
    const load = this.store.row(each.index)[6], busy = load ? busyWords(load) : "";
    const good = is === "serving", tone = good ? "good" : "bad", known = each.reputation;
    const standing = known === null ? "nothing known" : `${Math.round(100 * known.score)} %${known.newcomer ? `, tested ${known.passed} of 3` : ""}`;
    const fill = element("i"), bad = known !== null && known.bad > known.good;
    fill.style.width = `${known === null ? 0 : Math.round(100 * known.score)}%`;
    const measures = known === null ? standing : `${standing}: ${known.good} good and ${known.bad} bad answers`;
    return element("li", { class: "replica", "data-tone": fault || !good ? "bad" : null },
      element("div", { class: "line" }, element("span", { class: "node" }, each.name), element("span", { class: "is", "data-tone": tone }, SAID[is] ?? is)),
      element("div", { class: "meter", role: "img", "aria-label": `reputation ${measures}`, "data-tone": bad ? "bad" : known?.newcomer ? "new" : null }, fill),
      element("div", { class: "line soft" }, element("span", {}, standing), element("span", {}, known === null ? "" : `${known.good} good, ${known.bad} bad`)),
      busy ? element("div", { class: "soft" }, busy) : null,
      each.behaviour ? element("div", { class: "lie" }, `told to lie: ${each.behaviour} (SIMULATED)`) : null,
      fault ? element("div", { class: "why" }, `${fault.kind}: ${fault.detail}`) : null);
  }
}

// What a node's server counts since its start.
function busyWords([waiting, answered, declined, proofs, refused]) {
  const more = [[waiting, "in the queue"], [declined, "declined"], [proofs, "proved"], [refused, "refused"]].filter(([count]) => count);
  return [`${answered.toLocaleString("en")} answered`, ...more.map(([count, said]) => `${count.toLocaleString("en")} ${said}`)].join(" · ");
}

export class ReceiptList {
  constructor(store) {
    this.store = store;
    this.card = document.getElementById("receipts-card");
    this.words = document.getElementById("receipts-words");
    this.list = document.getElementById("receipts");
    this.open = new Set();
  }

  names = ["receipts", "parts"];

  changed() {
    const receipts = this.store.cell("receipts");
    this.card.hidden = receipts === null;
    if (receipts === null) return;
    const valid = receipts.filter((each) => each.valid).length;
    setText(this.words, receipts.length ? `Verified here under trust.toml: ${valid} of ${receipts.length} count.` : "None yet: decentral predict DIR INPUT --receipt DIR/receipts/NAME.json");
    const shown = JSON.stringify(receipts);
    if (shown === this.shown) return;
    this.shown = shown;
    this.list.replaceChildren(...receipts.map((each, place) => this.receipt(each, place)));
  }

  receipt(each, place) {
    const key = `${each.name} ${each.at}`, agree = each.parts.map((part) => `${part.agree.length} of ${part.asked.length}`).join(", ");
    const reasons = [
      ...each.reasons.map((reason) => element("li", { class: "reason" }, reason)),
      ...each.faults.map((fault) => element("li", { class: "fault" }, `${fault.kind}: ${fault.node} (${fault.part}): ${fault.detail}`)),
      ...each.parts.map((part) => element("li", {}, `${part.part}: ${part.agree.join(", ") || "nobody"} agree${part.others.length ? `; asked too: ${part.others.join(", ")}` : ""}`)),
    ];
    const first = place === 0 && (!each.valid || each.faults.length > 0) && !this.touched;
    const made = element("details", { class: "receipt", open: first || this.open.has(key) },
      element("summary", {}, element("span", { class: "badge", "data-tone": each.valid ? "good" : "bad" }, each.valid ? "✓ valid" : "✕ not valid"), element("span", { class: "file" }, each.name),
        each.simulated ? element("span", { class: "badge", "data-tone": "warn" }, "SIMULATED") : null, element("span", { class: "soft" }, agree ? `${agree} agree` : ""), element("span", { class: "soft" }, each.asked ?? "")),
      element("ul", {}, ...reasons));
    made.addEventListener("toggle", () => {
      this.touched = true;
      this.open[made.open ? "add" : "delete"](key);
    });
    return made;
  }
}

export class Pictures {
  constructor(store) {
    this.store = store;
    this.card = document.getElementById("pictures-card");
    this.list = document.getElementById("pictures");
    this.made = new Map();
  }

  names = ["pictures"];

  changed() {
    const pictures = this.store.cell("pictures", []);
    this.card.hidden = !pictures.length;
    const kept = new Map();
    for (const each of pictures) {
      kept.set(each.name, this.made.get(each.name) ?? element("figure", {},
        element("img", { src: `pictures/${each.name}`, width: each.width, height: each.height, loading: "lazy", alt: `Images in ${each.file}, ${each.width} by ${each.height} pixels` }),
        element("figcaption", {}, `${each.file}, ${new Date(1000 * each.at).toLocaleTimeString("en-GB")}`)));
    }
    this.made = kept;
    this.list.replaceChildren(...kept.values());
  }
}

// What happened, the newest last and in sight, unless somebody has scrolled up to read.
export class Told {
  constructor(store) {
    this.store = store;
    this.list = document.getElementById("told");
    this.rows = new Map();
  }

  names = ["told"];

  changed() {
    const { items = [], first = 0 } = this.store.series.get("told") ?? {};
    if (!items.length) return this.list.replaceChildren(element("li", { class: "none" }, "Nothing out of the ordinary so far."));
    if (!this.rows.size) this.list.replaceChildren();
    const numbers = new Set(items.map((_, place) => first + place));
    for (const [number, row] of this.rows) if (!numbers.has(number)) { row.remove(); this.rows.delete(number); }
    const { scrollTop, scrollHeight, clientHeight } = this.list, below = scrollHeight - scrollTop - clientHeight;
    items.forEach((entry, place) => {
      let row = this.rows.get(first + place);
      if (!row) {
        row = this.row();
        this.rows.set(first + place, row);
        this.list.append(row);
      }
      row.dataset.tone = entry.tone;
      const [time, mark, what, count] = row.children;
      setText(time, `${entry.t.toFixed(entry.t < 100 ? 1 : 0)} s`);
      setText(mark, { bad: "✕", good: "▲", plain: "·" }[entry.tone] ?? "·");
      setText(what, entry.text);
      setText(count, entry.count > 1 ? `× ${entry.count}` : "");
    });
    if (below < 24) this.list.scrollTop = this.list.scrollHeight;
  }

  row() {
    return element("li", {}, element("time"), element("span", { class: "sign", "aria-hidden": "true" }), element("span", { class: "what" }), element("span", { class: "count" }));
  }
}
