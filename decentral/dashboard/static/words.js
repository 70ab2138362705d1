// How things are said, and the signs they are shown by: never by colour alone.

export const PHASES = [
  ["train", "trains", "circle"],
  ["exchange", "exchanges", "diamond"],
  ["merge", "merges", "square"],
  ["evaluate", "evaluates", "triangle"],
  ["waiting", "waits", "ring"],
  ["serving", "serves", "hexagon"],
  ["starting", "starts", "dotted"],
  ["finished", "finished", "dot"],
  ["crashed", "crashed", "cross"],
  ["failed", "failed", "cross"],
  ["left", "left", "minus"],
];
export const SAID = Object.fromEntries(PHASES.map(([name, said]) => [name, said]));
export const SHAPE = Object.fromEntries(PHASES.map(([name, , shape]) => [name, shape]));
export const GONE = new Set(["crashed", "failed", "left"]);
export const MARKS = [["crashed", "crashed", "cross"], ["rejoined", "rejoined", "up"], ["left", "left", "minus"], ["joined", "joined", "plus"]];
export const KINDS = [["model", "models"], ["view", "views of peers"], ["control", "control"], ["evidence", "evidence"]];

export function colourOf(what) {
  return { crashed: "bad", failed: "bad", left: "warn", finished: "soft", starting: "soft", rejoined: "good", joined: "c6" }[what] ?? what;
}

export function bytes(size) {
  for (const unit of ["B", "kB", "MB"]) {
    if (size < 1000) return unit === "B" ? `${Math.round(size)} B` : `${size.toFixed(1)} ${unit}`;
    size /= 1000;
  }
  return `${size.toFixed(1)} GB`;
}

export function seconds(value) {
  if (value < 60) return `${value.toFixed(1)} s`;
  const whole = Math.floor(value), two = (part) => String(part).padStart(2, "0");
  return whole < 3600 ? `${Math.floor(whole / 60)}:${two(whole % 60)} min` : `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)} h`;
}

// Along an axis, with as many digits as its step has.
export function moment(value, step) {
  return value < 60 ? `${value.toFixed(step < 0.0995 ? 2 : step < 0.995 ? 1 : 0)} s` : seconds(value);
}

export const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(1)} %`);
export const number = (value) => (value === null || value === undefined ? "–" : Number(value).toFixed(4));
export const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

// An element of the page. Texts are texts: whatever a peer calls itself is never read as HTML.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// A sign as a small picture, for legends; `paint.js` draws the same on canvases.
const SIGNS = {
  circle: "M8 1.5a6.5 6.5 0 1 0 .01 0z", diamond: "M8 .5 15.5 8 8 15.5.5 8z", square: "M2 2h12v12H2z", triangle: "M8 1 15.5 14.5H.5z",
  hexagon: "M8 .8 14.4 4.4v7.2L8 15.2 1.6 11.6V4.4z", dot: "M8 4.5a3.5 3.5 0 1 0 .01 0z", up: "M8 1 15.5 14.5H.5z",
};
const LINES = { ring: "M8 2.5a5.5 5.5 0 1 0 .01 0z", dotted: "M8 2.5a5.5 5.5 0 1 0 .01 0z", cross: "M2 2 14 14M14 2 2 14", minus: "M2 8h12", plus: "M2 8h12M8 2v12" };

export function sign(shape, colour) {
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg"), path = document.createElementNS(space, "path");
  picture.setAttribute("viewBox", "0 0 16 16");
  picture.setAttribute("aria-hidden", "true");
  path.setAttribute("d", SIGNS[shape] ?? LINES[shape]);
  if (shape in SIGNS) path.style.fill = `var(--${colour})`;
  else {
    path.style.fill = "none";
    path.style.stroke = `var(--${colour})`;
    path.style.strokeWidth = "2.6";
    if (shape === "dotted") path.style.strokeDasharray = "2.5 2.5";
  }
  picture.append(path);
  return picture;
}
