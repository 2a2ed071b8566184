"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6d00", "#5e3c99"];
const MARGIN = { left: 66, right: 12, top: 8, bottom: 40 };

function element(parent, name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text !== undefined) made.textContent = text;
  parent.appendChild(made);
  return made;
}

function short(value) {
  const size = Math.abs(value);
  const [divisor, unit] = size >= 1e9 ? [1e9, "G"] : size >= 1e6 ? [1e6, "M"] : size >= 1e4 ? [1e3, "k"] : [1, ""];
  return String(+(value / divisor).toPrecision(4)) + unit;
}

function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(value);
  return found;
}

function range(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  const room = (high - low) * 0.04 || Math.abs(high) * 0.04 || 1;
  return [low - room, high + room];
}

// Axes with ticks, as wide as the host; returns the svg and the two scales.
function axes(host, points, xName, yName) {
  const width = host.clientWidth, height = Math.max(240, Math.min(380, width * 0.62));
  host.replaceChildren();
  const svg = element(host, "svg", { width, height, role: "img", "aria-label": `${yName} against ${xName}` });
  const [xLow, xHigh] = range(points.map((p) => p[0])), [yLow, yHigh] = range(points.map((p) => p[1]));
  const right = width - MARGIN.right, bottom = height - MARGIN.bottom;
  const x = (value) => MARGIN.left + ((value - xLow) / (xHigh - xLow)) * (right - MARGIN.left);
  const y = (value) => bottom - ((value - yLow) / (yHigh - yLow)) * (bottom - MARGIN.top);
  for (const value of ticks(xLow, xHigh, Math.max(3, width / 90))) {
    element(svg, "line", { class: "grid", x1: x(value), x2: x(value), y1: MARGIN.top, y2: bottom });
    element(svg, "text", { x: x(value), y: bottom + 16, "text-anchor": "middle" }, short(value));
  }
  for (const value of ticks(yLow, yHigh, height / 40)) {
    element(svg, "line", { class: "grid", x1: MARGIN.left, x2: right, y1: y(value), y2: y(value) });
    element(svg, "text", { x: MARGIN.left - 6, y: y(value) + 4, "text-anchor": "end" }, short(value));
  }
  element(svg, "text", { x: (MARGIN.left + right) / 2, y: height - 6, "text-anchor": "middle" }, xName);
  const middle = (MARGIN.top + bottom) / 2;
  const turned = { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` };
  element(svg, "text", turned, yName);
  return { svg, x, y };
}

function polyline(svg, points, x, y, attributes) {
  element(svg, "polyline", { points: points.map((p) => `${x(p[0])},${y(p[1])}`).join(" "), ...attributes });
}

function drawCurves(host, name) {
  const lines = data.curves[name];
  const { svg, x, y } = axes(host, lines.flatMap((line) => line[1]), "step", name.endsWith("lr") ? "learning rate" : "loss");
  lines.forEach(([, points], i) => {
    polyline(svg, points, x, y, { class: "line", stroke: COLOURS[i % COLOURS.length] });
    if (points.length === 1) element(svg, "circle", { class: "dot", cx: x(points[0][0]), cy: y(points[0][1]), r: 4 });
  });
}

function drawRanking(host, index) {
  const { points } = data.rankings[index];
  const { svg, x, y } = axes(host, points, "accuracy with supernet weights (%)", "true accuracy (%)");
  for (const [a, b] of points) element(svg, "circle", { class: "dot", cx: x(a), cy: y(b), r: 3 });
}

const chosen = { cost: "params", at: 0, pinned: false };

function drawSearch(host) {
  const { rows, fronts, best } = data.search, cost = chosen.cost, front = new Set(fronts[cost]);
  const at = (row) => [row[cost], row.accuracy];
  const name = cost === "params" ? "parameters" : "FLOPs (multiply-accumulates)";
  const { svg, x, y } = axes(host, rows.map(at), name, "accuracy (%)");
  polyline(svg, fronts[cost].map((i) => at(rows[i])), x, y, { class: "frontline" });
  const order = rows.map((_, i) => i).sort((a, b) => front.has(a) - front.has(b) || (a === best) - (b === best));
  for (const i of order) {
    const [cx, cy] = [x(rows[i][cost]), y(rows[i].accuracy)];
    const kind = `dot${front.has(i) ? " front" : ""}${i === best ? " best" : ""}`;
    element(svg, "circle", { class: kind, cx, cy, r: front.has(i) || i === best ? 5 : 3.5, "data-row": i });
  }
  const mark = element(svg, "circle", { class: "at", r: 9 });
  host.mark = () => {
    mark.setAttribute("cx", x(rows[chosen.at][cost]));
    mark.setAttribute("cy", y(rows[chosen.at].accuracy));
  };
  host.mark();
  const nearest = (event) => {
    const box = svg.getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
    const away = (i) => Math.hypot(x(rows[i][cost]) - px, y(rows[i].accuracy) - py);
    const found = order.reduceRight((a, b) => (away(b) < away(a) ? b : a));
    return away(found) < 30 ? found : null;
  };
  svg.addEventListener("pointermove", (event) => {
    const i = nearest(event);
    if (i !== null && !chosen.pinned && event.pointerType === "mouse") choose(i, false);
  });
  svg.addEventListener("click", (event) => {
    const i = nearest(event);
    if (i === null) chosen.pinned = false;
    else choose(i, true);
  });
}

// Commands whose words do not break at their hyphens.
function showCommands(host, lines) {
  host.replaceChildren();
  lines.forEach((line, i) => {
    line.split(" ").forEach((word, j) => {
      const span = document.createElement("span");
      span.textContent = word;
      host.append(i && !j ? "\n" : j ? " " : "", span);
    });
  });
}

function choose(i, pinned) {
  const { rows, drawings, best, fronts, flags } = data.search, row = rows[i];
  chosen.at = i;
  chosen.pinned = pinned;
  const set = (id, text) => { document.getElementById(id).textContent = text; };
  const on = ["params", "flops"].filter((cost) => fronts[cost].includes(i));
  const onFront = on.length ? ` On the Pareto front of accuracy and ${on.join(" and ").replace("flops", "FLOPs").replace("params", "parameters")}.` : "";
  set("which", (i === best ? "The best subnet." : "A subnet that was evaluated.") + onFront);
  set("accuracy", row.accuracy.toFixed(2) + " %");
  set("loss", row.loss.toFixed(4));
  set("params", row.params.toLocaleString("en"));
  set("flops", row.flops.toLocaleString("en"));
  set("arch", row.arch);
  const double = row.arch.includes("'") && !/["$`\\!]/.test(row.arch);  // the quotes that the notation has not
  const quoted = double ? `"${row.arch}"` : `'${row.arch.replaceAll("'", "'\\''")}'`;
  showCommands(document.getElementById("commands"), [
    `nshot retrain ${quoted} ${flags} --out NEW_FOLDER`, "nshot export NEW_FOLDER --out EXPORTED",
  ]);
  const drawing = document.getElementById("drawing");
  if (drawings[i]) drawing.innerHTML = drawings[i];
  else {
    const sizes = flags.replace(/ --dataset .+$/, "");
    drawing.innerHTML = "<p class=soft>This page has no picture of it. This makes one:</p><pre></pre>";
    showCommands(drawing.querySelector("pre"), [`nshot draw ${quoted} ${sizes}`]);
  }
  document.getElementById("plot").mark();
}

function render() {
  for (const host of document.querySelectorAll("[data-curve]")) drawCurves(host, host.dataset.curve);
  for (const host of document.querySelectorAll("[data-ranking]")) drawRanking(host, +host.dataset.ranking);
  if (data.search) drawSearch(document.getElementById("plot"));
}

render();
if (data.search) {
  for (const button of document.querySelectorAll("[data-cost]")) {
    button.addEventListener("click", () => {
      chosen.cost = button.dataset.cost;
      for (const each of document.querySelectorAll("[data-cost]")) each.ariaPressed = String(each === button);
      drawSearch(document.getElementById("plot"));
    });
  }
  for (const button of document.querySelectorAll("[data-show]")) {
    button.addEventListener("click", () => {
      choose(+button.dataset.show, true);
      document.getElementById("subnet").scrollIntoView({ block: "nearest" });
    });
  }
  choose(data.search.best, false);
}
let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth !== width) render();
  width = window.innerWidth;
});
