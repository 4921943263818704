// Audit: who did what, whether the chains hold, and what an outsider can check without this daemon.
import { html, useState } from "../lib/preact.js";
import { call, Problem } from "../lib/api.js";
import { count, moment, plural, time, zone } from "../lib/format.js";
import { useAsk } from "../lib/live.js";
import { goQuery, Link } from "../lib/router.js";
import { may } from "../lib/session.js";
import { toast } from "../lib/toasts.js";
import { Asked, Badge, Copy, Dialog, Download, Empty, Equivalent, Facts, Head, Id, Panel, Shape, Table, Tabs, Time } from "../parts/all.js";

const TABS = [["", "Records"], ["questions", "Questions"], ["chain", "Chain and checkpoints"], ["take", "Take along"]];

export default function Audit({ query }) {
  const tab = query.get("tab") ?? "";
  return html`<${Head} title="Audit" below="Every record holds the hash of the one before it; where the chains end is signed and kept on other tiers." />
    <${Tabs} of=${TABS} chosen=${tab} choose=${(one) => goQuery({ tab: one })} label="Views of the audit" />
    ${tab === "chain" ? html`<${Chain} />` : tab === "questions" ? html`<${Questions} query=${query} />` : tab === "take" ? html`<${Take} query=${query} />` : html`<${Records} query=${query} />`}`;
}

// --- records ----------------------------------------------------------------------------------------------

const ASKED = [["actor", "Actor"], ["subject", "Subject"], ["action", "Action begins with"]];
const MOMENTS = [["since", "From"], ["until", "Before"]];
const PRESETS = [["Originals unsealed", "unseal"], ["Ledgers read", "ledger read"], ["Manifests read", "manifest read"], ["Sign-ins", "signed"], ["Accounts", "account"], ["Tokens", "token"], ["Audit packs", "audit pack"]];
const PLACES = { run: "/runs", batch: "/batches", snapshot: "/snapshots", records: "/records" };

/** What the page's address searches for; the times there are the reader's own. */
function searched(query) {
  const said = Object.fromEntries(ASKED.map(([name]) => [name, query.get(name)]));
  for (const [name] of MOMENTS) said[name] = time(query.get(name)) ? new Date(query.get(name)).toISOString() : "";
  return Object.fromEntries(Object.entries(said).filter(([, value]) => value));
}

function Records({ query }) {
  const said = searched(query);
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
  const asked = Object.keys(said).length > 0;
  return html`<${Panel}><div class="row asks" role="search" aria-label="Search the audit">
      ${ASKED.map(([name, label]) => html`<label key=${name}>${label}<input type="search" value=${said[name] ?? ""} onChange=${(event) => goQuery({ [name]: event.currentTarget.value.trim() })} /></label>`)}
      ${MOMENTS.map(([name, label]) => html`<label key=${name}>${label}<input type="datetime-local" value=${query.get(name) ?? ""} onChange=${(event) => goQuery({ [name]: event.currentTarget.value })} /></label>`)}
      ${asked && html`<button onClick=${() => goQuery({ actor: null, subject: null, action: null, since: null, until: null })}>Clear</button>`}</div>
    <div class="row presets">${PRESETS.map(([label, action]) => html`<button key=${action} class="chip" aria-pressed=${said.action === action} onClick=${() => goQuery({ action: said.action === action ? null : action })}>${label}</button>`)}</div>
    <${Table} name="records" label="Audit records" columns=${columns} load=${load} id=${(r) => `${r.node}/${r.seq}`} deps=${deps} rows=${16} filter=${false}
      empty=${html`<${Empty} title=${asked ? "No record is like this" : "No records yet"}>${asked ? "Take a word away, or look at another time." : "The first deed writes the first one."}<//>`} /><//>
    <${Equivalent} operation="audit.page" said=${said} />
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

// --- what a compliance officer asks -----------------------------------------------------------------------

function Questions({ query }) {
  const asked = useAsk("answers.questions", {}, { every: 0 });
  const [code, about] = [query.get("question"), query.get("about") ?? ""];
  return html`<${Asked} asked=${asked} rows=${6}>${({ questions }) => {
    const chosen = questions.find((one) => one.code === code);
    return html`<div class="questions"><${Panel} title="Questions" id="questions"><ul>${questions.map((one) => html`<li key=${one.code}>
        <button class="link" aria-current=${one.code === code ? "true" : undefined} onClick=${() => goQuery({ question: one.code })}>${one.asks}</button></li>`)}</ul><//>
      ${chosen ? html`<${Question} key=${`${code} ${about}`} of=${chosen} about=${about} />` : html`<${Panel} title="Choose one"><p>Each is answered from what stands in the catalog now, with the rows, and with the commands that prove it to somebody who believes neither of us.</p><//>`}</div>`;
  }}<//>`;
}

function Question({ of, about }) {
  const ask = (event) => {
    event.preventDefault();
    goQuery({ about: new FormData(event.currentTarget).get("about").trim() });
  };
  return html`<${Panel} title=${of.asks} id="answer">
    ${of.about && html`<form class="row asks" onSubmit=${ask}><label>${of.about === "slide" ? "Number of a slide" : "Id, or number of a slide"}<input name="about" type="search" defaultValue=${about} /></label><button class="first">Ask</button></form>`}
    ${(!of.about || about) && html`<${Answer} said=${of.about ? { question: of.code, about } : { question: of.code }} />`}<//>`;
}

const SHAPED = new Set(["good", "warn", "bad"]);
const ID = /^[a-z]+-[0-9a-z]{26}$/;
const MOMENT = /^\d{4}-\d\d-\d\dT\d\d:\d\d/;

function Answer({ said }) {
  const asked = useAsk("answers.answer", said, { every: 0 });
  return html`<${Asked} asked=${asked} rows=${4}>${(a) => html`
    <p class="verdict ${a.tone}" role="status"><span>${SHAPED.has(a.tone) && html`<${Shape} tone=${a.tone} />`} ${a.answer}.</span></p>
    ${a.rows.length > 0 && html`<div class="scroll answer" tabindex="0" role="region" aria-label="The rows"><table><thead><tr>${a.columns.map((name) => html`<th key=${name}>${name}</th>`)}</tr></thead>
      <tbody>${a.rows.map((row, at) => html`<tr key=${at}>${row.map((cell, i) => html`<td key=${i}>${MOMENT.test(cell) ? html`<${Time} at=${cell} />` : ID.test(cell) ? html`<${Id} of=${cell} />` : cell.length > 40 && !cell.includes(" ") ? html`<span class="mono" title=${cell}>${cell.slice(0, 10)}…</span>` : cell}</td>`)}</tr>`)}</tbody></table></div>`}
    ${a.cut && html`<p class="small muted">These are the first ${count(a.rows.length)}; the records have all of them.</p>`}
    <p class="small muted">What proves it:</p>${a.proof.map((line) => html`<${Copy} key=${line} text=${line} block />`)}
    <${Equivalent} operation="answers.answer" said=${said} />`}<//>`;
}

// --- the chain --------------------------------------------------------------------------------------------

function Chain() {
  const [turn, setTurn] = useState(0);
  return html`<div class="grid wide"><${Panel} title="Do the chains hold?" id="verify" aside=${html`<button class="first" onClick=${() => setTurn(turn + 1)}>${turn ? "Check again" : "Check now"}</button>`}>
      ${turn ? html`<${Verdict} key=${turn} />` : html`<p>Every hash of the project is recomputed, and compared with the signed checkpoints that stand on other tiers. A record that was changed, dropped, added or moved is named.</p>`}
      <${Equivalent} operation="audit.verify" /><//>
    <${Checkpoints} /><${Restores} /><${Retirements} /></div>`;
}

const toneOf = (v) => (!v.whole ? "bad" : v.restored.length ? "warn" : "good");

/** What two people said of a restore, in one sentence. */
function saidOf(one) {
  const lost = one.lost.map((part) => `records ${count(part.kept + 1)} to ${count(part.upto)} of the chain of ${part.node}`);
  return html`Restored from an older dump, says ${one.asked_by}${one.approved_by ? ` with ${one.approved_by}` : ", and nobody else yet"}, ${moment(one.approved_at ?? one.asked_at)}: “${one.reason}”. ${lost.length ? `Known lost: ${lost.join(", ")}.` : "No record is lost."}`;
}

/** What two people said of the oldest records. */
function leftOf(one) {
  const chains = one.chains.map((part) => `${count(part.after + 1)} to ${count(part.upto)} of the chain of ${part.node}`);
  return html`Records from before <${Time} at=${one.before} />, ${chains.join(", ")}: in a pack on ${one.tiers.join(", ")}, digest <span class="mono" title=${one.digest}>${one.digest.slice(0, 10)}…</span>. Says ${one.asked_by}${one.approved_by ? ` with ${one.approved_by}` : ", and nobody else yet"}, ${moment(one.approved_at ?? one.asked_at)}: “${one.reason}”. ${one.state === "approved" ? `${plural(one.left, "record")} still to leave.` : ""}`;
}

function Verdict() {
  const asked = useAsk("audit.verify", {}, { every: 0 });
  return html`<${Asked} asked=${asked} rows=${4}>${(v) => html`
    <p class="verdict ${toneOf(v)}" role="status"><${Shape} tone=${toneOf(v)} /> <strong>${!v.whole ? "Broken" : v.restored.length ? "Whole but for what is known lost" : "Whole"}</strong> <span>${plural(v.records, "record")} in ${plural(Object.keys(v.chains).length, "chain")} ${v.whole ? "recomputed; each fits the one before it" : "recomputed; not all of them fit"}.</span></p>
    ${v.checkpoints.length > 0 && v.uncovered > 0 && html`<p class="small muted">${plural(v.uncovered, "record")} that no signed copy covers yet: the next checkpoint will, and is signed by itself.</p>`}
    ${v.restored.map((one) => html`<p key=${one.id}><${Shape} tone="warn" /> ${saidOf(one)}</p>`)}
    ${v.retired.map((one) => html`<p key=${one.id}>${leftOf(one)}</p>`)}
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

/** What two people say, one after the other: a dialog for the first, a button for the second. `doing` sends for them. */
function useWords(asked) {
  const [open, setOpen] = useState(false);
  const [busy, setBusy] = useState(false);
  const send = async (doing) => {
    setBusy(true);
    try {
      await doing();
      setOpen(false);
      asked.again();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      toast([problem.message, problem.hint].filter(Boolean).join(". "), "bad");
    } finally {
      setBusy(false);
    }
  };
  return { open, setOpen, busy, send };
}

/** The oldest records leave for a pack on other tiers: one person asks, another approves. */
function Retirements() {
  const asked = useAsk("audit.retirements", {}, { every: 0 });
  const { open, setOpen, busy, send } = useWords(asked);
  const ask = (event) => {
    event.preventDefault();
    const said = new FormData(event.currentTarget);
    const body = { before: `${said.get("before")}T00:00:00Z`, reason: said.get("reason") };
    send(() => call("audit.ask_retirement", {}, { body }));
  };
  return html`<${Panel} title="Oldest records" id="retirements" aside=${may("audit.ask_retirement") && html`<button onClick=${() => setOpen(true)}>Let some leave…</button>`}>
    <${Asked} asked=${asked} rows=${2}>${({ retirements }) => (retirements.length ? retirements.map((one) => html`<div key=${one.id} class="row"><${Badge} state=${one.state} />
        <span>${leftOf(one)}</span>${one.state === "asked" && may("audit.approve_retirement") && html`<button disabled=${busy} onClick=${() => send(() => call("audit.approve_retirement", { id: one.id }))}>Approve</button>`}</div>`) : html`<p>Records stay for ever, unless the settings say for how many years. Older ones may then leave the catalog for a signed pack on every tier that takes checkpoints, when two people say so: none that is younger than six years.</p>`)}<//>
    <${Equivalent} operation="audit.retirements" />
    ${open && html`<${Dialog} title="The oldest records leave the catalog" close=${() => setOpen(false)}><form onSubmit=${ask}>
      <p>They are first written as a pack onto every tier that takes checkpoints, read back and checked, which may take minutes. A second person approves; both names and the reason are told for ever.</p>
      <div class="field"><label for="retire-before">Records from before</label><input id="retire-before" name="before" type="date" required /></div>
      <div class="field"><label for="retire-reason">Why they leave</label><input id="retire-reason" name="reason" required minlength="3" maxlength="500" /></div>
      <div class="row last"><button class="first" disabled=${busy}>Ask</button></div></form><//>`}<//>`;
}

/** After the catalog was restored from an older dump: one person says so, another approves. */
function Restores() {
  const asked = useAsk("audit.restores", {}, { every: 0 });
  const { open, setOpen, busy, send } = useWords(asked);
  const ask = (event) => {
    event.preventDefault();
    const body = { reason: new FormData(event.currentTarget).get("reason") };
    send(() => call("audit.ask_restore", {}, { body }));
  };
  return html`<${Panel} title="After a restore of the catalog" id="restores" aside=${may("audit.ask_restore") && html`<button onClick=${() => setOpen(true)}>It was restored…</button>`}>
    <${Asked} asked=${asked} rows=${2}>${({ restores }) => (restores.length ? restores.map((one) => html`<div key=${one.id} class="row"><${Badge} state=${one.state} tone=${one.state === "asked" ? "wait" : "warn"} />
        <span>${saidOf(one)}</span>${one.state === "asked" && may("audit.approve_restore") && html`<button disabled=${busy} onClick=${() => send(() => call("audit.approve_restore", { id: one.id }))}>Approve</button>`}</div>`) : html`<p>A catalog that came back from an older dump lacks records that the tiers know of, and the chain is broken where they end. Two people can say so: what is lost is then told with every verdict, for ever, and checkpoints go on.</p>`)}<//>
    <${Equivalent} operation="audit.restores" />
    ${open && html`<${Dialog} title="The catalog was restored from an older dump" close=${() => setOpen(false)}><form onSubmit=${ask}>
      <p>What is lost is found on the tiers. A second person approves; both names and the reason are told for ever.</p>
      <div class="field"><label for="restore-reason">What happened</label><input id="restore-reason" name="reason" required minlength="3" maxlength="500" /></div>
      <div class="row last"><button class="first">Ask</button></div></form><//>`}<//>`;
}

// --- what leaves the house --------------------------------------------------------------------------------

function Take({ query }) {
  const found = searched(query);
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
      <${Equivalent} operation="audit.export" /><//>
    <${Panel} title="For the hospital's audit repository"><p>The records as FHIR AuditEvents (R4), one to a line, oldest first: ${Object.keys(found).length ? "those that the search on the first tab found." : "all of them, or what the search on the first tab finds."}</p>
      <p class="row"><${Download} operation="audit.events" said=${found} name="audit-events.ndjson" label="Download as FHIR" /></p>
      <${Equivalent} operation="audit.events" said=${found} /><//></div>`;
}
