// What the server has sent, folded: the same state whether it came at once or in changes.

export class Store {
  constructor() { this.clear(); }

  clear() {
    this.cells = new Map();
    this.peers = new Map();
    this.series = new Map();
    this.now = null;
    this.revision = 0;
  }

  // Takes a change; returns the names of what is not as it was.
  apply(change) {
    const touched = new Set(["now"]);
    if (change.whole) {
      for (const name of [...this.cells.keys(), ...this.series.keys()]) touched.add(name);
      touched.add("peers");
      this.clear();
    }
    this.revision = change.revision;
    this.now = { ...change.now, came: performance.now() };
    for (const [name, value] of Object.entries(change.cells)) {
      this.cells.set(name, value);
      touched.add(name);
    }
    for (const [peer, row] of Object.entries(change.peers)) {
      this.peers.set(Number(peer), row);
      touched.add("peers");
    }
    for (const [name, end] of Object.entries(change.series)) {
      this.series.set(name, joined(this.series.get(name), end));
      touched.add(name);
      if (name.includes("/")) touched.add(`${name.split("/")[0]}/`);
    }
    return touched;
  }

  items(name) { return this.series.get(name)?.items ?? []; }
  cell(name, otherwise = null) { return this.cells.has(name) ? this.cells.get(name) : otherwise; }
  get head() { return this.cell("head", {}); }
  get indices() {
    const known = Math.max(this.now?.known ?? 0, this.head.peers ?? 0);
    return Array.from({ length: known }, (_, index) => index);
  }
  name(index) { return this.cell("names", [])[index] ?? `peer-${index}`; }
  row(index) { return this.peers.get(index) ?? ["starting", 0, null, null, 0, 0, null]; }

  // Seconds of the run, also between two changes while it goes on in real time.
  get seconds() {
    if (this.now === null) return 0;
    const real = this.cell("running") && !this.head.simulated && this.now.events > 0;
    return this.now.t + (real ? Math.min((performance.now() - this.now.came) / 1000, 30) : 0);
  }
}

// A list with the end that was sent in place of its own; what is before `first` is kept no longer.
function joined(before, end) {
  const items = before === undefined ? [] : before.items;
  const first = before === undefined ? end.from : before.first;
  items.length = Math.min(items.length, Math.max(0, end.from - first));
  for (const item of end.items) items.push(item);
  if (end.first > first) items.splice(0, end.first - first);
  return { first: Math.max(first, end.first), items };
}
