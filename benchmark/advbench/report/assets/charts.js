/* Charts as SVG in the colours of the page. Series differ in colour, dash and mark, never in colour alone. */

/* The text of a picture is not scaled down on a phone. */
const WIDTH = innerWidth < 600 ? 370 : 560;
const HEIGHT = innerWidth < 600 ? 290 : 330;
const EDGE = { left: 58, right: 14, top: 12, bottom: 48 };
const COLOURS = 6;
const DASHES = ["", "8 4", "2 3", "9 3 2 3", "15 4", "8 3 2 3 2 3"];
/* Of a line with more points than this, about as many get a mark. */
const MOST_MARKS = 8;
const MARKS = [
  (x, y) => svg("circle", { cx: x, cy: y, r: 3.8 }),
  (x, y) => svg("rect", { x: x - 3.4, y: y - 3.4, width: 6.8, height: 6.8 }),
  (x, y) => svg("path", { d: `M${x} ${y - 4.6}l4.4 8h-8.8z` }),
  (x, y) => svg("path", { d: `M${x} ${y - 5}l5 5l-5 5l-5-5z` }),
  (x, y) => svg("path", { d: `M${x} ${y + 4.6}l4.4-8h-8.8z` }),
  (x, y) => svg("path", { d: `M${x - 4} ${y}h8M${x} ${y - 4}v8`, stroke: "currentColor", "stroke-width": 2.4 }),
];

/** Class, dash and mark of the k-th series; dash and mark together differ for 36 of them, dashes alone for six. */
function style(k) {
  return { cls: `c${k % COLOURS}`, dash: DASHES[k % DASHES.length], mark: (k + Math.floor(k / DASHES.length)) % MARKS.length, shift: k % DASHES.length };
}

/** Points that get a mark: all of few, else some, of each series others. */
function marked({ line, marks, points, style: { shift = 0 } }) {
  if (marks === false) return [];
  if (line === false || points.length <= MOST_MARKS) return points;
  const step = points.length / MOST_MARKS;
  return Array.from({ length: MOST_MARKS }, (_, k) => points[Math.floor((k + (shift + 0.5) / DASHES.length) * step)]);
}
const INK = { cls: "ink", dash: "5 4", mark: null };

function linearTicks(low, high, wanted = WIDTH / 110) {
  const ticks = roundNumbers(low, high, wanted);
  return ticks.length > 2 ? ticks : roundNumbers(low, high, 2 * wanted);
}

function roundNumbers(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) ticks.push(Number((k * step).toPrecision(10)));
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  const factors = Math.log10(high / low) > 2.5 ? [1] : Math.log10(high / low) > 1.2 ? [1, 3] : [1, 2, 5];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high * 1.001; power++) {
    for (const factor of factors) {
      const tick = Number((factor * 10 ** power).toPrecision(6));
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  }
  return ticks.length > 1 ? ticks : [low, high];
}

/** A scale with its ticks; ``domain`` where it is fixed, else around the values with a margin; ``falling`` turns it round. */
function scale(values, { log = false, domain = null, falling = false, from, to, pad = 0.04 }) {
  if (falling) [from, to] = [to, from];
  const known = values.filter((value) => Number.isFinite(value) && (!log || value > 0));
  let [low, high] = domain || [Math.min(...known), Math.max(...known)];
  if (!(low < high)) [low, high] = log ? [low / 2, low * 2] : [low - (Math.abs(low) || 1) / 2, low + (Math.abs(low) || 1) / 2];
  const go = log ? Math.log : (value) => value;
  const margin = domain ? 0 : pad * (go(high) - go(low));
  const [start, end] = [go(low) - margin, go(high) + margin];
  const place = (value) => Number((from + ((go(value) - start) / (end - start)) * (to - from)).toFixed(2));
  const back = log ? Math.exp : (value) => value;
  return { place, ticks: log ? logTicks(back(start), back(end)) : linearTicks(start, end) };
}

/**
 * A chart with its legend. ``series``: {name, style, points: [{x, y, lo, hi, xlo, xhi, text}], line, marks, band, bars}.
 */
function chart({ title, x, y, series }) {
  series = series.map((one) => ({ ...one, points: one.points.filter((point) => Number.isFinite(point.x) && Number.isFinite(point.y)) })).filter((one) => one.points.length);
  const points = series.flatMap((one) => one.points);
  if (!points.length) return el("p", { class: "note" }, `${title}: nothing to draw.`);
  const across = scale(points.flatMap((point) => [point.x, point.xlo ?? point.x, point.xhi ?? point.x]), { ...x, from: EDGE.left, to: WIDTH - EDGE.right });
  const up = scale(points.flatMap((point) => [point.y, point.lo ?? point.y, point.hi ?? point.y]), { ...y, from: HEIGHT - EDGE.bottom, to: EDGE.top });
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": told(title, x, y, series) });
  picture.append(axes(across, up, x.label, y.label));
  for (const one of series) picture.append(drawn(one, across, up));
  const legend = el("ul", { class: "legend" }, series.filter((one) => one.name).map(legendEntry));
  return el("figure", { class: "chart" }, el("figcaption", {}, el("strong", {}, title)), picture, legend);
}

/** What the picture shows, in words. */
function told(title, x, y, series) {
  const part = (one) => `${one.name || "points"}: ${one.points.length > 1 ? `from ${short(one.points[0].y)} at ${short(one.points[0].x)} to ${short(one.points.at(-1).y)} at ${short(one.points.at(-1).x)}` : `${short(one.points[0].y)} at ${short(one.points[0].x)}`}`;
  return `${title}. ${y.label} against ${x.label}. ${series.slice(0, 12).map(part).join("; ")}.`;
}

function axes(across, up, xLabel, yLabel) {
  const group = svg("g", {});
  const [bottom, right] = [HEIGHT - EDGE.bottom, WIDTH - EDGE.right];
  for (const tick of across.ticks) {
    const place = across.place(tick);
    group.append(svg("line", { class: "grid", x1: place, x2: place, y1: EDGE.top, y2: bottom }), svg("text", { x: place, y: bottom + 17, "text-anchor": "middle" }, short(tick)));
  }
  for (const tick of up.ticks) {
    const place = up.place(tick);
    group.append(svg("line", { class: "grid", x1: EDGE.left, x2: right, y1: place, y2: place }), svg("text", { x: EDGE.left - 7, y: place + 4, "text-anchor": "end" }, short(tick)));
  }
  group.append(svg("path", { class: "axis", d: `M${EDGE.left} ${EDGE.top}V${bottom}H${right}` }));
  group.append(svg("text", { x: (EDGE.left + right) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, xLabel));
  group.append(svg("text", { transform: `translate(14 ${(EDGE.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, yLabel));
  return group;
}

function drawn(one, across, up) {
  const group = svg("g", { class: one.style.cls });
  const spot = (point) => `${across.place(point.x)} ${up.place(point.y)}`;
  if (one.band && one.points.length > 1) {
    const edge = (name) => one.points.map((point) => `${across.place(point.x)} ${up.place(point[name] ?? point.y)}`);
    group.append(svg("path", { class: "band", fill: "currentColor", d: `M${edge("hi").join("L")}L${edge("lo").reverse().join("L")}Z` }));
  }
  if (one.line !== false && one.points.length > 1) {
    group.append(svg("path", { d: `M${one.points.map(spot).join("L")}`, fill: "none", stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": one.style.dash || null }));
  }
  for (const point of one.points) {
    if (one.bars && point.lo !== undefined) group.append(svg("path", { stroke: "currentColor", opacity: 0.55, d: `M${across.place(point.x)} ${up.place(point.lo)}V${up.place(point.hi)}M${across.place(point.xlo)} ${up.place(point.y)}H${across.place(point.xhi)}` }));
  }
  for (const point of marked(one)) {
    const mark = MARKS[one.style.mark ?? 0](across.place(point.x), up.place(point.y));
    fill(mark, one.ring ? { fill: "none", stroke: "currentColor", "stroke-width": 2 } : { fill: "currentColor" }, []);
    if (one.ring && mark.tagName === "circle") mark.setAttribute("r", 6);
    mark.append(svg("title", {}, point.text || `${one.name}: ${short(point.y)} at ${short(point.x)}`));
    group.append(mark);
  }
  return group;
}

function legendEntry(one) {
  const sample = svg("svg", { viewBox: "0 0 46 12", class: one.style.cls, "aria-hidden": "true" });
  if (one.line !== false) sample.append(svg("line", { x1: 0, x2: 46, y1: 6, y2: 6, stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": one.style.dash || null }));
  if (one.marks !== false) sample.append(fill(MARKS[one.style.mark ?? 0](23, 6), { fill: "currentColor" }, []));
  return el("li", {}, sample, one.name);
}

/* --- tables of coloured cells --- */

/* Cividis (Nunez et al. 2018), made for readers with and without colour vision deficiencies, from dark to light. */
const CIVIDIS = [[0, 34, 78], [26, 56, 111], [67, 78, 108], [99, 101, 112], [125, 124, 120], [155, 148, 119], [187, 173, 108], [222, 201, 87], [254, 232, 56]];

function colour(share) {
  const place = Math.max(0, Math.min(1, share)) * (CIVIDIS.length - 1);
  const [low, part] = [Math.min(Math.floor(place), CIVIDIS.length - 2), place - Math.min(Math.floor(place), CIVIDIS.length - 2)];
  const rgb = CIVIDIS[low].map((value, index) => Math.round(value + part * (CIVIDIS[low + 1][index] - value)));
  const linear = rgb.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  const luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  // The better of black and white has a contrast of 4.58 at least.
  return { ground: `rgb(${rgb.join(",")})`, text: luminance > 0.179 ? "#000" : "#fff" };
}

/** ``cell(row, column)`` gives {value, text, title} or null; ``share`` maps a value to 0 (dark) .. 1 (light). */
function matrix({ corner, rows, columns, cell, share }) {
  const head = el("tr", {}, el("th", { scope: "col" }, corner), columns.map((name) => el("th", { scope: "col" }, name)));
  const lines = rows.map((row) =>
    el("tr", {}, el("th", { scope: "row" }, row), columns.map((name) => {
      const found = cell(row, name);
      if (!found) return el("td", { class: "none" }, "");
      const node = el("td", { title: found.title || null }, found.text);
      const { ground, text } = colour(share(found.value));
      node.style.background = ground;
      node.style.color = text;
      return node;
    })),
  );
  return el("table", { class: "heat" }, el("thead", {}, head), el("tbody", {}, lines));
}
