// Batches: the list, and one batch with what became of each of its packs.
import { html, useState } from "../lib/preact.js";
import { call } from "../lib/api.js";
import { count, duration, percent, plural, words } from "../lib/format.js";
import { useAsk } from "../lib/live.js";
import { go, goQuery, Link } from "../lib/router.js";
import { may } from "../lib/session.js";
import { Action, Asked, Badge, Bytes, Choose, Download, Empty, Equivalent, Facts, Head, Id, Meter, Panel, Proofs, Reveal, Shape, StageBar, Table, Tabs, Tally, Time } from "../parts/all.js";

export default function Batches({ id, query }) {
  return id ? html`<${OneBatch} id=${id} query=${query} key=${id} />` : html`<${List} />`;
}

const RUNNING = new Set(["declared", "walking", "working"]);
const ENDED = ["published", "duplicate", "excluded", "quarantined"];
const sum = (counts) => Object.values(counts).reduce((a, b) => a + b, 0);

// --- the list ---------------------------------------------------------------------------------------------

const COLUMNS = [
  { name: "state", label: "State", width: "104px", text: (b) => b.state, cell: (b) => html`<${Badge} state=${b.state} />` },
  { name: "batch", label: "Batch", width: "minmax(120px, 1fr)", text: (b) => b.id, cell: (b) => html`<${Link} to=${`/batches/${b.id}`}><${Id} of=${b.id} /><//>` },
  { name: "packs", label: "Packs", width: "minmax(140px, 2fr)", wide: true, text: (b) => sum(b.packs), cell: (b) => html`<${Fate} batch=${b} />` },
  { name: "waits", label: "Wait for you", width: "92px", right: true, text: (b) => b.packs.quarantined ?? 0, cell: (b) => (b.packs.quarantined ? html`<span class="badge warn"><${Shape} tone="warn" />${count(b.packs.quarantined)}</span>` : html`<span class="muted">–</span>`) },
  { name: "found", label: "Found", width: "72px", right: true, wide: true, text: (b) => b.found_count ?? 0, cell: (b) => count(b.found_count) },
  { name: "bytes", label: "Size", width: "88px", right: true, wide: true, text: (b) => b.bytes, cell: (b) => html`<${Bytes} of=${b.bytes} />` },
  { name: "tier", label: "From", width: "88px", wide: true, text: (b) => b.tier, cell: (b) => b.tier },
  { name: "declared", label: "Declared", width: "116px", text: (b) => b.created_at, cell: (b) => html`<${Time} at=${b.created_at} />` },
];

/** What became of its packs so far, as one bar. */
function Fate({ batch }) {
  const all = sum(batch.packs) || batch.found_count || 0;
  const share = (state) => (all ? (batch.packs[state] ?? 0) / all : 0);
  return html`<${Meter} label=${`packs of ${batch.id}`} parts=${[
    { name: "published", share: share("published"), tone: "good" }, { name: "the same scan again", share: share("duplicate") + share("excluded"), tone: "wait" },
    { name: "waiting for a person", share: share("quarantined"), tone: "warn" }]} />`;
}

async function page(after, limit) {
  const found = await call("batches.list_batches", { after, limit });
  return { rows: found.batches, next: found.next };
}

function List() {
  return html`<${Head} title="Batches" below="A batch is one folder of the scanner's tier. Every pack in it becomes a de-identified slide, or waits with a reason."><${Declare} /><//>
    <${Panel}><${Table} name="batches" label="Batches" columns=${COLUMNS} load=${page} id=${(b) => b.id} link=${(b) => `/batches/${b.id}`} rows=${18}
      empty=${html`<${Empty} title="No batches yet">Declare a folder here, or by <code>mover batch ready FOLDER</code>.<//>`} /><//>
    <${Equivalent} operation="batches.list_batches" />`;
}

function Declare() {
  const fields = [
    { name: "folder", label: "Folder", kind: "text", required: true, hint: "Below the root of the source tier. Its name is sealed in the vault and shown to nobody." },
    { name: "expected_count", label: "How many packs it holds", kind: "number", least: 0, hint: "So that a folder that is still being written is not taken for whole." },
    { name: "tier", label: "Source tier", kind: "text", hint: "Only where there are several." },
    { name: "policy", label: "Images policy", kind: "text", hint: "Only where there are several." },
  ];
  return html`<${Action} operation="batches.declare" label="Declare a folder" title="Declare a folder ready" first fields=${fields} body=${{}}
    consequence="Its packs are de-identified, proved, and published to the archive. The folder itself is only read."
    told="The batch is declared" done=${(batch) => go(`/batches/${batch.id}`)} />`;
}

// --- one batch --------------------------------------------------------------------------------------------

function OneBatch({ id, query }) {
  const asked = useAsk("batches.view", { id });
  return html`<${Asked} asked=${asked} rows=${8}>${(batch) => html`
    <${Head} title=${html`<${Id} of=${batch.id} whole />`} badge=${html`<${Badge} state=${batch.state} />`} below=${`from ${batch.tier}, by the policy ${batch.policy}`}>
      ${batch.state === "complete" && html`<${Download} operation="batches.certificate" said=${{ id }} name=${`${id}.certificate.json`} label="Download the certificate" />`}<//>
    ${batch.explanation && html`<p class="stale" role="status"><${Shape} tone=${batch.state === "failed" ? "bad" : "warn"} /> ${batch.explanation}</p>`}
    <${Standing} batch=${batch} />
    <div class="two"><div class="stack"><${Waiting} batch=${batch} />${batch.proofs.length > 0 && html`<${Panel} title="Proofs"><${Proofs} of=${batch.proofs} brief /><//>`}</div><div class="stack"><${Terms} batch=${batch} /></div></div>
    <${Packs} batch=${batch} query=${query} />
    <${Equivalent} operation="batches.view" said=${{ id }} />`}<//>`;
}

function Standing({ batch }) {
  const all = batch.found_count ?? sum(batch.packs);
  const done = ENDED.reduce((n, state) => n + (batch.packs[state] ?? 0), 0);
  const order = { declared: 0, walking: 1, working: 2, complete: 4, failed: batch.found_count === null ? 1 : 2 };
  const at = order[batch.state];
  const step = (name, index, more = {}) => ({ name, ...more, state: index < at ? "done" : index > at ? "ahead" : batch.state === "failed" ? "failed" : "now" });
  const found = batch.found_count === null ? null : `${plural(batch.found_count, "pack")}${batch.missing_count ? `, ${count(batch.missing_count)} not as declared` : ""}`;
  return html`<${Panel} title="Where it stands" id="standing"><${StageBar} label="Stages of the batch" stages=${[
      step("declared", 0, { note: html`<${Time} at=${batch.created_at} />` }), step("walked", 1, { note: found }),
      step("de-identified", 2, { share: all ? done / all : 0, note: `${count(done)} of ${count(all)} packs, ${percent(done, all)}` }),
      step("complete", 3, { note: batch.finished_at && html`after ${duration((new Date(batch.finished_at) - new Date(batch.created_at)) / 1000)}` })]} />
    ${all > 0 && html`<${Fate} batch=${batch} />`}<p><${Tally} counts=${batch.packs} /></p><//>`;
}

/** Why packs of this batch wait, and the way to the decision. */
function Waiting({ batch }) {
  const held = batch.packs.quarantined ?? 0;
  const asked = useAsk(may("quarantine.causes") && held ? "quarantine.causes" : null, { batch: batch.id });
  if (!held) return html`<${Panel} title="What waits for you"><p class="calm"><${Shape} tone="good" /> ${RUNNING.has(batch.state) ? "Nothing so far." : "Nothing: every pack has its outcome."}</p><//>`;
  return html`<${Panel} title="What waits for you" id="waits" aside=${html`<${Link} to="/quarantine">all causes<//>`}><${Asked} asked=${asked} rows=${3}>${({ causes }) => html`<ul class="lines">${causes.map((cause) => html`<li key=${cause.id}>
    <div class="row apart"><span class="badge warn"><${Shape} tone="warn" />${words(cause.code)}</span><strong>${count(cause.count)}</strong></div>
    <${Link} to=${`/quarantine/${cause.id}`}>${cause.words}<//></li>`)}</ul>`}<//><//>`;
}

function Terms({ batch }) {
  return html`<${Panel} title="Facts"><${Facts} of=${[
    ["expected", batch.expected_count === null ? null : plural(batch.expected_count, "pack")], ["found", batch.found_count === null ? null : plural(batch.found_count, "pack")],
    ["missing", batch.missing_count ? count(batch.missing_count) : null], ["size", html`<${Bytes} of=${batch.bytes} />`],
    ["declared", html`<${Time} at=${batch.created_at} both />`], ["ended", batch.finished_at && html`<${Time} at=${batch.finished_at} both />`],
  ]} /><//>`;
}

// --- its packs --------------------------------------------------------------------------------------------

const PACKS = [
  { name: "state", label: "State", width: "112px", text: (p) => p.state, cell: (p) => html`<${Badge} state=${p.state} />` },
  { name: "pack", label: "Pack", width: "112px", wide: true, text: (p) => p.id, cell: (p) => html`<${Id} of=${p.id} />` },
  { name: "became", label: "Became, or why not", width: "minmax(120px, 4fr)", text: (p) => p.number ?? p.explanation ?? p.reason ?? "", cell: became },
  { name: "family", label: "Family", width: "minmax(90px, 1fr)", wide: true, text: (p) => p.family ?? "", cell: (p) => p.family ?? html`<span class="muted">–</span>` },
  { name: "size", label: "Size", width: "80px", right: true, wide: true, text: (p) => p.size_bytes, cell: (p) => html`<${Bytes} of=${p.size_bytes} />` },
  { name: "took", label: "Took", width: "76px", right: true, wide: true, text: (p) => p.seconds ?? 0, cell: (p) => (p.seconds === null ? html`<span class="muted">–</span>` : duration(p.seconds)) },
];

function became(pack) {
  if (pack.number) return may("batches.slide") ? html`<${Link} to=${`/slides/${pack.number}`}><span class="mono">${pack.number}</span><//>` : html`<span class="mono">${pack.number}</span>`;
  if (!pack.reason) return html`<span class="muted">in work</span>`;
  return html`<span title=${pack.explanation}><strong>${words(pack.reason)}</strong> <span class="muted">${pack.explanation}</span></span>`;
}

function Packs({ batch, query }) {
  const state = query.get("state") ?? "";
  const [chosen, choose] = useState(new Set());
  const load = async (after, limit) => {
    const found = await call("batches.packs", { id: batch.id, state, after, limit });
    return { rows: found.packs, next: found.next };
  };
  const tabs = [["", "All", sum(batch.packs)], ...["quarantined", "published", "duplicate", "excluded", "found"].filter((one) => batch.packs[one]).map((one) => [one, one === "found" ? "in work" : one, batch.packs[one]])];
  const columns = may("batches.reveal") ? [Choose(chosen, choose), ...PACKS] : PACKS;
  return html`<${Panel} title="Packs" id="packs" aside=${html`<${Reveal} packs=${[...chosen]} />`}>
    <${Tabs} of=${tabs} chosen=${state} choose=${(one) => goQuery({ state: one })} label="Packs by state" />
    <${Table} name="packs" label="Packs" columns=${columns} load=${load} id=${(p) => p.id} deps=${[state]} every=${RUNNING.has(batch.state) ? 5000 : 30000} rows=${14}
      empty=${html`<${Empty} title=${batch.state === "declared" || batch.state === "walking" ? "The folder is being walked" : "No packs"}>They show here as they are found.<//>`} /><//>`;
}
