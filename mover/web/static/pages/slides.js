// Slides: the list, and one slide with the evidence of what was taken out of it and what two people ruled about it.
import { html, useRef } from "../lib/preact.js";
import { call } from "../lib/api.js";
import { count, moment, plural, size, words } from "../lib/format.js";
import { useAsk } from "../lib/live.js";
import { goQuery, Link } from "../lib/router.js";
import { may } from "../lib/session.js";
import { SlideViewer } from "../parts/viewer.js";
import { Action, Asked, Badge, Bytes, Download, Empty, Equivalent, Facts, Head, Id, Meter, Panel, Proofs, Shape, Table, Tabs, Time } from "../parts/all.js";
import { REASON as WHY, tagField } from "./tags.js";

export default function Slides({ number, query }) {
  if (number) return html`<${OneSlide} number=${number} query=${query} key=${number} />`;
  return html`<${Front} query=${query} />`;
}

// --- the list ---------------------------------------------------------------------------------------------

const VIEWS = [["", "Slides"], ["rulings", "Rulings"]];

function Front({ query }) {
  const views = VIEWS.filter(([view]) => view || may("batches.slides"));
  const view = may("batches.slides") ? (query.get("view") ?? "") : "rulings";
  return html`<${Head} title="Slides" below="De-identified and proved, by their numbers. A number says nothing of a patient, a case or a day." />
    <${Panel}>${may("batches.slides") && html`<${Tabs} of=${views} chosen=${view} choose=${(one) => goQuery({ view: one })} label="Views of the slides" />`}
      ${view === "rulings" ? html`<${Rulings} query=${query} />` : html`<${List} query=${query} />`}<//>
    <${Equivalent} operation=${view === "rulings" ? "rulings.list_rulings" : "batches.slides"} said=${view === "rulings" ? {} : chosen(query)} />`;
}

const stateOf = (s) => (s.removed_at ? "removed" : s.withdrawn ? "withdrawn" : s.aligned ? "aligned" : "published");
const pixels = (facts) => (facts.width && facts.height ? `${count(facts.width)} × ${count(facts.height)}` : "–");
const TONES = { removed: "bad", withdrawn: "warn" };

const COLUMNS = [
  { name: "state", label: "State", width: "108px", text: stateOf, cell: (s) => html`<${Badge} state=${stateOf(s)} tone=${TONES[stateOf(s)]} />` },
  { name: "number", label: "Number", width: "minmax(150px, 1fr)", text: (s) => s.number, cell: (s) => html`<${Link} to=${`/slides/${s.number}`}><span class="mono">${s.number}</span><//>` },
  { name: "family", label: "Family", width: "minmax(128px, 1fr)", wide: true, text: (s) => s.family, cell: (s) => s.family },
  { name: "pixels", label: "Pixels", width: "minmax(132px, 1fr)", right: true, wide: true, text: (s) => (s.facts.width ?? 0) * (s.facts.height ?? 0), cell: (s) => pixels(s.facts) },
  { name: "objective", label: "Objective", width: "76px", right: true, wide: true, text: (s) => s.facts.objective ?? 0, cell: (s) => (s.facts.objective ? `${s.facts.objective}×` : html`<span class="muted">–</span>`) },
  { name: "size", label: "Size", width: "84px", right: true, text: (s) => s.size_bytes, cell: (s) => html`<${Bytes} of=${s.size_bytes} />` },
  { name: "tags", label: "Tags", width: "minmax(72px, 1fr)", wide: true, text: (s) => s.tags.join(" "), cell: (s) => html`<span title=${s.tags.join(", ")}>${s.tags.join(", ")}</span>` },
  { name: "facts", label: "Facts of records", width: "104px", right: true, wide: true, text: (s) => Object.keys(s.aligned ?? {}).length, cell: (s) => (s.aligned ? count(Object.keys(s.aligned).length) : html`<span class="muted">–</span>`) },
  { name: "digest", label: "Digest", width: "104px", wide: true, text: (s) => s.digest, cell: (s) => html`<span class="mono" title=${s.digest}>${s.digest.slice(0, 12)}</span>` },
];

const ONLY = ["batch", "family", "state", "since", "tag"];
const STATES = ["published", "aligned", "withdrawn", "removed"];

/** What the address says of which slides; the daemon finds them, so it is of all and not of what is loaded. */
function chosen(query) {
  const said = Object.fromEntries(ONLY.map((name) => [name, query.get(name) || null]));
  return { ...said, since: said.since && `${said.since}T00:00:00Z` };
}

function List({ query }) {
  const only = chosen(query);
  const page = async (after, limit) => {
    const found = await call("batches.slides", { ...only, after, limit });
    return { rows: found.slides, next: found.next };
  };
  const some = ONLY.some((name) => only[name]);
  return html`<${Choices} query=${query} some=${some} /><${Table} name="slides" label="Slides" columns=${COLUMNS} load=${page} deps=${[JSON.stringify(only)]} every=${30_000} id=${(s) => s.number} link=${(s) => `/slides/${s.number}`} rows=${18}
    empty=${some ? html`<${Empty} title="None of these">Choose fewer things, or <button class="link" onClick=${everything}>all slides</button>.<//>` : html`<${Empty} title="No slides yet">Declare a folder of scans <${Link} to="/batches">ready<//>, or by <code>mover batch ready FOLDER</code>.<//>`} />`;
}

const everything = () => goQuery(Object.fromEntries(ONLY.map((name) => [name, null])));

function Choices({ query, some }) {
  const said = (name) => query.get(name) ?? "";
  const set = (name) => (event) => goQuery({ [name]: event.currentTarget.value.trim() || null });
  return html`<div class="row small">
    <label class="row">State <select value=${said("state")} onChange=${set("state")}><option value="">any</option>${STATES.map((one) => html`<option key=${one}>${one}</option>`)}</select></label>
    <label class="row">Family <input type="text" placeholder="aperio-svs" value=${said("family")} onChange=${set("family")} /></label>
    <label class="row">Published since <input type="date" value=${said("since")} onChange=${set("since")} /></label>
    <label class="row">Batch <input type="text" class="mono" placeholder="batch-…" value=${said("batch")} onChange=${set("batch")} /></label>
    <${ByTag} tag=${query.get("tag")} />${some && html`<button class="link" onClick=${everything}>All slides</button>`}</div>`;
}

/** Only the slides with one tag, by choice. */
function ByTag({ tag }) {
  const asked = useAsk(may("tags.list_tags") ? "tags.list_tags" : null, {}, { every: 60_000 });
  const known = asked.answer?.tags.map((one) => one.tag) ?? [];
  if (!known.length && !tag) return null;
  return html`<label class="row">Tag <select value=${tag ?? ""} onChange=${(event) => goQuery({ tag: event.currentTarget.value || null })}><option value="">any or none</option>${[...new Set([...known, ...(tag ? [tag] : [])])].map((one) => html`<option key=${one} value=${one}>${one}</option>`)}</select></label>`;
}

// --- rulings ----------------------------------------------------------------------------------------------

const RULINGS = [
  { name: "state", label: "State", width: "96px", text: (r) => r.state, cell: (r) => html`<${Badge} state=${r.state} />` },
  { name: "action", label: "Asked for", width: "96px", text: (r) => r.action, cell: (r) => r.action },
  { name: "number", label: "Slide", width: "minmax(150px, 1fr)", text: (r) => r.number, cell: (r) => html`<${Link} to=${`/slides/${r.number}`}><span class="mono">${r.number}</span><//>` },
  { name: "reason", label: "Because", width: "minmax(100px, 3fr)", wide: true, text: (r) => r.reason, cell: (r) => html`<span title=${r.reason}>${r.reason}</span>` },
  { name: "by", label: "By", width: "96px", wide: true, text: (r) => r.asked_by, cell: (r) => r.asked_by },
  { name: "second", label: "Second person", width: "104px", wide: true, text: (r) => r.decided_by ?? "", cell: (r) => r.decided_by ?? html`<span class="muted">not yet</span>` },
  { name: "when", label: "Asked", width: "112px", text: (r) => r.asked_at, cell: (r) => html`<${Time} at=${r.asked_at} />` },
];

function Rulings({ query }) {
  const open = query.get("open") === "true";
  const load = async (after, limit) => {
    const found = await call("rulings.list_rulings", { open: open || null, after, limit });
    return { rows: found.rulings, next: found.next };
  };
  return html`<label class="row small"><input type="checkbox" checked=${open} onChange=${(event) => goQuery({ open: event.currentTarget.checked ? "true" : null })} /> only those that wait for a second person</label>
    <${Table} name="rulings" label="Rulings" columns=${RULINGS} load=${load} id=${(r) => r.id} link=${(r) => `/slides/${r.number}`} deps=${[open]} rows=${14}
      empty=${html`<${Empty} title=${open ? "Nothing waits for a second person" : "Nothing was ruled"}>When something is found in a published slide, it is withdrawn by itself; two people then say whether it comes back or goes for good.<//>`} />`;
}

// --- one slide --------------------------------------------------------------------------------------------

function OneSlide({ number, query }) {
  // who decides about a slide may see what was asked, and not the slide
  if (!may("batches.slide")) return html`<${Head} title=${html`<${Id} of=${number} whole />`} /><${Ruled} number=${number} />`;
  const asked = useAsk("batches.slide", { number }, { every: 30_000 });
  return html`<${Asked} asked=${asked} rows=${8}>${(slide) => html`<${Shown} slide=${slide} query=${query} again=${asked.again} />`}<//>`;
}

const SEEN = [["", "Before and after"], ["picture", "Look at it"]];

function Shown({ slide, query, again }) {
  const see = may("viewing.view") ? (query.get("see") ?? "") : "";
  const asked = useAsk("batches.evidence", { number: slide.number }, { every: 0 });
  const state = stateOf(slide);
  const { batch } = asked.answer ?? {};
  // who watched a slide come back reads by whose word it did
  const ruled = useRef(false);
  ruled.current ||= Boolean(slide.withdrawn || query.get("rulings"));
  return html`<${Head} title=${html`<${Id} of=${slide.number} whole />`} badge=${html`<${Badge} state=${state} tone=${TONES[state]} />`} below=${`${slide.family}, ${pixels(slide.facts)} pixels`}>
      ${batch && html`<${Download} operation="batches.certificate" said=${{ id: batch }} name=${`${batch}.certificate.json`} label="Download the certificate" />`}<${Asks} slide=${slide} again=${again} /><//>
    ${slide.withdrawn && html`<p class="stale" role="status"><${Shape} tone=${slide.removed_at ? "bad" : "warn"} /> <strong>Withdrawn: ${words(slide.withdrawn)}.</strong> ${slide.removed_at ? html`Its bytes left the archive <${Time} at=${slide.removed_at} />.` : "No selection and no run takes it any more. Two people decide whether it comes back or goes."}</p>`}
    ${may("viewing.view") && !slide.withdrawn && html`<${Tabs} of=${SEEN} chosen=${see} choose=${(one) => goQuery({ see: one })} label="What to see of the slide" />`}
    ${see === "picture" && !slide.withdrawn ? html`<${Panel} title="As it is now" id="picture" aside=${html`<span class="muted">its levels alone: no label, no overview</span>`}><${SlideViewer} number=${slide.number} key=${slide.number} /><${Equivalent} operation="viewing.region" said=${{ number: slide.number }} /><//>`
      : html`<${Asked} asked=${asked} rows=${6}>${(evidence) => html`<${Evidence} evidence=${evidence} query=${query} />`}<//>`}
    ${ruled.current && html`<${Ruled} number=${slide.number} again=${again} />`}
    <div class="two"><div class="stack"><${Tagged} slide=${slide} again=${again} /><${Panel} title="What records say"><${Known} of=${slide.aligned} /><//></div>
      <div class="stack"><${Panel} title="What the file says"><${Known} of=${{ ...slide.facts, size: size(slide.size_bytes) }} /><p class="small mono" title="digest over all its files">${slide.digest}</p><//>
        <${Equivalent} operation="batches.slide" said=${{ number: slide.number }} /></div></div>`;
}

const shown = (value) => (Array.isArray(value) ? value.map((one) => (Array.isArray(one) ? one.join("×") : String(one))).join(", ") : typeof value === "number" ? String(Number(value.toPrecision(8))) : value === null ? "–" : String(value));

function Known({ of }) {
  const known = Object.entries(of ?? {}).sort(([a], [b]) => a.localeCompare(b));
  return known.length ? html`<${Facts} of=${known.map(([name, value]) => [words(name), shown(value)])} />` : html`<${Empty} title="No records are aligned with it"><${Link} to="/records">Tables<//> of its batch tell more of it than its file.<//>`;
}

// --- its tags ---------------------------------------------------------------------------------------------

/** Words that people put on it; each comes off by itself, and every change can be taken back on the page of tags. */
function Tagged({ slide, again }) {
  if (!may("tags.list_tags")) return null;
  return html`<${Panel} title="Tags" id="slide-tags" aside=${html`<${Link} to="/tags">all tags<//>`}>
    ${slide.tags.length ? html`<ul class="lines">${slide.tags.map((tag) => html`<li key=${tag} class="row apart"><${Link} to=${`/slides?tag=${encodeURIComponent(tag)}`}><strong>${tag}</strong><//>
        <${Action} operation="tags.change" label="Take off" title=${`Take ${tag} off this slide`} body=${{ action: "remove", tag, numbers: [slide.number] }} fields=${[WHY]} consequence="The slide stays; only the word goes." done=${again} told="Taken off" /></li>`)}</ul>` : html`<p class="muted">None yet.</p>`}
    <${Action} operation="tags.change" label="Add a tag" title="Put a tag on this slide" body=${{ action: "add", numbers: [slide.number] }} fields=${[tagField(), WHY]} done=${again} told="Tagged" /><//>`;
}

// --- before and after -------------------------------------------------------------------------------------

const DONE = { drop: { word: "removed", tone: "good" }, rebuild: { word: "changed", tone: "work" }, keep: { word: "kept", tone: "wait" } };
const times = (judgements, action) => judgements.filter((j) => j.action === action).reduce((n, j) => n + j.times, 0);

function Evidence({ evidence, query }) {
  const { judgements } = evidence;
  if (!evidence.pack) return html`<${Panel} title="Proof of de-identification" id="evidence"><p>It was adopted: somebody answered for files that came de-identified, and they were judged here.</p><${Proofs} of=${evidence.proofs} /><//>`;
  const sums = Object.fromEntries(Object.keys(DONE).map((action) => [action, times(judgements, action)]));
  const all = Object.values(sums).reduce((a, b) => a + b, 0);
  const found = evidence.searches.some((one) => one.outcome === "found");
  return html`<${Panel} title="Before and after" id="evidence" aside=${html`<span class="muted">profile ${evidence.profile.name ?? "–"}${evidence.profile.version ? `, version ${evidence.profile.version}` : ""}</span>`}>
      <div class="figure-row">${Object.entries(DONE).map(([action, { word, tone }]) => html`<div class="big" key=${action}><span class="muted"><${Shape} tone=${tone} /> ${word}</span><strong>${count(sums[action])}</strong><small class="muted">${{ drop: "gone from the file", rebuild: "written anew by us", keep: "as the scanner wrote it" }[action]}</small></div>`)}
        <div class="big"><span class="muted"><${Shape} tone=${found ? "bad" : "good"} /> found again</span><strong>${found ? "yes" : "0"}</strong><small class="muted">${found ? "by a later search" : `of ${plural(Number(evidence.looked.strings ?? 0), "value")} sought in ${count(Number(evidence.looked.forms ?? 0))} forms`}</small></div></div>
      ${all > 0 && html`<${Meter} label="fields of the source" parts=${Object.entries(DONE).map(([action, { word, tone }]) => ({ name: word, share: sums[action] / all, tone }))} />`}
      <${Pictures} judgements=${judgements} />${evidence.thumbnail && html`<${Thumbnail} number=${evidence.number} />`}<${Judged} evidence=${evidence} query=${query} /><//>
    <div class="two"><div class="stack"><${Panel} title="Proofs" id="proofs"><${Proofs} of=${evidence.proofs} />${evidence.batch && html`<p class="small muted">Made in <${Link} to=${`/batches/${evidence.batch}`}><${Id} of=${evidence.batch} /><//>${evidence.seconds !== null && ` in ${Math.round(evidence.seconds)} s`}.</p>`}<//><${Searches} of=${evidence.searches} /></div>
      <div class="stack"><${SecondLook} evidence=${evidence} /></div></div>`;
}

const PICTURE = /label|macro|thumbnail|overview/i;

/** The pictures in which a label could be read: each with what became of it. */
function Pictures({ judgements }) {
  const found = new Map();
  for (const one of judgements) {
    const name = PICTURE.exec(one.place)?.[0]?.toLowerCase();
    if (name && (one.action !== "keep" || !found.has(name))) found.set(name, one);
  }
  if (!found.size) return null;
  return html`<ul class="tally" aria-label="Pictures of the source">${[...found].map(([name, one]) => html`<li key=${name}><span class="badge ${DONE[one.action].tone}"><${Shape} tone=${DONE[one.action].tone} />${name} ${one.action === "drop" ? "is gone" : one.action === "rebuild" ? "is made anew" : "is kept"}</span></li>`)}</ul>`;
}

/** What is left, as a picture: made anew from the levels, never the scanner's own. */
function Thumbnail({ number }) {
  const asked = useAsk(may("batches.thumbnail") ? "batches.thumbnail" : null, { number }, { every: 0 });
  const { answer, problem } = asked;
  if (problem) return html`<p class="small muted">The picture cannot be shown now: ${problem.message}.</p>`;
  if (!answer) return null;
  return html`<figure class="thumbnail"><img src=${`data:${answer.media_type};base64,${answer.data}`} alt=${`slide ${number} as it is now`} /><figcaption class="small muted">As it is now: made anew from its levels, without label and overview; equal to what was published, <span class="mono">${answer.digest.slice(0, 12)}</span>.</figcaption></figure>`;
}

const JUDGED = [
  { name: "done", label: "Now", width: "88px", text: (j) => DONE[j.action].word, cell: (j) => html`<${Badge} state=${DONE[j.action].word} tone=${DONE[j.action].tone} />` },
  { name: "place", label: "Where", width: "minmax(80px, 2fr)", text: (j) => j.place, cell: (j) => html`<span class="mono" title=${j.place}>${j.place}</span>` },
  { name: "shape", label: "Was, masked", width: "minmax(80px, 2fr)", text: (j) => j.shape, cell: (j) => html`<span class="mono" title=${j.shape}>${j.shape || "–"}</span>` },
  { name: "code", label: "PS3.15", width: "56px", wide: true, text: (j) => j.code, cell: (j) => html`<abbr title=${CODES[j.code]}>${j.code}</abbr>` },
  { name: "why", label: "Why", width: "minmax(120px, 3fr)", wide: true, text: (j) => j.reason, cell: (j) => html`<span title=${j.reason}>${j.reason}</span>` },
  { name: "times", label: "Times", width: "56px", right: true, wide: true, text: (j) => j.times, cell: (j) => count(j.times) },
];
// DICOM PS3.15, annex E.3: the action codes of table E.1-1a
const CODES = { K: "kept", X: "removed", Z: "emptied, or replaced by a dummy", D: "replaced by a dummy of its form", C: "cleaned: what may identify is taken out of it", U: "replaced by a UID of ours" };

function Judged({ evidence, query }) {
  const only = query.get("only") ?? "";
  const { judgements } = evidence;
  const tabs = [["", "All", judgements.length], ...Object.entries(DONE).map(([action, { word }]) => [action, word, judgements.filter((j) => j.action === action).length])];
  const rows = judgements.filter((j) => !only || j.action === only).map((j, at) => ({ ...j, id: `${j.action} ${j.place} ${at}` }));
  return html`<${Tabs} of=${tabs} chosen=${only} choose=${(one) => goQuery({ only: one })} label="Fields by what became of them" />
    <${Table} name="fields" label="Fields" columns=${JUDGED} load=${async () => ({ rows, next: null })} every=${0} id=${(j) => j.id} deps=${[only, evidence.number]} rows=${10} empty=${html`<${Empty} title="No such field" />`} />
    <p class="small muted" id="codes">PS3.15 is what DICOM asks to be done with such a field (PS3.15 annex E, table E.1-1a): ${[...new Set(judgements.map((j) => j.code))].filter((code) => CODES[code]).sort().map((code, at) => html`<span key=${code}>${at ? "; " : ""}<strong>${code}</strong> ${CODES[code]}</span>`)}.</p>
    ${evidence.truncated && html`<p class="muted">The first ${count(judgements.length)} are shown; the counts of the certificate are of all.</p>`}`;
}

function SecondLook({ evidence }) {
  const { looked, same, methods } = evidence;
  const told = (of) => Object.entries(of).map(([name, value]) => [words(name.replace("_blake3", "")), /^[0-9a-f]{64}$/.test(value) ? html`<span class="mono" title=${value}>${value.slice(0, 16)}…</span>` : count(Number(value))]);
  return html`<${Panel} title="The second look"><p class="muted">By other code than what wrote the file: <span class="small">${methods.map(words).join(", ")}.</span></p>
    <h3>Looked through</h3><${Facts} of=${told(looked)} /><h3>Equal to the source</h3><${Facts} of=${told(same)} /><//>`;
}

function Searches({ of }) {
  if (!of.length) return null;
  return html`<${Panel} title="Searched again since" aside=${html`<span class="muted">for what later tables say of its patient</span>`}><div class="scroll"><table><thead><tr><th>outcome</th><th>for the tables of</th><th class="right">values</th><th class="right">forms</th><th>when</th></tr></thead>
    <tbody>${of.map((s) => html`<tr key=${s.record_set}><td><${Badge} state=${s.outcome} tone=${{ clean: "good", found: "bad" }[s.outcome] ?? "warn"} /></td><td><${Link} to=${`/records/${s.record_set}`}><${Id} of=${s.record_set} /><//></td><td class="right">${count(s.strings)}</td><td class="right">${count(s.forms)}</td><td class="nowrap" title=${moment(s.at)}><${Time} at=${s.at} /></td></tr>`)}</tbody></table></div><//>`;
}

// --- what two people rule ---------------------------------------------------------------------------------

const REASON = { name: "reason", label: "Why", kind: "long", required: true, least: 8, most: 512, hint: "It stands in the audit record beside your name." };

function Asks({ slide, again }) {
  if (!slide.withdrawn || slide.removed_at) return null;
  const deed = (action, label, consequence, danger) => html`<${Action} operation="rulings.ask" label=${label} title=${`Ask: ${label.toLowerCase()}`} said=${{ number: slide.number }} body=${{ action }} fields=${[REASON]} danger=${danger} consequence=${`${consequence} A second person decides; nothing happens before.`} told="It is asked; a custodian decides" done=${again} />`;
  return html`${deed("reinstate", "Take it back", "The withdrawal was a false alarm: the slide is among the slides again.", false)}${deed("remove", "Remove its bytes", "Its bytes leave the archive for good. Kept manifests that name it can never be staged again exactly.", true)}`;
}

/** What was asked about this slide, and for who may, the second person's word. */
function Ruled({ number, again }) {
  const asked = useAsk(may("rulings.list_rulings") ? "rulings.list_rulings" : null, { number });
  if (!may("rulings.list_rulings")) return null;
  const done = () => {
    asked.again();
    again?.();
  };
  return html`<${Panel} title="What two people rule" id="rulings"><${Asked} asked=${asked} rows=${2}>${({ rulings }) => rulings.length
    ? html`<ul class="lines">${rulings.map((one) => html`<${Ruling} key=${one.id} one=${one} done=${done} />`)}</ul>`
    : html`<${Empty} title="Nothing was asked yet">Whoever works here asks; a custodian who is somebody else decides.<//>`}<//><//>`;
}

function Ruling({ one, done }) {
  const said = { id: one.id };
  const breaks = one.manifests > 0 && one.action === "remove";
  const known = breaks ? { manifests: one.manifests } : {};
  const cost = breaks ? ` ${plural(one.manifests, "kept manifest")} that name it can never be staged again exactly.` : "";
  return html`<li><div class="row apart"><span><strong>${one.action === "remove" ? "Remove its bytes" : "Take it back"}</strong> <${Badge} state=${one.state} /></span>
      ${one.state === "asked" && html`<span class="row"><${Action} operation="rulings.decide" label="Decline" title="Decline: the slide stays as it is" said=${said} body=${{ decision: "decline" }} fields=${[REASON]} consequence="The slide stays withdrawn." told="Declined" done=${done} />
        <${Action} operation="rulings.decide" label="Grant" title=${`Grant: ${one.action}`} said=${said} body=${{ decision: "grant", ...known }} fields=${[REASON]} first danger=${one.action === "remove"} consequence=${`You are the second person. ${one.action === "remove" ? "Its bytes leave the archive for good." : "The slide is among the slides again."}${cost}`} told="Granted" done=${done} /></span>`}</div>
    <p>${one.reason} <span class="muted">${one.asked_by}, <${Time} at=${one.asked_at} /></span></p>
    ${one.decided_by && html`<p>${one.decision} <span class="muted">${one.decided_by}, <${Time} at=${one.decided_at} /></span></p>`}
    ${breaks && one.state === "asked" && html`<p class="small"><${Shape} tone="warn" />${cost}</p>`}${one.explanation && html`<p class="small"><${Shape} tone="bad" /> ${one.explanation}</p>`}</li>`;
}
