/* What is drawn from the rows: curves, heat map, scatter, transfer matrix, detectors, trainings. */

const MOST_SERIES = 12;
const MOST_DETECTIONS = 6;
const DONE = ALL.filter((row) => ok(row) && at("kind", row) !== "audit" && at("perturbed", row) !== null);
/** Of rows that differ in seed alone: means and the widest interval. */
function together(rows, name) {
  const values = rows.map((row) => at(name, row)).filter((value) => value !== null && Number.isFinite(value));
  if (!values.length) return null;
  const ends = (end, reduce) => {
    const known = rows.map((row) => at(`${name}_${end}`, row)).filter((value) => value !== null && Number.isFinite(value));
    return known.length ? reduce(...known) : undefined;
  };
  return { value: mean(values), lo: ends("lo", Math.min), hi: ends("hi", Math.max), seeds: rows.length };
}

const known = (row) => (at("knowledge", row) === "none" ? "" : ` (${at("knowledge", row)})`);
const metricWord = (rows) => distinct(rows, (row) => at("metric", row)).join(" or ");
const sortedText = (values) => values.sort(collator.compare);
const range = (rows) => (metricWord(rows) === "accuracy" ? [0, 1] : null);

/** A section with a select for the data set, and what depends on it. */
function view(id, rows, build) {
  const home = document.getElementById(id);
  if (!rows.length) return hide(id);
  home.hidden = false;
  const controls = home.querySelector(".controls");
  const target = home.querySelector(".charts, .scroll");
  const datasets = sortedText(distinct(rows, (row) => scenes[row]));
  const show = (dataset) => {
    const chosen = rows.filter((row) => scenes[row] === dataset);
    build(chosen, dataset, controls, target, datasets.length > 1 ? select("Data set", datasets, show, dataset) : null);
  };
  show(datasets[0]);
}

/** Draw what a select names, now and whenever it changes. */
function choose(controls, first, label, choices, value, draw) {
  controls.replaceChildren(...(first ? [first] : []), select(label, choices, draw, value));
  draw(value);
}

function limited(target, charts, left, what) {
  target.replaceChildren(...charts);
  if (left > 0) target.append(el("p", { class: "note" }, `${left} more ${what} are not drawn; the table has them.`));
}

/* --- robustness curves --- */

const strengthsOf = (rows) => distinct(rows, (row) => at("strength", row)).sort((a, b) => a - b);
/** Whether there is a line to draw: two strengths, or a row that holds a whole curve. */
const swept = (rows) => strengthsOf(rows).length > 1 || rows.some((row) => whole.has(row));

function curves(rows, dataset, controls, target, first) {
  const owners = sortedText(distinct(rows, (row) => full[row]));
  const strong = rows.filter((row) => at("kind", row) !== "worst-case");
  const kindOf = (row) => `${at("family", row)} · ${at("axis", row)}`;
  const kinds = sortedText([...grouped(strong, kindOf)].filter(([, some]) => swept(some)).map(([kind]) => kind));
  const choices = [{ label: "All perturbations of one network", choices: owners.map((name) => [`n${name}`, name]) }];
  if (owners.length > 1) choices.push({ label: "All networks under one perturbation", choices: kinds.map((name) => [`p${name}`, name]) });
  choose(controls, first, "Show", choices, `n${owners[0]}`, (value) => {
    const name = value.slice(1);
    if (value[0] === "p") {
      const panels = [...grouped(strong.filter((row) => kindOf(row) === name), (row) => at("knowledge", row))].map(([, members]) => curvePanel(members, `${name}${known(members[0])}`, dataset, (row) => full[row], null));
      return limited(target, panels.map((one) => one.node), panels.reduce((sum, one) => sum + one.left, 0), "curves, of networks that do worse,");
    }
    const some = rows.filter((row) => full[row] === name);
    const panels = [...grouped(some, (row) => at("axis", row))]
      .filter(([, members]) => swept(members))
      .map(([axis, members]) => curvePanel(members, axis, dataset, (row) => `${at("family", row)}${known(row)}`, distinct(members, (row) => at("norm", row)).length > 0));
    limited(target, panels.map((one) => one.node), panels.reduce((sum, one) => sum + one.left, 0), "curves, of weaker perturbations,");
    if (DATA.whole.left) target.append(el("p", { class: "note" }, `${DATA.whole.left} more rows hold a whole curve that is not on this page.`));
  });
}

/** Rows of networks and axes of strength along which there is a line. */
function sweptRows() {
  const strong = DONE.filter((row) => whole.has(row) || (at("strength", row) !== null && Number.isFinite(at("strength", row))));
  const groups = grouped(strong, (row) => JSON.stringify([scenes[row], full[row], at("axis", row)]));
  return [...groups.values()].filter(swept).flat();
}

function curvePanel(rows, title, dataset, owner, envelope) {
  const members = rows.filter((row) => at("kind", row) !== "worst-case");
  const strengths = strengthsOf(rows);
  const log = strengths.length > 1 && strengths[0] > 0 && strengths.at(-1) / strengths[0] > 20;
  // A whole curve begins at 0, which a logarithmic axis has not.
  const least = log ? strengths[0] : 0;
  const groups = [...grouped(members, owner)];
  // Where there are too many: the strongest perturbations of a network, the most robust networks.
  const rank = ([, some]) => (envelope === null ? -1 : 1) * mean(some.map((row) => better(row) * (whole.has(row) ? whole.get(row).area[0] : at("perturbed", row))));
  const drawn = groups.sort((a, b) => rank(a) - rank(b)).slice(0, MOST_SERIES).sort((a, b) => collator.compare(a[0], b[0]));
  const series = drawn.map(([name, some], index) => (some.some((row) => whole.has(row)) ? { name, style: style(index), band: true, points: alongCurve(some, least) } : { name, style: style(index), band: true, points: alongStrength(some) }));
  if (envelope) series.push({ name: "worst case", style: INK, marks: false, points: worstEnvelope(rows, strengths, least) });
  const clean = mean(rows.map((row) => at("clean", row)).filter((value) => value !== null));
  const ends = series.flatMap((one) => one.points.map((point) => point.x));
  const level = distinct(rows, (row) => full[row]).length === 1 ? [{ name: "unperturbed", style: { cls: "ink", dash: "1 4" }, marks: false, points: [Math.min(...ends), Math.max(...ends)].map((x) => ({ x, y: clean })) }] : [];
  const node = chart({ title: `${title}, ${dataset}`, x: { label: unitOf(rows[0]) + (falling(rows[0]) ? ", falling to the right" : ""), log, falling: falling(rows[0]) }, y: { label: metricWord(rows), domain: range(rows) }, series: [...series, ...level] });
  const table = areas(drawn);
  if (table) node.append(table);
  return { node, left: Math.max(0, groups.length - MOST_SERIES) };
}

/** Axes without a norm along which less is more harm, as in the quality of a JPEG: by all rows of the page together. */
const FALLING = (() => {
  const harm = new Map();
  const free = DONE.filter((row) => at("axis", row) && !at("norm", row) && at("attack_success_rate", row) !== null);
  for (const some of grouped(free, (row) => JSON.stringify([at("axis", row), scenes[row], full[row], at("seed", row), at("knowledge", row)])).values()) {
    some.sort((a, b) => at("strength", a) - at("strength", b));
    const axis = at("axis", some[0]);
    harm.set(axis, (harm.get(axis) || 0) + at("attack_success_rate", some.at(-1)) - at("attack_success_rate", some[0]));
  }
  return new Set([...harm].filter(([, more]) => more < 0).map(([axis]) => axis));
})();
const falling = (row) => FALLING.has(at("axis", row));

function unitOf(row) {
  const unit = at("strength_unit", row) || (whole.has(row) ? "input units" : "strength");
  return at("norm", row) ? `${at("norm", row)} budget, ${unit}` : unit;
}

function alongStrength(rows) {
  return [...grouped(rows, (row) => at("strength", row))]
    .map(([x, some]) => {
      const { value, lo, hi, seeds } = together(some, "perturbed");
      const spread = lo === undefined ? "" : ` [${short(lo)}, ${short(hi)}]`;
      return { x, y: value, lo, hi, text: `${labels[some[0]]}${known(some[0])}: ${short(value)}${spread}${seeds > 1 ? `, mean of ${seeds}` : ""}` };
    })
    .sort((a, b) => (falling(rows[0]) ? b.x - a.x : a.x - b.x));
}

/** Values of a whole curve at the budget ``x``. */
function onCurve({ eps, y, lo, hi }, x) {
  let k = 0;
  while (k + 1 < eps.length && eps[k + 1] <= x) k++;
  return { y: y[k], lo: lo[k], hi: hi[k] };
}

/** Steps of the mean of whole curves that differ in seed alone, in the widest of their bands. */
function alongCurve(rows, least) {
  const some = rows.filter((row) => whole.has(row)).map((row) => whole.get(row));
  const budgets = [...new Set([least, ...some.flatMap((one) => one.eps)])].filter((x) => x >= least).sort((a, b) => a - b);
  const points = [];
  for (const x of budgets) {
    const found = some.map((one) => onCurve(one, x));
    if (points.length) points.push({ ...points.at(-1), x });
    points.push({ x, y: mean(found.map((one) => one.y)), lo: Math.min(...found.map((one) => one.lo)), hi: Math.max(...found.map((one) => one.hi)) });
  }
  return points;
}

/** The worst of all rows up to each strength; a mean over seeds for each attack first. */
function worstEnvelope(rows, strengths, least) {
  const sign = better(rows[0]);
  const groups = [...grouped(rows, (row) => `${labels[row]} ${at("knowledge", row)} ${at("perturbation_id", row)}`).values()];
  const steps = groups.filter((some) => some.some((row) => whole.has(row))).map((some) => alongCurve(some, least));
  const means = groups.filter((some) => !some.some((row) => whole.has(row))).map((some) => ({ x: at("strength", some[0]), y: together(some, "perturbed").value }));
  const points = [...means, ...steps.flat()].sort((a, b) => a.x - b.x);
  let worst = Infinity;
  return [...new Set([...strengths, ...points.map((one) => one.x)])].sort((a, b) => a - b).flatMap((x) => {
    const before = worst;
    for (const one of points) if (one.x === x) worst = Math.min(worst, sign * one.y);
    const now = { x, y: sign * worst };
    return steps.length && Number.isFinite(before) && before !== worst ? [{ x, y: sign * before }, now] : [now];
  });
}

/** What whole curves come to, as a table; null if there is none. */
function areas(drawn) {
  const rows = drawn.flatMap(([name, some]) => some.filter((row) => whole.has(row)).map((row) => [name, row]));
  if (!rows.length) return null;
  const seeds = distinct(rows, ([, row]) => at("seed", row)).length > 1;
  const head = ["Whole curves", ...(seeds ? ["Seed"] : []), `Median ${at("norm", rows[0][1])}`, `Area up to ${short(whole.get(rows[0][1]).up_to)}`];
  const lines = rows.map(([name, row]) => {
    const { area, median } = whole.get(row);
    return el("tr", {}, el("th", { scope: "row" }, name), seeds ? el("td", { class: "num" }, String(at("seed", row))) : null, el("td", { class: "num" }, median === "inf" ? "infinite" : short(median)), el("td", { class: "num" }, ranged(area)));
  });
  const table = el("table", { class: "areas" }, el("thead", {}, el("tr", {}, head.map((text, index) => el("th", { scope: "col", class: index ? "num" : null }, text)))), el("tbody", {}, lines));
  return el("div", { class: "scroll fit", role: "region", "aria-label": "Areas of whole curves", tabindex: 0 }, table);
}

/* --- heat map --- */

/** Unperturbed first; families in alphabetical order, each by knowledge and then by strength. */
function byFamily(a, b) {
  const base = (row) => (at("perturbation", row) === "none" ? "" : at("family", row) || labels[row]);
  return collator.compare(base(a), base(b)) || collator.compare(at("norm", a) || "", at("norm", b) || "") || collator.compare(at("knowledge", a), at("knowledge", b)) || at("strength", a) - at("strength", b) || collator.compare(labels[a], labels[b]);
}

function heat(rows, dataset, controls, target, first) {
  const measures = [["perturbed", `perturbed: ${metricWord(rows)}`], ["attack_success_rate", "success rate"]];
  if (rows.some((row) => at("eta_perturbed", row) !== null)) measures.push(["eta_perturbed", "eta, share of outliers"]);
  if (rows.some((row) => at("detector_auroc", row) !== null)) measures.push(["detector_auroc", "AUROC of the detector"]);
  choose(controls, first, "Colour", measures, "perturbed", (measure) => {
    const what = (row) => `${labels[row]}${known(row)}`;
    const cells = grouped(rows.filter((row) => at(measure, row) !== null), (row) => `${what(row)}\n${full[row]}`);
    const metric = measure === "perturbed" ? at("metric", rows[0]) : "accuracy";
    const values = [...cells.values()].map((some) => together(some, measure)).filter(Boolean).map((one) => one.value);
    const [low, high] = metric === "accuracy" ? [0, 1] : [Math.min(...values), Math.max(...values)];
    // Dark is bad: a low accuracy or AUROC, a high error, rate of success or of outliers.
    const good = measure === "detector_auroc" || (measure === "perturbed" && better(rows[0]) > 0);
    const share = (value) => (good ? value - low : high - value) / (high - low || 1);
    const cell = (row, name) => {
      const some = cells.get(`${row}\n${name}`);
      const found = some && together(some, measure);
      if (!found) return null;
      const spread = found.lo === undefined ? "" : ` [${short(found.lo)}, ${short(found.hi)}]`;
      return { value: found.value, text: figure(found.value, metric).replace(/^(-?)0\./, "$1."), title: `${row}, ${name}: ${short(found.value)}${spread}` };
    };
    const names = distinct([...rows].sort(byFamily), what);
    target.replaceChildren(matrix({ corner: "Perturbation", rows: names, columns: sortedText(distinct(rows, (row) => full[row])), cell, share }));
  });
}

/* --- clean against robust --- */

function pareto(rows, dataset, controls, target, first) {
  const any = rows.filter((row) => at("perturbation", row) !== "none");
  const bounded = any.filter((row) => !boundless(row));
  const perturbed = bounded.length ? bounded : any;
  const attacks = perturbed.filter((row) => at("knowledge", row) !== "none");
  const what = (row) => `${labels[row]}${known(row)}`;
  const choices = [...(attacks.length ? [["*a", "worst of all attacks"]] : []), ["*", "worst of all perturbations"], ...sortedText(distinct(perturbed, what))];
  choose(controls, first, "Robust against", choices, choices[0][0], (value) => {
    const pool = value === "*a" ? attacks : value === "*" ? perturbed : perturbed.filter((row) => what(row) === value);
    const points = [...grouped(pool, (row) => full[row])].map(([name, some]) => networkPoint(name, some)).filter(Boolean);
    points.sort((a, b) => collator.compare(a.name, b.name));
    target.replaceChildren(scatter(points, dataset, rows, choices.find((one) => one === value || one[0] === value)));
  });
}

/** Clean and worst perturbed metric of a network: per seed the worst row, then the mean over seeds. */
function networkPoint(name, rows) {
  const worst = [...grouped(rows, (row) => at("seed", row)).values()].map((some) => some.reduce((a, b) => (better(b) * (at("perturbed", b) - at("perturbed", a)) < 0 ? b : a)));
  const [robust, clean] = [together(worst, "perturbed"), together(worst, "clean")];
  if (!robust || !clean) return null;
  return { name, x: clean.value, y: robust.value, lo: robust.lo, hi: robust.hi, xlo: clean.lo, xhi: clean.hi, text: `${name}: clean ${short(clean.value)}, perturbed ${short(robust.value)} by ${labels[worst[0]]}` };
}

function scatter(points, dataset, rows, title) {
  const sign = better(rows[0]);
  const beats = (a, b) => sign * (a.x - b.x) >= 0 && sign * (a.y - b.y) >= 0 && (a.x !== b.x || a.y !== b.y);
  const front = points.filter((point) => !points.some((other) => beats(other, point))).sort((a, b) => a.x - b.x);
  const many = points.length > 24;
  const series = many
    ? [{ name: `${points.length} networks`, style: style(0), line: false, points }]
    : points.map((point, index) => ({ name: point.name, style: style(index), line: false, bars: true, points: [point] }));
  if (front.length > 1) series.push({ name: "Pareto front", style: INK, marks: false, points: front });
  const word = metricWord(rows);
  return chart({ title: `${dataset}: ${Array.isArray(title) ? title[1] : title}`, x: { label: `${word}, unperturbed`, pad: 0.08 }, y: { label: `${word}, perturbed`, pad: 0.08 }, series });
}

/* --- transfer --- */

function transfer(rows, dataset, controls, target, first) {
  const attacks = grouped(rows, attackOf);
  choose(controls, first, "Attack", sortedText([...attacks.keys()]), sortedText([...attacks.keys()])[0], (name) => {
    const some = attacks.get(name);
    const own = DONE.filter((row) => scenes[row] === dataset && at("knowledge", row) === "adaptive" && at("kind", row) === "cell" && attackOf(row) === name);
    const cells = grouped([...some, ...own], (row) => `${at("knowledge", row) === "transfer" ? sourceOf(row) : "itself"}\n${full[row]}`);
    const cell = (row, column) => {
      const found = cells.get(`${row}\n${column}`);
      const rate = found && together(found, "attack_success_rate");
      return rate && { value: rate.value, text: rate.value.toFixed(2).replace(/^0\./, "."), title: `${row} to ${column}: ${short(rate.value)} [${short(rate.lo)}, ${short(rate.hi)}]` };
    };
    const sources = sortedText(distinct(some, sourceOf));
    const columns = sortedText(distinct(some, (row) => full[row]));
    target.replaceChildren(matrix({ corner: "Crafted on", rows: own.length ? [...sources, "itself"] : sources, columns, cell, share: (value) => 1 - value }));
  });
}

function attackOf(row) {
  const params = parsed(at("perturbation_params", row));
  const { transfer_from: _, ...rest } = params && typeof params === "object" ? params : {};
  const lines = flat(rest).filter((line) => !/(none|untargeted)$/.test(line));
  return `${at("perturbation_id", row)}: ${lines.join(", ")}`;
}

function sourceOf(row) {
  const params = parsed(at("perturbation_params", row));
  const sources = params && Array.isArray(params.transfer_from) ? params.transfer_from : [];
  return sources.map((one) => one.label + (one.seed === undefined || one.seed === null ? "" : ` (seed ${one.seed})`)).join(" + ") || at("perturbation", row);
}

/* --- detectors --- */

function detectors() {
  const curves = new Map(DATA.roc.curves.map((one) => [one.row, one]));
  view("detectors", [...curves.keys()], (rows, dataset, controls, target, first) => {
    const owner = (row) => full[row] + (several("seed") ? `, seed ${at("seed", row)}` : "");
    const owners = sortedText(distinct(rows, owner));
    choose(controls, first, "Network", owners, owners[0], (name) => {
      const some = rows.filter((row) => owner(row) === name).sort((a, b) => at("detector_auroc", a) - at("detector_auroc", b));
      const series = some.slice(0, MOST_DETECTIONS).flatMap((row, index) => {
        const { fpr, tpr, n } = curves.get(row);
        const look = style(index);
        const line = { name: `${labels[row]}${known(row)}: AUROC ${at("detector_auroc", row).toFixed(3)}, n = ${n[1]}`, style: look, points: fpr.map((x, k) => ({ x, y: tpr[k] })) };
        const chosen = { name: "", style: { ...look, mark: 0 }, line: false, ring: true, points: [{ x: at("detector_fpr", row), y: at("detector_tpr", row), text: `${labels[row]}: at its threshold` }] };
        return at("detector_tpr", row) === null ? [line] : [line, chosen];
      });
      const chance = { name: "guessing", style: { cls: "ink", dash: "1 4" }, marks: false, points: [{ x: 0, y: 0 }, { x: 1, y: 1 }] };
      const node = chart({ title: `${name}, ${dataset}`, x: { label: "clean inputs rejected", domain: [0, 1] }, y: { label: "fooling inputs detected", domain: [0, 1] }, series: [...series, chance] });
      limited(target, [node], some.length - MOST_DETECTIONS, "curves, of attacks that are detected more often,");
    });
    if (DATA.roc.rows > DATA.roc.curves.length) target.append(el("p", { class: "note" }, `${DATA.roc.curves.length} of ${DATA.roc.rows} rows with a detector have a curve here.`));
  });
}

/* --- trainings --- */

function trainings() {
  const rows = ALL.filter((row) => DATA.trainings[at("weights", row)]);
  const named = new Map();
  for (const row of rows) {
    const weights = at("weights", row);
    const source = at("trained_on", row) || at("dataset", row);
    const name = `${at("model", row)}${at("defense", row) === "none" ? "" : ` + ${at("defense", row)}`}, trained on ${source}, seed ${at("seed", row)}${DATA.several_runs ? ` [${at("run", row)}]` : ""}`;
    // Defenses that train nothing share the weights of the undefended network.
    if (!named.has(weights) || at("defense", row) === "none") named.set(weights, name);
  }
  if (!named.size) return hide("trainings");
  const home = document.getElementById("trainings");
  home.hidden = false;
  const choices = [...named].sort((a, b) => collator.compare(a[1], b[1]));
  choose(home.querySelector(".controls"), null, "Network", choices, choices[0][0], (weights) => {
    const { epoch, ...columns } = DATA.trainings[weights];
    const kinds = [["Losses", (name) => name.endsWith("_loss")], ["Metric on validation data", (name) => name.endsWith("_metric")], ["Other terms", (name) => !/_(loss|metric)$/.test(name)]];
    const charts = kinds
      .map(([title, fits]) => [title, Object.entries(columns).filter(([name]) => fits(name))])
      .filter(([, found]) => found.length)
      .map(([title, found]) => chart({ title: `${title}: ${named.get(weights)}`, x: { label: "epoch" }, y: { label: "" }, series: found.map(([name, values], index) => ({ name: name.replaceAll("_", " "), style: style(index), points: epoch.map((x, k) => ({ x, y: values[k] ?? NaN })) })) }));
    limited(home.querySelector(".charts"), charts, 0, "");
  });
}

const VIEWS = [
  () => view("curves", sweptRows(), curves),
  () => view("heat", DONE, heat),
  () => view("pareto", DONE.filter((row) => at("perturbation", row) !== "none" && at("clean", row) !== null), pareto),
  () => view("transfer", DONE.filter((row) => at("knowledge", row) === "transfer" && at("kind", row) === "cell"), transfer),
  detectors,
  trainings,
];
/* The table can be used before these are drawn. */
for (const draw of VIEWS) setTimeout(draw, 0);
setTimeout(() => document.documentElement.setAttribute("data-ready", "yes"), 0);
