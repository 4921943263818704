// Runs: the list, and one run from its request to the day it is cleaned.
import { html, useState } from "../lib/preact.js";
import { call } from "../lib/api.js";
import { count, duration, plural, rate, size, words } from "../lib/format.js";
import { useAsk, useEvents } from "../lib/live.js";
import { go, Link } from "../lib/router.js";
import { may } from "../lib/session.js";
import { Action, Asked, Badge, Bytes, Copy, Empty, Equivalent, Facts, Head, Id, Interval, Panel, Progress, SaveFigure, Shape, StageBar, Table, Time } from "../parts/all.js";

export default function Runs({ id }) {
  return id ? html`<${OneRun} id=${id} key=${id} />` : html`<${List} />`;
}

// --- the list ---------------------------------------------------------------------------------------------

const COLUMNS = [
  { name: "state", label: "State", width: "132px", text: (r) => r.state, cell: (r) => html`<${Badge} state=${r.state} />` },
  { name: "run", label: "Run", width: "minmax(120px, 1fr)", text: (r) => r.id, cell: (r) => html`<${Link} to=${`/runs/${r.id}`}><${Id} of=${r.id} /><//>` },
  { name: "what", label: "Slides of", width: "minmax(120px, 2fr)", wide: true, text: (r) => r.expression ?? r.like ?? "", cell: what },
  { name: "count", label: "Files", width: "72px", right: true, wide: true, text: (r) => r.count, cell: (r) => count(r.count) },
  { name: "bytes", label: "Size", width: "88px", right: true, text: (r) => r.bytes, cell: (r) => html`<${Bytes} of=${r.bytes} />` },
  { name: "staged", label: "On flash", width: "112px", wide: true, text: (r) => r.staged_bytes, cell: staged },
  { name: "tier", label: "Tier", width: "88px", wide: true, text: (r) => r.tier, cell: (r) => r.tier },
  { name: "created", label: "Asked for", width: "104px", text: (r) => r.created_at, cell: (r) => html`<${Time} at=${r.created_at} />` },
];

function what(run) {
  if (run.expression) return html`<code title=${run.expression}>${run.expression}</code>`;
  return run.like ? html`like <${Id} of=${run.like} />` : html`<span class="muted">${run.reason ? words(run.reason) : "a list of slides"}</span>`;
}

function staged(run) {
  if (["staging", "sealed", "admitted"].includes(run.state)) return html`<${Progress} done=${run.staged_bytes} of=${run.bytes} label=${`staged of ${run.id}`} />`;
  return run.staged_bytes && !["cleaned", "refused"].includes(run.state) ? html`<${Bytes} of=${run.staged_bytes} />` : html`<span class="muted">–</span>`;
}

async function page(after, limit) {
  const found = await call("runs.list_runs", { after, limit });
  return { rows: found.runs, next: found.next };
}

function List() {
  return html`<${Head} title="Runs" below="A run is a private, sealed copy of a set of slides on flash, for one training."><${Ask} /><//>
    <${Panel}><${Table} name="runs" label="Runs" columns=${COLUMNS} load=${page} id=${(r) => r.id} link=${(r) => `/runs/${r.id}`} rows=${18}
      empty=${html`<${Empty} title="No runs yet">Ask for one here, by <code>mover run request --cohort NAME</code>, or from a scheduler.<//>`} /><//>
    <${Equivalent} operation="runs.list_runs" />`;
}

/** Ask for a run: by cohort, by expression, or again like an earlier one. */
export function Ask({ like, label = "Ask for a run" }) {
  const cohorts = useAsk(may("cohorts.list_cohorts") && !like ? "cohorts.list_cohorts" : null, {}, { every: 0 });
  const names = [...new Set((cohorts.answer?.cohorts ?? []).map((one) => one.name))];
  const policies = useAsk(may("service.policies") ? "service.policies" : null, {}, { every: 0 });
  const stages = (policies.answer?.policies ?? []).filter((one) => one.kind === "stage").map((one) => [one.name, one.name]);
  const source = like
    ? []
    : [
        { name: "cohort", label: "Cohort", kind: "choice", choices: [["", "none: an expression instead"], ...names.map((name) => [name, name])] },
        { name: "expression", label: "Expression", kind: "text", hint: "Only where no cohort is chosen, such as: organ = 'prostate' and gleason >= 7" },
      ];
  const fields = [
    ...source,
    ...(stages.length > 1 ? [{ name: "policy", label: "Policy", kind: "choice", choices: [["", "the usual one"], ...stages], hint: "It says to which flash, how files lie there, and how long a lease lasts." }] : []),
    { name: "layout", label: "How data/ is laid out", kind: "choice", choices: [["", "as the policy says"], ["flat", "flat"], ["number", "a folder for each slide"], ["label", "a folder for each label"]] },
    { name: "layout_label", label: "The fact that names the folders", kind: "text", hint: "Only for a folder for each label." },
    { name: "lease_s", label: "Lease in seconds", kind: "number", least: 60, hint: "How long without a heartbeat; then what the job left is protected. Empty: as the stage policy says." },
    { name: "priority", label: "Priority", kind: "number", least: -10, most: 10, hint: "Before or after others, where there is no room for all." },
  ];
  return html`<${Action} operation="runs.request" label=${label} title=${label} first=${!like} fields=${fields} body=${like ? { like } : {}}
    consequence="The set is frozen, judged whole, and staged. Nothing is copied when one of its slides is missing, unknown or withdrawn."
    told="The run is asked for" done=${(run) => go(`/runs/${run.id}`)} />`;
}

// --- one run ----------------------------------------------------------------------------------------------

const FINAL = new Set(["cleaned", "refused", "failed", "cancelled"]);
const COMING = new Set(["requested", "admitted", "staging", "sealed"]);

function OneRun({ id }) {
  const asked = useAsk("runs.view", { id });
  const [events, setEvents] = useState([]);
  const [progress, setProgress] = useState(null);
  const stream = useEvents("runs.events", { id }, ({ name, data }) => {
    if (name === "progress") {
      setProgress(data);
      return;
    }
    setEvents((known) => (known.some((one) => one.id === data.id) ? known : [...known, data]));
    setProgress(null);
    asked.again();
  });
  return html`<${Asked} asked=${asked} rows=${8}>${(run) => html`<${Shown} run=${now(run, progress)} pace=${progress?.rate_bytes_s} events=${events} stream=${stream} again=${asked.again} />`}<//>`;
}

/** What was asked last, and what the stream said since. */
function now(run, progress) {
  if (!progress || progress.state !== run.state || progress.staged_bytes < run.staged_bytes) return run;
  const { staged_count, staged_bytes, queue, estimate } = progress;
  return { ...run, staged_count, staged_bytes, queue: queue ?? run.queue, estimate: estimate ?? run.estimate };
}

function Shown({ run, pace, events, stream, again }) {
  return html`<${Head} title=${html`<${Id} of=${run.id} whole />`} badge=${html`<${Badge} state=${run.state} />`} below=${run.expression ? html`slides with <code>${run.expression}</code>` : null}><${Deeds} run=${run} again=${again} /><//>
    <${Why} run=${run} />
    <${Panel} title="Where it stands"><${StageBar} label="Stages of the run" stages=${stages(run, pace)} estimate=${run.state === "requested" || run.state === "staging" || run.state === "admitted" ? run.estimate : null} /><${SaveFigure} operation="plots.run" said=${{ id: run.id }} name=${`${run.id}-stages`} />
      <${Line} run=${run} />${may("oversight.shards") && !FINAL.has(run.state) && html`<${Shards} run=${run} />`}<//>
    <div class="two"><div class="stack"><${AtTheJob} run=${run} /><${Offenders} run=${run} /><${Strays} run=${run} /><${Proofs} run=${run} /><${Events} events=${events} stream=${stream} /></div>
      <div class="stack"><${Terms} run=${run} /><${Equivalent} operation="runs.view" said=${{ id: run.id }} /></div></div>`;
}

/** Its life in five words. The states between are the note under the word. */
function stages(run, pace) {
  const order = { requested: 0, admitted: 1, staging: 1, sealed: 2, ready: 3, finishing: 4, protecting: 4, protected: 5, cleaning: 5, cleaned: 6 };
  const at = order[run.state] ?? (run.ready_at ? 5 : run.staged_count ? 1 : 0);
  const broken = ["failed", "refused", "cancelled"].includes(run.state);
  const step = (name, index, { note, share } = {}) => ({
    name, note,
    state: index < at || run.state === "cleaned" ? "done" : index > at ? "ahead" : broken ? "failed" : run.state === "requested" ? "waiting" : "now",
    share: index === at ? share : 0,
  });
  const moved = run.staged_bytes ? `${size(run.staged_bytes)} of ${size(run.bytes)}${pace ? ` at ${rate(pace)}` : ""}` : null;
  return [
    step("asked", 0, { note: run.queue ? `place ${run.queue.position} of the line` : html`<${Time} at=${run.created_at} />` }),
    step("staged", 1, { note: moved, share: run.bytes ? run.staged_bytes / run.bytes : 0 }),
    step("sealed", 2, { note: run.manifest_root ? "manifest kept" : null, share: 0.5 }),
    step("ready", 3, { note: run.ready_at ? html`<${Time} at=${run.ready_at} />` : null, share: 1 }),
    step("protected", 4, { note: run.snapshots.length ? `${run.snapshots.length} snapshot${run.snapshots.length === 1 ? "" : "s"}` : null, share: run.state === "protecting" ? 0.6 : 0.2 }),
    step("cleaned", 5, { note: run.cleaned_at ? html`<${Time} at=${run.cleaned_at} />` : null, share: run.state === "cleaning" ? 0.5 : 0 }),
  ];
}

function Line({ run }) {
  if (run.state !== "requested") return null;
  const { queue } = run;
  return html`<p>${queue ? html`Place <strong>${queue.position}</strong> of the line: ${size(queue.ahead_bytes)} ahead${queue.missing_bytes === null ? "" : `; it begins when ${size(queue.missing_bytes)} are released`}.` : "It waits to be let in."} ${run.estimate && html`<${Interval} of=${run.estimate} />`}</p>`;
}

// --- its work ---------------------------------------------------------------------------------------------

/** The work in hand, and the piece that the others wait for. */
function Shards({ run }) {
  const asked = useAsk("oversight.shards", { subject: run.id, limit: 200 });
  const open = (asked.answer?.shards ?? []).filter((one) => one.state === "running" || one.state === "waiting");
  if (!open.length) return null;
  const running = open.filter((one) => one.state === "running");
  const share = (one) => (one.bytes ? one.done_bytes / one.bytes : 0);
  const slowest = running.filter((one) => one.bytes).sort((a, b) => share(a) - share(b))[0];
  const trouble = open.filter((one) => one.failures > 0);
  return html`<div class="stack"><p class="muted">${plural(running.length, "shard")} at work, ${count(open.length - running.length)} waiting.</p>
    ${slowest && html`<div><p class="row apart"><span>slowest: <${Id} of=${slowest.id} /> <span class="muted">on ${slowest.holder}, ${plural(slowest.members, "file")}</span></span><span>${size(slowest.done_bytes)} of ${size(slowest.bytes)}</span></p><${Progress} done=${slowest.done_bytes} of=${slowest.bytes} label="the slowest shard" /></div>`}
    ${trouble.slice(0, 5).map((one) => html`<p key=${one.id} class="stale"><${Shape} tone="warn" /> <${Id} of=${one.id} /> failed ${one.failures} of ${plural(one.claims, "time")}: ${one.explanation ?? one.code} ${one.not_before && html`Again <${Time} at=${one.not_before} />.`}</p>`)}</div>`;
}

function Why({ run }) {
  const text = [run.reason && words(run.reason), run.explanation].filter(Boolean).join(": ");
  const removed = run.removed.length > 0 && html`<p class="stale"><${Shape} tone="warn" /> ${count(run.removed.length)} of its slides were removed by two persons since: it cannot be staged again exactly.</p>`;
  if (!text) return removed || null;
  const tone = FINAL.has(run.state) && run.state !== "cleaned" ? "bad" : "warn";
  return html`<p class="stale" role="status"><${Shape} tone=${tone} /> ${text}</p>${removed}`;
}

/** What may be done with it now; each shows its plan first. */
function Deeds({ run, again }) {
  const said = { id: run.id };
  const files = [
    { name: "artifacts", label: "Artifacts", kind: "lines", hint: "Instead of the run's out/: paths under declared roots." },
    { name: "code", label: "Source code", kind: "text", hint: "The source tree to keep with it." },
    { name: "exit", label: "Exit status of the job", kind: "number" },
  ];
  return html`
    ${run.state === "ready" && html`<${Action} operation="runs.heartbeat" label="Keep the lease" said=${said} consequence="The lease begins anew, as if the job had called." told="The lease was renewed" done=${again} />`}
    ${run.state === "ready" && html`<${Action} operation="runs.finish" label="Finish" title="Finish: protect what the training left" said=${said} fields=${files} body=${{}} first consequence="What the job wrote becomes a snapshot, is proved, and the run can then be cleaned. Nothing is removed." told="Protection begins" done=${again} />`}
    ${run.state === "protected" && html`<${Action} operation="runs.clean" label="Clean up" title="Clean up: what goes, and why it may" said=${said} danger first consequence="The run root leaves the flash. What nobody protected is moved aside and reported, never deleted." told="Cleanup begins" done=${again} />`}
    ${(COMING.has(run.state) || run.state === "ready") && html`<${Action} operation="runs.cancel" label="Cancel" title="Give the run up" said=${said} danger consequence=${run.state === "ready" ? "The run ends. What its job wrote already is protected before anything is removed." : "Staging stops, and its partial root is removed."} told="The run is given up" done=${again} />`}
    ${FINAL.has(run.state) && run.manifest_root && html`<${Ask} like=${run.id} label="Stage it again" />`}`;
}

function AtTheJob({ run }) {
  if (!run.root) return null;
  const export_ = `export MOVER_RUN=${run.id}\nexport DATA=${run.root}/data\nexport OUT=${run.out}`;
  return html`<${Panel} title="At the job"><${Facts} of=${[["root", html`<span class="mono">${run.root}</span>`]]} />
    ${run.out && html`<${Copy} text=${export_} block />`}
    ${run.manifest_root && html`<p class="row"><${Manifest} run=${run} /></p>`}<//>`;
}

/** The sealed manifest as a file; asked with the rights of whoever is signed in. */
function Manifest({ run }) {
  const take = async () => {
    const text = await call("runs.manifest", { id: run.id });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/jsonl" }));
    link.download = `${run.id}.manifest.jsonl`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  };
  return html`<button onClick=${take}>Download the manifest</button>`;
}

function Terms({ run }) {
  const left = run.lease_until && !FINAL.has(run.state) ? html`<${Time} at=${run.lease_until} both />` : null;
  const linked = run.linked_count ? `${count(run.linked_count)} of ${count(run.count)} were on flash already` : null;
  return html`<${Panel} title="Facts"><${Facts} of=${[
    ["tier", run.tier], ["policy", run.policy], ["files", count(run.count)], ["size", html`<${Bytes} of=${run.bytes} />`], ["shared", linked],
    ["lease ends", left], ["priority", run.priority || null], ["deadline", run.deadline && html`<${Time} at=${run.deadline} both />`],
    ["asked for", html`<${Time} at=${run.created_at} both />`], ["ready", run.ready_at && html`<${Time} at=${run.ready_at} both />`],
    ["like", run.like && html`<${Link} to=${`/runs/${run.like}`}><${Id} of=${run.like} /><//> ${run.exact === null ? "" : run.exact ? "(same manifest, byte for byte)" : "(not the same manifest)"}`],
    ["manifest root", run.manifest_root && html`<span class="mono" title=${run.manifest_root}>${run.manifest_root.slice(0, 24)}…</span>`],
    ["snapshots", run.snapshots.length ? run.snapshots.map((one) => html`<div key=${one}><${Id} of=${one} /></div>`) : null],
  ]} /><//>`;
}

function Offenders({ run }) {
  if (!run.offenders.length) return null;
  const heads = [...new Set(run.offenders.flatMap(Object.keys))];
  return html`<${Panel} title="Why it was refused" aside=${html`<span class="muted">${count(run.offenders_count)} in all</span>`}><div class="scroll"><table><thead><tr>${heads.map((h) => html`<th key=${h}>${words(h)}</th>`)}</tr></thead>
    <tbody>${run.offenders.slice(0, 500).map((o, at) => html`<tr key=${at}>${heads.map((h) => html`<td key=${h} class=${h === "why" ? "" : "mono"}>${o[h] === undefined ? "" : String(o[h])}</td>`)}</tr>`)}</tbody></table></div><//>`;
}

function Strays({ run }) {
  if (!run.strays.length) return null;
  return html`<${Panel} title="Moved aside" aside=${html`<span class="muted">nobody had protected these, so they were not removed</span>`}><div class="scroll"><table><thead><tr><th>was</th><th>why</th><th>is now</th></tr></thead>
    <tbody>${run.strays.map((s, at) => html`<tr key=${at}><td class="mono">${s.path}</td><td class="nowrap">${s.why}</td><td class="mono">${s.moved_to}</td></tr>`)}</tbody></table></div><//>`;
}

const PROVES = { ready: "every file re-read cold equals the manifest", protected: "the snapshot holds all that was left", cleaned: "nothing stands on flash any more", verified: "every byte was read again" };

function Proofs({ run }) {
  return html`<${Panel} title="Proofs">${run.proofs.length ? html`<div class="scroll"><table><thead><tr><th>proved</th><th>that</th><th class="right">files</th><th class="right">size</th><th>root</th><th>when</th></tr></thead>
    <tbody>${run.proofs.map((p) => html`<tr key=${p.id}><td><${Badge} state=${p.kind} tone="good" /></td><td>${PROVES[p.kind] ?? ""}</td><td class="right">${count(p.count)}</td><td class="right"><${Bytes} of=${p.bytes} /></td><td class="mono nowrap" title=${p.root}>${p.root.slice(0, 12)}…</td><td class="nowrap"><${Time} at=${p.at} /></td></tr>`)}</tbody></table></div>`
    : html`<${Empty} title="Nothing is proved yet">The first proof stands when the run is ready.<//>`}<//>`;
}

const STREAM = { live: ["good", "live"], again: ["wait", "connecting"], polling: ["wait", "asked every few seconds"], ended: ["wait", "nothing more will come"] };

function Events({ events, stream }) {
  const [tone, said] = STREAM[stream];
  const newest = [...events].reverse();
  return html`<${Panel} title="Events" aside=${html`<span class="badge ${tone}"><${Shape} tone=${tone} />${said}</span>`}>
    ${newest.length ? html`<ol class="events">${newest.map((e, at) => html`<li key=${e.id}><${Badge} state=${e.state} /><span class="grow">${e.reason ? words(e.reason) : ""}</span><span class="muted small">${newest[at + 1] ? `after ${duration((new Date(e.at) - new Date(newest[at + 1].at)) / 1000)}` : ""}</span><${Time} at=${e.at} /></li>`)}</ol>` : html`<p class="muted">They come as they happen.</p>`}<//>`;
}

