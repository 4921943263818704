// Quarantine: what waits for a person, by cause, the sound ways out of it, and the decisions that hold.
import { html, useState } from "../lib/preact.js";
import { call, Problem } from "../lib/api.js";
import { hand } from "../lib/drafts.js";
import { count, plural, words } from "../lib/format.js";
import { useAsk } from "../lib/live.js";
import { go, goQuery, Link } from "../lib/router.js";
import { may } from "../lib/session.js";
import { Action, Asked, Badge, Bytes, Choose, Copy, Empty, Equivalent, Facts, Failure, FieldRow, Head, Panel, Reveal, Shape, Table, Tabs, Time } from "../parts/all.js";

export default function Quarantine({ cause, query }) {
  return cause ? html`<${OneCause} id=${cause} key=${cause} />` : html`<${Front} query=${query} />`;
}

const VIEWS = [["", "Waiting"], ["rules", "Standing rules"], ["all", "All decisions"], ["proposed", "Proposed"]];

function Front({ query }) {
  const view = query.get("view") ?? "";
  const panels = { rules: html`<${Rules} standing key="rules" />`, all: html`<${Rules} key="all" />`, proposed: html`<${Proposed} />` };
  return html`<${Head} title="Quarantine" below="A pack waits here when a proof failed or a rule is missing. It never passes by itself; whatever is decided, it is judged and proved anew." />
    <${Proposals} />
    <${Panel}><${Tabs} of=${VIEWS} chosen=${view} choose=${(one) => goQuery({ view: one })} label="Views of the quarantine" />${panels[view] ?? html`<${Causes} />`}<//>
    <${Equivalent} operation=${{ "": "quarantine.causes", proposed: "quarantine.proposals" }[view] ?? "quarantine.rules"} said=${view === "rules" ? { standing: true } : {}} />`;
}

// --- causes -----------------------------------------------------------------------------------------------

const ACTIONS = {
  retry: { label: "Judge again", told: "Its batches go on" },
  exclude: { label: "Leave out", told: "Left out, and counted as such", danger: true },
  "accept-without-thumbnail": { label: "Accept without a thumbnail", told: "Accepted; its batches go on" },
  declare: { label: "They belong to it", told: "Declared; its batches go on" },
};
const label = (action) => ACTIONS[action]?.label ?? words(action);

/** Where a rule is sound it comes first: without one the same look finds the same. */
const wayOut = (cause) => (cause.proposal ? "A rule for the column" : cause.offers[0] ? label(cause.offers[0].action) : "Look at it");

const CAUSES = [
  { name: "count", label: "Packs", width: "52px", right: true, text: (c) => c.count, cell: (c) => html`<strong>${count(c.count)}</strong>` },
  { name: "code", label: "Cause", width: "minmax(96px, 160px)", text: (c) => c.code, cell: (c) => html`<${Link} to=${`/quarantine/${c.id}`}>${words(c.code)}<//>` },
  { name: "words", label: "What was found", width: "minmax(100px, 3fr)", text: (c) => c.words, cell: (c) => html`<span title=${c.words}>${c.words}</span>` },
  { name: "kind", label: "Kind", width: "72px", wide: true, text: (c) => c.kind, cell: (c) => c.kind || html`<span class="muted">–</span>` },
  { name: "way", label: "Likeliest way out", width: "minmax(120px, 180px)", wide: true, text: wayOut, cell: (c) => html`<${Link} to=${`/quarantine/${c.id}`}>${wayOut(c)}<//>` },
  { name: "bytes", label: "Size", width: "80px", right: true, wide: true, text: (c) => c.bytes, cell: (c) => html`<${Bytes} of=${c.bytes} />` },
  { name: "since", label: "Since", width: "116px", wide: true, text: (c) => c.since, cell: (c) => html`<${Time} at=${c.since} />` },
];

function Causes() {
  const [more, setMore] = useState(0);
  const load = async () => {
    const found = await call("quarantine.causes");
    setMore(found.more);
    return { rows: found.causes, next: null };
  };
  return html`<${Table} name="causes" label="Causes" columns=${CAUSES} load=${load} id=${(c) => c.id} link=${(c) => `/quarantine/${c.id}`} rows=${16}
      empty=${html`<${Empty} title="Nothing waits"><${Shape} tone="good" /> Every pack has its outcome. What cannot be proved will wait here, with its reason.<//>`} />
    ${more > 0 && html`<p class="muted">and ${plural(more, "rarer cause")}.</p>`}`;
}

// --- one cause --------------------------------------------------------------------------------------------

function OneCause({ id }) {
  const asked = useAsk("quarantine.view", { cause: id, limit: 1 });
  if (asked.problem?.status === 404) return html`<${Empty} title="Nothing waits for this cause any more"><${Link} to="/quarantine">All causes<//>, or <${Link} to="/quarantine?view=all">what was decided<//>.<//>`;
  return html`<${Asked} asked=${asked} rows=${8}>${(cause) => html`<${Cause} cause=${cause} again=${asked.again} />`}<//>`;
}

function Cause({ cause, again }) {
  const [chosen, choose] = useState(new Set());
  const records = cause.kind === "records";
  const packs = [...chosen];
  const done = () => {
    choose(new Set());
    again();
  };
  return html`<${Head} title=${words(cause.code)} badge=${html`<${Badge} state="quarantined">${plural(cause.count, records ? "set of tables" : "pack", records ? "sets of tables" : "packs")}<//>`} below=${cause.words}>
      ${!records && html`<${Reveal} packs=${packs} />`}<//>
    <${Proposals} cause=${cause} done=${done} />
    <div class="two"><div class="stack">
      <${Panel} title="Ways out" id="ways" aside=${chosen.size > 0 && html`<span class="muted">for ${plural(chosen.size, "chosen pack")} of ${count(cause.count)}</span>`}>
        <ul class="lines">${cause.offers.map((offer) => html`<${Offer} key=${offer.action} offer=${offer} cause=${cause} packs=${packs} done=${done} />`)}</ul><//>
      <${Panel} title=${records ? "Sets of tables" : "Packs"} id="held">${!records && html`<p class="small muted">No picture of them is shown: nothing of what waits here is proved free of identity.</p>`}<${Held} cause=${cause} chosen=${chosen} choose=${choose} /><//></div>
    <div class="stack"><${Panel} title="What a person can do"><p>${coded(cause.advice)}</p><${Proposal} cause=${cause} /><//>
      <${Panel} title="Facts"><${Facts} of=${[["code", html`<span class="mono">${cause.code}</span>`], ["kind", cause.kind], ["waiting", count(cause.count)], ["size", html`<${Bytes} of=${cause.bytes} />`],
        ["in batches", count(cause.batches)], ["since", html`<${Time} at=${cause.since} both />`], ["cause", html`<span class="mono">${cause.id}</span>`]]} /><//>
      <${Equivalent} operation="quarantine.view" said=${{ cause: cause.id }} /></div></div>`;
}

/** Words between backticks are something to type. */
const coded = (text) => text.split("`").map((part, at) => (at % 2 ? html`<code key=${at}>${part}</code>` : part));

const REASON = { name: "reason", label: "Why you decide so", kind: "long", required: true, least: 8, most: 512, hint: "It stands in the audit record beside your name." };

/** One sound decision: for what waits, and where that is sound also as a rule for what comes. */
function Offer({ offer, cause, packs, done }) {
  const known = ACTIONS[offer.action] ?? {};
  const chosen = packs.length ? { packs } : {};
  const about = packs.length ? `Of ${plural(packs.length, "chosen pack")}` : `Of everything that waits for this, ${count(cause.count)} in all`;
  const two = offer.reviewers > 1;
  const deed = (standing, text) => html`<${Action} operation="quarantine.decide" label=${two ? `Propose: ${text}` : text} title=${`${text}: ${words(cause.code)}`} said=${{ cause: cause.id }} body=${{ action: offer.action, ...chosen, ...(offer.standing ? { standing } : {}) }}
    fields=${[REASON]} danger=${known.danger} first=${!known.danger && cause.offers[0] === offer && !standing && !cause.proposal} told=${two ? "Proposed; another person confirms it" : known.told} done=${done}
    consequence=${`${about}: ${offer.why}${standing ? `; ${offer.later}` : ""}.${standing ? " The rule holds until somebody revokes it." : ""}${two ? " Nothing happens before another person confirms it." : ""}`} />`;
  return html`<li><div class="row apart"><strong>${label(offer.action)}</strong><span class="row">${deed(false, label(offer.action))}${offer.standing && !packs.length && deed(true, `${label(offer.action)}, as a rule`)}</span></div>
    <p class="muted">${offer.why}.${cause.proposal && offer.action === "retry" ? " Without a rule for the column the same look finds the same: make the rule first." : ""}${offer.changed ? " Only what other software or another profile judged is looked at again." : ""}${two ? " Two persons decide about this: one proposes, another confirms." : ""}</p></li>`;
}

/** Decisions that wait for another person than who proposed them: all of them, or those about one cause. */
function Proposals({ cause, done }) {
  const asked = useAsk("quarantine.proposals", { open: true });
  const found = (asked.answer?.proposals ?? []).filter((one) => !cause || one.cause === cause.id);
  if (!found.length) return null;
  const settled = () => {
    asked.again();
    done?.();
  };
  return html`<${Panel} title="Waits for a second person" id="proposals"><ul class="lines">${found.map((one) => html`<${OneProposal} key=${one.id} of=${one} done=${settled} linked=${!cause} />`)}</ul><//>`;
}

const LOOKED = { ...REASON, label: "What you looked at" };

function OneProposal({ of, done, linked }) {
  const about = of.packs ? plural(of.packs.length, "chosen pack") : `all that wait for this (${count(of.waiting)} when it was proposed)`;
  const review = (decision, more) => html`<${Action} operation="quarantine.review" said=${{ id: of.id }} body=${{ decision }} fields=${[LOOKED]} done=${done} ...${more} />`;
  return html`<li><div class="row apart"><div><strong>${label(of.action)}${of.standing ? ", as a rule" : ""}</strong>: ${linked ? html`<${Link} to=${`/quarantine/${of.cause}`}>${words(of.code)}<//>` : words(of.code)} <span class="muted">${about}</span></div><span class="row">
      ${review("decline", { label: "Decline", title: `Decline: ${label(of.action)}`, told: "Declined; it waits as before", consequence: "What waits goes on waiting, for anybody's decision." })}
      ${review("confirm", { label: "Confirm", title: `Confirm: ${label(of.action)}`, first: true, told: "Confirmed and done", consequence: `You agree as another person than ${of.proposed_by}. It is about everything that waits for this now${of.packs ? ", of the chosen packs" : ""}.` })}</span></div>
    <p class="muted">by ${of.proposed_by}, <${Time} at=${of.proposed_at} />: ${of.reason}. It lapses <${Time} at=${of.lapses_at} />.</p></li>`;
}

/** The rule that an unlisted column lacks, taken to the policy's editor: seen as a difference, tried, saved by the usual way. */
function Proposal({ cause }) {
  const [column, setColumn] = useState("");
  const [problem, setProblem] = useState(null);
  if (!cause.proposal) return null;
  const put = async (body) => {
    try {
      const draft = await call("quarantine.draft", { cause: cause.id }, { body });
      hand(draft);
      go(`/policies/${draft.policy}?view=yaml`);
    } catch (failed) {
      if (!(failed instanceof Problem)) throw failed;
      setProblem(failed);
    }
  };
  if (cause.kind === "records" && may("quarantine.draft")) {
    return html`<h3>A rule for it</h3><p class="muted">Nothing of the unlisted column leaves by it. You see the change and what it would let pass before you save it; then what waits is declared again by itself.</p>
      <p><button class="first" onClick=${() => put({})}>Leave out what the table does not list</button></p>
      <form class="row" onSubmit=${(event) => (event.preventDefault(), put({ column }))}><${FieldRow} field=${{ name: "column", label: "Or list it by its name", hint: "As it stands in the file: here only its shape is known.", most: 200 }} value=${column} set=${setColumn} />
        <button disabled=${!column.trim()}>List it, and leave it out</button></form>
      ${problem && html`<${Failure} problem=${problem} />`}`;
  }
  return html`<h3>A rule for it</h3><p class="muted">By it the pack would pass, and nothing of the unknown column leaves:</p><${Copy} text=${cause.proposal} block />
    ${may("service.policies") && html`<p><${Link} to="/policies">Put it into the policy<//>, see what it would do, and save it; then judge again.</p>`}`;
}

const SHOWN = [
  { name: "pack", label: "Pack", width: "minmax(180px, 1fr)", text: (p) => p.id, cell: (p) => html`<span class="mono" title=${p.id}>${p.id}</span>` },
];
const SETS = [
  { name: "set", label: "Set of tables", width: "minmax(180px, 1fr)", text: (p) => p.id, cell: (p) => html`<${Link} to=${`/records/${p.id}`}><span class="mono">${p.id}</span><//>` },
];

function Held({ cause, chosen, choose }) {
  const records = cause.kind === "records";
  const load = async (after, limit) => {
    const found = await call("quarantine.view", { cause: cause.id, after, limit });
    const rows = found.packs.map((id) => ({ id }));
    return { rows, next: !records && rows.length === limit ? rows.at(-1).id : null };
  };
  const columns = records ? SETS : may("quarantine.decide") || may("batches.reveal") ? [Choose(chosen, choose), ...SHOWN] : SHOWN;
  return html`<${Table} name="held" label="What waits" columns=${columns} load=${load} id=${(p) => p.id} deps=${[cause.count]} rows=${10} filter=${cause.count > 10}
    empty=${html`<${Empty} title="Nothing waits for this any more" />`} />`;
}

// --- decisions --------------------------------------------------------------------------------------------

const RULES = [
  { name: "action", label: "Decision", width: "minmax(110px, 1fr)", text: (r) => r.action, cell: (r) => html`<strong>${label(r.action)}</strong>` },
  { name: "for", label: "For", width: "minmax(120px, 2fr)", text: (r) => `${r.code} ${r.words}`, cell: (r) => html`<span title=${`${r.kind}: ${r.words}`}>${words(r.code)} <span class="muted">${r.words}</span></span>` },
  { name: "why", label: "Because", width: "minmax(100px, 2fr)", wide: true, text: (r) => r.reason, cell: (r) => html`<span title=${r.reason}>${r.reason}</span>` },
  { name: "packs", label: "Packs", width: "60px", right: true, wide: true, text: (r) => r.packs, cell: (r) => count(r.packs) },
  { name: "by", label: "By", width: "96px", wide: true, text: (r) => r.decided_by, cell: (r) => r.decided_by },
  { name: "when", label: "When", width: "96px", text: (r) => r.decided_at, cell: (r) => html`<${Time} at=${r.decided_at} />` },
];
const STANDS = { name: "stands", label: "Holds", width: "84px", text: (r) => (r.revoked_at ? "revoked" : r.standing ? "standing" : "once"), cell: (r) => html`<${Badge} state=${r.revoked_at ? "revoked" : r.standing ? "standing" : "once"} tone=${!r.revoked_at && r.standing ? "good" : "wait"} />` };

const PROPOSED = [
  { name: "state", label: "State", width: "96px", text: (p) => p.state, cell: (p) => html`<${Badge} state=${p.state} tone=${{ open: "wait", confirmed: "good" }[p.state] ?? "idle"} />` },
  { name: "action", label: "Decision", width: "minmax(84px, 1fr)", text: (p) => p.action, cell: (p) => html`<strong>${label(p.action)}</strong>` },
  { name: "for", label: "For", width: "minmax(84px, 2fr)", text: (p) => `${p.code} ${p.words}`, cell: (p) => html`<${Link} to=${`/quarantine/${p.cause}`}>${words(p.code)}<//>` },
  { name: "by", label: "Proposed by", width: "minmax(90px, 1fr)", wide: true, text: (p) => p.proposed_by, cell: (p) => html`<span title=${p.reason}>${p.proposed_by}</span>` },
  { name: "second", label: "Second person", width: "minmax(90px, 1fr)", wide: true, text: (p) => p.decided_by ?? "", cell: (p) => html`<span title=${p.decision}>${p.decided_by ?? "–"}</span>` },
  { name: "why", label: "What they looked at", width: "minmax(100px, 2fr)", wide: true, text: (p) => p.decision ?? "", cell: (p) => html`<span title=${p.decision}>${p.decision ?? ""}</span>` },
  { name: "when", label: "When", width: "96px", wide: true, text: (p) => p.proposed_at, cell: (p) => html`<${Time} at=${p.proposed_at} />` },
];

function Proposed() {
  const load = async () => ({ rows: (await call("quarantine.proposals")).proposals, next: null });
  return html`<${Table} name="proposed" label="Proposed decisions" columns=${PROPOSED} load=${load} id=${(p) => p.id} rows=${14}
    empty=${html`<${Empty} title="Nothing was proposed yet">Where a policy says two reviewers, and where a proof found identity, one person proposes and another confirms.<//>`} />`;
}

function Rules({ standing = false }) {
  const [chosen, choose] = useState(null);
  const [turn, setTurn] = useState(0);
  const load = async () => {
    const { rules } = await call("quarantine.rules", { standing: standing || null });
    choose((one) => one && (rules.find(({ id }) => id === one.id) ?? null));
    return { rows: rules, next: null };
  };
  const look = { name: "look", label: "", width: "56px", right: true, cell: (r) => html`<button class="link" aria-label=${`Look at ${r.id}`} onClick=${() => choose(r)}>look</button>` };
  return html`<${Table} name="rules" label=${standing ? "Standing rules" : "Decisions"} columns=${[...(standing ? [] : [STANDS]), ...RULES, look]} load=${load} id=${(r) => r.id} deps=${[standing, turn]} rows=${14}
      empty=${html`<${Empty} title=${standing ? "No rule stands" : "Nothing was decided yet"}>A decision that is sound for packs nobody has seen yet can be made a rule; it is kept here until it is revoked.<//>`} />
    ${chosen && html`<${Rule} rule=${chosen} close=${() => choose(null)} again=${() => setTurn(turn + 1)} />`}`;
}

function Rule({ rule, close, again }) {
  return html`<section class="plan" aria-label="The decision"><div class="row apart"><h3>${label(rule.action)}: ${words(rule.code)}</h3><span class="row">
      ${!rule.revoked_at && (rule.standing || rule.excluded > 0) && html`<${Action} operation="quarantine.revoke" label="Revoke" title="Revoke the decision" said=${{ id: rule.id }} body=${{}} fields=${[{ ...REASON, label: "Why it holds no more" }]} danger
        consequence=${rule.excluded ? `${plural(rule.excluded, "pack")} that it kept out wait for a person again.` : "What comes later waits for a person again."} told="The decision is revoked" done=${() => { close(); again(); }} />`}
      <button class="plain" aria-label="Close" onClick=${close}>✕</button></span></div>
    <${Facts} of=${[["for", html`<${Link} to=${`/quarantine/${rule.cause}`}>${rule.words}<//>`], ["kind", rule.kind], ["because", rule.reason], ["decided", html`${rule.decided_by}, <${Time} at=${rule.decided_at} both />`], ["confirmed", rule.confirmed_by],
      ["about", plural(rule.packs, "pack")], ["kept out", rule.excluded ? plural(rule.excluded, "pack") : null], ["version", count(rule.version)],
      ["revoked", rule.revoked_at && html`${rule.revoked_by}, <${Time} at=${rule.revoked_at} both />: ${rule.revoked_reason}`]]} /></section>`;
}
