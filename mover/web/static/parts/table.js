// A table of any length: rows come page by page, each page by the key after which it begins, and only what can be seen
// is drawn. Pages far away are forgotten and asked for again, so a million rows cost what a thousand do.
import { html, useCallback, useEffect, useId, useLayoutEffect, useMemo, useRef, useState } from "../lib/preact.js";
import { Problem } from "../lib/api.js";
import { plural } from "../lib/format.js";
import { useKey } from "../lib/keys.js";
import { BASE, go, goQuery, place } from "../lib/router.js";
import { useStore } from "../lib/store.js";
import { Empty, Failure, Skeleton } from "./states.js";

const ROW_PX = 32;
const BESIDE = 12; // rows drawn above and below what is seen
const PAGES_KEPT = 24;
const NARROW_PX = 640;

/**
 * @param {{
 *   name: string, label: string, columns: Column[], load: (after: string|null, limit: number) => Promise<{rows: any[], next: any}>,
 *   id: (row: any) => string, link?: (row: any) => string, empty: any, every?: number, rows?: number, limit?: number,
 *   deps?: any[], filter?: boolean,
 * }} props
 * `name`: prefix of the query parameters that keep sorting and filter; `link`: where a row leads, below /ui;
 * `deps`: what makes it begin anew; `rows`: how many are seen at once; `every`: ms between looks, 0 for none.
 * @typedef {{name: string, label: string, width?: string, right?: boolean, wide?: boolean, cell: (row: any) => any,
 *   text?: (row: any) => string|number}} Column `wide`: only where there is room; `text`: what is sorted and searched by.
 */
export function Table({ name, label, columns, load, id, link, empty, every = 5000, rows: seenRows = 16, limit = 200, deps = [], filter = true }) {
  const { query } = useStore(place);
  const paged = usePages(load, { limit, every, deps });
  const words = (query.get(`${name}-filter`) ?? "").toLowerCase();
  const sorting = query.get(`${name}-sort`) ?? "";
  const [box, view] = useView(seenRows);
  const shown = useMemo(() => arrange(paged.rows, columns, words, sorting), [paged.rows, words, sorting, columns]);
  const [active, setActive] = useState(-1);
  const base = useId();
  const search = useRef(null);
  useKey("/", "search in this table", useCallback(() => search.current?.focus(), []));

  const columnsShown = columns.filter((c) => !(c.wide && view.width < NARROW_PX));
  const grid = columnsShown.map((c) => c.width ?? "minmax(80px, 1fr)").join(" ");
  const from = Math.max(0, Math.floor(view.top / ROW_PX) - BESIDE);
  const to = Math.min(shown.length, Math.ceil((view.top + view.height) / ROW_PX) + BESIDE);
  useEffect(() => paged.see(shown[from], shown[Math.max(0, to - 1)], to >= shown.length), [from, to, shown]);

  const move = (at) => {
    const next = Math.max(0, Math.min(shown.length - 1, at));
    setActive(next);
    const top = next * ROW_PX;
    const frame = box.current;
    if (top < frame.scrollTop) frame.scrollTop = top;
    else if (top + ROW_PX > frame.scrollTop + view.height) frame.scrollTop = top + ROW_PX - view.height;
  };
  const keyed = (event) => {
    const page = Math.max(1, Math.floor(view.height / ROW_PX) - 1);
    const to = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: shown.length - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      move(to);
    } else if (event.key === "Enter" && link && shown[active] && event.target === event.currentTarget) go(link(shown[active].row));
  };
  const sort = (column) => goQuery({ [`${name}-sort`]: sorting === column ? `-${column}` : sorting === `-${column}` ? null : column });

  if (!paged.began) return paged.problem ? html`<${Failure} problem=${paged.problem} again=${paged.again} />` : html`<${Skeleton} rows=${6} />`;
  const sum = `${plural(shown.length, "row")}${paged.whole ? "" : " so far"}${words ? ` of ${plural(paged.count, "row")}${paged.whole ? "" : " so far"}` : ""}`;
  return html`<div class="table">
    ${(filter || paged.problem) && html`<div class="row apart">
      ${filter && html`<input ref=${search} type="search" class="search" placeholder="Filter" aria-label=${`Filter ${label}`} value=${query.get(`${name}-filter`) ?? ""} onInput=${(event) => goQuery({ [`${name}-filter`]: event.currentTarget.value })} />`}
      <span class="muted small" role="status">${sum}${paged.problem && `; not fresh: ${paged.problem.message}`}</span></div>`}
    <div class="grid-frame" role="grid" aria-label=${label} aria-rowcount=${paged.whole ? shown.length + 1 : -1} aria-colcount=${columnsShown.length} tabindex="0" aria-activedescendant=${active >= 0 ? `${base}-${active}` : undefined} onKeyDown=${keyed} style=${{ "--columns": grid }}>
      <div role="row" class="tr th">${columnsShown.map((c) => html`<span role="columnheader" key=${c.name} class=${c.right ? "right" : ""} aria-sort=${sorting === c.name ? "ascending" : sorting === `-${c.name}` ? "descending" : "none"}>${c.text ? html`<button class="link" title=${paged.whole ? "sort" : "sort what is loaded"} onClick=${() => sort(c.name)}>${c.label}${sorting === c.name ? " ↑" : sorting === `-${c.name}` ? " ↓" : ""}</button>` : c.label}</span>`)}</div>
      ${shown.length === 0 ? html`<div role="row"><div role="gridcell">${words ? html`<${Empty} title="No row has these words">Take the filter away to see ${plural(paged.count, "row")}.<//>` : empty}</div></div>` : html`
      <div class="tbody" role="rowgroup" ref=${box} style=${{ maxHeight: `${seenRows * ROW_PX}px` }} onScroll=${view.scrolled}>
        <div style=${{ height: `${shown.length * ROW_PX}px` }}><div style=${{ transform: `translateY(${from * ROW_PX}px)` }}>
          ${shown.slice(from, to).map(({ row, key }, at) => html`<${Row} key=${key ?? id(row)} id=${`${base}-${from + at}`} at=${from + at} row=${row} columns=${columnsShown} to=${row && link ? link(row) : null} active=${from + at === active} chosen=${setActive} />`)}
        </div></div></div>`}
    </div></div>`;
}

function Row({ id, at, row, columns, to, active, chosen }) {
  if (!row) return html`<div role="row" id=${id} class="tr far" aria-rowindex=${at + 2}><span role="gridcell">…</span></div>`;
  const clicked = (event) => {
    chosen(at);
    if (!to || event.target.closest("a, button, input") || getSelection()?.toString()) return;
    if (event.ctrlKey || event.metaKey) open(BASE + to, "_blank", "noopener");
    else go(to);
  };
  return html`<div role="row" id=${id} aria-rowindex=${at + 2} class="tr ${active ? "active" : ""} ${to ? "leads" : ""}" onClick=${clicked}>
    ${columns.map((c) => html`<span role="gridcell" key=${c.name} class=${c.right ? "right clip" : "clip"}>${c.cell(row)}</span>`)}</div>`;
}

/** Filtered and sorted as far as it is loaded; rows of forgotten pages keep their place as gaps. */
function arrange(rows, columns, words, sorting) {
  let found = rows;
  const text = (row, c) => c.text?.(row) ?? "";
  if (words) found = found.filter(({ row }) => row && columns.some((c) => String(text(row, c)).toLowerCase().includes(words)));
  if (!sorting) return found;
  const down = sorting.startsWith("-");
  const column = columns.find((c) => c.name === sorting.replace(/^-/, ""));
  if (!column) return found;
  const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  return found.filter(({ row }) => row).sort((a, b) => order(text(a.row, column), text(b.row, column)) * (down ? -1 : 1));
}

/** Where the table is scrolled to, and how large it is. */
function useView(seenRows) {
  const box = useRef(null);
  const [view, setView] = useState({ top: 0, height: seenRows * ROW_PX, width: innerWidth });
  const measure = useCallback(() => {
    const frame = box.current;
    if (frame) setView((old) => (old.top === frame.scrollTop && old.height === frame.clientHeight && old.width === frame.clientWidth ? old : { top: frame.scrollTop, height: frame.clientHeight || seenRows * ROW_PX, width: frame.clientWidth }));
  }, [seenRows]);
  useLayoutEffect(measure);
  useEffect(() => {
    addEventListener("resize", measure);
    return () => removeEventListener("resize", measure);
  }, [measure]);
  return [box, { ...view, scrolled: measure }];
}

/**
 * Pages by key. The first is looked at again every so often; when its last row changed, the ones behind it begin anew
 * unless somebody reads there. A page begins after a key, so rows that come in front of it do not shift it.
 */
function usePages(load, { limit, every, deps }) {
  const [state, setState] = useState({ pages: [], problem: null, version: 0 });
  const held = useRef({ pages: [], busy: new Set(), seen: [0, 0] });
  const latest = useRef(load);
  latest.current = load;
  const show = (problem) => setState((old) => ({ pages: held.current.pages, problem, version: old.version + 1 }));

  const fetchPage = useCallback(async (at, run) => {
    const mine = held.current;
    if (mine.busy.has(at)) return;
    mine.busy.add(at);
    try {
      const after = mine.pages[at]?.after ?? null;
      const found = await latest.current(after, limit);
      if (held.current !== mine) return;
      keep(mine, at, { after, rows: found.rows, count: found.rows.length, next: found.next ?? null });
      show(null);
    } catch (problem) {
      if (held.current !== mine) return;
      if (!(problem instanceof Problem)) throw problem;
      show(problem);
    } finally {
      mine.busy.delete(at);
    }
  }, [limit]);

  useEffect(() => {
    held.current = { pages: [], busy: new Set(), seen: [0, 0] };
    setState((old) => ({ pages: [], problem: null, version: old.version + 1 }));
    fetchPage(0);
    if (!every) return undefined;
    const timer = setInterval(() => {
      if (document.hidden) return;
      const [first, last] = held.current.seen;
      for (let at = first; at <= last; at += 1) fetchPage(at);
    }, every);
    return () => clearInterval(timer);
  }, [every, fetchPage, ...deps]);

  const rows = useMemo(() => state.pages.flatMap((page, at) => Array.from({ length: page.count }, (_, i) => ({ row: page.rows?.[i] ?? null, page: at, key: page.rows ? undefined : `gap-${at}-${i}` }))), [state.version]);
  const last = state.pages.at(-1);
  return {
    rows,
    count: rows.length,
    began: state.pages.length > 0 && state.pages[0].rows !== undefined,
    whole: Boolean(last) && last.next === null,
    problem: state.problem,
    again: () => fetchPage(0),
    /** What is drawn: pages of it that were forgotten come again, and at the end the next one. */
    see(first, end, atEnd) {
      const mine = held.current;
      mine.seen = [first?.page ?? 0, end?.page ?? 0];
      for (let at = mine.seen[0]; at <= mine.seen[1]; at += 1) if (mine.pages[at] && !mine.pages[at].rows) fetchPage(at);
      const tail = mine.pages.at(-1);
      if (atEnd && tail?.rows && tail.next !== null) {
        mine.pages = [...mine.pages, { after: tail.next, rows: null, count: 0, next: tail.next }];
        fetchPage(mine.pages.length - 1);
      }
    },
  };
}

function keep(mine, at, page) {
  const pages = mine.pages.slice();
  const moved = at === 0 && pages.length > 1 && pages[1].after !== page.next;
  // somebody reads further down: the first page stays as it was, or rows would be missing between the two
  if (moved && mine.seen[1] > 0) return;
  pages[at] = page;
  if (moved) pages.length = 1;
  const near = (one) => one >= mine.seen[0] - PAGES_KEPT / 2 && one <= mine.seen[1] + PAGES_KEPT / 2;
  mine.pages = pages.map((one, index) => (near(index) || index === at ? one : { ...one, rows: null }));
}
