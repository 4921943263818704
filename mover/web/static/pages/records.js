// Records and alignment: sets of tables, whether they and the images agree, and every line in its one state.
import { html, useState } from "../lib/preact.js";
import { call } from "../lib/api.js";
import { count, moment, percent, plural, size, words } from "../lib/format.js";
import { useAsk } from "../lib/live.js";
import { go, goQuery, Link } from "../lib/router.js";
import { may } from "../lib/session.js";
import { Action, ActionDialog, Asked, Badge, Empty, Equivalent, Facts, Head, Id, Meter, Panel, Proofs, SaveFigure, Shape, StageBar, Table, Time, toneOf } from "../parts/all.js";

export default function Records({ id, query }) {
  return id ? html`<${OneSet} id=${id} query=${query} key=${id} />` : html`<${List} />`;
}

// --- the list ---------------------------------------------------------------------------------------------

const COLUMNS = [
  { name: "state", label: "State", width: "150px", text: (r) => r.state, cell: (r) => html`<${Badge} state=${r.state} />` },
  { name: "set", label: "Set of tables", width: "minmax(120px, 1fr)", text: (r) => r.id, cell: (r) => html`<${Link} to=${`/records/${r.id}`}><${Id} of=${r.id} /><//>` },
  { name: "version", label: "Version", width: "60px", right: true, wide: true, text: (r) => r.version, cell: (r) => count(r.version) },
  { name: "batch", label: "Batch", width: "112px", wide: true, text: (r) => r.batch, cell: (r) => html`<${Link} to=${`/batches/${r.batch}`}><${Id} of=${r.batch} /><//>` },
  { name: "images", label: "Images with rows", width: "minmax(130px, 2fr)", wide: true, text: (r) => r.slides_aligned, cell: agreed },
  { name: "k", label: "Least group", width: "84px", right: true, wide: true, text: (r) => r.k ?? 0, cell: (r) => r.k ?? html`<span class="muted">–</span>` },
  { name: "declared", label: "Declared", width: "116px", text: (r) => r.created_at, cell: (r) => html`<${Time} at=${r.created_at} />` },
];

function agreed(set) {
  const all = set.totals.images ?? 0;
  if (!all) return html`<span class="muted">${set.reason ? words(set.reason) : "–"}</span>`;
  const share = (state) => (set.ledger.images?.[state] ?? 0) / all;
  return html`<span class="row"><span class="grow"><${Meter} label=${`images of ${set.id}`} parts=${[{ name: "matched", share: share("matched"), tone: "good" }, { name: "duplicate", share: share("duplicate"), tone: "wait" }, { name: "conflict", share: share("conflict"), tone: "bad" }, { name: "without a row", share: share("image-without-row"), tone: "warn" }]} /></span><span class="nowrap small muted">${count(set.slides_aligned)} of ${count(all)}</span></span>`;
}

async function page(after, limit) {
  const found = await call("records.list_records", { after, limit });
  return { rows: found.records, next: found.next };
}

function List() {
  return html`<${Head} title="Records" below="Tables of a batch, held against its images. Every row and every image is in exactly one state; only what matched becomes facts."><${Declare} first /><//>
    <${Panel}><${Table} name="records" label="Sets of tables" columns=${COLUMNS} load=${page} id=${(r) => r.id} link=${(r) => `/records/${r.id}`} rows=${16}
      empty=${html`<${Empty} title="No tables yet">Declare those of a batch here, or by <code>mover records add BATCH TABLE=PATH</code>.<//>`} /><//>
    <${Equivalent} operation="records.list_records" />`;
}

const LOOK = { name: "purpose", label: "Why you look", required: true, least: 8, most: 512, value: "to declare the tables of a batch", hint: "Names of files may be names of people: your look is on record, beside your name." };
const CLOSER = { name: "folder", label: "Only below", hint: "A folder of the source tier; nothing is all of it." };

/** Tables for a batch, chosen from what lies on the source tier by who may see names, and typed by the others; mended ones are the next version of the set. */
function Declare({ batch, label = "Declare tables", first = false }) {
  const [seen, setSeen] = useState(null);
  if (!may("records.found") || !may("records.declare")) return html`<${DeclareOf} batch=${batch} label=${label} first=${first} />`;
  return html`<${Action} operation="records.found" label=${label} title="What lies there" body=${{}} fields=${[LOOK, CLOSER]} first=${first}
      consequence="Files on the source tier that may be tables are listed for you alone, to choose from." told=${null} deed="Show the tables" done=${setSeen} />
    ${seen && html`<${DeclareOf} batch=${batch} label=${label} seen=${seen} close=${() => setSeen(null)} />`}`;
}

/** One choice for each table of the policy: the only file that bears its name, or none before a person says. */
function choicesOf(seen) {
  const offered = seen.found.map((one) => [one.path, `${one.path}, ${size(one.bytes)}, ${moment(one.changed_at)}`]);
  const named = (path, table) => path.split("/").at(-1).toLowerCase().startsWith(`${table.toLowerCase()}.`);
  return seen.tables.map((table) => {
    const same = seen.found.filter((one) => named(one.path, table));
    return { name: `table ${table}`, label: table, of: "files", kind: "choice", required: true, choices: [["", offered.length ? "choose a file" : "no table lies there"], ...offered], value: same.length === 1 ? same[0].path : "" };
  });
}

function DeclareOf({ batch, label, first, seen, close }) {
  const batches = useAsk(!batch && may("batches.list_batches") && may("records.declare") ? "batches.list_batches" : null, {}, { every: 0 });
  const choices = (batches.answer?.batches ?? []).map((one) => [one.id, `${one.id.slice(-6)}, ${one.state}`]);
  const fields = [
    ...(batch ? [] : [{ name: "batch", label: "Batch", kind: "choice", required: true, choices: [["", "choose one"], ...choices] }]),
    ...(seen ? choicesOf(seen) : [
      { name: "files", label: "Tables", kind: "pairs", required: true, hint: "One a line: the policy's name of the table, =, the path below the root of the source tier; such as imagery=tables/imagery.csv" },
      { name: "policy", label: "Records policy", kind: "text", hint: "Only where there are several." }]),
  ];
  const asks = {
    operation: "records.declare", label, title: label, fields, body: { ...(batch && { batch }), ...(seen && { policy: seen.policy }) }, first,
    consequence: html`The tables are matched with the images of their batch, once it is complete. Nothing of them is kept that the policy does not name.${seen && !seen.whole && " There is more on the tier than one look takes in: choose a folder before."}`,
    told: "The tables are declared", done: (set) => go(`/records/${set.id}`),
  };
  return seen ? html`<${ActionDialog} ...${asks} close=${close} />` : html`<${Action} ...${asks} />`;
}

// --- one set ----------------------------------------------------------------------------------------------

function OneSet({ id, query }) {
  const asked = useAsk("records.view", { id });
  return html`<${Asked} asked=${asked} rows=${8}>${(set) => html`<${Shown} set=${set} query=${query} again=${asked.again} />`}<//>`;
}

function Shown({ set, query, again }) {
  return html`<${Head} title=${html`<${Id} of=${set.id} whole />`} badge=${html`<${Badge} state=${set.state} />`} below=${`version ${set.version}, by the policy ${set.policy}`}>
      ${set.state === "quarantined" && html`<${Again} set=${set} again=${again} />`}<${Declare} batch=${set.batch} label="Declare mended tables" /><//>
    <${Why} set=${set} /><${Since} set=${set} />
    <${Panel} title="Where it stands"><${StageBar} label="Stages of the tables" stages=${stages(set)} /><//>
    ${Object.keys(set.totals).length > 0 && html`<${Matrix} set=${set} query=${query} /><${Lines} set=${set} query=${query} />`}
    <div class="two"><div class="stack"><${Panel} title="Proofs"><${Proofs} of=${set.proofs} /><//></div>
      <div class="stack"><${Terms} set=${set} /><${Equivalent} operation="records.view" said=${{ id: set.id }} /></div></div>`;
}

function stages(set) {
  const at = { "waiting-for-images": 1, matching: 2, aligned: 4, quarantined: 2 }[set.state];
  const step = (name, index, note) => ({ name, note, state: index < at ? "done" : index > at ? "ahead" : set.state === "quarantined" ? "failed" : set.state === "matching" ? "now" : "waiting" });
  return [
    step("declared", 0, html`<${Time} at=${set.created_at} />`), step("images ready", 1, set.state === "waiting-for-images" ? html`waits for <${Link} to=${`/batches/${set.batch}`}>its batch<//>` : null),
    step("matched", 2, set.totals.images ? `${plural(set.totals.images, "image")}, ${plural(Object.entries(set.totals).reduce((n, [name, rows]) => n + (name === "images" ? 0 : rows), 0), "row")}` : null),
    step("aligned", 3, set.finished_at && set.state === "aligned" ? html`${plural(set.slides_aligned, "slide")}, <${Time} at=${set.finished_at} />` : null),
  ];
}

function Why({ set }) {
  const found = set.withdrawn.length > 0 && html`<p class="stale" role="status"><${Shape} tone="bad" /> <strong>Something these tables brought was found in ${plural(set.withdrawn.length, "published slide")}.</strong> ${set.withdrawn.slice(0, 20).map((one) => html`<span key=${one.number}><${Link} to=${`/slides/${one.number}`}><span class="mono">${one.number}</span><//>${one.runs.length > 0 && ` (held by ${plural(one.runs.length, "run")})`} </span>`)}</p>`;
  if (!set.reason) return found || null;
  return html`<p class="stale" role="status"><${Shape} tone="warn" /> <strong>${words(set.reason)}.</strong> ${set.explanation} ${may("quarantine.causes") && html`<${Link} to="/quarantine">What can be done<//>`}</p>${found}`;
}

/** What happened after these tables were matched, of which they tell nothing: a later version of them, or their batch went on. */
function Since({ set }) {
  const later = useAsk("records.list_records", { batch: set.batch, limit: 1 });
  const batch = useAsk(set.state === "aligned" && may("batches.view") ? "batches.view" : null, { id: set.batch });
  const newest = later.answer?.records[0];
  if (newest && newest.version > set.version) return html`<p class="stale" role="status"><${Shape} tone="warn" /> These tables were declared again: <${Link} to=${`/records/${newest.id}`}>version ${newest.version}<//> is the newest.</p>`;
  if (!(batch.answer?.finished_at > set.finished_at)) return null;
  return html`<p class="stale" role="status"><${Shape} tone="warn" /> <${Link} to=${`/batches/${set.batch}`}>The batch<//> went on after these tables were matched. Slides that it published since have no facts yet: declare the tables again, the same ones if nothing in them changed.</p>`;
}

/** The same tables are matched again, as the decision about their cause says it. */
function Again({ set, again }) {
  const asked = useAsk(may("quarantine.decide") ? "quarantine.causes" : null, {}, { every: 0 });
  const said = (set.explanation ?? "").replaceAll(/[0-9]+/g, "#");
  const cause = asked.answer?.causes.find((one) => one.kind === "records" && one.code === set.reason && said.startsWith(one.words));
  if (!cause) return null;
  // the same tables by the same rules find the same: a rule is the way
  if (cause.proposal) return html`<${Link} to=${`/quarantine/${cause.id}`} class="button first">Make a rule for the column<//>`;
  return html`<${Action} operation="quarantine.decide" label="Match again" title="Match the same tables again" said=${{ cause: cause.id }} body=${{ action: "retry" }} first
    fields=${[{ name: "reason", label: "What was mended", kind: "long", required: true, least: 8, most: 512, hint: "It stands in the audit record beside your name." }]}
    consequence=${`${plural(cause.count, "set of tables", "sets of tables")} that ${cause.count === 1 ? "waits" : "wait"} for this ${cause.count === 1 ? "is" : "are"} matched again, as ${cause.count === 1 ? "it is" : "they are"}.`} told="It is matched again" done=${again} />`;
}

// --- the matrix -------------------------------------------------------------------------------------------

const STATES = ["matched", "image-without-row", "row-without-image", "duplicate", "conflict", "late"];
const MEANS = {
  matched: "row and image found each other", "image-without-row": "an image that no row names", "row-without-image": "a row whose image is not in this batch",
  duplicate: "said twice, the same", conflict: "said twice, and not the same", late: "after the day until which the policy takes rows",
};

/** Tables by states; a figure leads to its lines. */
function Matrix({ set, query }) {
  const tables = ["images", ...Object.keys(set.totals).filter((name) => name !== "images").sort()];
  const states = STATES.filter((state) => tables.some((name) => set.ledger[name]?.[state]));
  const chosen = [query.get("table"), query.get("state")];
  const cell = (name, state) => {
    const n = set.ledger[name]?.[state] ?? 0;
    if (!n) return html`<td key=${state}><span class="muted">–</span></td>`;
    const pressed = chosen[0] === name && chosen[1] === state;
    return html`<td key=${state} class=${`tone ${toneOf(state)}`} style=${{ "--shade": Math.round((100 * n) / set.totals[name]) }}><button class="link" aria-pressed=${pressed} aria-label=${`${count(n)} ${words(state)} of ${name}`} onClick=${() => goQuery(pressed ? { table: null, state: null } : { table: name, state })}>${count(n)}</button></td>`;
  };
  return html`<${Panel} title="Do tables and images agree?" id="matrix" aside=${html`<span class="muted">${percent(set.slides_aligned, set.totals.images)} of the images have their facts</span>`}>
    <div class="scroll"><table class="heat matrix"><thead><tr><td></td>${states.map((state) => html`<th key=${state} scope="col" title=${MEANS[state]}><${Badge} state=${state} /></th>`)}<th scope="col">in all</th></tr></thead>
      <tbody>${tables.map((name) => html`<tr key=${name}><th scope="row">${name}</th>${states.map((state) => cell(name, state))}<td class="sum">${count(set.totals[name] ?? 0)}</td></tr>`)}</tbody></table></div><${SaveFigure} operation="plots.ledger" said=${{ id: set.id }} name=${`${set.id}-ledger`} />
    <p class="muted small">${chosen[1] ? html`<strong>${words(chosen[1])}</strong>: ${MEANS[chosen[1]]}.` : "Press a figure to see its lines."}</p><//>`;
}

const LINES = [
  { name: "state", label: "State", width: "148px", text: (l) => l.state, cell: (l) => html`<${Badge} state=${l.state} />` },
  { name: "table", label: "Table", width: "minmax(60px, 1fr)", text: (l) => l.table, cell: (l) => l.table },
  { name: "line", label: "Line", width: "44px", right: true, text: (l) => l.line, cell: (l) => count(l.line) },
  { name: "why", label: "Why", width: "minmax(100px, 3fr)", wide: true, text: (l) => l.reason ?? "", cell: (l) => html`<span title=${l.reason}>${l.reason ? words(l.reason) : html`<span class="muted">${MEANS[l.state]}</span>`}</span>` },
  { name: "number", label: "Slide", width: "minmax(150px, 1fr)", wide: true, text: (l) => l.number ?? "", cell: (l) => (l.number ? html`<${Link} to=${`/slides/${l.number}`}><span class="mono">${l.number}</span><//>` : html`<span class="muted">–</span>`) },
];

function Lines({ set, query }) {
  const table = query.get("table");
  const state = query.get("state");
  const load = async (after, limit) => {
    const found = await call("records.ledger", { id: set.id, table, state, after, limit });
    return { rows: found.lines, next: found.next };
  };
  const clear = html`<button class="link" onClick=${() => goQuery({ table: null, state: null })}>all lines</button>`;
  return html`<${Panel} title=${state ? `Lines of ${table}, ${words(state)}` : "Lines"} id="lines" aside=${state ? clear : html`<span class="muted">by number; what stands in them is in the vault</span>`}>
    <${Table} name="lines" label="Lines" columns=${LINES} load=${load} id=${(l) => `${l.table}:${l.line}`} deps=${[table, state, set.state]} every=${0} rows=${14} empty=${html`<${Empty} title="No such line" />`} />
    <${Equivalent} operation="records.ledger" said=${{ id: set.id, table, state }} /><//>`;
}

function Terms({ set }) {
  return html`<${Panel} title="Facts"><${Facts} of=${[
    ["batch", html`<${Link} to=${`/batches/${set.batch}`}><${Id} of=${set.batch} /><//>`], ["policy", set.policy], ["version", count(set.version)],
    ["slides", count(set.slides_aligned)], ["k", set.k === null ? null : html`<span title="the smallest group of patients who share their quasi-identifiers">${set.k}</span>`],
    ["declared", html`<${Time} at=${set.created_at} both />`], ["ended", set.finished_at && html`<${Time} at=${set.finished_at} both />`],
  ]} /><//>`;
}
