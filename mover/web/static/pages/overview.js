// The page that is open all day: what needs somebody, what moves, how full it gets, and what is on its way.
import { html } from "../lib/preact.js";
import { count, duration, plural, rate, size, usedLately } from "../lib/format.js";
import { useAsk } from "../lib/live.js";
import { Link } from "../lib/router.js";
import { may } from "../lib/session.js";
import { Asked, Badge, Bytes, Empty, Equivalent, Head, Id, Meter, Panel, Progress, SaveFigure, Shape, Sparkline, Tally, Time, TimePlot } from "../parts/all.js";

const TIMELY = { every: 10_000 };
const PICTURE = { every: 30_000 };

export default function Overview() {
  const status = useAsk("service.status");
  return html`<${Asked} asked=${status} rows=${10}>${(s) => html`
    <${Head} title="Overview" below=${`${s.node}, version ${s.version}; ${s.database}`} />
    <${Needs} />
    ${may("oversight.pace") && html`<${Moving} />`}
    <div class="two"><div class="stack">${may("service.tiers") && html`<${Tiers} tiers=${s.tiers} />`}</div>
      <div class="stack">${may("runs.list_runs") && html`<${OnTheWay} />`}<${Panel} title="Work"><p><${Tally} counts=${s.shards} /></p>${!Object.keys(s.shards).length && html`<p class="muted">No work yet.</p>`}<//></div></div>
    <${Equivalent} operation="oversight.needs" />`}<//>`;
}

// --- what needs somebody ----------------------------------------------------------------------------------

const URGENT = { now: { tone: "bad", said: "now" }, soon: { tone: "warn", said: "soon" }, know: { tone: "wait", said: "to know" } };
// where a need is dealt with: the one thing where it is one, else what lists them
const ONE = { run: "/runs/", batch: "/batches/", record: "/records/", snapshot: "/snapshots/", tier: "/tiers/" };
const MANY = {
  run: "/runs", batch: "/batches", record: "/records", snapshot: "/snapshots", tier: "/tiers", transfer: "/jobs", folder: "/snapshots?view=retention", policy: "/policies", audit: "/audit?tab=chain",
  quarantine: "/quarantine", shortening: "/snapshots?view=two", ruling: "/slides?view=rulings&open=true", shard: "/jobs?state=failed", service: "/tiers",
};
const CODES = { "work-retried": "/jobs?state=waiting" };

/** @param {{code: string, noun: string, subject?: string, tier?: string}} need */
export function placeOf(need) {
  if (need.tier) return `/tiers/${need.tier}?tab=${need.noun === "scan" ? "drift" : "verify"}`;
  return CODES[need.code] ?? (need.subject && ONE[need.noun] ? ONE[need.noun] + need.subject : MANY[need.noun]);
}

function Needs() {
  const asked = useAsk("oversight.needs");
  return html`<${Panel} title="What needs you" id="needs" aside=${asked.answer && html`<span class="muted">${plural(asked.answer.needs.length, "thing")}</span>`}><${Asked} asked=${asked} rows=${2}>${({ needs }) => needs.length
    ? html`<ul class="needs">${needs.map((need, at) => html`<${Need} key=${at} need=${need} />`)}</ul>`
    : html`<p class="calm"><${Shape} tone="good" /> Nothing waits for you.</p>`}<//><//>`;
}

function Need({ need }) {
  const { tone, said } = URGENT[need.severity];
  const to = placeOf(need);
  return html`<li><span class="badge ${tone}"><${Shape} tone=${tone} />${said}</span>
    <span class="grow"><strong>${to ? html`<${Link} to=${to}>${need.words}<//>` : need.words}</strong> <span class="muted">${need.hint}</span></span>
    ${need.since && html`<span class="muted small">for ${duration((Date.now() - new Date(need.since)) / 1000)}</span>`}</li>`;
}

// --- what moves -------------------------------------------------------------------------------------------

function Moving() {
  const asked = useAsk("oversight.pace", { minutes: 60 }, TIMELY);
  return html`<${Panel} title="Moving between tiers" id="moving" aside=${html`<span class="muted">the last hour, all projects</span>`}><${Asked} asked=${asked} rows=${4}>${(told) => told.pairs.length ? html`<${Paces} told=${told} />` : html`<${Empty} title="Nothing moved in the last hour">Batches, runs and transfers show here while they carry bytes.<//>`}<//><//>`;
}

function Paces({ told }) {
  const at = told.at.map((one) => new Date(one).getTime() / 1000);
  const series = told.pairs.map((pair) => ({ label: `${pair.source} → ${pair.target}`, values: pair.bytes_s, fill: true }));
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  return html`<div class="figure-row">${told.pairs.map((pair) => html`<div class="big" key=${pair.source + pair.target}><span class="muted">${pair.source} → ${pair.target}</span><strong>${rate(pair.bytes_s.at(-1))}</strong><small class="muted">${size(Math.round(sum(pair.bytes_s) * told.step_s))} in the hour, at most ${rate(Math.max(...pair.bytes_s))}</small></div>`)}</div>
    <${TimePlot} at=${at} series=${series} format=${rate} height=${150} label=${`Bytes a second in the last hour: ${series.map((s) => `${s.label} now ${rate(s.values.at(-1))}`).join("; ")}`} /><${SaveFigure} operation="plots.pace" said=${{ minutes: 60 }} name="throughput" />`;
}

// --- tiers ------------------------------------------------------------------------------------------------

const ROLES = { source: "where slides come from", archive: "de-identified, for ever", flash: "beside the cluster", protect: "snapshots" };

function Tiers({ tiers }) {
  const levels = useAsk("oversight.levels", { days: 30 }, PICTURE);
  const ages = useAsk(may("oversight.ages") ? "oversight.ages" : null, {}, PICTURE);
  const known = new Map((levels.answer?.tiers ?? []).map((one) => [one.tier, one]));
  const aged = new Map((ages.answer?.tiers ?? []).map((one) => [one.tier, one]));
  return html`<${Panel} title="Tiers" id="tiers"><ul class="tier-list">${tiers.map((tier) => html`<${Tier} key=${tier.name} tier=${tier} level=${known.get(tier.name)} age=${aged.get(tier.name)} />`)}</ul><//>`;
}

/** How long ago what stands there was used, in one line that leads to what is cold. */
function Age({ tier, age }) {
  if (!age) return null;
  const said = usedLately(age);
  return html`<p class="small muted">${tier.zone === "deidentified" && may("oversight.cold") ? html`<${Link} to=${`/tiers/${tier.name}?tab=cold`}>${said}<//>` : said}</p>`;
}

function Tier({ tier, level, age }) {
  const told = tier.capacity_bytes !== null && tier.free_bytes !== null;
  const used = told ? tier.capacity_bytes - tier.free_bytes : null;
  const promised = told ? Math.min(tier.reserved_bytes, tier.capacity_bytes) / tier.capacity_bytes : 0;
  const full = told ? used / tier.capacity_bytes : 0;
  return html`<li><div class="row apart"><span><strong>${may("service.tiers") ? html`<${Link} to=${`/tiers/${tier.name}`}>${tier.name}<//>` : tier.name}</strong> <span class="muted">${ROLES[tier.role] ?? tier.role}</span></span><span class="row"><span class="badge wait small">${tier.zone}</span><${Badge} state=${tier.online ? "online" : "offline"} tone=${tier.online ? "good" : "bad"} /></span></div>
    ${told ? html`<${Meter} label=${tier.name} parts=${[{ name: "used", share: full, tone: full > 0.95 ? "bad" : full > 0.85 ? "warn" : "accent" }, { name: "promised to runs", share: Math.min(promised, 1 - full), tone: "wait" }]} />
      <div class="row apart small muted"><span><${Bytes} of=${tier.free_bytes} /> free of <${Bytes} of=${tier.capacity_bytes} />${tier.reserved_bytes ? html`, <${Bytes} of=${tier.reserved_bytes} /> promised to runs` : ""}</span><span class="row">${level && level.used_bytes.length > 2 && html`<${Sparkline} values=${level.used_bytes} label=${`${tier.name} over 30 days`} />`}<${Full} level=${level} /></span></div>` : html`<p class="small muted">${tier.online ? `A bucket: it does not say how full it is.${age ? ` ${size(age.bytes)} of it are known.` : ""}` : ""}</p>`}
    <${Age} tier=${tier} age=${age} />
    ${tier.explanation && html`<p class="small"><${Shape} tone="warn" /> ${tier.explanation}</p>`}
    ${tier.lock && html`<p class="small"><${Badge} state=${tier.lock.state} /> <span class="muted">${tier.lock.means}</span></p>`}</li>`;
}

function Full({ level }) {
  if (!level?.forecast) return html`<span>forecast after a day</span>`;
  const { likely_s, early_s, late_s } = level.forecast;
  if (likely_s === null) return html`<span>not full within a year</span>`;
  return html`<span title=${`between ${early_s === null ? "a year or more" : duration(early_s)} and ${late_s === null ? "a year or more" : duration(late_s)}`}>full in <strong>${duration(likely_s)}</strong></span>`;
}

// --- what is on its way -----------------------------------------------------------------------------------

const RESTING = new Set(["cleaned", "refused", "cancelled", "failed"]);

function OnTheWay() {
  const asked = useAsk("runs.list_runs", { limit: 50 });
  return html`<${Panel} title="Runs" id="runs-now" aside=${html`<${Link} to="/runs">all<//>`}><${Asked} asked=${asked} rows=${3}>${({ runs }) => {
    const live = runs.filter((run) => !RESTING.has(run.state));
    return live.length ? html`<ul class="lines">${live.slice(0, 8).map((run) => html`<li key=${run.id}><div class="row apart"><${Link} to=${`/runs/${run.id}`}><${Id} of=${run.id} /><//><${Badge} state=${run.state} /></div>
      ${["staging", "admitted"].includes(run.state) && html`<${Progress} done=${run.staged_bytes} of=${run.bytes} label=${`staged of ${run.id}`} />`}
      <div class="row apart small muted"><span>${count(run.count)} files, <${Bytes} of=${run.bytes} /></span>${run.lease_until && html`<span>lease ends <${Time} at=${run.lease_until} /></span>`}</div></li>`)}</ul>` : html`<${Empty} title="No run on flash"><${Link} to="/runs">Ask for one<//> with a cohort.<//>`;
  }}<//><//>`;
}
