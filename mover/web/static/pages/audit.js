// Audit: who did what, whether the chains hold, and what an outsider can check without this daemon.
import { html, useState } from "../lib/preact.js";
import { call } from "../lib/api.js";
import { count, moment, plural, zone } from "../lib/format.js";
import { useAsk } from "../lib/live.js";
import { goQuery, Link } from "../lib/router.js";
import { may } from "../lib/session.js";
import { Asked, Badge, Copy, Dialog, Download, Empty, Equivalent, Facts, Head, Id, Panel, Shape, Table, Tabs, Time } from "../parts/all.js";

const TABS = [["", "Records"], ["chain", "Chain and checkpoints"], ["take", "Take along"]];

export default function Audit({ query }) {
  const tab = query.get("tab") ?? "";
  return html`<${Head} title="Audit" below="Every record holds the hash of the one before it; where the chains end is signed and kept on other tiers." />
    <${Tabs} of=${TABS} chosen=${tab} choose=${(one) => goQuery({ tab: one })} label="Views of the audit" />
    ${tab === "chain" ? html`<${Chain} />` : tab === "take" ? html`<${Take} />` : html`<${Records} query=${query} />`}`;
}

// --- records ----------------------------------------------------------------------------------------------

const ASKED = [["actor", "Actor"], ["subject", "Subject"], ["action", "Action begins with"]];
const MOMENTS = [["since", "From"], ["until", "Before"]];
const PRESETS = [["Originals unsealed", "unseal"], ["Ledgers read", "ledger read"], ["Manifests read", "manifest read"], ["Sign-ins", "signed"], ["Accounts", "account"], ["Tokens", "token"], ["Audit packs", "audit pack"]];
const PLACES = { run: "/runs", batch: "/batches", snapshot: "/snapshots", records: "/records" };

function Records({ query }) {
  const said = Object.fromEntries(ASKED.map(([name]) => [name, query.get(name) ?? ""]));
  for (const [name] of MOMENTS) said[name] = query.get(name) ? new Date(query.get(name)).toISOString() : "";
  const [open, setOpen] = useState(null);
  const load = async (after, limit) => {
    const found = await call("audit.page", { ...said, after, limit });
    return { rows: found.records, next: found.next };
  };
  const columns = [
    { name: "at", label: "When", width: "minmax(84px, 112px)", text: (r) => r.at, cell: (r) => html`<button class="link" title=${`Open the record: ${moment(r.at)}`} onClick=${() => setOpen(r)}><${Time} at=${r.at} /></button>` },
    { name: "actor", label: "Actor", width: "minmax(64px, 1fr)", text: (r) => r.body.actor, cell: (r) => html`<button class="link" title="Only this actor" onClick=${() => goQuery({ actor: r.body.actor })}>${r.body.actor}</button>` },
    { name: "action", label: "Action", width: "minmax(100px, 1.4fr)", text: (r) => r.body.action, cell: (r) => html`<strong title=${r.body.action}>${r.body.action}</strong>` },
    { name: "subject", label: "Subject", width: "minmax(120px, 1.4fr)", wide: true, text: (r) => r.body.subject, cell: (r) => html`<${Subject} of=${r.body.subject} />` },
    { name: "reason", label: "Reason", width: "minmax(120px, 2fr)", wide: true, text: (r) => r.body.reason ?? "", cell: (r) => html`<span title=${r.body.reason}>${r.body.reason ?? ""}</span>` },
    { name: "seq", label: "Record", width: "104px", right: true, wide: true, text: (r) => r.seq, cell: (r) => html`<span class="muted mono" title=${`chain ${r.node}, hash ${r.hash}`}>${count(r.seq)}</span>` },
  ];
  const deps = [JSON.stringify(said)];
  const asked = Object.values(said).some(Boolean);
  return html`<${Panel}><div class="row asks" role="search" aria-label="Search the audit">
      ${ASKED.map(([name, label]) => html`<label key=${name}>${label}<input type="search" value=${said[name]} onChange=${(event) => goQuery({ [name]: event.currentTarget.value.trim() })} /></label>`)}
      ${MOMENTS.map(([name, label]) => html`<label key=${name}>${label}<input type="datetime-local" value=${query.get(name) ?? ""} onChange=${(event) => goQuery({ [name]: event.currentTarget.value })} /></label>`)}
      ${asked && html`<button onClick=${() => goQuery({ actor: null, subject: null, action: null, since: null, until: null })}>Clear</button>`}</div>
    <div class="row presets">${PRESETS.map(([label, action]) => html`<button key=${action} class="chip" aria-pressed=${said.action === action} onClick=${() => goQuery({ action: said.action === action ? null : action })}>${label}</button>`)}</div>
    <${Table} name="records" label="Audit records" columns=${columns} load=${load} id=${(r) => `${r.node}/${r.seq}`} deps=${deps} rows=${16} filter=${false}
      empty=${html`<${Empty} title=${asked ? "No record is like this" : "No records yet"}>${asked ? "Take a word away, or look at another time." : "The first deed writes the first one."}<//>`} /><//>
    <${Equivalent} operation="audit.page" said=${Object.fromEntries(Object.entries(said).filter(([, value]) => value))} />
    ${open && html`<${OneRecord} of=${open} close=${() => setOpen(null)} />`}`;
}

function Subject({ of }) {
  const place = PLACES[(of ?? "").split("-")[0]];
  return place ? html`<${Link} to=${`${place}/${of}`}><${Id} of=${of} /><//>` : html`<${Id} of=${of} />`;
}

function OneRecord({ of, close }) {
  const { actor, action, subject, reason, request, details } = of.body;
  return html`<${Dialog} title=${`${action}, record ${count(of.seq)}`} close=${close} wide>
    <${Facts} of=${[
      ["when", `${moment(of.at)} ${zone()}`], ["actor", actor], ["subject", html`<span class="mono">${subject}</span>`], ["reason", reason],
      ["request", request && html`<span class="mono">${request}</span>`], ["chain", html`<span class="mono">${of.node}</span>, record ${count(of.seq)}`],
      ...Object.entries(details ?? {}).map(([name, value]) => [name.replaceAll("_", " "), html`<span class="mono">${typeof value === "object" ? JSON.stringify(value) : String(value)}</span>`]),
    ]} />
    <p class="small muted">Its hash, over this record and the hash before it:</p><${Copy} text=${of.hash} block />
    <div class="row last"><button onClick=${() => { goQuery({ subject }); close(); }}>All of this subject</button><button onClick=${() => { goQuery({ actor }); close(); }}>All of this actor</button></div><//>`;
}

// --- the chain --------------------------------------------------------------------------------------------

function Chain() {
  const [turn, setTurn] = useState(0);
  return html`<div class="grid wide"><${Panel} title="Do the chains hold?" id="verify" aside=${html`<button class="first" onClick=${() => setTurn(turn + 1)}>${turn ? "Check again" : "Check now"}</button>`}>
      ${turn ? html`<${Verdict} key=${turn} />` : html`<p>Every hash of the project is recomputed, and compared with the signed checkpoints that stand on other tiers. A record that was changed, dropped, added or moved is named.</p>`}
      <${Equivalent} operation="audit.verify" /><//>
    <${Checkpoints} /></div>`;
}

function Verdict() {
  const asked = useAsk("audit.verify", {}, { every: 0 });
  return html`<${Asked} asked=${asked} rows=${4}>${(v) => html`
    <p class="verdict ${v.whole ? "good" : "bad"}" role="status"><${Shape} tone=${v.whole ? "good" : "bad"} /> <strong>${v.whole ? "Whole" : "Broken"}</strong> <span>${plural(v.records, "record")} in ${plural(Object.keys(v.chains).length, "chain")} ${v.whole ? "recomputed; each fits the one before it" : "recomputed; not all of them fit"}.</span></p>
    ${v.broken.length > 0 && html`<div class="scroll"><table><thead><tr>${Object.keys(v.broken[0]).map((h) => html`<th key=${h}>${h}</th>`)}</tr></thead><tbody>${v.broken.slice(0, 200).map((one, at) => html`<tr key=${at}>${Object.keys(v.broken[0]).map((h) => html`<td key=${h} class="mono">${String(one[h] ?? "")}</td>`)}</tr>`)}</tbody></table></div>`}
    <${Facts} of=${Object.entries(v.chains).map(([node, n]) => [`chain of ${node}`, plural(n, "record")])} />
    ${v.checkpoints.length > 0 && html`<h3>What other tiers hold</h3><div class="scroll"><table><thead><tr><th>tier</th><th class="right">checkpoints</th><th class="right">newest</th><th>signed by</th><th></th></tr></thead>
      <tbody>${v.checkpoints.map((one) => html`<tr key=${one.tier}><td>${one.tier}</td><td class="right">${count(one.count)}</td><td class="right">${one.newest || "–"}</td><td class="mono">${one.signers.map((s) => html`<div key=${s} title=${s}>${s.slice(0, 16)}…</div>`)}</td>
        <td>${one.unread ? html`<${Badge} state="unread" tone="warn">${one.unread}<//>` : one.problems.length ? one.problems.map((p) => html`<div key=${p}><${Badge} state="broken">${p}<//></div>`) : html`<${Badge} state="matched" />`}</td></tr>`)}</tbody></table></div>`}`}<//>`;
}

const CHECKPOINTS = [
  { name: "n", label: "No.", width: "48px", right: true, cell: (c) => count(c.n) },
  { name: "at", label: "Signed", width: "minmax(96px, 1fr)", cell: (c) => html`<${Time} at=${c.at} />` },
  { name: "records", label: "Records", width: "80px", right: true, cell: (c) => count(c.records) },
  { name: "tiers", label: "Stands on", width: "minmax(96px, 1.4fr)", cell: (c) => (c.tiers.length ? c.tiers.join(", ") : html`<${Badge} state="nowhere else yet" tone="warn" />`) },
  { name: "digest", label: "Digest", width: "104px", wide: true, cell: (c) => html`<span class="mono" title=${`digest ${c.digest}, key ${c.fingerprint}`}>${c.digest.slice(0, 10)}…</span>` },
];

async function checkpoints(after, limit) {
  const found = await call("audit.checkpoints", { after, limit });
  return { rows: found.checkpoints, next: found.next };
}

function Checkpoints() {
  return html`<${Panel} title="Checkpoints"><${Table} name="checkpoints" label="Checkpoints" columns=${CHECKPOINTS} load=${checkpoints} id=${(c) => String(c.n)} rows=${10} filter=${false} every=${30000}
    empty=${html`<${Empty} title="No checkpoint yet">One is signed every hour in which something was recorded, and written to each protect and archive tier.<//>`} /><${Equivalent} operation="audit.checkpoints" /><//>`;
}

// --- what leaves the house --------------------------------------------------------------------------------

function Take() {
  const [run, setRun] = useState("");
  const listed = may("runs.list_runs");
  const runs = useAsk(listed ? "runs.list_runs" : null, { limit: 200 }, { every: 0 });
  const known = (runs.answer?.runs ?? []).filter((one) => one.manifest_root);
  return html`<div class="grid wide">
    <${Panel} title="One run, for an outsider"><p>Manifest, de-identification proofs, policy texts, accesses, approvals and checkpoints in one signed file, which <code>mover audit verify FILE</code> checks without a daemon. That it was made is a record, too.</p>
      <div class="field"><label for="pack-run">Run</label>${listed ? html`<select id="pack-run" disabled=${!runs.answer} value=${run} onChange=${(event) => setRun(event.currentTarget.value)}><option value="">choose a run that was sealed</option>${known.map((one) => html`<option key=${one.id} value=${one.id}>${one.id}, ${one.state}, ${plural(one.count, "file")}</option>`)}</select>` : html`<input id="pack-run" type="text" placeholder="run-…" value=${run} onInput=${(event) => setRun(event.currentTarget.value.trim())} />`}</div>
      <p class="row">${run ? html`<${Download} operation="audit.pack" said=${{ run }} name=${`${run}.audit`} label="Download the pack" />` : html`<button disabled title="Choose a run first">Download the pack</button>`}</p>
      <${Equivalent} operation="audit.pack" said=${{ run }} /><//>
    <${Panel} title="Every record"><p>All chains of the project as JSON lines, each record as it was hashed, so that somebody else can recompute them.</p>
      <p class="row"><${Download} operation="audit.export" said=${{}} name="audit.jsonl" label="Download the records" /></p>
      <${Equivalent} operation="audit.export" /><//></div>`;
}
