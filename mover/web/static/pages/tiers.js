// Tiers: how full and how fast, what fills them, what stands there twice, and whether they are as the catalog says.
import { html, useState } from "../lib/preact.js";
import { call } from "../lib/api.js";
import { count, duration, percent, plural, rate, size, usedLately, words } from "../lib/format.js";
import { useAsk } from "../lib/live.js";
import { go, goQuery, Link } from "../lib/router.js";
import { may } from "../lib/session.js";
import { Action, Asked, Badge, Bytes, Dialog, Duration, Empty, Equivalent, Facts, Head, Heatmap, Histogram, Id, Meter, Panel, Progress, SaveFigure, Shape, Table, Tabs, Tally, Time, TimePlot, Treemap } from "../parts/all.js";
import { REASON, tagField } from "./tags.js";

const ROLES = { source: "where slides come from", archive: "de-identified, for ever", flash: "beside the cluster", protect: "snapshots" };
const SLOW = { every: 30_000 };
const OLD_S = 3 * 365 * 86_400;

export default function Tiers({ name, query }) {
  const asked = useAsk("service.tiers");
  return html`<${Asked} asked=${asked} rows=${8}>${({ tiers }) => {
    if (!name) return html`<${All} tiers=${tiers} />`;
    const tier = tiers.find((one) => one.name === name);
    return tier ? html`<${OneTier} tier=${tier} tiers=${tiers} query=${query} key=${name} />` : html`<${Empty} title="There is no such tier"><${Link} to="/tiers">All tiers<//><//>`;
  }}<//>`;
}

// --- all of them ------------------------------------------------------------------------------------------

function All({ tiers }) {
  const levels = useAsk("oversight.levels", { days: 30 }, SLOW);
  const ages = useAsk(may("oversight.ages") ? "oversight.ages" : null, {}, SLOW);
  const known = new Map((levels.answer?.tiers ?? []).map((one) => [one.tier, one]));
  const aged = new Map((ages.answer?.tiers ?? []).map((one) => [one.tier, one]));
  return html`<${Head} title="Tiers" below="Places for bytes. Slides are de-identified on their way out of the identified zone." />
    <div class="grid wide">${tiers.map((tier) => html`<${Panel} key=${tier.name} id=${`tier-${tier.name}`} title=${html`<${Link} to=${`/tiers/${tier.name}`}>${tier.name}<//>`} aside=${html`<${Standing} tier=${tier} />`}>
      <p class="muted">${ROLES[tier.role] ?? tier.role}, ${tier.kind === "object" ? "a bucket" : "a file system"} in the ${tier.zone} zone</p>
      <${Fill} tier=${tier} level=${known.get(tier.name)} /><${Age} tier=${tier} of=${aged.get(tier.name)} /><${Deletes} tier=${tier} /><${Lock} tier=${tier} />
      ${tier.explanation && html`<p class="stale"><${Shape} tone="warn" /> ${tier.explanation}</p>`}<//>`)}</div>
    <${Pace} /><${Equivalent} operation="service.tiers" />`;
}

const Standing = ({ tier }) => html`<${Badge} state=${tier.online ? "online" : "offline"} tone=${tier.online ? "good" : "bad"} />`;

/** Nothing goes from a tier by any plan or person's word while this is off. */
const Deletes = ({ tier }) => html`<p class="small"><${Badge} state=${tier.deletes ? "deletion is on" : "deletion is off"} tone=${tier.deletes ? "work" : "wait"} /> <span class="muted">${tier.deletes ? "what plans and rules name goes from here" : "nothing goes from here, whatever is asked"}</span></p>`;

/** How long ago what stands there was last used. */
function Age({ tier, of }) {
  if (!of) return null;
  const said = usedLately(of);
  return html`<p class="small muted">${tier.zone === "deidentified" ? html`<${Link} to=${`/tiers/${tier.name}?tab=cold`}>${said}<//>` : said}</p>`;
}

function Fill({ tier, level }) {
  if (tier.capacity_bytes === null || tier.free_bytes === null) return html`<p class="muted">${tier.online ? "A bucket: it does not say how full it is." : "Not there now."}</p>`;
  const full = (tier.capacity_bytes - tier.free_bytes) / tier.capacity_bytes;
  const promised = Math.min(tier.reserved_bytes / tier.capacity_bytes, 1 - full);
  return html`<${Meter} label=${tier.name} parts=${[{ name: "used", share: full, tone: full > 0.95 ? "bad" : full > 0.85 ? "warn" : "accent" }, { name: "promised to runs", share: promised, tone: "wait" }]} />
    <p class="row apart small"><span>${percent(full, 1)} full, <${Bytes} of=${tier.free_bytes} /> free of <${Bytes} of=${tier.capacity_bytes} />${tier.reserved_bytes ? html`, <${Bytes} of=${tier.reserved_bytes} /> promised` : ""}</span><span class="muted">${forecast(level)}</span></p>`;
}

function forecast(level) {
  if (!level?.forecast) return "forecast after a day";
  const { likely_s, early_s, late_s } = level.forecast;
  const far = "a year or more";
  return likely_s === null ? "not full within a year" : `full in ${duration(likely_s)}, between ${early_s === null ? far : duration(early_s)} and ${late_s === null ? far : duration(late_s)}`;
}

function Lock({ tier }) {
  return tier.lock && html`<p><${Badge} state=${tier.lock.state} /> <span class="muted">${tier.lock.means}${tier.lock.probed_at ? html`, tried <${Time} at=${tier.lock.probed_at} />` : ", not tried yet"}</span> ${tier.lock.explanation ?? ""}</p>`;
}

function Pace({ tier }) {
  const asked = useAsk("oversight.pace", { minutes: 60 }, { every: 10_000 });
  return html`<${Panel} title="Pace" id="pace" aside=${html`<span class="muted">the last hour, all projects</span>`}><${Asked} asked=${asked} rows=${3}>${(told) => {
    const pairs = told.pairs.filter((one) => !tier || one.source === tier || one.target === tier);
    if (!pairs.length) return html`<${Empty} title="Nothing moved in the last hour" />`;
    return html`<${TimePlot} at=${told.at.map((one) => new Date(one) / 1000)} series=${pairs.map((p) => ({ label: `${p.source} → ${p.target}`, values: p.bytes_s, fill: true }))} format=${rate} height=${140} label=${`Bytes a second in the last hour: ${pairs.map((p) => `${p.source} to ${p.target} at most ${rate(Math.max(...p.bytes_s))}`).join("; ")}`} />`;
  }}<//><//>`;
}

// --- one tier ---------------------------------------------------------------------------------------------

function OneTier({ tier, tiers, query }) {
  const tabs = [["", "How full"], may("oversight.usage") && ["usage", "What fills it"], may("oversight.duplicates") && ["twice", "Twice"], tier.zone === "deidentified" && may("oversight.cold") && ["cold", "Cold"], may("scans.list_scans") && ["drift", "Scans and drift"], may("verify.list_verifications") && ["verify", "Read again"]].filter(Boolean);
  const tab = query.get("tab") ?? "";
  const Chosen = { usage: Usage, twice: Twice, cold: Cold, drift: Drift, verify: Verified }[tab] ?? Full;
  return html`<${Head} title=${tier.name} badge=${html`<${Standing} tier=${tier} />`} below=${`${ROLES[tier.role] ?? tier.role}; ${tier.zone} zone`}><${Deeds} tier=${tier} tiers=${tiers} /><//>
    <${Tabs} of=${tabs} chosen=${tab} choose=${(one) => goQuery({ tab: one, folder: null, by: null })} label="Views of the tier" />
    <${Chosen} tier=${tier} query=${query} />`;
}

function Deeds({ tier, tiers }) {
  const others = tiers.filter((one) => one.name !== tier.name && one.zone === tier.zone);
  const folder = { name: "prefix", label: "Only below", kind: "text", hint: "A folder of the tier; nothing is the whole tier." };
  return html`<${Action} operation="scans.declare" label="Scan" title=${`Scan ${tier.name}`} body=${{ tier: tier.name }} fields=${[folder, { name: "empty_ok", label: "It was emptied on purpose", kind: "check" }]}
      consequence="Every name is looked at, nothing is read or changed. What is new, changed or gone since is counted as drift." told="The scan begins" done=${() => goQuery({ tab: "drift" })} />
    <${Action} operation="verify.request" label="Read again" title=${`Read ${tier.name} again`} first body=${{ tier: tier.name }} fields=${[folder, { name: "repair_from", label: "Repair from", kind: "choice", choices: [["", "report only"], ...others.map((one) => [one.name, one.name])] }]}
      consequence="Every byte is read cold and compared with the catalog. Without a tier to repair from, nothing is changed." told="Reading begins" done=${() => goQuery({ tab: "verify" })} />`;
}

function Full({ tier }) {
  const levels = useAsk("oversight.levels", { days: 30 }, SLOW);
  const level = levels.answer?.tiers.find((one) => one.tier === tier.name);
  return html`<div class="two"><div class="stack"><${Panel} title="Level" aside=${html`<span class="muted">30 days</span>`}><${Fill} tier=${tier} level=${level} />${level && html`<${Level} level=${level} />`}<//><${Pace} tier=${tier.name} /></div>
    <div class="stack"><${Panel} title="What it can do" aside=${html`<span class="muted">as it was probed</span>`}><${Traits} of=${tier.traits} /><${Deletes} tier=${tier} /><p class="small muted">Switched by <code>deletes</code> of the tier in <code>mover.yaml</code>, by who runs the machine.</p><//>
      ${tier.lock && html`<${Panel} title="Could it be destroyed?"><${Lock} tier=${tier} />${tier.lock.succeeded.length > 0 && html`<p><${Shape} tone="bad" /> Not refused: ${tier.lock.succeeded.map(words).join(", ")}</p>`}<//>`}<${Equivalent} operation="oversight.levels" said=${{ days: 30 }} /></div></div>`;
}

/** What was, and where the forecast leads: a dashed line as long again as what is known, at most to the day it is full. */
function Level({ level }) {
  const at = level.at.map((one) => new Date(one) / 1000);
  if (at.length < 2) return html`<p class="muted">The line begins with the second look, ten minutes after the first.</p>`;
  const ahead = level.forecast && level.forecast.rate_bytes_s > 0 ? Math.min(at.at(-1) - at[0], level.forecast.likely_s ?? Infinity) : 0;
  const last = level.used_bytes.at(-1);
  const all = ahead ? [...at, at.at(-1) + ahead] : at;
  const series = [{ label: "used", values: ahead ? [...level.used_bytes, null] : level.used_bytes, fill: true }];
  if (ahead) series.push({ label: "forecast", dash: true, values: [...at.slice(0, -1).map(() => null), last, last + ahead * level.forecast.rate_bytes_s] });
  return html`<${TimePlot} at=${all} series=${series} marks=${last > level.capacity_bytes / 2 ? [{ value: level.capacity_bytes, label: "capacity" }] : []} format=${size} height=${220} label=${`Used of ${level.tier} over 30 days, now ${size(last)} of ${size(level.capacity_bytes)}; ${forecast(level)}`} /><${SaveFigure} operation="plots.fill" said=${{ tier: level.tier }} name=${`${level.tier}-fill`} />`;
}

function Traits({ of }) {
  const has = Object.entries(of).filter(([, value]) => typeof value === "boolean").sort(([, a], [, b]) => b - a);
  const said = Object.entries(of).filter(([, value]) => typeof value === "string" && value);
  return html`<${Facts} of=${said.map(([name, value]) => [words(name), value])} /><ul class="traits">${has.map(([name, value]) => html`<li key=${name} class=${value ? "" : "muted"}><${Shape} tone=${value ? "good" : "wait"} /> ${words(name)}<span class="hidden-text">${value ? ": yes" : ": no"}</span></li>`)}</ul>`;
}

// --- what fills it ----------------------------------------------------------------------------------------

function Usage({ tier, query }) {
  const folder = query.get("folder") ?? "";
  const asked = useAsk("oversight.usage", { name: tier.name, folder }, { every: 60_000 });
  return html`<${Asked} asked=${asked} rows=${10}>${(seen) => seen.count === 0 ? html`<${Panel}><${Empty} title=${folder ? "Nothing is known below this folder" : "No scan has seen this tier yet"}>Scan it, and what fills it stands here: by folder, by size and by age.<//><//>` : html`<${Filled} seen=${seen} folder=${folder} />`}<//><${Equivalent} operation="oversight.usage" said=${{ name: tier.name, folder }} />`;
}

function Filled({ seen, folder }) {
  const within = plural(seen.count, "file");
  return html`<p class="row apart"><span><${Crumbs} folder=${folder} /></span><span class="muted">${within}, ${size(seen.bytes)}${seen.whole ? "" : "; more than one look counts, so look into a folder"}</span></p>
    ${seen.folders ? html`<${Panel} title="By folder" id="folders"><${Folders} seen=${seen} folder=${folder} /><//>` : html`<p class="muted">Folders of an identified tier can be names of people: they are neither shown nor counted one by one.</p>`}
    <${Panel} title="By size and age" id="ages"><${Ages} seen=${seen} /><//>`;
}

function Crumbs({ folder }) {
  const parts = folder.split("/").filter(Boolean);
  return html`<nav aria-label="Folder" class="row"><button class="link" disabled=${!parts.length} onClick=${() => goQuery({ folder: null })}>the whole tier</button>${parts.map((part, at) => html`<span key=${at}>/ <button class="link mono" onClick=${() => goQuery({ folder: `${parts.slice(0, at + 1).join("/")}/` })}>${part}</button></span>`)}</nav>`;
}

function Folders({ seen, folder }) {
  const items = seen.folders.map((one) => ({
    id: one.name ?? "", name: one.name ?? "files right here", size: one.bytes, shade: Math.min(1, Math.log1p(one.age_s / 86_400) / Math.log1p(OLD_S / 86_400)),
    title: `${one.name ?? "files right here"}: ${size(one.bytes)} in ${plural(one.count, "file")}, ${duration(one.age_s)} old on average`,
  }));
  return html`<${Treemap} items=${items} label=${`Folders by size, coloured by age: ${items.slice(0, 5).map((i) => `${i.name} ${size(i.size)}`).join(", ")}`} legend=${["new", "old"]} choose=${(id) => id && goQuery({ folder: `${folder}${id}` })} /><${SaveFigure} operation="plots.treemap" said=${{ tier: seen.tier, folder: seen.folder }} name=${`${seen.tier}-folders`} />`;
}

function Ages({ seen }) {
  const between = (bounds, said) => [`below ${said(bounds[0])}`, ...bounds.slice(1).map((b) => `to ${said(b)}`), `above ${said(bounds.at(-1))}`];
  const rows = between(seen.sizes, size);
  const columns = between(seen.ages_s, aged);
  const cells = rows.map((_, i) => columns.map((__, j) => {
    const found = seen.cells.find((one) => one.size === i && one.age === j);
    return found ? { value: found.bytes, text: size(found.bytes), title: `${plural(found.count, "file")}, ${size(found.bytes)}` } : 0;
  }));
  return html`<${Heatmap} rows=${rows} columns=${columns} cells=${cells} label="Bytes by size of file and by age" format=${size} /><${SaveFigure} operation="plots.ages" said=${{ tier: seen.tier, folder: seen.folder }} name=${`${seen.tier}-ages`} />`;
}

function aged(s) {
  const days = s / 86_400;
  return days >= 365 ? plural(Math.round(days / 365), "year") : plural(days, "day");
}

// --- what stands there twice ------------------------------------------------------------------------------

const TWICE = [
  { name: "spare", label: "To spare", width: "88px", right: true, text: (d) => d.spare_bytes, cell: (d) => html`<strong><${Bytes} of=${d.spare_bytes} /></strong>` },
  { name: "count", label: "Files", width: "56px", right: true, text: (d) => d.count, cell: (d) => count(d.count) },
  { name: "bytes", label: "Of one", width: "96px", right: true, wide: true, text: (d) => d.bytes, cell: (d) => html`<${Bytes} of=${d.bytes} />` },
  { name: "digest", label: "Digest", width: "minmax(84px, 1fr)", text: (d) => d.digest, cell: (d) => html`<span class="mono" title=${d.digest}>${d.digest.slice(0, 12)}…</span>` },
  { name: "keys", label: "Some of them", width: "minmax(120px, 3fr)", wide: true, text: (d) => (d.keys ?? []).join(" "), cell: (d) => html`<span class="mono" title=${(d.keys ?? []).join("\n")}>${d.keys ? d.keys.join(", ") : "names, not shown"}</span>` },
];

function Twice({ tier }) {
  const load = async (after, limit) => {
    const found = await call("oversight.duplicates", { name: tier.name, after, limit });
    return { rows: found.duplicates, next: found.next };
  };
  return html`<${Panel} title="The same content, more than once"><p class="muted">By digest, so only of files whose bytes were read. Names that share one inode are counted each.</p>
    <${Table} name="twice" label="Duplicates" columns=${TWICE} load=${load} id=${(d) => d.digest} every=${0} rows=${14} empty=${html`<${Empty} title="No content is known to stand here twice">Digests come by reading the tier again, or by a transfer onto it.<//>`} />
    <${Equivalent} operation="oversight.duplicates" said=${{ name: tier.name }} /><//>`;
}

// --- what nobody used for long ---------------------------------------------------------------------------

const OLDER = [["30", "a month"], ["90", "three months"], ["180", "half a year"], ["365", "a year"], ["730", "two years"]];
const HOW = { written: "written", staged: "staged for a run", viewed: "looked at" };
const COLD_BY = { archive: ["slide", "folder"], flash: ["run", "cohort", "folder"] };
const BY = { folder: "Folder", slide: "Slide", run: "Run", cohort: "Cohort" };
const PICTURED = 200;

/** Oldest first, and a picture of the first of it. Nothing goes from here: a selection can be tagged. */
function Cold({ tier, query }) {
  const ways = COLD_BY[tier.role] ?? ["folder"];
  const by = ways.includes(query.get("by")) ? query.get("by") : ways[0];
  const days = query.get("older") ?? "180";
  const older = Number(days) * 86_400;
  const folder = by === "folder" ? (query.get("folder") ?? "") : "";
  const asked = useAsk("oversight.cold", { name: tier.name, older, by, folder, limit: PICTURED }, SLOW);
  const choose = { name: "older", label: "Not used for", kind: "choice", choices: OLDER };
  return html`<div class="row apart"><div class="row"><label class="row">Not used for <select value=${days} onChange=${(event) => goQuery({ older: event.currentTarget.value })}>${choose.choices.map(([is, said]) => html`<option key=${is} value=${is}>${said}</option>`)}</select></label>
        ${ways.length > 1 && html`<label class="row">by <select value=${by} onChange=${(event) => goQuery({ by: event.currentTarget.value, folder: null })}>${ways.map((one) => html`<option key=${one} value=${one}>${BY[one].toLowerCase()}</option>`)}</select></label>`}</div>
      ${by === "slide" && html`<${Action} operation="tags.change" label="Tag these slides" title=${`Tag what nobody used on ${tier.name}`} first body=${{ action: "add", cold: { tier: tier.name, older_s: older, folder } }} fields=${[tagField("cold"), REASON]} consequence="A word is put on them, and nothing else happens. A policy may move what has it." told="Tagged" done=${() => go("/tags")} />`}</div>
    <p class="muted">Used is what is known here: staged for a run, looked at, written. Nothing is moved or removed from here.</p>
    <${Ageing} tier=${tier} />
    <${Panel} title="The longest unused" id="cold">${by === "folder" && html`<${Crumbs} folder=${folder} />`}<${Asked} asked=${asked} rows=${6}>${({ items, whole }) => html`${!whole && html`<p class="stale"><${Shape} tone="warn" /> ${by === "folder" ? "Only the first 1,000,000 files here, by name, were looked at. Choose a folder to look closer." : "Slides that runs of long ago staged may stand here as unused. Ask for a shorter time."}</p>`}${(items.length ? html`<${ColdMap} items=${items} by=${by} folder=${folder} />` : html`<${Empty} title="Nothing is cold">All that is known here was used within ${aged(older)}.${by === "folder" && " Files show once a scan has seen them."}<//>`)}`}<//>
      <${ColdTable} tier=${tier} by=${by} older=${older} folder=${folder} /><${Equivalent} operation="oversight.cold" said=${{ name: tier.name, older, by, folder }} /><//>`;
}

function ColdMap({ items, by, folder }) {
  const drawn = items.map((one) => {
    const age_s = (Date.now() - new Date(one.used_at)) / 1000;
    const name = one.name ?? (by === "folder" ? "files right here" : "no cohort");
    return { id: one.name ?? "", name, size: one.bytes, shade: Math.min(1, Math.log1p(age_s / 86_400) / Math.log1p(OLD_S / 86_400)), title: `${name}: ${size(one.bytes)}, ${HOW[one.how]} ${duration(age_s)} ago` };
  });
  const choose = { folder: (id) => id && goQuery({ folder: `${folder}${id}` }), slide: (id) => go(`/slides/${id}`), run: (id) => go(`/runs/${id}`), cohort: (id) => id && go(`/cohorts/${id}`) }[by];
  return html`<${Treemap} items=${drawn} height=${220} label=${`What is cold, by size, coloured by how long nobody used it: ${drawn.slice(0, 5).map((i) => i.title).join("; ")}`} legend=${["used lately", "long ago"]} choose=${choose} />`;
}

function ColdTable({ tier, by, older, folder }) {
  const load = async (after, limit) => {
    const found = await call("oversight.cold", { name: tier.name, older, by, folder, after, limit });
    return { rows: found.items, next: found.next };
  };
  const named = (c) => {
    if (!c.name) return html`<span class="muted">${by === "folder" ? "files right here" : "no cohort"}</span>`;
    if (by === "folder") return html`<button class="link mono" onClick=${() => goQuery({ folder: `${folder}${c.name}` })}>${c.name}</button>`;
    return html`<${Link} to=${`/${by}s/${c.name}`}><span class="mono">${c.name}</span><//>`;
  };
  const columns = [
    { name: "name", label: BY[by], width: "minmax(112px, 3fr)", text: (c) => c.name ?? "", cell: named },
    { name: "bytes", label: "Size", width: "76px", right: true, text: (c) => c.bytes, cell: (c) => html`<${Bytes} of=${c.bytes} />` },
    { name: "count", label: by === "cohort" ? "Runs" : "Files", width: "72px", right: true, wide: true, text: (c) => c.count, cell: (c) => count(c.count) },
    { name: "used", label: "Last used", width: "84px", text: (c) => c.used_at, cell: (c) => html`<${Time} at=${c.used_at} />` },
    { name: "how", label: "As", width: "minmax(88px, 1fr)", wide: true, text: (c) => c.how, cell: (c) => HOW[c.how] },
  ];
  return html`<${Table} name="cold" label="Cold" columns=${columns} load=${load} id=${(c) => c.name ?? "-"} deps=${[by, older, folder]} every=${0} rows=${12} filter=${false} empty=${html`<p class="muted">Nothing to list.</p>`} />`;
}

/** How long ago what stands here was last used, in bars. */
function Ageing({ tier }) {
  const asked = useAsk("oversight.ages", {}, SLOW);
  const mine = asked.answer?.tiers.find((one) => one.tier === tier.name);
  if (!mine) return null;
  const bounds = asked.answer.ages_s;
  const names = [`below ${aged(bounds[0])}`, ...bounds.slice(1).map((b) => `to ${aged(b)}`), `above ${aged(bounds.at(-1))}`];
  const short = (s) => (s < 365 * 86_400 ? `${s / 86_400} d` : `${Math.round(s / 365 / 86_400)} y`);
  const bins = names.map((name, at) => {
    const found = mine.by_age.find((one) => one.age === at);
    return { label: at < bounds.length ? short(bounds[at]) : "more", count: found?.bytes ?? 0, title: `${name}: ${size(found?.bytes ?? 0)} in ${plural(found?.count ?? 0, "file")}` };
  });
  return html`<${Panel} title="Used how long ago" id="ageing" aside=${html`<span class="muted">${usedLately(mine)}</span>`}><${Histogram} bins=${bins} format=${size} label=${`Bytes by how long ago they were used: ${bins.filter((b) => b.count).map((b) => b.title).join("; ")}`} /><//>`;
}

// --- is it as the catalog says? ---------------------------------------------------------------------------

const drifted = (d) => d.new + d.changed + (d.gone ?? 0);

function Drift({ tier }) {
  const [open, setOpen] = useState(null);
  const load = async (after, limit) => {
    const found = await call("scans.list_scans", { tier: tier.name, after, limit });
    return { rows: found.scans, next: found.next };
  };
  const columns = [
    { name: "state", label: "State", width: "96px", text: (s) => s.state, cell: (s) => html`<${Badge} state=${s.state} />` },
    { name: "id", label: "Scan", width: "minmax(84px, 1fr)", text: (s) => s.id, cell: (s) => html`<button class="link" onClick=${() => setOpen(s)}><${Id} of=${s.id} /></button>` },
    { name: "entries", label: "Entries", width: "88px", right: true, wide: true, text: (s) => s.entries, cell: (s) => count(s.entries) },
    { name: "bytes", label: "Size", width: "88px", right: true, wide: true, text: (s) => s.bytes, cell: (s) => html`<${Bytes} of=${s.bytes} />` },
    { name: "drift", label: "Drift", width: "minmax(120px, 2fr)", wide: true, text: (s) => drifted(s.drift), cell: (s) => html`<${Drifted} of=${s.drift} />` },
    { name: "findings", label: "Not seen", width: "80px", right: true, wide: true, text: (s) => s.findings, cell: (s) => (s.findings ? html`<span class="badge warn"><${Shape} tone="warn" />${count(s.findings)}</span>` : html`<span class="muted">–</span>`) },
    { name: "at", label: "Begun", width: "minmax(84px, 112px)", text: (s) => s.created_at, cell: (s) => html`<${Time} at=${s.created_at} />` },
  ];
  return html`<${Panel} title="Scans"><${Table} name="scans" label="Scans" columns=${columns} load=${load} id=${(s) => s.id} rows=${12} filter=${false} empty=${html`<${Empty} title="Never scanned">A scan looks at every name and tells what changed since the last one.<//>`} />
    <${Equivalent} operation="scans.list_scans" said=${{ tier: tier.name }} /><//>${open && html`<${Findings} of=${open} operation="scans.findings" close=${() => setOpen(null)} />`}`;
}

function Drifted({ of }) {
  if (!drifted(of)) return html`<span class="muted">as it was</span>`;
  return html`<span>${count(of.new)} new, ${count(of.changed)} changed${of.changed_verified ? html` <span class="badge warn"><${Shape} tone="warn" />${count(of.changed_verified)} of them verified</span>` : ""}, ${of.gone === null || of.gone === undefined ? "gone not judged" : `${count(of.gone)} gone`}</span>`;
}

function Verified({ tier }) {
  const [open, setOpen] = useState(null);
  const load = async (after, limit) => {
    const found = await call("verify.list_verifications", { after, limit });
    return { rows: found.verifications.filter((one) => one.tier === tier.name), next: found.next };
  };
  const columns = [
    { name: "state", label: "State", width: "96px", text: (v) => v.state, cell: (v) => html`<${Badge} state=${v.state} />` },
    { name: "id", label: "Verification", width: "minmax(84px, 1fr)", text: (v) => v.id, cell: (v) => html`<button class="link" onClick=${() => setOpen(v)}><${Id} of=${v.id} /></button>` },
    { name: "far", label: "Read", width: "minmax(96px, 1fr)", wide: true, text: (v) => v.checked_bytes, cell: (v) => (["complete", "failed", "aborted"].includes(v.state) ? html`<${Bytes} of=${v.checked_bytes} />` : html`<${Progress} done=${v.checked_bytes} of=${v.bytes} label=${`read of ${v.id}`} />`) },
    { name: "findings", label: "Found", width: "minmax(88px, 2fr)", text: (v) => Object.values(v.findings).reduce((a, b) => a + b, 0), cell: (v) => (Object.keys(v.findings).length ? html`<${Tally} counts=${v.findings} />` : html`<span class="muted">${v.state === "complete" ? "as the catalog says" : "nothing yet"}</span>`) },
    { name: "deed", label: "", width: "88px", wide: true, cell: (v) => !["complete", "failed", "aborted"].includes(v.state) && html`<${Action} operation="verify.abort" label="End" title="Read no further" said=${{ id: v.id }} danger consequence="What was found stays." told="Reading ends" />` },
  ];
  return html`<${Panel} title="Verifications"><${Table} name="verifications" label="Verifications" columns=${columns} load=${load} id=${(v) => v.id} rows=${12} filter=${false} empty=${html`<${Empty} title="Never read again">Reading again finds what a walk cannot: rot under an unchanged name, size and time.<//>`} />
    <${Equivalent} operation="verify.list_verifications" /><//>${open && html`<${Findings} of=${open} operation="verify.findings" close=${() => setOpen(null)} />`}`;
}

/** What could not be seen or is not as it should be; names of identified tiers are not told. */
function Findings({ of, operation, close }) {
  const load = async (after, limit) => {
    const found = await call(operation, { id: of.id, after, limit });
    return { rows: found.findings, next: found.next };
  };
  const columns = [
    { name: "what", label: "What", width: "minmax(104px, 1fr)", text: (f) => f.kind ?? f.code, cell: (f) => html`<${Badge} state=${f.kind ?? f.code} tone=${f.kind ? undefined : "warn"} />` },
    { name: "where", label: "Where", width: "minmax(120px, 3fr)", text: (f) => f.key ?? f.path ?? "", cell: (f) => { const where = f.key ?? f.path; return where ? html`<span class="mono" title=${where}>${where}</span>` : html`<span class="muted">a name, not shown</span>`; } },
    { name: "at", label: "When", width: "104px", text: (f) => f.at, cell: (f) => html`<${Time} at=${f.at} />` },
  ];
  return html`<${Dialog} title=${html`<${Id} of=${of.id} whole />`} close=${close} wide>
    <p><${Badge} state=${of.state} /> ${of.explanation ?? ""}</p>
    <${Facts} of=${[["begun", html`<${Time} at=${of.created_at} both />`], ["ended", of.finished_at && html`<${Time} at=${of.finished_at} both />`], ["entries", count(of.entries)], ["size", html`<${Bytes} of=${of.bytes} />`], ["walked in", of.walk_s !== undefined ? html`<${Duration} of=${of.walk_s} />` : null], ["drift", of.drift && html`<${Drifted} of=${of.drift} />`]]} />
    <${Table} name="found" label="Findings" columns=${columns} load=${load} id=${(f) => f.id ?? `${f.code} ${f.path} ${f.at}`} rows=${6} every=${0} filter=${false} empty=${html`<${Empty} title="Nothing to tell of">All of it was seen, and is as it should be.<//>`} /><//>`;
}
