"use strict";
/* The rows, and small helpers. Text from a run only ever enters the page as a text node or an attribute. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const COUNT = DATA.count;
/* A name from a run must not be found among what every object has. */
for (const map of [DATA.columns, DATA.help, DATA.groups, DATA.flags, DATA.trainings]) Object.setPrototypeOf(map, null);
const column = Object.create(null);
for (const [name, packed] of Object.entries(DATA.columns)) {
  column[name] = packed.n
    ? packed.n.map((value) => (value === "inf" ? Infinity : value === "-inf" ? -Infinity : value))
    : packed.i.map((index) => (index < 0 ? null : packed.v[index]));
}
const ALL = Array.from({ length: COUNT }, (_, index) => index);
const HIGHER_IS_BETTER = new Set(["accuracy"]);

/** Value of a column in a row; null where there is none. */
const at = (name, row) => (column[name] ? column[name][row] : null);
/** Whole robustness curves by row: those of minimum-norm attacks, see `curves` in the report's Python. */
const whole = new Map(DATA.whole.curves.map((one) => [one.row, one]));
/** Whether an attack had no budget: what it leaves says nothing, for it fools any network in the end. */
const boundless = (row) => Boolean(at("norm", row) && at("axis", row)) && at("strength", row) === null;
const ok = (row) => at("status", row) === "ok";
const better = (row) => (HIGHER_IS_BETTER.has(at("metric", row)) ? 1 : -1);

const networks = ALL.map((row) => {
  const defense = at("defense", row) === "none" ? "" : ` + ${at("defense", row)}`;
  const trained = at("trained_on", row);
  const source = trained && trained !== at("dataset", row) ? `, trained on ${trained}` : "";
  return `${at("model", row)}${defense}${source}`;
});
/** The network with its run, where the page shows several. */
const full = ALL.map((row) => networks[row] + (DATA.several_runs ? ` [${at("run", row)}]` : ""));
/** The data set; with its metric, or its run, where one label stands for what cannot be compared. */
const scenes = (() => {
  const of = (row, ...names) => names.map((name) => at(name, row)).join(" ");
  const [metrics, data] = [new Map(), new Map()];
  for (const row of ALL.filter(ok)) {
    const add = (map, value) => map.set(at("dataset", row), (map.get(at("dataset", row)) || new Set()).add(value));
    add(metrics, at("metric", row));
    add(data, of(row, "fingerprint", "protocol"));
  }
  const many = (map, row) => (map.get(at("dataset", row)) || new Set()).size > 1;
  return ALL.map((row) => at("dataset", row) + (many(metrics, row) ? ` (${at("metric", row)})` : "") + (many(data, row) && DATA.several_runs ? ` of ${at("run", row)}` : ""));
})();
const labels = ALL.map((row) => {
  const strength = at("strength", row);
  if (at("kind", row) !== "worst-case") return at("perturbation", row);
  return [at("perturbation", row), at("norm", row), strength === null ? null : short(strength)].filter(Boolean).join(" ");
});

function distinct(rows, value) {
  return [...new Set(rows.map(value))].filter((one) => one !== null && one !== "");
}

function grouped(rows, key) {
  const groups = new Map();
  for (const row of rows) {
    const name = key(row);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(row);
  }
  return groups;
}

/** Six digits at most, as in the file. */
function short(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  return Number.isFinite(value) ? String(Number(value.toPrecision(4))) : value > 0 ? "infinite" : "-infinite";
}

/** Three decimals of a rate, three digits of anything else. */
function figure(value, metric) {
  if (value === null || value === undefined) return "–";
  return metric === "accuracy" ? value.toFixed(3) : String(Number(value.toPrecision(3)));
}

/** ``0.46 [0.43, 0.49]`` */
const ranged = ([value, low, high]) => `${short(value)} [${short(low)}, ${short(high)}]`;

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const SVG = "http://www.w3.org/2000/svg";
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** A labelled select; ``choices`` are texts, pairs [value, text], or {label, choices} for groups. */
function select(label, choices, changed, value) {
  const option = (one) => {
    const [key, text] = Array.isArray(one) ? one : [one, one];
    return el("option", { value: key, selected: key === value }, text);
  };
  const options = choices.map((one) => (one.choices ? el("optgroup", { label: one.label }, one.choices.map(option)) : option(one)));
  const node = el("select", { onchange: () => changed(node.value) }, options);
  return el("label", {}, label, node);
}

function flagsOf(row) {
  return (at("flags", row) || "").split(";").filter(Boolean);
}

function hide(id) {
  const link = document.querySelector(`nav a[href="#${id}"]`);
  if (link) link.hidden = true;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(source);
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected: copy it with the keyboard";
  }
});
