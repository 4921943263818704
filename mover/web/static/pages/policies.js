// Policies: what people declared. One policy is one text; the form is another view of it, and both are checked by the
// daemon while somebody types. What is risky waits for a second person, who agrees here, too.
import { html, useEffect, useMemo, useState } from "../lib/preact.js";
import { call, Problem } from "../lib/api.js";
import { plural, words } from "../lib/format.js";
import { taken } from "../lib/drafts.js";
import { useAsk } from "../lib/live.js";
import { go, goQuery, Link } from "../lib/router.js";
import { may } from "../lib/session.js";
import { setIn } from "../lib/yamltext.js";
import { toast } from "../lib/toasts.js";
import { Action, Asked, Badge, Empty, Equivalent, Facts, Failure, FieldRow, Head, Id, Panel, Shape, Table, Tabs, Time, Yaml } from "../parts/all.js";
import { PolicyForm, shapeOf } from "../parts/policyform.js";

const CHECK_MS = 300;
const REASON = { name: "reason", label: "Reason", kind: "long", required: true, least: 3, most: 500, hint: "It stands in the audit and beside the version." };

export default function Policies({ name, query }) {
  if (name) return html`<${OnePolicy} name=${name} query=${query} key=${name} />`;
  return query.has("new") ? html`<${NewPolicy} query=${query} />` : html`<${List} />`;
}

// --- the list ---------------------------------------------------------------------------------------------

const COLUMNS = [
  { name: "kind", label: "Kind", width: "112px", text: (p) => p.kind, cell: (p) => p.kind },
  { name: "name", label: "Policy", width: "minmax(120px, 1fr)", text: (p) => p.name, cell: (p) => html`<${Link} to=${`/policies/${p.name}`}>${p.name}<//>` },
  { name: "says", label: "Says of itself", width: "minmax(120px, 4fr)", wide: true, text: (p) => says(p.text), cell: (p) => html`<span class="muted">${says(p.text)}</span>` },
  { name: "digest", label: "Version", width: "112px", wide: true, text: (p) => p.digest, cell: (p) => html`<span class="mono" title=${p.digest}>${p.digest.slice(0, 12)}</span>` },
];

/** The comment on top of the file, as far as a line goes. */
const says = (text) => text.split("\n").filter((line, at, all) => all.slice(0, at + 1).every((one) => one.startsWith("#"))).map((line) => line.slice(1).trim()).join(" ").replaceAll("`", "");

function List() {
  const load = async () => {
    const { policies } = await call("service.policies");
    return { rows: policies.sort((a, b) => a.kind.localeCompare(b.kind) || a.name.localeCompare(b.name)), next: null };
  };
  return html`<${Head} title="Policies" below="What people declared, and every node follows within seconds.">
      ${may("policies.change") && html`<${Link} to="/policies?new=" class="button first">New policy<//>`}<//>
    <${Waiting} />
    <${Panel} title="In force" id="policies"><${Table} name="policies" label="Policies" columns=${COLUMNS} load=${load} id=${(p) => p.name} link=${(p) => `/policies/${p.name}`} rows=${14}
      empty=${html`<${Empty} title="No policies">The folder of policies is empty.<//>`} /><${Equivalent} operation="service.policies" /><//>`;
}

/** Changes that nobody agreed on yet, of one policy or of all. */
function Waiting({ name }) {
  const asked = useAsk("policies.list_changes", { name, waiting: true });
  const found = asked.answer?.changes ?? [];
  if (!found.length) return null;
  return html`<${Panel} title="Waits for a second person" id="waiting"><ul class="stack">${found.map((one) => html`<${OneChange} key=${one.id} of=${one} again=${asked.again} />`)}</ul><//>`;
}

function OneChange({ of, again }) {
  const settled = (answer) => {
    toast(answer.state === "refused" ? `Not carried out: ${answer.explanation}` : `${of.name}: ${answer.state}`, answer.state === "refused" ? "bad" : "good");
    again();
  };
  return html`<li class="policy-change"><div class="row apart"><div><strong><${Link} to=${`/policies/${of.name}`}>${of.name}<//></strong> <${Badge} state=${of.digest ? "change" : "removal"} tone="wait" /> <span class="muted">by ${of.requested_by}, <${Time} at=${of.requested_at} />: ${of.reason}</span></div>
      <div class="row"><${Action} operation="policies.withdraw" label="Withdraw" said=${{ id: of.id }} consequence="The policy stays as it is." done=${settled} told=${null} />
      <${Action} operation="policies.approve" label="Approve" first said=${{ id: of.id }} consequence=${`${of.digest ? "The text stands in the folder and is followed at once." : "The policy goes."} You agree as another person than ${of.requested_by}.`} done=${settled} told=${null} /></div></div>
    <ul class="small">${of.risks.map((why) => html`<li key=${why}><${Shape} tone="warn" /> ${why}</li>`)}</ul>
    <${Diff} lines=${of.diff} open /></li>`;
}

/** Lines that went and lines that came, without the two that name the files. */
function Diff({ lines, open }) {
  const shown = lines.slice(2);
  if (!shown.length) return null;
  const look = { "+": "added", "-": "removed", "@": "place" };
  return html`<details open=${open}><summary>${plural(shown.filter((line) => line[0] === "+" || line[0] === "-").length, "line")} changed</summary><pre class="diff" tabindex="0">${shown.map((line, at) => html`<span key=${at} class=${look[line[0]]}>${line}</span>`)}</pre></details>`;
}

// --- one policy -------------------------------------------------------------------------------------------

function OnePolicy({ name, query }) {
  const asked = useAsk("policies.view", { name });
  const schema = useAsk("policies.schema", {}, { every: 0 });
  const tab = query.get("tab") ?? "text";
  const [put, setPut] = useState(() => taken(name));
  const back = (text) => {
    setPut({ text });
    goQuery({ tab: null, view: "yaml" });
  };
  return html`<${Asked} asked=${asked}>${(of) => html`<${Head} title=${of.name} badge=${html` <${Badge} state=${of.kind} tone="wait" />`} below=${schema.answer && shapeOf(schema.answer, of.kind)?.description}>
      <${Action} operation="policies.remove" label="Remove" danger disabled=${of.unwritable} said=${{ name }} body=${{ digest: of.digest }} fields=${[REASON]} consequence="Its file goes; its versions stay readable." done=${(answer) => (answer.state === "applied" ? go("/policies") : asked.again())} told="Asked for" /><//>
    <${Waiting} name=${name} />
    ${of.trouble && html`<p class="stale" role="status"><${Shape} tone="bad" /> The folder is not followed as it is now: ${of.trouble}</p>`}
    ${of.unwritable && html`<p class="stale" role="status"><${Shape} tone="warn" /> It cannot be changed here: ${of.unwritable}.</p>`}
    ${of.holds.length > 0 && html`<${Panel} title="More holds than the file says" id="holds"><ul>${of.holds.map((one) => html`<li key=${one}>${one}</li>`)}</ul><p class="small muted">What shortens protection is asked for and approved beside its policy: <code>mover protect ask shorten --policy ${name}</code></p><//>`}
    <${Tabs} of=${[["text", "Policy"], ["versions", "Versions"]]} chosen=${tab} choose=${(one) => goQuery({ tab: one === "text" ? null : one })} label="Views of the policy" />
    ${tab === "versions" ? html`<${Versions} name=${name} back=${may("policies.change") ? back : null} />` : html`<${Editor} name=${name} kind=${of.kind} text=${of.text} value=${of.value} digest=${of.digest} put=${put} unwritable=${of.unwritable} schema=${schema.answer} query=${query} done=${asked.again} />`}
    <${Panel} title="Where it stands" id="where"><${Facts} of=${[["file", html`<span class="mono">${of.file}</span>`], ["version", html`<span class="mono" title=${of.digest}>${of.digest.slice(0, 16)}</span>`], ...of.nodes.map((one) => [`followed on ${one.node}`, html`${one.digest ? (one.digest === of.digest ? "this text" : html`<${Shape} tone="warn" /> another: <span class="mono">${one.digest.slice(0, 12)}</span>`) : "no such policy"}, since <${Time} at=${one.at} />`])]} />
      <${Equivalent} operation="policies.view" said=${{ name }} /><//>`}<//>`;
}

/** What the daemon says of a text, a moment after the last key. `of` is the text that was judged. */
function useChecked(text, name, asks) {
  const [found, setFound] = useState({ of: null, mistakes: [], value: null, problem: null });
  useEffect(() => {
    if (!asks) return undefined;
    const ended = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const answer = await call("policies.check", {}, { body: { text: text || "\n", name: name || null }, signal: ended.signal });
        setFound({ ...answer, of: text, problem: null });
      } catch (problem) {
        if (ended.signal.aborted) return;
        if (!(problem instanceof Problem)) throw problem;
        setFound((before) => ({ ...before, of: null, problem }));
      }
    }, CHECK_MS);
    return () => {
      clearTimeout(timer);
      ended.abort();
    };
  }, [text, name, asks]);
  return found;
}

function Editor({ name, kind, text: stands, value, digest, put = null, unwritable, schema, query, done }) {
  const [base, setBase] = useState({ text: stands, value, digest });
  const [stale] = useState(Boolean(put?.digest) && put.digest !== digest);
  const [text, setText] = useState(put && !stale ? put.text : stands);
  const [said, setSaid] = useState(value);
  const writes = may("policies.change") && !unwritable;
  const checked = useChecked(text, name, writes);
  const view = query.get("view") === "yaml" || !writes ? "yaml" : "form";
  useEffect(() => {
    if (digest === base.digest) return;
    if (text === base.text) setText(stands);
    if (text === base.text || text === stands) setBase({ text: stands, value, digest });
  }, [digest]);
  useEffect(() => {
    if (checked.of === text && checked.value) setSaid(checked.value);
  }, [checked]);
  const change = (path, value, whole) => {
    setText(setIn(text, path, value, whole));
    setSaid({ ...said, [path[0]]: whole });
  };
  const mine = checked.mistakes.filter((one) => !one.file).map((one) => ({ line: one.line, column: one.column, text: one.what }));
  const others = checked.mistakes.filter((one) => one.file);
  const why = text === base.text && base.digest ? "Nothing was changed" : checked.of !== text ? "It is being checked" : checked.mistakes.length ? "It has mistakes" : "";
  const saved = (answer) => {
    toast(answer.state === "applied" ? `${name} is followed as it is now` : answer.state === "asked" ? `${name} waits for a second person` : `${name}: ${answer.explanation ?? answer.state}`, answer.state === "refused" ? "bad" : "good");
    if (answer.state === "applied") setBase({ text, value: said, digest: answer.digest });
    done(answer);
  };
  return html`<${Panel} title="What it says" id="policy" aside=${writes && html`<${Tabs} of=${[["form", "Form"], ["yaml", "YAML"]]} chosen=${view} choose=${(one) => goQuery({ view: one })} label="Two views of one text" />`}>
    ${digest !== base.digest && html`<p class="stale" role="status"><${Shape} tone="warn" /> The file was changed meanwhile. <button class="link" onClick=${() => (setText(stands), setSaid(value), setBase({ text: stands, value, digest }))}>Take what stands there now</button></p>`}
    ${stale && html`<p class="stale" role="status"><${Shape} tone="warn" /> The rule was proposed for another text than stands here now: propose it again.</p>`}
    ${view === "yaml" ? html`<${Yaml} text=${text} set=${writes ? setText : undefined} marks=${mine} label=${`The policy ${name} as YAML`} rows=${Math.min(32, Math.max(12, text.split("\n").length + 1))} />`
      : schema ? html`<${PolicyForm} schema=${schema} kind=${kind} value=${said} fixed change=${change} />${mine.length > 0 && html`<ul class="marks" role="status">${mine.map((one, at) => html`<li key=${at}><${Shape} tone="bad" /> <button class="link" onClick=${() => goQuery({ view: "yaml" })}>line ${one.line}</button> ${one.text}</li>`)}</ul>`}` : null}
    ${others.map((one, at) => html`<p key=${at} class="stale"><${Shape} tone="bad" /> It does not go together with <span class="mono">${one.file}</span>, line ${one.line}: ${one.what}</p>`)}
    ${checked.problem && html`<${Failure} problem=${checked.problem} />`}
    ${text !== base.text && checked.diff?.length > 0 && html`<${Diff} lines=${checked.diff} open=${Boolean(put)} />`}
    ${writes && html`<div class="row apart last"><span class="small muted" role="status" id="checked">${why || "No mistake found"}</span><div class="row">${text !== base.text && html`<button onClick=${() => (setText(base.text), setSaid(base.value))}>Undo all</button>`}
      <${Action} operation="policies.change" label="Save" title=${`Save ${name}`} first disabled=${why} said=${{ name }} body=${{ text, digest: base.digest }} fields=${[REASON]} consequence="What is risky waits for a second person; all else is followed at once." done=${saved} told=${null} /></div></div>`}<//>`;
}

// --- versions ---------------------------------------------------------------------------------------------

function Versions({ name, back }) {
  const asked = useAsk("policies.versions", { name, limit: 50 }, { every: 0 });
  return html`<${Panel} title="Versions" id="versions"><${Asked} asked=${asked}>${({ versions }) => html`<ol class="stack plain">${versions.map((one, at) => html`<li key=${one.id} class="policy-version"><div class="row apart"><div><${Time} at=${one.at} both /> <span class="mono small" title=${one.digest}>${one.digest ? one.digest.slice(0, 12) : "removed"}</span> <span class="muted">on ${one.node}</span>
      <p class="small">${one.changed_by ? html`${one.changed_by}${one.approved_by && html`, agreed by ${one.approved_by}`}: ${one.reason}` : html`<span class="muted">in the file itself</span>`}</p></div>${back && one.text && at > 0 && html`<button onClick=${() => back(one.text)}>Bring back</button>`}</div>
    <${Diff} lines=${one.diff} open=${at === 0 && versions.length > 1} /></li>`)}</ol>`}<//>
    <${Equivalent} operation="policies.versions" said=${{ name }} /><//>`;
}

// --- a new one --------------------------------------------------------------------------------------------

function NewPolicy({ query }) {
  const schema = useAsk("policies.schema", {}, { every: 0 });
  const kind = query.get("new");
  const name = query.get("name") ?? "";
  return html`<${Head} title="New policy" below="A kind and a name; the rest can be changed at any time."><${Link} to="/policies" class="button">Not now<//><//>
    <${Asked} asked=${schema}>${(known) => html`<${Panel} title="Which one" id="new"><div class="policy-form">
        <${FieldRow} field=${{ name: "kind", label: "Kind", kind: "choice", choices: [["", "–"], ...Object.keys(known.document.discriminator.mapping).map((one) => [one, one])], hint: shapeOf(known, kind)?.description }} value=${kind} set=${(one) => goQuery({ new: one || " " })} />
        <${FieldRow} field=${{ name: "name", label: "Name", hint: "Small letters, digits and hyphens; it never changes." }} value=${name} set=${(one) => goQuery({ name: one })} />
        <${FieldRow} field=${{ name: "begin", label: "Begin with", kind: "choice", choices: [["", "what it has to say"], ["example", "the example that ships with it"]], hint: "The example has comments that explain it; name your own tiers in it." }} value=${query.get("begin") ?? ""} set=${(one) => goQuery({ begin: one || null })} /></div><//>
      ${shapeOf(known, kind) && /^[a-z][a-z0-9-]{1,40}$/.test(name) && html`<${Fresh} key=${`${kind}/${name}/${query.get("begin")}`} schema=${known} kind=${kind} name=${name} query=${query} />`}`}<//>`;
}

function Fresh({ schema, kind, name, query }) {
  const example = query.get("begin") === "example" && schema.templates[kind];
  const text = useMemo(() => (example ? setIn(example, ["name"], name, name) : start(schema, kind, name)), []);
  return html`<${Editor} name=${name} kind=${kind} text=${text} value=${{ kind, name }} digest=${null} schema=${schema} query=${query} done=${(answer) => go(answer.state === "applied" ? `/policies/${name}` : "/policies")} />`;
}

/** What every policy of this kind has to say, still to be said. */
function start(schema, kind, name) {
  const shape = shapeOf(schema, kind);
  const needed = (shape.required ?? []).filter((key) => key !== "kind" && key !== "name");
  return [`kind: ${kind}`, `name: ${name}`, ...needed.map((key) => `${key}: ${shape.properties[key].type === "array" ? "[]" : ""}`)].join("\n") + "\n";
}
