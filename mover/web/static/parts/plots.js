// Pictures of numbers. Each is a figure with a sentence for who cannot see it, and its numbers as a table below it,
// folded. Colours come from the tokens; what matters is also said in words.
import { html, useEffect, useId, useMemo, useRef, useState } from "../lib/preact.js";
import { count, size } from "../lib/format.js";

const SERIES = 6;
const DAY_MS = 86_400_000;
export const colour = (at) => `var(--series-${(at % SERIES) + 1})`;

/** Frame of every picture. `rows`: its numbers, `heads`: what they are. */
export function Figure({ label, heads, rows, children }) {
  return html`<figure class="figure"><div role="img" aria-label=${label}>${children}</div>
    ${rows && html`<details class="numbers"><summary>Numbers</summary><div class="scroll"><table><thead><tr>${heads.map((h) => html`<th key=${h}>${h}</th>`)}</tr></thead><tbody>${rows.map((r, at) => html`<tr key=${at}>${r.map((cell, i) => html`<td key=${i}>${cell}</td>`)}</tr>`)}</tbody></table></div></details>`}</figure>`;
}

/** A line the size of a word. @param {{values: number[], label: string}} said */
export function Sparkline({ values, label, width = 120, height = 24 }) {
  if (values.length < 2) return html`<span class="muted">–</span>`;
  const top = Math.max(...values, 1);
  const points = values.map((v, at) => `${(at / (values.length - 1)) * width},${height - 2 - (v / top) * (height - 4)}`);
  return html`<svg class="spark" width=${width} height=${height} viewBox=${`0 0 ${width} ${height}`} role="img" aria-label=${label}>
    <polygon points=${`0,${height} ${points.join(" ")} ${width},${height}`} /><polyline points=${points.join(" ")} /></svg>`;
}

/**
 * Lines over time.
 * @param {{at: number[], series: {label: string, values: (number|null)[], dash?: boolean, fill?: boolean, colour?: string}[],
 *   format?: (n: number) => string, label: string, height?: number, marks?: {value: number, label: string}[]}} props
 * `at`: seconds since 1970; `marks`: lines across, such as a limit or a high-water mark.
 */
export function TimePlot({ at, series, format = count, label, height = 180, marks = [] }) {
  const box = useRef(null);
  const theme = useTheme();
  const all = useMemo(() => [...series, ...marks.map((m) => ({ label: m.label, values: at.map(() => m.value), dash: true, colour: "var(--bad-area)" }))], [series, marks, at]);
  useEffect(() => {
    // the frame is gone before its observer knows
    const frame = box.current;
    let plot = null;
    let gone = false;
    const drawn = async () => {
      const { default: Plot } = await import("../vendor/uplot.js");
      if (gone) return;
      plot = new Plot(options(frame, all, { height, format }), [at, ...all.map((s) => s.values)], frame);
    };
    drawn();
    const watch = new ResizeObserver(() => plot?.setSize({ width: frame.clientWidth, height }));
    watch.observe(frame);
    return () => {
      gone = true;
      watch.disconnect();
      plot?.destroy();
    };
  }, [all, at, height, theme]);
  const rows = at.slice(-50).map((t, i) => [new Date(t * 1000).toISOString().slice(0, 19), ...all.map((s) => said(s.values[Math.max(0, at.length - 50) + i], format))]);
  return html`<${Figure} label=${label} heads=${["time (UTC)", ...all.map((s) => s.label)]} rows=${rows}><div ref=${box} class="plot" style=${{ minHeight: `${height}px` }} /></${Figure}>`;
}

const said = (value, format) => (value === null || value === undefined ? "" : format(value));

function options(frame, series, { height, format }) {
  const css = getComputedStyle(document.documentElement);
  const value = (name) => css.getPropertyValue(name).trim();
  const resolve = (c) => (c.startsWith("var(") ? value(c.slice(4, -1)) : c);
  const axis = { stroke: value("--ink-2"), grid: { stroke: value("--rule"), width: 1 }, ticks: { stroke: value("--rule"), width: 1 }, font: `12px ${value("--text")}` };
  return {
    width: frame.clientWidth, height, cursor: { y: false }, legend: { live: true },
    scales: { y: { range: (_, low, high) => [Math.min(0, low), high <= 0 ? 1 : high * 1.08] } },
    axes: [{ ...axis, values: clock }, { ...axis, size: 90, values: (_, ticks) => ticks.map(format) }],
    series: [{ value: (_, t) => (t ? new Date(t * 1000).toLocaleTimeString() : "–") }, ...series.map((s, at) => {
      const stroke = resolve(s.colour ?? colour(at));
      return { label: s.label, stroke, width: s.dash ? 1 : 2, dash: s.dash ? [6, 4] : undefined, fill: s.fill ? `${stroke}22` : undefined, points: { show: false }, spanGaps: false, value: (_, v) => said(v, format) || "–" };
    })],
  };
}

function clock(_, ticks, __, ___, step) {
  const two = (n) => String(n).padStart(2, "0");
  return ticks.map((t) => {
    const d = new Date(t * 1000);
    if (step >= 86400) return `${d.getDate()}.${d.getMonth() + 1}.`;
    return step >= 60 ? `${two(d.getHours())}:${two(d.getMinutes())}` : `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
  });
}

/** A new value when the colours change, so that a canvas can be drawn again. */
export function useTheme() {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme);
  useEffect(() => {
    const watch = new MutationObserver(() => setTheme(document.documentElement.dataset.theme));
    watch.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return () => watch.disconnect();
  }, []);
  return theme;
}

/**
 * Bars over values or over names. `bins`: [{label, count, title?}].
 * @param {{bins: {label: string, count: number, title?: string}[], label: string, height?: number}} props
 */
export function Histogram({ bins, label, height = 120, format = count }) {
  const top = Math.max(1, ...bins.map((b) => b.count));
  const step = Math.max(1, Math.ceil(bins.length / 8));
  return html`<${Figure} label=${label} heads=${["value", "count"]} rows=${bins.map((b) => [b.label, format(b.count)])}>
    <div class="histogram" style=${{ height: `${height}px` }}>${bins.map((b, at) => html`<span key=${at} title=${b.title ?? `${b.label}: ${format(b.count)}`}><i style=${{ height: `${b.count ? Math.max(2, (100 * b.count) / top) : 0}%` }} /><small>${at % step ? "" : b.label}</small></span>`)}</div></${Figure}>`;
}

/**
 * Areas by size, squarified (Bruls, Huizing, van Wijk). `items`: [{id, name, size, shade (0 to 1), title?}];
 * `choose` makes them buttons. @param {{items: any[], label: string, legend: [string, string], choose?: (id: string) => void}} props
 */
export function Treemap({ items, label, legend, choose, height = 320, format = size }) {
  const box = useRef(null);
  const [width, setWidth] = useState(800);
  useEffect(() => {
    const frame = box.current;
    const watch = new ResizeObserver(() => setWidth(frame.clientWidth));
    watch.observe(frame);
    return () => watch.disconnect();
  }, []);
  const placed = useMemo(() => squarify(items.filter((i) => i.size > 0), width, height), [items, width, height]);
  return html`<${Figure} label=${label} heads=${["name", "size"]} rows=${items.map((i) => [i.name, format(i.size)])}>
    <div ref=${box} class="treemap" style=${{ height: `${height}px` }}>${placed.map(({ item, x, y, w, h }) => {
      const inside = html`${w > 60 && h > 22 && html`<span class="clip">${item.name}</span>`}${w > 60 && h > 40 && html`<small class="clip">${format(item.size)}</small>`}`;
      const style = { left: `${x}px`, top: `${y}px`, width: `${w}px`, height: `${h}px`, "--shade": String(Math.round(100 * item.shade)) };
      const title = item.title ?? `${item.name}: ${format(item.size)}`;
      return choose ? html`<button key=${item.id} style=${style} title=${title} aria-label=${title} onClick=${() => choose(item.id)}>${inside}</button>` : html`<div key=${item.id} style=${style} title=${title}>${inside}</div>`;
    })}</div><${Ramp} ends=${legend} /></${Figure}>`;
}

/** What light and dark mean. */
function Ramp({ ends }) {
  return html`<p class="ramp small muted">${ends[0]}<i /> ${ends[1]}</p>`;
}

/** @returns {{item: any, x: number, y: number, w: number, h: number}[]} */
export function squarify(items, width, height) {
  const total = items.reduce((sum, i) => sum + i.size, 0);
  const left = [...items].sort((a, b) => b.size - a.size).map((item) => ({ item, area: (item.size / total) * width * height }));
  const placed = [];
  let [x, y, w, h] = [0, 0, width, height];
  while (left.length && w > 0 && h > 0) {
    const side = Math.min(w, h);
    let row = [left[0]];
    while (row.length < left.length && worst([...row, left[row.length]], side) <= worst(row, side)) row = left.slice(0, row.length + 1);
    const area = row.reduce((sum, r) => sum + r.area, 0);
    const thick = area / side;
    let along = 0;
    for (const { item, area: one } of row) {
      const long = one / thick;
      placed.push(w >= h ? { item, x, y: y + along, w: thick, h: long } : { item, x: x + along, y, w: long, h: thick });
      along += long;
    }
    if (w >= h) [x, w] = [x + thick, w - thick];
    else [y, h] = [y + thick, h - thick];
    left.splice(0, row.length);
  }
  return placed;
}

function worst(row, side) {
  const sum = row.reduce((total, r) => total + r.area, 0);
  const areas = row.map((r) => r.area);
  return Math.max((side ** 2 * Math.max(...areas)) / sum ** 2, sum ** 2 / (side ** 2 * Math.min(...areas)));
}

/**
 * A matrix coloured by amount. `cells[row][column]`: number, or {value, text, title}.
 * @param {{rows: string[], columns: string[], cells: any[][], label: string, choose?: (row: number, column: number) => void}} props
 */
export function Heatmap({ rows, columns, cells, label, choose, format = count }) {
  const value = (cell) => (cell !== null && typeof cell === "object" ? cell.value : cell) ?? 0;
  const top = Math.max(1, ...cells.flat().map(value));
  return html`<figure class="figure"><div class="scroll"><table class="heat" aria-label=${label}><thead><tr><td />${columns.map((c) => html`<th key=${c} scope="col">${c}</th>`)}</tr></thead>
    <tbody>${rows.map((r, i) => html`<tr key=${r}><th scope="row">${r}</th>${columns.map((c, j) => {
      const cell = cells[i][j];
      const shown = value(cell) ? (cell.text ?? format(value(cell))) : "·";
      return html`<td key=${c} style=${{ "--shade": String(value(cell) ? Math.round(12 + (60 * Math.log1p(value(cell))) / Math.log1p(top)) : 0) }} title=${cell?.title}>${choose && value(cell) ? html`<button class="link" onClick=${() => choose(i, j)}>${shown}</button>` : shown}</td>`;
    })}</tr>`)}</tbody></table></div></figure>`;
}

/**
 * Days, a week a column, the newest at the right. `days`: Map of "2026-11-22" to {tone, text, title}.
 * @param {{days: Map<string, {series?: number, tone?: string, title: string, n?: number}>, weeks?: number, label: string, choose?: (day: string) => void, chosen?: string}} props
 */
export function Calendar({ days, weeks = 26, label, choose, chosen }) {
  const today = new Date();
  const id = useId();
  const end = Date.UTC(today.getFullYear(), today.getMonth(), today.getDate());
  const monday = end - ((new Date(end).getUTCDay() + 6) % 7) * DAY_MS;
  const columns = Array.from({ length: weeks }, (_, w) => monday - (weeks - 1 - w) * 7 * DAY_MS);
  return html`<div class="calendar scroll" role="group" aria-label=${label} id=${id}>${columns.map((week, w) => html`<div key=${week}><small class="muted">${monthOf(week, columns[w - 1], columns[w + 1])}</small>${Array.from({ length: 7 }, (_, d) => {
    const at = week + d * DAY_MS;
    const day = new Date(at).toISOString().slice(0, 10);
    const found = days.get(day);
    if (at > end) return html`<i key=${d} class="day none" />`;
    const style = found?.series !== undefined ? { background: colour(found.series) } : {};
    return found && choose ? html`<button key=${d} class="day ${found.tone ?? ""}" aria-pressed=${day === chosen} style=${style} title=${`${day}: ${found.title}`} aria-label=${`${day}: ${found.title}`} onClick=${() => choose(day)}>${found.n > 1 ? found.n : ""}</button>` : html`<i key=${d} class="day ${found ? found.tone ?? "" : "empty-day"}" style=${style} title=${found ? `${day}: ${found.title}` : day} />`;
  })}</div>`)}</div>`;
}

/** A month's name stands over its first week, and over the very first one where the next leaves it room. */
function monthOf(week, before, next) {
  const name = (at) => new Date(at + 6 * DAY_MS).toLocaleString("en", { month: "short", timeZone: "UTC" });
  if (before === undefined) return next !== undefined && name(next) !== name(week) ? "" : name(week);
  return name(week) !== name(before) ? name(week) : "";
}
