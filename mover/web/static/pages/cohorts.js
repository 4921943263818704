// Cohorts: which slides an expression names today, how their values are spread, and what is made of them: a saved
// name, a list that never changes, parts for training and testing, a run.
import { html, useEffect, useMemo, useRef, useState } from "../lib/preact.js";
import { call } from "../lib/api.js";
import { count, percent, plural, size, words } from "../lib/format.js";
import { useAsk } from "../lib/live.js";
import { go, goQuery, Link } from "../lib/router.js";
import { may } from "../lib/session.js";
import { Action, Asked, Bytes, Copy, Empty, Equivalent, Facts, Failure, Head, Heatmap, Histogram, Id, Meter, Panel, SaveFigure, Shape, Skeleton, Table, Tabs, Time, colour } from "../parts/all.js";
import { Expression, literal } from "../parts/expression.js";

const TYPING_MS = 350;

export default function Cohorts({ cohort, id, query }) {
  if (id) return html`<${Frozen} id=${id} key=${id} />`;
  return cohort ? html`<${One} name=${cohort} key=${cohort} query=${query} />` : html`<${Front} query=${query} />`;
}

function Front({ query }) {
  return html`<${Head} title="Cohorts" below="Slides named by what is known of them. An expression selects anew each time it is asked; a frozen list never changes." />
    <${Workbench} begin=${query.get("expression") ?? ""} query=${query} keep />
    <${Panel} title="Saved" id="saved"><${Saved} /><//>
    <${Equivalent} operation="cohorts.list_cohorts" />`;
}

// --- the saved ones -----------------------------------------------------------------------------------------

const COLUMNS = [
  { name: "name", label: "Cohort", width: "minmax(100px, 1fr)", text: (c) => c.name, cell: (c) => html`<${Link} to=${addressOf(c)}>${c.name}<span class="muted">@${c.version}</span><//>` },
  { name: "expression", label: "Slides with", width: "minmax(140px, 3fr)", wide: true, text: (c) => c.expression, cell: (c) => html`<code title=${c.expression}>${c.expression}</code>` },
  { name: "count", label: "Slides", width: "72px", right: true, text: (c) => c.count, cell: (c) => count(c.count) },
  { name: "bytes", label: "Size", width: "88px", right: true, wide: true, text: (c) => c.bytes, cell: (c) => html`<${Bytes} of=${c.bytes} />` },
  { name: "created", label: "Saved", width: "112px", wide: true, text: (c) => c.created_at, cell: (c) => html`<${Time} at=${c.created_at} />` },
];
const addressOf = (cohort) => `/cohorts/${cohort.name}@${cohort.version}`;

async function page(after, limit) {
  const found = await call("cohorts.list_cohorts", { after, limit });
  return { rows: found.cohorts, next: found.next };
}

function Saved() {
  return html`<${Table} name="cohorts" label="Cohorts" columns=${COLUMNS} load=${page} id=${(c) => c.id} link=${addressOf} rows=${8}
    empty=${html`<${Empty} title="No cohort has a name yet">Write an expression above and save it, or <code>mover cohort save NAME EXPRESSION</code>.<//>`} />`;
}

// --- the workbench --------------------------------------------------------------------------------------------

const VIEWS = [["", "How values are spread"], ["explain", "Clause by clause"], ["columns", "Columns"]];

/** `keep`: the expression stands in the address, so that it can be sent as a link. */
function Workbench({ begin, query, keep = false, cohort }) {
  const [text, setText] = useState(begin);
  const asked = useAsk("cohorts.columns", { values: true }, { every: 0 });
  const columns = asked.answer?.columns ?? [];
  const said = useSettled(text.trim());
  const found = useAsk(said ? "cohorts.count" : null, {}, { every: 0, body: { expression: said } });
  useEffect(() => {
    if (keep) goQuery({ expression: said });
  }, [said]);
  const wrong = found.problem?.code === "expression-invalid" && said === text.trim() ? found.problem : null;
  const sound = found.answer && !found.problem ? said : "";
  const last = useLast(sound);
  const ready = sound === text.trim() && sound !== "";
  const add = (clause) => setText(sound ? `${/\bor\b/i.test(sound) ? `(${sound})` : sound} and ${clause}` : clause);
  const view = query.get("view") ?? "";
  const views = {
    explain: last ? html`<${Explained} expression=${last} />` : html`<${Empty} title="Nothing to take apart yet">Write an expression: each of its clauses is counted by itself.<//>`,
    columns: html`<${Asked} asked=${asked} rows=${8}>${() => html`<${Known} columns=${columns} />`}<//>`,
  };
  return html`<${Panel} title="Expression" id="expression" aside=${html`<${Deeds} expression=${ready ? sound : ""} changed=${!cohort || sound !== cohort.expression} cohort=${cohort} />`}>
      <${Expression} text=${text} set=${setText} columns=${columns} problem=${wrong} label="Cohort expression" />
      ${found.problem && !wrong && found.problem.code !== "expression-invalid" && html`<${Failure} problem=${found.problem} again=${found.again} />`}
      <${CountLine} found=${found.answer} fresh=${ready} empty=${!text.trim()} wrong=${Boolean(found.problem)} /><//>
    <${Panel}><${Tabs} of=${VIEWS} chosen=${view} choose=${(one) => goQuery({ view: one })} label="Views of the expression" />${views[view] ?? html`<${Spread} expression=${text.trim() ? last : ""} add=${add} />`}<//>`;
}

/** A text once nobody has typed for a moment. */
function useSettled(text) {
  const [settled, setSettled] = useState(text);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(text), TYPING_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return settled;
}

/** The last one that was something: pictures stay while the next is typed. */
function useLast(value) {
  const last = useRef(value);
  if (value) last.current = value;
  return last.current;
}

function CountLine({ found, fresh, empty, wrong }) {
  const last = useLast(found);
  if (empty) return html`<p class="muted">Columns, operators and values are offered while you type; <kbd>Ctrl</kbd> <kbd>Space</kbd> asks for them. Below: all slides.</p>`;
  return html`<div class="count-line ${fresh ? "" : "old"}" role="status">${last ? html`<span><strong>${count(last.count)}</strong> ${last.count === 1 ? "slide" : "slides"}</span><span class="muted">${size(last.bytes)}${last.count ? `, ${size(Math.round(last.bytes / last.count))} each` : ""}</span>` : html`<span class="muted">${wrong ? "not counted" : "counting"}</span>`}</div>`;
}

function Deeds({ expression, changed, cohort }) {
  const why = expression ? undefined : "Write an expression that can be counted first";
  return html`${changed && html`<${Action} operation="cohorts.save" label=${cohort ? "Save as next version" : "Save"} title="Save the expression under a name" first disabled=${why} body=${{ expression }}
      fields=${[{ name: "name", label: "Name", required: true, least: 2, most: 61, value: cohort?.name, hint: "Small letters, digits and dashes. Another expression of a known name is its next version." }]}
      consequence="The expression is kept, not its slides: it selects anew each time." told="The cohort is saved" done=${(saved) => go(addressOf(saved))} />
    <${Action} operation="runs.request" label="Ask for a run with it" disabled=${why} body=${{ expression }} fields=${RUN_FIELDS} consequence=${RUN_SAID} told="The run is asked for" done=${(run) => go(`/runs/${run.id}`)} />`}`;
}

const RUN_SAID = "The set is frozen, judged whole, and staged on flash. Nothing is copied when one of its slides is missing, unknown or withdrawn.";
const RUN_FIELDS = [
  { name: "lease_s", label: "Lease in seconds", kind: "number", least: 60, hint: "How long without a heartbeat; then what the job left is protected. Empty: as the stage policy says." },
  { name: "priority", label: "Priority", kind: "number", least: -10, most: 10 },
];

// --- how values are spread -------------------------------------------------------------------------------------

const SHOWN = 8;

/** Every fact of the slides that are named; a press on a value asks for it, too. */
function Spread({ expression, add }) {
  const asked = useAsk("cohorts.describe", {}, { every: 0, body: expression ? { expression } : {} });
  const last = useLast(asked.answer);
  if (asked.problem && !last) return html`<${Failure} problem=${asked.problem} again=${asked.again} />`;
  if (!last) return html`<${Skeleton} rows=${8} />`;
  const known = last.columns.filter((one) => one.known > 0 && (one.values.length || one.histogram.length));
  const unknown = last.columns.filter((one) => one.known === 0);
  if (!last.count) return html`<${Empty} title="No slide is named">Nothing of what was imported has these values. Each clause by itself stands under “Clause by clause”.<//>`;
  return html`<div class="spreads">${known.map((one) => html`<${OneSpread} key=${one.column} of=${one} total=${last.count} add=${add} save=${html`<${SaveFigure} operation="plots.distribution" said=${{ column: one.column, expression }} name=${one.column} />`} />`)}</div>
    <p class="muted small">${plural(last.count, "slide")}, ${size(last.bytes)}.${unknown.length > 0 && ` Of none of them known: ${unknown.map((one) => one.column).join(", ")}.`}</p>`;
}

function OneSpread({ of, total, add, save }) {
  const head = html`<header><h3>${of.column}</h3><span class="muted small">${of.missing ? `${count(of.missing)} unknown` : of.distinct !== null && of.distinct !== undefined ? plural(of.distinct, "value") : ""}</span></header>`;
  if (of.histogram.length > 2 && (of.distinct ?? 99) > SHOWN) {
    const said = of.column.endsWith("_bytes") ? size : figure;
    const step = 2 * Math.ceil(of.histogram.length / 6);
    const bins = of.histogram.map((bin, at) => ({ label: at % step ? "" : said(bin.low), count: bin.count, title: `${said(bin.low)} to ${said(bin.high)}: ${plural(bin.count, "slide")}` }));
    return html`<section class="spread" aria-label=${of.column}>${head}<${Histogram} bins=${bins} label=${`${of.column}: from ${said(of.low)} to ${said(of.high)} over ${plural(of.known, "slide")}`} height=${92} />${save}</section>`;
  }
  const top = Math.max(...of.values.map((one) => one.count), 1);
  const shown = of.values.slice(0, SHOWN);
  if (typeof shown[0]?.value === "number") shown.sort((a, b) => a.value - b.value);
  const rest = of.known - of.values.slice(0, SHOWN).reduce((sum, one) => sum + one.count, 0);
  return html`<section class="spread" aria-label=${of.column}>${head}
    <ul class="shares">${shown.map((one) => html`<li key=${String(one.value)}><button onClick=${() => add(`${of.column} = ${literal(one.value)}`)} title=${`and ${of.column} = ${literal(one.value)}: ${percent(one.count, total)} of them`}>
      <span class="clip">${typeof one.value === "number" ? figure(one.value) : String(one.value)}</span><span class="muted">${count(one.count)}</span><span class="bar"><i style=${{ width: `${(100 * one.count) / top}%` }} /></span></button></li>`)}</ul>
    ${rest > 0 && html`<p class="muted small">and ${plural(rest, "slide")} with other values</p>`}${save}</section>`;
}

const figure = (amount) => (amount === null || amount === undefined ? "–" : Number.isInteger(amount) ? String(amount) : Math.abs(amount) >= 100 ? amount.toFixed(0) : String(Number(amount.toPrecision(3))));

function Explained({ expression }) {
  const asked = useAsk("cohorts.explain", {}, { every: 0, body: { expression } });
  return html`<${Asked} asked=${asked} rows=${4}>${(told) => html`
    <ol class="clauses" aria-label="Clauses">${told.clauses.map((one, at) => html`<li key=${at}><span style=${{ paddingLeft: `${one.depth * 20}px` }}>${one.words}</span>
      <${Meter} parts=${[{ name: "of all slides", share: told.slides ? one.count / told.slides : 0, tone: one.count ? "accent" : "bad" }]} label=${one.words} /><span class="right">${count(one.count)}</span></li>`)}</ol>
    <p class="muted">${count(told.count)} of ${plural(told.slides, "slide")}. ${told.columns.length ? `Found through ${plural(told.columns.length, "column")}: ${told.columns.join(", ")}.` : ""} ${told.row_by_row ? `${plural(told.row_by_row, "slide")} were written since and are read one by one.` : ""}</p>
    ${told.plan.length > 0 && html`<details class="numbers"><summary>How PostgreSQL reads them</summary><pre class="scroll small">${told.plan.join("\n")}</pre></details>`}
    <${Equivalent} operation="cohorts.explain" body=${{ expression }} />`}<//>`;
}

const KNOWN = [
  { name: "name", label: "Column", width: "minmax(90px, 1fr)", text: (c) => c.name, cell: (c) => html`<code>${c.name}</code>` },
  { name: "type", label: "Type", width: "64px", text: (c) => c.type, cell: (c) => c.type },
  { name: "table", label: "From", width: "90px", wide: true, text: (c) => c.table, cell: (c) => c.table },
  { name: "values", label: "Such as", width: "minmax(80px, 3fr)", text: (c) => examples(c).join(" "), cell: (c) => (examples(c).length ? html`<span title=${examples(c).join(", ")}>${examples(c).join(", ")}</span>` : html`<span class="muted">names slides or people: no examples</span>`) },
];
const examples = (column) => (column.allowed ?? column.values ?? []).map(String);

function Known({ columns }) {
  return html`<${Table} name="columns" label="Columns" columns=${KNOWN} load=${async () => ({ rows: columns, next: null })} id=${(c) => c.name} rows=${12} every=${0} deps=${[columns]} empty=${html`<${Empty} title="No columns" />`} />`;
}

// --- one saved cohort --------------------------------------------------------------------------------------------

function One({ name, query }) {
  const asked = useAsk("cohorts.get", { ref: name }, { every: 30_000 });
  return html`<${Asked} asked=${asked} rows=${8}>${(cohort) => html`<${Shown} cohort=${cohort} query=${query} />`}<//>`;
}

function Shown({ cohort, query }) {
  const ref = `${cohort.name}@${cohort.version}`;
  return html`<${Head} title=${html`${cohort.name}<span class="muted">@${cohort.version}</span>`} below=${html`${plural(cohort.count, "slide")}, ${size(cohort.bytes)} today; saved <${Time} at=${cohort.created_at} />`}>
      <${Action} operation="cohorts.freeze" label="Freeze" title="Freeze: write down its slides of now" said=${{ ref }} consequence=${`${plural(cohort.count, "slide")} as of now become a list that never changes, with one digest over all of them.`} told="The list is frozen" done=${(list) => go(`/selections/${list.id}`)} />
      <${Action} operation="runs.request" label="Ask for a run with it" first body=${{ cohort: ref }} fields=${RUN_FIELDS} consequence=${RUN_SAID} told="The run is asked for" done=${(run) => go(`/runs/${run.id}`)} /><//>
    <${Workbench} begin=${cohort.expression} query=${query} cohort=${cohort} />
    ${may("cohorts.split") && html`<${Deal} cohort=${cohort} ref_=${ref} />`}
    <${Equivalent} operation="cohorts.get" said=${{ ref }} />`;
}

/** Parts for training, tuning and testing: no patient in two of them. */
function Deal({ cohort, ref_ }) {
  const [parts, setParts] = useState([["train", 0.7], ["tune", 0.15], ["test", 0.15]]);
  const [by, setBy] = useState("");
  const [seed, setSeed] = useState(0);
  const [unknown, setUnknown] = useState("refuse");
  const [dealt, setDealt] = useState(null);
  const columns = useAsk("cohorts.columns", {}, { every: 0 }).answer?.columns ?? [];
  const change = (at, part) => setParts(parts.map((one, i) => (i === at ? part : one)));
  const sum = parts.reduce((total, [, share]) => total + share, 0);
  const names = new Set(parts.map(([name]) => name));
  const why = parts.length < 2 ? "At least two parts" : names.size < parts.length || names.has("") ? "Each part needs a name of its own" : parts.some(([, share]) => !(share > 0)) ? "Each part needs a share above 0" : Math.abs(sum - 1) > 1e-9 ? `The shares are ${figure(sum)} together, not 1` : undefined;
  const body = { parts: Object.fromEntries(parts), seed, unknown_patients: unknown, ...(by ? { by } : {}) };
  return html`<${Panel} title="Split" id="split" aside=${html`<${Action} operation="cohorts.split" label="Deal out" title=${`Deal ${ref_} out`} said=${{ ref: ref_ }} body=${body} disabled=${why} told="The parts are frozen" done=${setDealt}
      consequence="Each part becomes a list that never changes. All slides of a patient go to one part, with whatever else holds slides together. The same seed deals the same slides the same way." />`}>
    <div class="two"><div class="stack"><ul class="deal" aria-label="Parts">${parts.map(([name, share], at) => html`<li key=${at}><input aria-label=${`Name of part ${at + 1}`} value=${name} onInput=${(event) => change(at, [event.currentTarget.value.trim(), share])} />
        <input type="number" min="0" max="1" step="0.01" aria-label=${`Share of ${name}`} value=${share} onInput=${(event) => change(at, [name, Number(event.currentTarget.value)])} />
        <button class="plain" aria-label=${`Remove ${name}`} disabled=${parts.length <= 2} onClick=${() => setParts(parts.filter((_, i) => i !== at))}>✕</button></li>`)}</ul>
      <p><button onClick=${() => setParts([...parts, [`part${parts.length + 1}`, Math.max(0, Number((1 - sum).toFixed(4)))]])} disabled=${parts.length >= 16}>Another part</button></p>
      <div class="meter" role="img" aria-label=${parts.map(([name, share]) => `${name} ${percent(share, 1)}`).join(", ")}>${parts.map(([name, share], at) => html`<i key=${at} title=${`${name}: about ${plural(Math.round(share * cohort.count), "slide")}`} style=${{ width: `${100 * Math.min(1, Math.max(0, share))}%`, background: colour(at) }} />`)}</div>
      ${why && html`<p class="muted"><${Shape} tone="warn" /> ${why}.</p>`}</div>
    <div class="stack">
      <div class="field"><label for="by">Evenly by</label><select id="by" value=${by} onChange=${(event) => setBy(event.currentTarget.value)}><option value="">no column</option>${columns.filter((one) => one.table !== "slide").map((one) => html`<option key=${one.name}>${one.name}</option>`)}</select><small class="muted">Every part has its values in the same shares, as far as patients allow.</small></div>
      <div class="field"><label for="seed">Seed</label><input id="seed" type="number" min="0" step="1" value=${seed} onInput=${(event) => setSeed(Math.max(0, Math.trunc(Number(event.currentTarget.value))))} /></div>
      <div class="field"><label for="unknown">A slide whose patient nobody knows</label><select id="unknown" value=${unknown} onChange=${(event) => setUnknown(event.currentTarget.value)}><option value="refuse">refuses the split</option><option value="allow">counts as a patient of its own</option></select></div></div></div>
    ${dealt && html`<${Dealt} split=${dealt} />`}<//>`;
}

function Dealt({ split }) {
  const values = useMemo(() => [...new Set(split.shares.map((one) => one.value))].sort((a, b) => String(a).localeCompare(String(b), "en", { numeric: true })), [split]);
  const cell = (part, value) => {
    const one = split.shares.find((found) => found.part === part && found.value === value);
    return one ? { value: one.count, title: `${figure(one.wanted)} would be its share` } : 0;
  };
  return html`<div class="scroll" tabindex="0" role="region" aria-label="The parts"><table><thead><tr><th>part</th><th class="right">slides</th><th class="right">patients</th><th class="right">size</th><th>frozen list</th></tr></thead><tbody>${split.parts.map((one) => html`<tr key=${one.name}><td>${one.name}</td><td class="right">${count(one.count)}</td><td class="right">${count(one.groups)}</td><td class="right"><${Bytes} of=${one.bytes} /></td><td><${Link} to=${`/selections/${one.selection}`}><${Id} of=${one.selection} /><//></td></tr>`)}</tbody></table></div>
    ${split.by && html`<div class="stack"><h3>Slides by ${split.by}</h3><${Heatmap} rows=${split.parts.map((one) => one.name)} columns=${values.map((one) => one ?? "unknown")} cells=${split.parts.map((part) => values.map((value) => cell(part.name, value)))} label=${`Slides of each part by ${split.by}`} />
      <p class="muted small">No share is off by more than ${figure(split.worst)} slides.</p></div>`}
    ${split.unknown_patients > 0 && html`<p class="stale"><${Shape} tone="warn" /> ${plural(split.unknown_patients, "slide")} of patients nobody knows: whether two are of one patient cannot be said.</p>`}`;
}

// --- a frozen list -------------------------------------------------------------------------------------------------

const NUMBERS = [{ name: "number", label: "Number", width: "minmax(200px, 1fr)", text: (n) => n, cell: (n) => html`<span class="mono">${n}</span>` }];

function Frozen({ id }) {
  const asked = useAsk("cohorts.selection", { id, limit: 1 }, { every: 0 });
  const load = async (after, limit) => {
    const found = await call("cohorts.selection", { id, after, limit });
    return { rows: found.numbers, next: found.next };
  };
  return html`<${Asked} asked=${asked} rows=${8}>${({ selection }) => html`<${Head} title=${html`<${Id} of=${id} whole />`} below="A frozen list: its slides never change.">
      <${Action} operation="runs.request" label="Ask for a run with it" first body=${{ selection: id }} fields=${RUN_FIELDS} consequence=${RUN_SAID} told="The run is asked for" done=${(run) => go(`/runs/${run.id}`)} /><//>
    <div class="two"><${Panel} title="Slides" id="numbers"><${Table} name="numbers" label="Numbers" columns=${NUMBERS} load=${load} id=${(n) => n} every=${0} rows=${14} empty=${html`<${Empty} title="No slide was named when it was frozen" />`} /><//>
      <div class="stack"><${Panel} title="Facts"><${Facts} of=${[["slides", count(selection.count)], ["size", html`<${Bytes} of=${selection.bytes} />`], ["frozen", html`<${Time} at=${selection.frozen_at} both />`], ["cohort", selection.cohort && html`<${Link} to=${`/cohorts/${selection.cohort}`}><${Id} of=${selection.cohort} /><//>`], ["slides with", selection.expression && html`<code>${selection.expression}</code>`]]} />
        <p class="small muted">Digest over numbers and contents: equal lists have equal roots.</p><${Copy} text=${selection.root} /><//><${Equivalent} operation="cohorts.selection" said=${{ id }} /></div></div>`}<//>`;
}
