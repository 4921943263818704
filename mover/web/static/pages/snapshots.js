// Snapshots: what is kept and by which rule, what lies in each, how it comes back; and what two persons must agree on.
import { html, useEffect, useMemo, useState } from "../lib/preact.js";
import { call } from "../lib/api.js";
import { count, duration, plural, rate, size, time, words } from "../lib/format.js";
import { useAsk } from "../lib/live.js";
import { go, goQuery, Link } from "../lib/router.js";
import { may, session } from "../lib/session.js";
import { useStore } from "../lib/store.js";
import { Action, Asked, Badge, Bytes, Calendar, Copy, Empty, Equivalent, Facts, Head, Id, Panel, Plan, Progress, SaveFigure, Shape, Table, Tabs, Tally, Time, TimePlot, colour } from "../parts/all.js";

export default function Snapshots({ id, restore, query }) {
  if (restore) return html`<${OneRestore} id=${restore} key=${restore} />`;
  return id ? html`<${One} id=${id} key=${id} query=${query} />` : html`<${Front} query=${query} />`;
}

const VIEWS = [["", "Snapshots", "snapshots.list_snapshots"], ["restores", "Restores", "restores.list_restores"], ["retention", "Retention", "snapshots.simulate"], ["two", "Two persons", "shortenings.list_shortenings"]];

function Front({ query }) {
  const view = query.get("view") ?? "";
  const views = { restores: Restores, retention: Retention, two: TwoPersons };
  const Shown = views[view] ?? Kept;
  return html`<${Head} title="Snapshots" below="What trainings left and what folders held, as it was: encrypted, checked, and kept by rule."><${AsOf} /><//>
    <${Tabs} of=${VIEWS.filter(([, , needs]) => may(needs)).map(([name, title]) => [name, title])} chosen=${view} choose=${(one) => goQuery({ view: one, day: null })} label="Views of snapshots" /><${Shown} query=${query} />`;
}

// --- by which rule ------------------------------------------------------------------------------------------------

// the one that keeps longest names the colour of a day
const RULES = [
  { name: "held", said: "held by a person", of: /^it is held/, tone: "bad" },
  { name: "tag", said: "a tag", of: /^tag /, series: 5 },
  { name: "yearly", said: "yearly", of: /^yearly /, series: 0 },
  { name: "monthly", said: "monthly", of: /^monthly /, series: 1 },
  { name: "weekly", said: "weekly", of: /^weekly /, series: 2 },
  { name: "daily", said: "daily", of: /^daily /, series: 3 },
  { name: "hourly", said: "hourly", of: /^hourly /, series: 4 },
  { name: "last", said: "among the last", of: /^(last |recorded within|the newest that counts)/, tone: "work" },
  { name: "young", said: "young: people have time to notice", of: /^on record for less/, tone: "wait" },
  { name: "all", said: "no rule is set: everything is kept", of: /^no keep rule/, tone: "good" },
  { name: "leaving", said: "no rule keeps it", of: /^no rule keeps/, tone: "warn" },
];
const NOT_JUDGED = { name: "new", said: "not judged yet, and kept", tone: "good" };
const DOUBTFUL = { name: "doubt", said: "doubtful: kept until two persons agree", tone: "warn" };

const ruleOf = (snapshot) => RULES.find((rule) => snapshot.reasons.some((reason) => rule.of.test(reason))) ?? (snapshot.doubt ? DOUBTFUL : NOT_JUDGED);
const Rule = ({ of }) => html`<span class="nowrap rule"><i class=${of.tone ?? ""} style=${of.series === undefined ? {} : { background: colour(of.series) }} />${of.said}</span>`;

// --- all of them ---------------------------------------------------------------------------------------------------

const WEEKS = innerWidth < 700 ? 16 : 52;
const WEEK_MS = 7 * 86_400_000;
const DAY_MS = 86_400_000;
const PAGE = 1000;
const PAGES_MAX = 5;

const COLUMNS = [
  { name: "state", label: "State", width: "minmax(84px, 112px)", text: (s) => s.state, cell: (s) => html`<${Badge} state=${s.missing_at ? "missing" : s.doubt ? "doubt" : s.state}>${s.missing_at ? "missing" : s.doubt ?? s.state}<//>` },
  { name: "snapshot", label: "Snapshot", width: "minmax(118px, 150px)", text: (s) => s.id, cell: (s) => html`<${Link} to=${`/snapshots/${s.id}`}><${Id} of=${s.id} /><//>` },
  { name: "of", label: "Of", width: "minmax(100px, 150px)", wide: true, text: (s) => s.series, cell: (s) => (s.run ? html`<${Link} to=${`/runs/${s.run}`}><${Id} of=${s.run} /><//>` : html`<span class="mono" title=${s.series}>${s.series}</span>`) },
  { name: "reasons", label: "Kept because", width: "minmax(120px, 2fr)", wide: true, text: (s) => s.reasons.join("; "), cell: (s) => html`<span title=${s.reasons.join("; ")}><${Rule} of=${ruleOf(s)} />${s.tags.length > 0 && html` <span class="muted">${s.tags.join(", ")}</span>`}</span>` },
  { name: "files", label: "Files", width: "72px", right: true, wide: true, text: (s) => s.files, cell: (s) => count(s.files) },
  { name: "bytes", label: "Size", width: "84px", right: true, wide: true, text: (s) => s.bytes, cell: (s) => html`<${Bytes} of=${s.bytes} />` },
  { name: "added", label: "Added", width: "84px", right: true, wide: true, text: (s) => s.added_bytes, cell: (s) => html`<${Bytes} of=${s.added_bytes} />` },
  { name: "at", label: "Recorded", width: "minmax(82px, 104px)", text: (s) => s.recorded_at, cell: (s) => html`<${Time} at=${s.recorded_at} />` },
];

function Kept({ query }) {
  const day = /^\d{4}-\d\d-\d\d$/.test(query.get("day")) ? time(query.get("day")) : null;
  const state = query.get("state");
  // a state is asked of one policy: of the default one when none is said
  const named = useAsk("shortenings.protection", {}, { every: 0 }).answer?.policies.map((one) => one.policy) ?? [];
  const policy = state ? query.get("policy") : null;
  const span = day ? { since: `${day}T00:00:00Z`, until: new Date(Date.parse(`${day}T00:00:00Z`) + DAY_MS - 1).toISOString() } : {};
  const load = async (after, limit) => {
    const found = await call("snapshots.list_snapshots", { after, limit, state, policy, ...span });
    return { rows: found.snapshots, next: found.next };
  };
  const states = [["", "all"], ["checked", "checked"], ["written", "written, not checked yet"], ["trashed", "in the trash"], ["forgotten", "forgotten"]];
  return html`<${Panel} title="By the rule that keeps them" id="calendar"><${Days} day=${day} /><//>
    <${Panel} title=${day ? html`Recorded on ${day}` : "All"} id="all" aside=${html`${day && html`<button onClick=${() => goQuery({ day: null })}>All days</button>`}
        ${state && named.length > 1 && html`<select aria-label="Policy" value=${policy ?? ""} onChange=${(event) => goQuery({ policy: event.currentTarget.value })}><option value="">the default policy</option>${named.map((name) => html`<option key=${name}>${name}</option>`)}</select>`}
        <select aria-label="State" value=${state ?? ""} onChange=${(event) => goQuery({ state: event.currentTarget.value })}>${states.map(([is, said]) => html`<option key=${is} value=${is}>${said}</option>`)}</select>`}>
      <${Table} name="snapshots" label="Snapshots" columns=${COLUMNS} load=${load} id=${(s) => s.id} link=${(s) => `/snapshots/${s.id}`} rows=${14} deps=${[day, state, policy]}
        empty=${html`<${Empty} title=${day || state ? "None of these" : "No snapshot yet"}>The first is made when a run is finished, or when a protected folder has settled.<//>`} /><//>
    <${Equivalent} operation="snapshots.list_snapshots" said=${{ state, policy, ...span }} />`;
}

/** A year of days (what fits on a phone); a day that holds more says how many. */
function Days({ day }) {
  const [found, setFound] = useState(null);
  useEffect(() => {
    const ended = new AbortController();
    const gather = async () => {
      const since = new Date(Date.now() - WEEKS * WEEK_MS).toISOString();
      const rows = [];
      let after = null;
      for (let at = 0; at < PAGES_MAX; at += 1) {
        const page = await call("snapshots.list_snapshots", { since, after, limit: PAGE }, { signal: ended.signal });
        rows.push(...page.snapshots);
        after = page.next;
        if (!after) break;
      }
      setFound({ rows, more: Boolean(after) });
    };
    // what is refused is told by the table below, which asks the same
    gather().catch(() => ended.signal.aborted || setFound({ rows: [], more: false }));
    return () => ended.abort();
  }, []);
  const { days, used } = useMemo(() => byDay(found?.rows ?? []), [found]);
  return html`<div class="scroll"><${Calendar} days=${days} weeks=${WEEKS} label="Snapshots of each day by the rule that keeps them" chosen=${day} choose=${(one) => goQuery({ day: one === day ? null : one })} /></div>
    <p class="legend">${used.map(([rule, n]) => html`<span key=${rule.name}><${Rule} of=${rule} /> <span class="muted">${count(n)}</span></span>`)}${found && !found.rows.length && html`<span class="muted">None in this time.</span>`}</p>
    <${SaveFigure} operation="plots.calendar" said=${{}} name="snapshots" />
    ${found?.more && html`<p class="muted small">The newest ${count(found.rows.length)} are shown.</p>`}`;
}

/** @returns {{days: Map<string, any>, used: [any, number][]}} */
function byDay(rows) {
  const all = [...RULES, DOUBTFUL, NOT_JUDGED];
  const days = new Map();
  const totals = new Map();
  for (const row of rows) {
    const rule = ruleOf(row);
    totals.set(rule, (totals.get(rule) ?? 0) + 1);
    const at = row.recorded_at.slice(0, 10);
    const known = days.get(at) ?? { n: 0, rule, bytes: 0 };
    days.set(at, { n: known.n + 1, bytes: known.bytes + row.bytes, rule: all.indexOf(rule) < all.indexOf(known.rule) ? rule : known.rule });
  }
  const drawn = new Map([...days].map(([at, { n, rule, bytes }]) => [at, { n, series: rule.series, tone: rule.tone, title: `${plural(n, "snapshot")}, ${size(bytes)}; kept: ${rule.said}` }]));
  return { days: drawn, used: [...totals].sort(([a], [b]) => all.indexOf(a) - all.indexOf(b)) };
}

// --- one of them ------------------------------------------------------------------------------------------------------

function One({ id, query }) {
  const asked = useAsk("snapshots.view", { id });
  return html`<${Asked} asked=${asked} rows=${8}>${(snapshot) => html`<${Shown} snapshot=${snapshot} query=${query} again=${asked.again} />`}<//>`;
}

const PARTS = [["", "Files"], ["diff", "What is different in another"], ["versions", "Versions of a path"]];
const REASON = { name: "reason", label: "Why", kind: "long", required: true, least: 8, most: 512, hint: "It stands in the audit record beside your name." };

function Shown({ snapshot, query, again }) {
  const [path, setPath] = useState("/");
  const view = query.get("view") ?? "";
  const said = { id: snapshot.id };
  const parts = { diff: html`<${Different} snapshot=${snapshot} />`, versions: html`<${Versions} snapshot=${snapshot} path=${path} setPath=${setPath} />` };
  const reasons = snapshot.reasons.length ? snapshot.reasons : ["not judged yet, and so kept"];
  return html`<${Head} title=${html`<${Id} of=${snapshot.id} whole />`} badge=${html`<${Badge} state=${snapshot.state} />`} below=${html`recorded <${Time} at=${snapshot.recorded_at} both />`}><${Deeds} snapshot=${snapshot} path=${path} again=${again} /><//>
    ${snapshot.missing_at && html`<p class="stale" role="status"><${Shape} tone="bad" /> Its file left the repository <${Time} at=${snapshot.missing_at} />, and not by Mover.</p>`}
    ${snapshot.doubt && html`<p class="stale" role="status"><${Shape} tone="warn" /> Doubtful: ${words(snapshot.doubt)}. It displaces no other until two persons agree that it is sound.</p>`}
    ${snapshot.trash_until && html`<p class="stale" role="status"><${Shape} tone="warn" /> In the trash; it can be brought back until <${Time} at=${snapshot.trash_until} both />.</p>`}
    <div class="two"><div class="stack"><${Panel}><${Tabs} of=${PARTS} chosen=${view} choose=${(one) => goQuery({ view: one })} label="Views of the snapshot" />${parts[view] ?? html`<${Files} snapshot=${snapshot} path=${path} setPath=${setPath} />`}<//></div>
    <div class="stack"><${Panel} title="Why it is kept"><ul class="lines">${reasons.map((one) => html`<li key=${one}>${one}</li>`)}</ul>${snapshot.holds.map((one) => html`<${Held} key=${one.id} hold=${one} />`)}<//>
      <${Panel} title="Facts"><${Facts} of=${[["of", snapshot.run ? html`<${Link} to=${`/runs/${snapshot.run}`}><${Id} of=${snapshot.run} /><//>` : snapshot.series], ["files", count(snapshot.files)], ["size", html`<${Bytes} of=${snapshot.bytes} />`], ["added", html`<${Bytes} of=${snapshot.added_bytes} />`],
        ["tier", snapshot.tier], ["policy", snapshot.policy], ["tags", snapshot.tags.join(", ")], ["not found", snapshot.missing.join(", ")]]} /><p class="small muted">In the repository</p><${Copy} text=${snapshot.repository_id} /><//>
      <${Equivalent} operation="snapshots.view" said=${said} /></div></div>`;
}

function Held({ hold }) {
  return html`<div class="stack"><p><${Shape} tone="warn" /> Held by ${hold.placed_by}: ${hold.reason}</p><p class="muted">${hold.until ? html`until <${Time} at=${hold.until} both />` : "until two persons release it"}; since <${Time} at=${hold.placed_at} /></p>
    <${Action} operation="shortenings.ask" label="Ask to release" title="Ask to release the hold" body=${{ kind: "release-hold", subjects: [hold.id] }} fields=${[REASON]} consequence=${SECOND} told="Asked; another person approves" done=${toRequests} /></div>`;
}

const SECOND = "Nothing happens yet: another person approves, and the policy's delay passes first.";
const toRequests = () => go("/snapshots?view=two");

function Deeds({ snapshot, path, again }) {
  const said = { id: snapshot.id };
  const subjects = [snapshot.id];
  const hold = [REASON, { name: "until", label: "Until", kind: "moment", hint: "Without it, it holds until two persons release it." }];
  return html`
    ${snapshot.state === "checked" && html`<${Restore} body=${{ snapshot: snapshot.id, path }} label=${path === "/" ? "Restore" : "Restore this folder"} />`}
    ${snapshot.state === "trashed" && html`<${Action} operation="snapshots.untrash" label="Bring back" title="Bring back from the trash" first said=${said} fields=${[REASON, { ...hold[1], hint: "Held so long; for 30 days if nothing is said." }]} consequence="It is a snapshot again, and held, so that the rules do not take it at once." told="It is back, and held" done=${again} />`}
    ${["checked", "written"].includes(snapshot.state) && html`<${Action} operation="snapshots.hold" label="Hold" title="Hold: keep it whatever the rules say" said=${said} fields=${hold} consequence="A hold beats every rule, every plan and every agreement. It can be placed by one person, and released early only by two." told="It is held" done=${again} />
      <${Action} operation="snapshots.tag" label="Tag" title="Add tags" said=${said} fields=${[{ name: "tags", label: "Tags", kind: "lines", required: true }]} consequence="Keep rules may name tags. Only two persons take one away." told="Tagged" done=${again} />
      ${snapshot.doubt && html`<${Action} operation="shortenings.ask" label="Ask: it is sound" title="Ask to count it as sound" body=${{ kind: "agree", subjects }} fields=${[REASON]} consequence=${SECOND} told="Asked; another person approves" done=${toRequests} />`}
      <${Action} operation="shortenings.ask" label="Ask to forget" title="Ask to forget it before its time" danger body=${{ kind: "forget", subjects }} fields=${[REASON]} consequence=${SECOND} told="Asked; another person approves" done=${toRequests} />`}`;
}

/** The plan reads what would be replaced in place, and its digest is what is agreed to. */
function Restore({ body, label, fields = [], consequence = "Files come into a new folder; nothing that stands is touched." }) {
  const all = [...fields,
    { name: "to", label: "Into the folder", required: true, hint: "The whole path of a new folder on this node, below one of the roots that the protect policy names." },
    { name: "first", label: "Wanted first", kind: "lines", hint: "Patterns, such as *.pt: these stand before the others." },
    { name: "in_place", label: "In place: the folder stands already", kind: "check", hint: "What differs is moved aside and replaced; the plan shows each. Nothing is deleted." },
  ];
  return html`<${Action} operation="restores.request" label=${label} title=${label} first fields=${all} body=${body} agree="agreed" consequence=${consequence} told="The restore begins" done=${(restore) => go(`/restores/${restore.id}`)} />`;
}

function AsOf() {
  const fields = [
    { name: "run", label: "Of the run", hint: "An id; or a series below." }, { name: "series", label: "Of the series", hint: "Such as that of a protected folder." },
    { name: "as_of", label: "As of", kind: "moment", hint: "The newest that was on record then; of now if nothing is said." }, { name: "path", label: "Only the path", hint: "Everything if nothing is said." },
  ];
  return html`<${Restore} body=${{}} label="Restore as of a time" fields=${fields} consequence="The newest checked snapshot that was on record at that time comes into a folder." />`;
}

// --- its files -----------------------------------------------------------------------------------------------------------

/** In the order of their paths, each under its folder; a press on a folder shows only what lies in it. */
function Files({ snapshot, path, setPath }) {
  const load = async (after, limit) => {
    const found = await call("snapshots.files", { id: snapshot.id, path, after, limit });
    return { rows: found.files, next: found.next };
  };
  const depth = (file) => file.path.split("/").length - (path === "/" ? 2 : path.split("/").length + 1);
  const base = (file) => file.path.slice(file.path.lastIndexOf("/") + 1);
  const columns = [
    { name: "path", label: "Name", width: "minmax(140px, 3fr)", text: (f) => f.path, cell: (f) => html`<span style=${{ paddingLeft: `${16 * Math.max(0, depth(f))}px` }} title=${f.path}>${f.type === "folder" ? html`<button class="link" onClick=${() => setPath(f.path)}>${base(f)}/</button>` : base(f)}</span>` },
    { name: "size", label: "Size", width: "88px", right: true, text: (f) => f.size_bytes, cell: (f) => (f.type === "folder" ? "" : html`<${Bytes} of=${f.size_bytes} />`) },
    { name: "digest", label: "Digest", width: "112px", wide: true, text: (f) => f.digest ?? "", cell: (f) => (f.digest ? html`<span class="mono" title=${f.digest}>${f.digest.slice(0, 12)}…</span>` : html`<span class="muted">–</span>`) },
    { name: "versions", label: "Versions", width: "72px", wide: true, cell: (f) => (f.type === "folder" ? "" : html`<button class="link" onClick=${() => {
      setPath(f.path);
      goQuery({ view: "versions" });
    }}>versions</button>`) },
  ];
  return html`<${Way} path=${path} setPath=${setPath} /><${Table} name="files" label="Files" columns=${columns} load=${load} id=${(f) => f.path} rows=${16} every=${0} deps=${[path]} empty=${html`<${Empty} title="Nothing lies here" />`} />`;
}

/** Where in the tree; each part leads back to it. */
function Way({ path, setPath }) {
  const parts = path.split("/").filter(Boolean);
  return html`<nav class="row mono" aria-label="Folder"><button class="link" onClick=${() => setPath("/")}>all</button>${parts.map((name, at) => html`<span key=${at}>/ ${at === parts.length - 1 ? name : html`<button class="link" onClick=${() => setPath(`/${parts.slice(0, at + 1).join("/")}`)}>${name}</button>`}</span>`)}</nav>`;
}

const CHANGES = [
  { name: "change", label: "Change", width: "108px", text: (c) => c.change, cell: (c) => html`<${Badge} state=${c.change} tone=${{ added: "good", removed: "bad", changed: "warn" }[c.change] ?? "wait"} />` },
  { name: "path", label: "Path", width: "minmax(140px, 3fr)", text: (c) => c.path, cell: (c) => html`<span class="mono" title=${c.path}>${c.path}</span>` },
  { name: "before", label: "Before", width: "84px", right: true, wide: true, text: (c) => c.size_bytes_before ?? 0, cell: (c) => html`<${Bytes} of=${c.size_bytes_before} />` },
  { name: "after", label: "After", width: "84px", right: true, wide: true, text: (c) => c.size_bytes_after ?? 0, cell: (c) => html`<${Bytes} of=${c.size_bytes_after} />` },
];

function Different({ snapshot }) {
  const [other, setOther] = useState("");
  const asked = useAsk("snapshots.list_snapshots", { series: snapshot.series, limit: 100 }, { every: 0 });
  const beside = useAsk("snapshots.list_snapshots", { policy: snapshot.policy, state: "checked", limit: 100 }, { every: 0 });
  const same = (asked.answer?.snapshots ?? []).filter((one) => one.id !== snapshot.id);
  const known = new Set(same.map((one) => one.id));
  const rest = (beside.answer?.snapshots ?? []).filter((one) => one.id !== snapshot.id && !known.has(one.id));
  const load = async (after, limit) => {
    const found = await call("restores.diff", { id: snapshot.id, to: other, after, limit });
    return { rows: found.changes, next: found.next };
  };
  const option = (one) => html`<option key=${one.id} value=${one.id}>${one.recorded_at.slice(0, 16).replace("T", " ")} UTC, ${plural(one.files, "file")}, ${size(one.bytes)}</option>`;
  return html`<div class="field"><label for="other">Compared with</label><select id="other" value=${other} onChange=${(event) => setOther(event.currentTarget.value)}><option value="">choose one</option>
      ${same.length > 0 && html`<optgroup label="The same series">${same.map(option)}</optgroup>`}${rest.length > 0 && html`<optgroup label="The same policy">${rest.map(option)}</optgroup>`}</select></div>
    ${other ? html`<${Table} name="changes" label="Changes" columns=${CHANGES} load=${load} id=${(c) => c.path} rows=${14} every=${0} deps=${[other]} empty=${html`<${Empty} title="Nothing is different">Both hold the same, byte for byte.<//>`} /><${Equivalent} operation="restores.diff" said=${{ id: snapshot.id, to: other }} />` : asked.answer && !same.length && !rest.length && html`<${Empty} title="No other to compare with">The next of this policy can be.<//>`}`;
}

const VERSIONS = [
  { name: "change", label: "Change", width: "minmax(80px, 100px)", text: (v) => v.change, cell: (v) => html`<${Badge} state=${v.change} tone=${{ new: "good", gone: "bad", changed: "warn" }[v.change] ?? "wait"} />` },
  { name: "snapshot", label: "In", width: "minmax(96px, 1fr)", text: (v) => v.snapshot, cell: (v) => html`<${Link} to=${`/snapshots/${v.snapshot}`}><${Id} of=${v.snapshot} /><//>` },
  { name: "size", label: "Size", width: "84px", right: true, wide: true, text: (v) => v.size_bytes ?? 0, cell: (v) => html`<${Bytes} of=${v.size_bytes} />` },
  { name: "digest", label: "Digest", width: "112px", wide: true, text: (v) => v.digest ?? "", cell: (v) => (v.digest ? html`<span class="mono" title=${v.digest}>${v.digest.slice(0, 12)}…</span>` : html`<span class="muted">–</span>`) },
  { name: "at", label: "Recorded", width: "minmax(82px, 104px)", text: (v) => v.recorded_at, cell: (v) => html`<${Time} at=${v.recorded_at} />` },
];

function Versions({ snapshot, path, setPath }) {
  const [asOf, setAsOf] = useState("");
  const of = snapshot.run ? { run: snapshot.run } : { series: snapshot.series };
  const said = { path, ...of, as_of: asOf ? new Date(asOf).toISOString() : null };
  const load = async (after, limit) => {
    const found = await call("restores.versions", { ...said, every: true, after, limit });
    return { rows: found.versions, next: found.next };
  };
  return html`<${Way} path=${path} setPath=${setPath} /><div class="field"><label for="as-of">On record as of</label><input id="as-of" type="datetime-local" value=${asOf} onInput=${(event) => setAsOf(event.currentTarget.value)} /></div>
    ${path === "/" ? html`<${Empty} title="Choose a file first">Under Files, “versions” beside a file leads here.<//>` : html`<${Table} name="versions" label="Versions" columns=${VERSIONS} load=${load} id=${(v) => v.snapshot} link=${(v) => `/snapshots/${v.snapshot}`} rows=${10} every=${0} deps=${[path, said.as_of]} empty=${html`<${Empty} title="None was on record then" />`} /><${Equivalent} operation="restores.versions" said=${said} />`}`;
}

// --- restores ---------------------------------------------------------------------------------------------------------------

const ENDED = new Set(["complete", "incomplete", "cancelled", "failed"]);
const RESTORES = [
  { name: "state", label: "State", width: "minmax(84px, 116px)", text: (r) => r.state, cell: (r) => html`<${Badge} state=${r.state} />` },
  { name: "restore", label: "Restore", width: "minmax(96px, 150px)", text: (r) => r.id, cell: (r) => html`<${Link} to=${`/restores/${r.id}`}><${Id} of=${r.id} /><//>` },
  { name: "to", label: "Into", width: "minmax(120px, 2fr)", wide: true, text: (r) => r.to, cell: (r) => html`<span class="mono" title=${r.to}>${r.to}</span>` },
  { name: "far", label: "How far", width: "130px", wide: true, text: (r) => r.bytes, cell: (r) => (ENDED.has(r.state) ? html`${plural(r.files, "file")}` : html`<${Progress} done=${r.bytes} of=${r.of_bytes} label=${`restored of ${r.id}`} />`) },
  { name: "bytes", label: "Size", width: "minmax(70px, 84px)", right: true, text: (r) => r.bytes, cell: (r) => html`<${Bytes} of=${r.of_bytes ?? r.bytes} />` },
  { name: "at", label: "Asked for", width: "104px", wide: true, text: (r) => r.created_at, cell: (r) => html`<${Time} at=${r.created_at} />` },
];

async function restores(after, limit) {
  const found = await call("restores.list_restores", { after, limit });
  return { rows: found.restores, next: found.next };
}

function Restores() {
  return html`<${Panel}><${Table} name="restores" label="Restores" columns=${RESTORES} load=${restores} id=${(r) => r.id} link=${(r) => `/restores/${r.id}`} rows=${16}
    empty=${html`<${Empty} title="Nothing was restored yet">Each snapshot has a button for it; a drill restores some by itself.<//>`} /><//><${Equivalent} operation="restores.list_restores" />`;
}

function OneRestore({ id }) {
  const asked = useAsk("restores.view", { id });
  return html`<${Asked} asked=${asked} rows=${6}>${(restore) => html`<${Coming} restore=${restore} again=${asked.again} />`}<//>`;
}

function Coming({ restore: r, again }) {
  const trouble = [["damaged", r.damaged, r.damaged_count, "Left out: what is kept of them is damaged."], ["left", r.left, r.left_count, "Not restored, because something stood there."], ["warnings", r.warnings, r.warnings_count, "Restored, with less than they had."]].filter(([, , n]) => n > 0);
  return html`<${Head} title=${html`<${Id} of=${r.id} whole />`} badge=${html`<${Badge} state=${r.state} />`} below=${html`asked for by ${r.created_by} <${Time} at=${r.created_at} />`}>
      ${!ENDED.has(r.state) && html`<${Action} operation="restores.cancel" label="Cancel" title="Stop the restore" danger said=${{ id: r.id }} disabled=${r.cancelling ? "It is stopping" : undefined} consequence="It stops between two pieces; what has landed stays." told="It stops" done=${again} />`}<//>
    ${r.explanation && html`<p class="stale" role="status"><${Shape} tone=${r.state === "failed" ? "bad" : "warn"} /> ${r.explanation}</p>`}
    <div class="two"><div class="stack"><${Panel} title="How far"><${Progress} done=${r.state === "complete" ? 1 : r.bytes} of=${r.state === "complete" ? 1 : r.of_bytes} label="restored" tone=${r.state === "complete" ? "good" : "work"} />
        <div class="figure-row"><p class="big"><strong>${size(r.bytes)}</strong><span class="muted">of ${size(r.of_bytes)}</span></p><p class="big"><strong>${count(r.files)}</strong><span class="muted">of ${plural(r.of_files ?? r.files, "file")}</span></p><p class="big"><strong>${rate(r.rate_bytes_s)}</strong><span class="muted">${ENDED.has(r.state) ? `over ${duration(r.seconds)}` : r.eta_s === null ? "" : `about ${duration(r.eta_s)} to go`}</span></p></div><//>
      ${trouble.map(([name, paths, n, why]) => html`<${Panel} key=${name} title=${`${words(name)}: ${count(n)}`}><p class="muted">${why}</p><ul class="facts-list mono small">${paths.map((path) => html`<li key=${path}>${path}</li>`)}</ul><//>`)}</div>
    <div class="stack"><${Panel} title="Facts"><${Facts} of=${[["snapshot", html`<${Link} to=${`/snapshots/${r.snapshot}`}><${Id} of=${r.snapshot} /><//>`], ["path", html`<span class="mono">${r.path}</span>`], ["into", html`<span class="mono">${r.to}</span>`], ["in place", r.in_place ? "yes" : null], ["moved aside", r.aside && html`<span class="mono">${r.aside}</span>`],
        ["wanted first", r.first.join(", ")], ["these stood", r.first.length && r.first_at ? html`<${Time} at=${r.first_at} />` : null], ["began", html`<${Time} at=${r.started_at} />`], ["ended", r.finished_at && html`<${Time} at=${r.finished_at} />`]]} /><//><${Equivalent} operation="restores.view" said=${{ id: r.id }} /></div></div>`;
}

// --- retention -------------------------------------------------------------------------------------------------------------------

const COUNTED = ["last", "hourly", "daily", "weekly", "monthly", "yearly"];

function Retention() {
  const asked = useAsk("shortenings.protection");
  return html`<${Asked} asked=${asked} rows=${8}>${({ policies }) => (policies.length ? html`${policies.map((one) => html`<${Terms} key=${one.policy} of=${one} />`)}<${Simulated} policies=${policies} />` : html`<${Empty} title="No policy protects yet">A policy of the kind <code>protect</code> says what is kept, and how long.<//>`)}<//>`;
}

function Terms({ of }) {
  const { keep, ...terms } = of.terms;
  const rules = [...COUNTED.filter((name) => keep[name]).map((name) => `${name} ${keep[name]}`), keep.within_s ? `all within ${duration(keep.within_s)} of the newest` : "", ...(keep.tags ?? []).map((tag) => `tag ${tag}`)].filter(Boolean);
  return html`<${Panel} title=${of.policy} aside=${html`<${Tally} counts=${of.snapshots} />`}><div class="two"><${Facts} of=${[["keeps", rules.join(", ") || "everything"], ["none before", duration(keep.at_least_s)], ["then in the trash", duration(terms.trash_s)], ["shorter only after", `two persons, and ${duration(terms.delay_s)}`], ["at most at once", terms.breaker_percent ? `${terms.breaker_percent} % of a series` : null], ["locked for", terms.lock_s ? duration(terms.lock_s) : null], ["copied to", terms.copy || null], ["holds since", html`<${Time} at=${of.since} />`]]} />
      <ul class="events" aria-label="Turns">${of.turns.map((turn) => html`<li key=${turn.id}><${Badge} state=${turn.state} /><span class="grow">${words(turn.kind)}${turn.explanation ? html`<span class="muted">: ${turn.explanation}</span>` : ""}</span><${Time} at=${turn.finished_at ?? turn.started_at} /></li>`)}</ul></div>
    ${of.shorter.length > 0 && html`<p class="stale"><${Shape} tone="warn" /> Its file promises less (${of.shorter.join(", ")}). That waits for <${Link} to="/snapshots?view=two">two persons<//>.</p>`}
    <${Forgetting} policy=${of.policy} /><//>`;
}

function Forgetting({ policy }) {
  const asked = useAsk("snapshots.forget_plan", { policy }, { every: 60_000 });
  return html`<details class="numbers"><summary>What the rules would keep and forget now</summary><${Asked} asked=${asked} rows=${3}>${(plan) => html`<${Plan} plan=${plan} />`}<//></details>`;
}

/** Other rules, tried on what was recorded: nothing is changed. */
function Simulated({ policies }) {
  const [policy, setPolicy] = useState(policies[0].policy);
  const begin = policies.find((one) => one.policy === policy)?.terms.keep ?? {};
  const [changed, setChanged] = useState({});
  const keep = Object.fromEntries([...COUNTED, "at_least_s"].map((name) => [name, changed[name] ?? begin[name]]).concat([["within_s", begin.within_s ?? null], ["tags", begin.tags ?? []]]));
  const asked = useAsk("snapshots.simulate", {}, { every: 0, body: { policy, keep } });
  const set = (name, value) => setChanged({ ...changed, [name]: Math.max(0, Math.trunc(Number(value) || 0)) });
  return html`<${Panel} title="Try other rules" aside=${html`<select aria-label="Policy" value=${policy} onChange=${(event) => {
    setPolicy(event.currentTarget.value);
    setChanged({});
  }}>${policies.map((one) => html`<option key=${one.policy}>${one.policy}</option>`)}</select>`}>
    <div class="rules">${COUNTED.map((name) => html`<div class="field" key=${name}><label for=${`keep-${name}`}>${name}</label><input id=${`keep-${name}`} type="number" min="0" value=${keep[name] ?? 0} onInput=${(event) => set(name, event.currentTarget.value)} /></div>`)}</div>
    <${Asked} asked=${asked} rows=${6}>${(told) => html`<${Picture} told=${told} />`}<//><${Equivalent} operation="snapshots.simulate" body=${{ policy, keep }} /><//>`;
}

function Picture({ told }) {
  const at = useMemo(() => told.moments.map((one) => Date.parse(one.at) / 1000), [told]);
  const series = useMemo(() => [{ label: "kept", values: told.moments.map((one) => one.kept), fill: true }], [told]);
  const bytes = useMemo(() => [{ label: "size before sharing", values: told.moments.map((one) => one.bytes), fill: true, colour: "var(--series-2)" }], [told]);
  return html`<p>With <strong>${told.rules || "no rule"}</strong>: of ${plural(told.standing, "snapshot")} that stand, ${told.leaving_count ? `${count(told.leaving_count)} would no longer be kept in time` : "none would leave in the time ahead"}; ${plural(told.later, "more snapshot")} are thought to come.</p>
    ${told.shorter.length > 0 && html`<p class="stale"><${Shape} tone="warn" /> Less than the policy's file promises: ${told.shorter.join(", ")}. To make it so takes two persons.</p>`}
    <div class="grid"><${TimePlot} at=${at} series=${series} label="Snapshots kept, a year back and three months ahead" height=${150} /><${TimePlot} at=${at} series=${bytes} format=${size} label="Their size before anything is shared" height=${150} /></div>
    ${told.leaving.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label="What would leave"><table><thead><tr><th>snapshot</th><th>leaves</th><th>why</th></tr></thead><tbody>${told.leaving.slice(0, 50).map((one) => html`<tr key=${one.snapshot}><td><${Link} to=${`/snapshots/${one.snapshot}`}><${Id} of=${one.snapshot} /><//></td><td class="nowrap"><${Time} at=${one.at} /></td><td>${one.reason}</td></tr>`)}</tbody></table></div>`}`;
}

// --- two persons -------------------------------------------------------------------------------------------------------------------

const KINDS = [["shorten", "Shorter rules of a policy"], ["forget", "Forget snapshots"], ["empty-trash", "Empty the trash"], ["release-hold", "Release holds"], ["agree", "Count doubtful snapshots as sound"], ["untag", "Take tags away"], ["large", "A large step of a policy"], ["remove-key", "Remove keys of a repository"]];
const OPEN = new Set(["asked", "approved"]);
const kindOf = (kind) => KINDS.find(([is]) => is === kind)?.[1] ?? words(kind);

const REQUESTS = [
  { name: "state", label: "State", width: "minmax(84px, 112px)", text: (s) => s.state, cell: (s) => html`<${Badge} state=${s.state} />` },
  { name: "kind", label: "What", width: "minmax(100px, 1fr)", text: (s) => s.kind, cell: (s) => kindOf(s.kind) },
  { name: "reason", label: "Why", width: "minmax(120px, 2fr)", wide: true, text: (s) => s.reason, cell: (s) => html`<span title=${s.reason}>${s.reason}</span>` },
  { name: "by", label: "Asked by", width: "minmax(78px, 100px)", text: (s) => s.requested_by, cell: (s) => s.requested_by },
  { name: "approved", label: "Approved by", width: "100px", wide: true, text: (s) => s.approved_by ?? "", cell: (s) => s.approved_by ?? html`<span class="muted">–</span>` },
  { name: "at", label: "Asked", width: "104px", wide: true, text: (s) => s.requested_at, cell: (s) => html`<${Time} at=${s.requested_at} />` },
];

async function requests(after, limit) {
  const found = await call("shortenings.list_shortenings", { after, limit });
  return { rows: found.shortenings, next: found.next };
}

function TwoPersons() {
  const [turn, setTurn] = useState(0);
  const asked = useAsk("shortenings.list_shortenings", { limit: 100 });
  const again = () => {
    setTurn(turn + 1);
    asked.again();
  };
  const fields = [{ name: "kind", label: "What", kind: "choice", choices: KINDS, value: "shorten", required: true }, { name: "policy", label: "Policy", hint: "Of shorter rules, a large step, a key." },
    { name: "subjects", label: "Which", kind: "lines", hint: "Snapshots, holds or keys, by id." }, { name: "tags", label: "Tags that go", kind: "lines" }, REASON];
  return html`<${Panel} title="Waiting" aside=${html`<${Action} operation="shortenings.ask" label="Ask" title="Ask for what shortens protection" fields=${fields} body=${{}} consequence=${SECOND} told="Asked; another person approves" done=${again} />`}>
      <${Asked} asked=${asked} rows=${3}>${({ shortenings }) => {
        const open = shortenings.filter((one) => OPEN.has(one.state));
        return open.length ? html`<ul class="lines">${open.map((one) => html`<${Request} key=${one.id} one=${one} again=${again} />`)}</ul>` : html`<${Empty} title="Nothing waits"><${Shape} tone="good" /> What would make protection shorter is asked for here by one person and approved by another.<//>`;
      }}<//><//>
    <${Panel} title="All requests"><${Table} name="requests" label="Requests" columns=${REQUESTS} load=${requests} id=${(s) => s.id} rows=${8} deps=${[turn]} empty=${html`<${Empty} title="Nobody asked yet" />`} /><//>
    <${Equivalent} operation="shortenings.list_shortenings" />`;
}

function Request({ one, again }) {
  const me = useStore(session)?.actor;
  const said = { id: one.id };
  const mine = one.requested_by === me;
  return html`<li><p class="row apart"><strong>${kindOf(one.kind)}${one.policy ? ` of ${one.policy}` : ""}</strong><${Badge} state=${one.state} /></p><p>“${one.reason}”, asked by ${one.requested_by} <${Time} at=${one.requested_at} />.</p>
    ${one.subjects.length > 0 && html`<p class="row">${one.subjects.slice(0, 20).map((id) => (id.startsWith("snapshot-") ? html`<${Link} key=${id} to=${`/snapshots/${id}`}><${Id} of=${id} /><//>` : html`<${Id} key=${id} of=${id} />`))}${one.subjects.length > 20 ? ` and ${one.subjects.length - 20} more` : ""}</p>`}
    ${one.shorter.length > 0 && html`<p>Less than now: ${one.shorter.join(", ")}.</p>`}
    <p class="muted">${one.approved_by ? html`Approved by ${one.approved_by} <${Time} at=${one.approved_at} />; acts <${Time} at=${one.not_before} both />.` : html`Acts not before <${Time} at=${one.not_before} both />, and lapses <${Time} at=${one.lapses_at} />.`}</p>
    <p class="row">${one.state === "asked" && html`<${Action} operation="shortenings.approve" label="Approve" title="Approve, as another person" danger said=${said} disabled=${mine ? "You asked for it: another person approves" : undefined} consequence=${html`${kindOf(one.kind)}. It is carried out when the delay has passed, and can be withdrawn until then.`} told="Approved" done=${again} />`}
      <${Action} operation="shortenings.withdraw" label="Withdraw" title="Take it back" said=${said} consequence="Protection stays as it is." told="Withdrawn" done=${again} /></p></li>`;
}
