// A table of any length: rows come page by page, each page by the key after which it begins, and only what can be seen
// is drawn. Pages far away are forgotten and asked for again, so a million rows cost what a thousand do.
import { html, useCallback, useEffect, useId, useLayoutEffect, useMemo, useRef, useState } from "../lib/preact.js";
import { Problem, tracking } from "../lib/api.js";
import { plural } from "../lib/format.js";
import { useKey } from "../lib/keys.js";
import { keeping } from "../lib/live.js";
import { BASE, go, goQuery, place } from "../lib/router.js";
import { useStore } from "../lib/store.js";
import { Empty, Failure, Skeleton } from "./states.js";

const ROW_PX = 32;
const BESIDE = 12; // rows drawn above and below what is seen
const PAGES_KEPT = 24;
const SEARCHED = 25; // pages that a search here goes through by itself; further by a button
// browsers draw no element higher than some 17 million pixels: of longer tables the bar moves in larger steps
const HIGHEST_PX = 15_000_000;
const NARROW_PX = 640;

/**
 * @param {{
 *   name: string, label: string, columns: Column[], load: (after: string|null, limit: number) => Promise<{rows: any[], next: any}>,
 *   id: (row: any) => string, link?: (row: any) => string, empty: any, every?: number, rows?: number, limit?: number,
 *   deps?: any[], filter?: boolean,
 * }} props
 * `name`: prefix of the query parameters that keep sorting and filter; `link`: where a row leads, below /ui;
 * `deps`: what makes it begin anew; `rows`: how many are seen at once; `every`: ms between looks, 0 for none; without it,
 * when what `load` asks for changed.
 * @typedef {{name: string, label: string, width?: string, right?: boolean, wide?: boolean, cell: (row: any) => any,
 *   text?: (row: any) => string|number}} Column `wide`: only where there is room; `text`: what is sorted and searched by.
 */
export function Table({ name, label, columns, load, id, link, empty, every, rows: seenRows = 16, limit = 200, deps = [], filter = true }) {
  const { query } = useStore(place);
  const paged = usePages(load, { limit, every, deps, id });
  const words = (query.get(`${name}-filter`) ?? "").toLowerCase();
  const sorting = query.get(`${name}-sort`) ?? "";
  const [box, view] = useView(seenRows);
  const shown = useMemo(() => arrange(paged, columns, words, sorting), [paged.version, words, sorting, columns]);
  const partly = Boolean(words || sorting);
  const [active, setActive] = useState(-1);
  const base = useId();
  const search = useRef(null);
  useKey("/", "search in this table", useCallback(() => search.current?.focus(), []));

  const columnsShown = columns.filter((c) => !(c.wide && view.width < NARROW_PX));
  const grid = columnsShown.map((c) => c.width ?? "minmax(80px, 1fr)").join(" ");
  const share = Math.min(1, HIGHEST_PX / Math.max(1, shown.length * ROW_PX));
  const seenTop = view.top / share;
  const from = Math.max(0, Math.floor(seenTop / ROW_PX) - BESIDE);
  const to = Math.min(shown.length, Math.ceil((seenTop + view.height) / ROW_PX) + BESIDE);
  const drawn = Array.from({ length: Math.max(0, to - from) }, (_, at) => shown.at(from + at));
  useEffect(() => paged.see({ pages: [drawn[0]?.page ?? 0, drawn.at(-1)?.page ?? 0], top: view.top, atEnd: to >= shown.length, partly }), [from, to, view.top > 0, shown]);

  const move = (at) => {
    const next = Math.max(0, Math.min(shown.length - 1, at));
    setActive(next);
    const top = next * ROW_PX;
    const frame = box.current;
    if (top < seenTop) frame.scrollTop = top * share;
    else if (top + ROW_PX > seenTop + view.height) frame.scrollTop = (top + ROW_PX - view.height) * share;
  };
  const keyed = (event) => {
    const page = Math.max(1, Math.floor(view.height / ROW_PX) - 1);
    const to = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: shown.length - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      move(to);
    } else if (event.key === "Enter" && link && shown.at(active)?.row && event.target === event.currentTarget) go(link(shown.at(active).row));
  };
  const sort = (column) => goQuery({ [`${name}-sort`]: sorting === column ? `-${column}` : sorting === `-${column}` ? null : column });

  if (!paged.began) return paged.problem ? html`<${Failure} problem=${paged.problem} again=${paged.again} />` : html`<${Skeleton} rows=${6} />`;
  const far = paged.whole ? "" : " so far";
  const sum = `${plural(shown.length, "row")}${far}${words ? ` of ${plural(paged.count, "row")}${far}` : ""}`;
  return html`<div class="table">
    ${(filter || paged.problem || paged.newer) && html`<div class="row apart">
      ${filter && html`<input ref=${search} type="search" class="search" placeholder=${paged.whole ? "Filter" : "Filter what is loaded"} aria-label=${`Filter ${label}`} value=${query.get(`${name}-filter`) ?? ""} onInput=${(event) => goQuery({ [`${name}-filter`]: event.currentTarget.value })} />`}
      ${paged.newer && html`<button onClick=${() => { box.current.scrollTop = 0; setActive(-1); paged.anew(); }}>Show what is new</button>`}
      ${words && paged.rests && html`<button onClick=${paged.further}>Search further</button>`}
      <span class="muted small" role="status">${sum}${paged.problem && `; not fresh: ${paged.problem.message}`}</span></div>`}
    <div class="grid-frame" role="grid" aria-label=${label} aria-rowcount=${paged.whole ? shown.length + 1 : -1} aria-colcount=${columnsShown.length} tabindex="0" aria-activedescendant=${active >= 0 ? `${base}-${active}` : undefined} onKeyDown=${keyed} style=${{ "--columns": grid }}>
      <div role="row" class="tr th">${columnsShown.map((c) => html`<span role="columnheader" key=${c.name} class=${c.right ? "right" : ""} aria-sort=${sorting === c.name ? "ascending" : sorting === `-${c.name}` ? "descending" : "none"}>${c.text ? html`<button class="link" title=${paged.whole ? "sort" : "sort what is loaded"} onClick=${() => sort(c.name)}>${c.label}${sorting === c.name ? " ↑" : sorting === `-${c.name}` ? " ↓" : ""}</button>` : c.label}</span>`)}</div>
      ${shown.length === 0 ? html`<div role="row"><div role="gridcell">${words ? html`<${Empty} title="No row has these words">Take the filter away to see ${plural(paged.count, "row")}.<//>` : empty}</div></div>` : html`
      <div class="tbody" role="rowgroup" ref=${box} style=${{ maxHeight: `${seenRows * ROW_PX}px` }} onScroll=${view.scrolled}>
        <div style=${{ height: `${shown.length * ROW_PX * share}px` }}><div style=${{ transform: `translateY(${view.top - (seenTop - from * ROW_PX)}px)` }}>
          ${drawn.map(({ row, key }, at) => html`<${Row} key=${key ?? id(row)} id=${`${base}-${from + at}`} at=${from + at} row=${row} columns=${columnsShown} to=${row && link ? link(row) : null} active=${from + at === active} chosen=${setActive} />`)}
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

/** As the pages have them; or filtered and sorted as far as they are loaded. @returns {{length: number, at: (i: number) => any}} */
function arrange(paged, columns, words, sorting) {
  if (!words && !sorting) return { length: paged.count, at: paged.at };
  const text = (row, c) => c.text?.(row) ?? "";
  let found = paged.loaded();
  if (words) found = found.filter(({ row }) => columns.some((c) => String(text(row, c)).toLowerCase().includes(words)));
  const column = columns.find((c) => c.name === sorting.replace(/^-/, ""));
  if (!column) return found;
  const down = sorting.startsWith("-") ? -1 : 1;
  const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  return found.sort((a, b) => order(text(a.row, column), text(b.row, column)) * down);
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
 * Pages by key: a list of pages of which those that are far away are no more than a count. What is drawn is asked for again
 * when it changed. While somebody reads below the first row, rows change where they stand and none moves: what came in
 * front waits for a press.
 */
function usePages(load, { limit, every, deps, id }) {
  const [state, setState] = useState({ pages: [], problem: null, version: 0 });
  const held = useRef(begun());
  const latest = useRef({ load, id });
  latest.current = { load, id };
  const show = (problem) => setState((old) => ({ pages: held.current.pages, problem, version: old.version + 1 }));

  const fetchPage = useCallback(async (at, { anew = false } = {}) => {
    const mine = held.current;
    if (mine.busy.has(at)) return true;
    mine.busy.add(at);
    try {
      const after = mine.pages[at]?.after ?? null;
      const { answer, asked } = tracking(() => latest.current.load(after, limit));
      mine.asked = asked;
      const found = await answer;
      if (held.current !== mine) return true;
      keep(mine, at, { after, rows: found.rows, count: found.rows.length, next: found.next ?? null }, { id: latest.current.id, anew });
      show(null);
      return true;
    } catch (problem) {
      if (held.current !== mine) return true;
      if (!(problem instanceof Problem)) throw problem;
      show(problem);
      return false;
    } finally {
      mine.busy.delete(at);
    }
  }, [limit]);

  useEffect(() => {
    held.current = begun();
    setState((old) => ({ pages: [], problem: null, version: old.version + 1 }));
    const kept = keeping({
      every,
      asked: () => held.current.asked,
      async ask() {
        const [first, last] = held.current.seen;
        const asked = await Promise.all(Array.from({ length: last - first + 1 }, (_, at) => fetchPage(first + at)));
        return asked.every(Boolean);
      },
    });
    kept.turn();
    return kept.end;
  }, [every, fetchPage, ...deps]);

  const starts = useMemo(() => {
    const found = [0];
    for (const page of state.pages) found.push(found.at(-1) + page.count);
    return found;
  }, [state.version]);
  const last = state.pages.at(-1);
  const mine = held.current;
  return {
    version: state.version,
    count: starts.at(-1),
    at(i) {
      const page = pageOf(starts, i);
      const row = state.pages[page]?.rows?.[i - starts[page]] ?? null;
      return { row, page, key: row ? undefined : `gap-${i}` };
    },
    loaded: () => state.pages.flatMap((page, at) => (page.rows ?? []).map((row) => ({ row, page: at }))),
    began: state.pages.length > 0 && state.pages[0].rows !== undefined,
    whole: Boolean(last) && last.next === null,
    /** More could be searched than was. */
    rests: Boolean(last) && last.next !== null && state.pages.length >= mine.most,
    newer: mine.newer,
    problem: state.problem,
    again: () => fetchPage(0),
    anew: () => fetchPage(0, { anew: true }),
    further() {
      mine.most += SEARCHED;
      show(null);
    },
    /** What is drawn: pages of it that were forgotten come again, and at the end the next one. */
    see({ pages: [first, end], top, atEnd, partly }) {
      mine.seen = [first, end];
      mine.top = top;
      for (let at = first; at <= end; at += 1) if (mine.pages[at] && !mine.pages[at].rows) fetchPage(at);
      const tail = mine.pages.at(-1);
      if (atEnd && tail?.rows && tail.next !== null && !(partly && mine.pages.length >= mine.most)) {
        mine.pages = [...mine.pages, { after: tail.next, rows: null, count: 0, next: tail.next }];
        fetchPage(mine.pages.length - 1);
      }
    },
  };
}

const begun = () => ({ pages: [], busy: new Set(), seen: [0, 0], top: 0, asked: [], newer: false, most: SEARCHED });

/** Which page holds row `i`: the last one that begins at it or before. */
function pageOf(starts, i) {
  let low = 0, high = starts.length - 2;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle] <= i) low = middle;
    else high = middle - 1;
  }
  return Math.max(0, low);
}

function keep(mine, at, page, { id, anew }) {
  const pages = mine.pages.slice();
  if (at > pages.length) return;
  const old = pages[at];
  const off = pages.length > at + 1 && pages[at + 1].after !== page.next;
  const pushed = at === 0 && old?.rows?.length && page.rows.length && id(page.rows[0]) !== id(old.rows[0]);
  if (at === 0 && old?.rows && !anew && (off || pushed) && (mine.top > 0 || mine.seen[1] > 0)) {
    const fresh = new Map(page.rows.map((row) => [id(row), row]));
    pages[0] = { ...old, rows: old.rows.map((row) => fresh.get(id(row)) ?? row) };
    mine.newer = true;
  } else {
    pages[at] = page;
    if (at === 0) mine.newer = false;
    // rows came or went: the next page begins elsewhere now, and those behind it as they come again
    if (off && (page.next === null || anew || (at === 0 && mine.seen[1] === 0))) pages.length = at + 1;
    else if (off) pages[at + 1] = { ...pages[at + 1], after: page.next, rows: null };
  }
  const near = (one) => one >= mine.seen[0] - PAGES_KEPT / 2 && one <= mine.seen[1] + PAGES_KEPT / 2;
  mine.pages = pages.map((one, index) => (near(index) || index === at ? one : { ...one, rows: null }));
}
