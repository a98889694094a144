/* What a row opens to: configuration, threat model, flags explained, figures, cost. */

function detail(row) {
  const parts = [reasonPart(row), flagsPart(row), section("Threat model", words(threat(row)))];
  for (const [title, kind] of [["Data set", "dataset"], ["Model", "model"], ["Defense", "defense"], ["Perturbation", "perturbation"]]) parts.push(configuration(title, kind, row));
  const groups = new Map();
  const skipped = new Set(["identity", "status", "flags"]);
  for (const name of Object.keys(column)) {
    const group = DATA.groups[name] || (["run", "family", "axis"].includes(name) ? "identity" : "other metrics");
    if (skipped.has(group) || at(name, row) === null) continue;
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push([name, at(name, row)]);
  }
  for (const [group, entries] of groups) parts.push(section(group[0].toUpperCase() + group.slice(1), listed(intervals(entries))));
  const identity = ["cell_id", "kind", "suite", "seed", "fingerprint", "protocol"].map((name) => [name, at(name, row)]);
  parts.push(section("Identity", listed(identity.filter(([, value]) => value !== null))));
  return el("tr", { id: `detail-${row}`, class: "detail" }, el("td", { colspan: SHOWN.length }, el("div", { class: "groups" }, parts)));
}

const section = (title, ...content) => el("section", {}, el("h4", {}, title), content);
const words = (sentences) => el("div", {}, sentences.map((sentence) => el("div", {}, sentence)));
const listed = (entries) => el("dl", {}, entries.flatMap(([name, value]) => [el("dt", { title: DATA.help[name] || "" }, name), el("dd", {}, short(value))]));

function intervals(entries) {
  const known = new Map(entries);
  return entries
    .filter(([name]) => !/_(lo|hi)$/.test(name) || !known.has(name.slice(0, -3)))
    .map(([name, value]) => [name, known.has(`${name}_lo`) ? `${short(value)} [${short(known.get(`${name}_lo`))}, ${short(known.get(`${name}_hi`))}]` : value]);
}

function reasonPart(row) {
  if (ok(row)) return null;
  const part = section(`Status: ${at("status", row)}`, el("p", {}, at("reason", row) || "no reason is given"));
  part.className = "wide";
  return part;
}

function flagsPart(row) {
  const flags = flagsOf(row);
  if (!flags.length) return null;
  const part = section("Flags", el("dl", { class: "words" }, flags.flatMap((flag) => [el("dt", {}, flagMark(flag)), el("dd", {}, DATA.flags[flag] || "")])));
  part.className = "wide";
  return part;
}

const KNOWLEDGE = {
  none: "Natural: nobody chose the change with the network in mind.",
  blackbox: "Black box: the attacker asks the defended network, and sees no gradients.",
  transfer: "Transfer: crafted on other networks than the one that it meets.",
  oblivious: "Oblivious: crafted on the network without its defense.",
  adaptive: "Adaptive: crafted on the network with its defense.",
};

function threat(row) {
  if (at("perturbation", row) === "none") return ["No perturbation: the unperturbed inputs themselves."];
  const sentences = [KNOWLEDGE[at("knowledge", row)] || at("knowledge", row)];
  const unit = at("strength_unit", row);
  const strength = at("strength", row) === null ? null : `${short(at("strength", row))}${unit ? ` ${unit}` : ""}`;
  const curve = whole.get(row);
  if (curve) sentences.push(`No budget: the attack looks for the smallest change in ${at("norm", row)}. Area under its robustness curve up to ${short(curve.up_to)}: ${ranged(curve.area)}.`);
  else if (at("norm", row)) sentences.push(strength ? `Budget: ${strength} in ${at("norm", row)}.` : `No single budget, in ${at("norm", row)}: see the parameters.`);
  else if (strength) sentences.push(`Strength: ${strength}.`);
  if (at("knowledge", row) !== "none") sentences.push(at("targeted", row) === "yes" ? "Targeted: the attack has a goal, see its parameters." : "Untargeted: any error is a success.");
  if (at("budget_passes", row) !== null) sentences.push(`At most ${at("budget_passes", row)} forward and backward passes for each sample.`);
  if (at("adaptation", row)) sentences.push("Adapted to the defense by:", ...flat(parsed(at("adaptation", row))));
  if (at("kind", row) === "worst-case") sentences.push("For each sample the worst of the attacks that are named under Perturbation.");
  return sentences;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Lines ``a.b: value`` of anything that JSON can hold. */
function flat(value, name = "") {
  const label = name ? `${name}: ` : "";
  if (value === null || typeof value !== "object") return [label + (value === null ? "none" : String(value))];
  const entries = Object.entries(value);
  if (!entries.length) return name ? [`${label}none`] : [];
  if (Array.isArray(value) && value.every((one) => one === null || typeof one !== "object")) return [label + value.join(", ")];
  if (Array.isArray(value) && value.length === 1) return flat(value[0], name);
  return entries.flatMap(([key, one]) => flat(one, name ? `${name}.${key}` : Array.isArray(value) ? String(Number(key) + 1) : key));
}

function configuration(title, kind, row) {
  const id = at(`${kind}_id`, row);
  const lines = [`${at(kind, row)}${id && id !== at(kind, row) ? ` (${id})` : ""}`];
  if (kind === "dataset") lines.push(...["split", "trained_on", "adapted_to"].filter((name) => at(name, row)).map((name) => `${name.replace("_", " ")}: ${at(name, row)}`));
  const params = at(`${kind}_params`, row);
  return section(title, words([...lines, ...(params ? flat(parsed(params)) : [])]));
}

function flagMark(flag) {
  return el("span", { class: flag.startsWith("info-") ? "flag info" : "flag", title: DATA.flags[flag] || "" }, flag);
}
