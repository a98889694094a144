/* The table: filter, sort, group. Rows are made as one scrolls to them. */

const CHUNK = 100;
const METRICS = distinct(ALL, (row) => at("metric", row));
const TOP = Object.fromEntries(
  METRICS.map((metric) => {
    const ends = ALL.filter((row) => at("metric", row) === metric).flatMap((row) => [at("perturbed_hi", row), at("clean", row)]);
    return [metric, metric === "accuracy" ? 1 : ends.reduce((top, end) => (Number.isFinite(end) && end > top ? end : top), 1e-9)];
  }),
);
const several = (name) => distinct(ALL, (row) => at(name, row)).length > 1;
const manyDatasets = several("dataset");

/** Columns of the table: text, a value to sort by, and what stands in the cell. On paper those that are folded stand under the label. */
const SHOWN = [
  { key: "perturbation", title: "Perturbation", value: (row) => labels[row], cell: labelCell },
  DATA.several_runs && { key: "run", folded: true, title: "Run", value: (row) => at("run", row) },
  several("dataset") && { key: "dataset", folded: true, title: "Data set", value: (row) => at("dataset", row) },
  { key: "network", folded: true, title: "Network", value: (row) => networks[row] },
  { key: "knowledge", folded: true, title: "Knowledge", value: (row) => (at("knowledge", row) === "none" ? "" : at("knowledge", row)) },
  several("seed") && { key: "seed", title: "Seed", number: true, value: (row) => at("seed", row) },
  METRICS.length > 1 && { key: "metric", folded: true, title: "Metric", value: (row) => at("metric", row) },
  { key: "clean", title: "Clean", number: true, value: (row) => at("clean", row), cell: (row) => figure(at("clean", row), at("metric", row)) },
  { key: "perturbed", title: "Perturbed, 95 %", number: true, always: true, value: (row) => at("perturbed", row), cell: intervalCell },
  { key: "success", title: "Success", number: true, value: success, cell: (row) => figure(success(row), "accuracy") },
  ALL.some((row) => flagsOf(row).length) && { key: "flags", title: "Flags", value: (row) => flagsOf(row).length || null, cell: (row) => flagsOf(row).map(flagMark) },
  !ALL.every(ok) && { key: "status", folded: true, title: "Status", value: (row) => at("status", row), cell: (row) => el("span", { class: `status-${at("status", row)}` }, at("status", row)) },
].filter(Boolean);
const GROUPS = SHOWN.filter((one) => !one.number && one.key !== "flags");
const FACETS = ["run", "dataset", "model", "defense", "perturbation_id", "knowledge", "kind", "status"].filter(several);
const TITLES = { run: "Run", dataset: "Data set", model: "Model", defense: "Defense", perturbation_id: "Perturbation", knowledge: "Knowledge", kind: "Kind", status: "Status" };

function worstFirst() {
  return { key: "perturbed", direction: METRICS.every((metric) => !HIGHER_IS_BETTER.has(metric)) ? -1 : 1 };
}
const state = { words: [], facets: {}, flag: "", group: "", sort: worstFirst(), closed: new Set(), opened: new Set() };
const table = document.getElementById("table");
const body = table.tBodies[0];
const box = document.getElementById("table-box");
let items = [];
let made = 0;

function success(row) {
  return at("perturbation", row) === "none" ? null : at("attack_success_rate", row);
}

function labelCell(row) {
  const button = el(
    "button",
    { type: "button", class: "open", "aria-expanded": String(state.opened.has(row)), "aria-controls": `detail-${row}`, onclick: () => toggle(row) },
    el("span", {}, labels[row] + (at("kind", row) === "audit" ? " (audit)" : "")),
  );
  const folded = [manyDatasets && at("dataset", row), full[row], at("knowledge", row) !== "none" && at("knowledge", row), METRICS.length > 1 && at("metric", row), !ok(row) && at("status", row)];
  // Seed and flags have columns on paper.
  const beside = [several("seed") && `seed\u00a0${at("seed", row)}`, ...flagsOf(row)].filter(Boolean).map((one) => ` · ${one}`);
  return [button, el("small", { class: "under" }, folded.filter(Boolean).join(" · "), el("span", { class: "beside" }, beside))];
}

function intervalCell(row) {
  const metric = at("metric", row);
  const [low, value, high] = ["perturbed_lo", "perturbed", "perturbed_hi"].map((name) => at(name, row));
  if (value === null) return "–";
  const place = (number) => Math.max(0, Math.min(100, (100 * number) / TOP[metric])).toFixed(2);
  const width = (from, to) => Math.max(0.5, place(to) - place(from)).toFixed(2);
  const bar = svg("svg", { class: "ci", viewBox: "0 0 100 14", preserveAspectRatio: "none", "aria-hidden": "true" });
  bar.append(svg("line", { class: "rule", x1: 0, x2: 100, y1: 7, y2: 7 }));
  bar.append(svg("rect", { class: "range", x: place(low), width: width(low, high), y: 3, height: 8 }));
  if (at("clean", row) !== null) bar.append(svg("rect", { class: "before", x: Math.min(99, place(at("clean", row))), width: 0.8, y: 1, height: 12 }));
  bar.append(svg("rect", { class: "value", x: Math.min(98.6, place(value)), width: 1.4, y: 0, height: 14 }));
  return el("div", { class: "measure" }, bar, el("span", {}, `${figure(value, metric)} [${figure(low, metric)}, ${figure(high, metric)}]`));
}

/* --- what is shown --- */

const haystack = ALL.map((row) =>
  [labels[row], full[row], at("dataset", row), at("defense", row), at("knowledge", row), at("flags", row), at("status", row), at("reason", row), at("cell_id", row), at("perturbation_id", row)]
    .filter(Boolean).join(" ").toLowerCase(),
);

function matching() {
  const facets = Object.entries(state.facets).filter(([, value]) => value !== "");
  return ALL.filter(
    (row) =>
      facets.every(([name, value]) => String(at(name, row)) === value) &&
      (!state.flag || (state.flag === "*" ? flagsOf(row).some((flag) => !flag.startsWith("info-")) : flagsOf(row).includes(state.flag))) &&
      state.words.every((word) => haystack[row].includes(word)),
  );
}

const collator = new Intl.Collator("en", { numeric: true });
function sorted(rows) {
  const { key, direction } = state.sort;
  const value = SHOWN.find((one) => one.key === key).value;
  const values = rows.map((row) => [value(row), row]);
  const empty = ([one]) => one === null || one === "";
  values.sort((a, b) => {
    if (empty(a) || empty(b)) return empty(a) - empty(b) || a[1] - b[1];
    const order = typeof a[0] === "number" ? a[0] - b[0] : collator.compare(a[0], b[0]);
    return direction * order || a[1] - b[1];
  });
  return values.map(([, row]) => row);
}

function refresh() {
  const rows = sorted(matching());
  const group = GROUPS.find((one) => one.key === state.group);
  items = rows;
  if (group) {
    const groups = [...grouped(rows, (row) => group.value(row) || "none")];
    items = groups.flatMap(([name, members]) => [{ name, members }, ...(state.closed.has(name) ? [] : members)]);
  }
  document.getElementById("count").textContent = rows.length === COUNT ? `${COUNT} rows` : `${rows.length} of ${COUNT} rows`;
  heading();
  body.replaceChildren();
  table.setAttribute("aria-rowcount", String(items.length + 1));
  made = 0;
  more(CHUNK);
}

function more(count) {
  const last = body.querySelector("tr.more");
  if (last) last.remove();
  const part = document.createDocumentFragment();
  const end = Math.min(items.length, made + count);
  for (; made < end; made++) part.append(...rowsOf(items[made], made));
  if (made < items.length) {
    const button = el("button", { type: "button", onclick: () => more(CHUNK) }, `Show more: ${items.length - made} are left`);
    part.append(el("tr", { class: "more" }, el("td", { colspan: SHOWN.length }, button)));
  }
  body.append(part);
  const sentinel = body.querySelector("tr.more");
  if (sentinel) watcher.observe(sentinel);
}
const watcher = new IntersectionObserver(
  (entries) => {
    if (entries.some((entry) => entry.isIntersecting)) {
      watcher.disconnect();
      more(CHUNK);
    }
  },
  { root: box, rootMargin: "600px" },
);
addEventListener("beforeprint", () => more(items.length));

function classOf(one, place, text = "") {
  return [/\S{40}/.test(text) && "long", one.number && "num", place && !one.always && "secondary", one.folded && "folded", one.key === "network" && "network"].filter(Boolean).join(" ");
}

function rowsOf(item, index) {
  if (typeof item !== "number") return [groupRow(item, index)];
  const cells = SHOWN.map((one, place) => {
    const content = one.cell ? one.cell(item) : one.value(item);
    const style = classOf(one, place, one.value(item));
    const children = Array.isArray(content) || content instanceof Node ? content : String(content ?? "");
    return el(place ? "td" : "th", { class: style || null, scope: place ? null : "row" }, children);
  });
  const line = el("tr", { id: `row-${item}`, class: at("kind", item), "aria-rowindex": index + 2 }, cells);
  return state.opened.has(item) ? [line, detail(item)] : [line];
}

function groupRow({ name, members }, index) {
  const known = members.filter((row) => at("perturbed", row) !== null);
  const bad = known.reduce((worst, row) => (worst === null || better(row) * (at("perturbed", row) - at("perturbed", worst)) < 0 ? row : worst), null);
  const summary = bad === null ? "" : `, worst ${figure(at("perturbed", bad), at("metric", bad))} by ${labels[bad]}`;
  const flip = () => {
    if (!state.closed.delete(name)) state.closed.add(name);
    refresh();
    const again = [...body.querySelectorAll("tr.group button")].find((one) => one.dataset.name === name);
    if (again) again.focus();
  };
  const button = el("button", { type: "button", class: "open", "data-name": name, "aria-expanded": String(!state.closed.has(name)), onclick: flip }, el("span", {}, `${name}: ${members.length} row${members.length === 1 ? "" : "s"}${summary}`));
  return el("tr", { class: "group", "aria-rowindex": index + 2 }, el("th", { colspan: SHOWN.length, scope: "rowgroup" }, button));
}

function toggle(row) {
  const line = document.getElementById(`row-${row}`);
  const open = !state.opened.delete(row);
  if (open) {
    state.opened.add(row);
    line.after(detail(row));
  } else document.getElementById(`detail-${row}`).remove();
  line.querySelector("button.open").setAttribute("aria-expanded", String(open));
}

/* --- headers and filters --- */

function heading() {
  const cells = SHOWN.map((one, place) => {
    const direction = state.sort.key === one.key ? (state.sort.direction > 0 ? "ascending" : "descending") : "none";
    const style = classOf(one, place);
    const button = el("button", { type: "button", "data-key": one.key, onclick: () => sortBy(one.key) }, one.title);
    return el("th", { scope: "col", "aria-sort": direction, class: style || null }, button);
  });
  const focused = document.activeElement && table.tHead.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  table.tHead.replaceChildren(el("tr", { "aria-rowindex": 1 }, cells));
  if (focused) table.tHead.querySelector(`[data-key="${focused}"]`).focus();
  const chosen = document.getElementById("sort-by");
  if (chosen) chosen.value = `${state.sort.key} ${state.sort.direction}`;
}

function sortBy(key) {
  state.sort = { key, direction: state.sort.key === key ? -state.sort.direction : 1 };
  refresh();
}

function filters() {
  const form = document.getElementById("filters");
  form.replaceChildren();
  const input = el("input", { type: "search", placeholder: "words, all must match", autocomplete: "off" });
  let waiting = 0;
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      state.words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      refresh();
    }, 120);
  });
  form.append(el("label", {}, "Search", input));
  for (const name of FACETS) {
    const values = distinct(ALL, (row) => at(name, row)).map(String).sort(collator.compare);
    const changed = (value) => ((state.facets[name] = value), refresh());
    form.append(select(TITLES[name], [["", "all"], ...values], changed, state.facets[name] || ""));
  }
  const flags = Object.keys(DATA.flags);
  if (flags.length) form.append(select("Flags", [["", "all"], ["*", "any reason to doubt"], ...flags], (value) => ((state.flag = value), refresh()), state.flag));
  form.append(select("Group by", [["", "nothing"], ...GROUPS.map((one) => [one.key, one.title])], (value) => ((state.group = value), state.closed.clear(), refresh()), state.group));
  const orders = SHOWN.flatMap((one) => [[`${one.key} 1`, `${one.title} ↑`], [`${one.key} -1`, `${one.title} ↓`]]);
  const sorter = select("Sort by", orders, (value) => ((state.sort = { key: value.split(" ")[0], direction: Number(value.split(" ")[1]) }), refresh()), "");
  sorter.querySelector("select").id = "sort-by";
  form.append(sorter, el("button", { type: "button", class: "reset", onclick: reset }, "Reset"));
  form.addEventListener("submit", (event) => event.preventDefault());
}

function reset() {
  Object.assign(state, { words: [], facets: {}, flag: "", group: "", sort: worstFirst() });
  state.closed.clear();
  filters();
  refresh();
}

/** Open the row that the address names, wherever it is. */
function follow() {
  const match = /^#row-(\d+)$/.exec(location.hash);
  if (!match || Number(match[1]) >= COUNT) return;
  const row = Number(match[1]);
  if (!items.includes(row)) reset();
  more(Math.max(0, items.indexOf(row) + 1 - made));
  if (!state.opened.has(row)) toggle(row);
  const line = document.getElementById(`row-${row}`);
  line.scrollIntoView({ block: "center" });
  line.querySelector("button.open").focus({ preventScroll: true });
}

filters();
refresh();
addEventListener("hashchange", follow);
follow();
