// Nodes and jobs: the work as it is handed out, who carries it, and what failed and is tried again.
import { html, useState } from "../lib/preact.js";
import { call } from "../lib/api.js";
import { count, moment, plural, size, words } from "../lib/format.js";
import { useAsk } from "../lib/live.js";
import { goQuery, Link } from "../lib/router.js";
import { may } from "../lib/session.js";
import { Asked, Badge, Dialog, Empty, Equivalent, Facts, Head, Id, Panel, Progress, Shape, Table, Tabs, Time } from "../parts/all.js";

const STATES = ["waiting", "running", "failed", "done", "cancelled"];
const PLACES = { run: "/runs", batch: "/batches", snapshot: "/snapshots", records: "/records" };
const SILENT_S = 120;

export default function Jobs({ query }) {
  return html`<${Head} title="Nodes and jobs" below="A shard is a piece of work that one node holds for a while. When its lease ends unfinished, another takes it." />
    ${may("oversight.nodes") && html`<${Nodes} />`}<${Shards} query=${query} />`;
}

// --- nodes ------------------------------------------------------------------------------------------------

function Nodes() {
  const asked = useAsk("oversight.nodes");
  return html`<${Panel} title="Nodes" id="nodes"><${Asked} asked=${asked} rows=${2}>${({ nodes }) => html`<ul class="nodes">${nodes.map((one) => html`<${Node} key=${one.id} node=${one} versions=${new Set(nodes.map((n) => n.version)).size} />`)}</ul>`}<//><${Equivalent} operation="oversight.nodes" /><//>`;
}

function Node({ node, versions }) {
  const silent = (Date.now() - new Date(node.seen_at)) / 1000 > SILENT_S;
  return html`<li><div class="row apart"><strong class="mono">${node.id}</strong><${Badge} state=${silent ? "silent" : "online"} tone=${silent ? "warn" : "good"} /></div>
    <p class="small muted">version ${node.version}${versions > 1 ? html` <${Shape} tone="warn" /> not all nodes run the same` : ""}, started <${Time} at=${node.started_at} />, seen <${Time} at=${node.seen_at} /></p>
    <p class="small">${node.shards ? plural(node.shards, "shard") + " in hand" : html`<span class="muted">no shard in hand</span>`}</p></li>`;
}

// --- shards -----------------------------------------------------------------------------------------------

function Shards({ query }) {
  const said = { state: query.get("state") ?? "", kind: query.get("kind") ?? "", subject: query.get("subject") ?? "" };
  const [open, setOpen] = useState(null);
  const load = async (after, limit) => {
    const found = await call("oversight.shards", { ...said, after, limit });
    return { rows: found.shards, next: found.next };
  };
  const columns = [
    { name: "state", label: "State", width: "96px", text: (s) => s.state, cell: (s) => html`<${State} shard=${s} />` },
    { name: "id", label: "Shard", width: "minmax(108px, 1fr)", text: (s) => s.id, cell: (s) => html`<button class="link mono" title=${s.id} onClick=${() => setOpen(s)}><${Id} of=${s.id} /></button>` },
    { name: "kind", label: "Kind", width: "minmax(80px, 1fr)", text: (s) => s.kind, cell: (s) => html`<button class="link" title="Only this kind" onClick=${() => goQuery({ kind: s.kind })}>${words(s.kind)}</button>` },
    { name: "subject", label: "For", width: "minmax(112px, 1fr)", wide: true, text: (s) => s.subject, cell: (s) => html`<${Subject} of=${s.subject} />` },
    { name: "members", label: "Members", width: "84px", right: true, wide: true, text: (s) => s.members, cell: (s) => count(s.members) },
    { name: "holder", label: "Held by", width: "minmax(88px, 1fr)", wide: true, text: (s) => s.holder ?? "", cell: (s) => (s.holder ? html`<span class="mono" title=${s.holder}>${s.holder}</span>` : html`<span class="muted">–</span>`) },
    { name: "trouble", label: "Trouble", width: "minmax(96px, 2fr)", wide: true, text: (s) => s.explanation ?? s.code ?? "", cell: (s) => html`<${Trouble} shard=${s} />` },
    { name: "created", label: "Asked for", width: "112px", wide: true, text: (s) => s.created_at, cell: (s) => html`<${Time} at=${s.created_at} />` },
  ];
  const filtered = said.kind || said.subject;
  return html`<${Panel} title="Work" id="work">
    <${Tabs} of=${[["", "All"], ...STATES.map((one) => [one, one])]} chosen=${said.state} choose=${(one) => goQuery({ state: one })} label="Shards by state" />
    <div class="row asks" role="search" aria-label="Search the work">
      <label>Kind<input type="search" placeholder="run-stage" value=${said.kind} onChange=${(event) => goQuery({ kind: event.currentTarget.value.trim() })} /></label>
      <label>For<input type="search" placeholder="id of a run, a batch, …" value=${said.subject} onChange=${(event) => goQuery({ subject: event.currentTarget.value.trim() })} /></label>
      ${filtered && html`<button onClick=${() => goQuery({ kind: null, subject: null })}>Clear</button>`}</div>
    <${Table} name="shards" label="Shards" columns=${columns} load=${load} id=${(s) => s.id} deps=${[JSON.stringify(said)]} rows=${14} filter=${false}
      empty=${html`<${Empty} title=${said.state ? `No shard is ${said.state}` : "No work yet"}>${filtered ? "Take a filter away to see more." : "Batches, runs, scans and snapshots become shards when they begin."}<//>`} />
    <${Equivalent} operation="oversight.shards" said=${Object.fromEntries(Object.entries(said).filter(([, value]) => value))} /><//>
    ${open && html`<${OneShard} of=${open} close=${() => setOpen(null)} />`}`;
}

/** A shard that waits after a failure says so: it is not simply next in line. */
function State({ shard }) {
  const again = shard.state === "waiting" && shard.failures > 0;
  return html`<${Badge} state=${shard.state} tone=${again ? "warn" : undefined}>${again ? "tried again" : shard.state}<//>`;
}

function Subject({ of }) {
  const place = PLACES[of.split("-")[0]];
  return place ? html`<${Link} to=${`${place}/${of}`}><${Id} of=${of} /><//>` : html`<${Id} of=${of} />`;
}

function Trouble({ shard }) {
  if (!shard.code && !shard.failures) return shard.claims > 1 ? html`<span class="muted">taken ${count(shard.claims)} times</span>` : "";
  return html`<span title=${shard.explanation}>${shard.failures > 0 && html`<strong>${plural(shard.failures, "failure")}</strong> `}<span class="muted">${shard.explanation ?? words(shard.code)}</span></span>`;
}

function OneShard({ of, close }) {
  const moved = of.bytes !== null && of.bytes !== undefined;
  return html`<${Dialog} title=${`${words(of.kind)}, ${plural(of.members, "member")}`} close=${close} wide>
    <p><${State} shard=${of} /> ${of.explanation ?? ""}</p>
    ${moved && html`<p class="row apart"><span>staged</span><span>${size(of.done_bytes)} of ${size(of.bytes)}</span></p><${Progress} done=${of.done_bytes} of=${of.bytes} label="staged" />`}
    <${Facts} of=${[
      ["shard", html`<span class="mono">${of.id}</span>`], ["for", html`<${Subject} of=${of.subject} />`], ["queue", of.queue], ["priority", of.priority || null],
      ["held by", of.holder && html`<span class="mono">${of.holder}</span>`], ["lease ends", of.lease_until && html`<${Time} at=${of.lease_until} both />`],
      ["taken", `${plural(of.claims, "time")}, ${plural(of.failures, "failure")}`], ["code", of.code && html`<span class="mono">${of.code}</span>`],
      ["again", of.not_before && html`<${Time} at=${of.not_before} both />`], ["asked for", moment(of.created_at)], ["ended", of.finished_at && moment(of.finished_at)],
    ]} />
    <div class="row last"><button onClick=${() => { goQuery({ subject: of.subject, state: null, kind: null }); close(); }}>All work for the same</button></div><//>`;
}
