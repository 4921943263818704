// Tags: words that people put on slides, who put which on how many, and the taking back of a whole change.
import { html } from "../lib/preact.js";
import { call } from "../lib/api.js";
import { count, plural, size } from "../lib/format.js";
import { useAsk } from "../lib/live.js";
import { goQuery, Link } from "../lib/router.js";
import { Action, Asked, Badge, Bytes, Empty, Equivalent, Head, Panel, Shape, Table, Time } from "../parts/all.js";

export const TAG_HINT = "Small letters, digits and - _ . : such as look-again; a new word is an admin's to say. Never a name or a number of somebody: the whole project reads it.";
const WHERE = { name: "expression", label: "Slides where", kind: "long", required: true, hint: "A cohort expression, such as objective = 40 and size_bytes > 1000000000." };

/** What every change of tags asks for besides its slides. @param {string} [tag] */
export const tagField = (tag) => ({ name: "tag", label: "Tag", required: true, most: 40, value: tag, hint: TAG_HINT });
export const REASON = { name: "reason", label: "Why", most: 500, hint: "It stands beside the change." };

export default function Tags({ query }) {
  const chosen = query.get("tag") ?? "";
  return html`<${Head} title="Tags" below="Words on slides, for finding them again, for cohorts and for moving. Every change can be taken back as a whole.">
      <${Action} operation="tags.change" label="Tag slides" title="Put a tag on slides" first body=${{ action: "add" }} fields=${[tagField(chosen), WHERE, REASON]} consequence="Slides that have it already stay as they are." told="Tagged" />
      <${Action} operation="tags.change" label="Take a tag off" title="Take a tag off slides" body=${{ action: "remove" }} fields=${[tagField(chosen), { ...WHERE, value: chosen ? `tag = '${chosen}'` : "" }, REASON]} consequence="The slides stay; only the word goes." told="Taken off" /><//>
    <div class="two"><div class="stack"><${Changes} tag=${chosen} /></div><div class="stack"><${InUse} chosen=${chosen} /></div></div>`;
}

function InUse({ chosen }) {
  const asked = useAsk("tags.list_tags", {}, { every: 15_000 });
  return html`<${Panel} title="In use" id="tags-in-use"><${Asked} asked=${asked} rows=${4}>${({ tags }) => (tags.length
    ? html`<ul class="lines">${tags.map((one) => html`<li key=${one.tag}><div class="row apart"><button class="link" aria-pressed=${one.tag === chosen} onClick=${() => goQuery({ tag: one.tag === chosen ? null : one.tag })}><strong>${one.tag}</strong></button><${Link} to=${`/slides?tag=${encodeURIComponent(one.tag)}`}>${plural(one.slides, "slide")}<//></div>
        <div class="row apart small muted"><span><${Bytes} of=${one.bytes} /></span><span>changed <${Time} at=${one.changed_at} /></span></div></li>`)}</ul>`
    : html`<${Empty} title="No slide has a tag">Put one on what an expression selects, on one slide, or on what is cold on a tier.<//>`)}<//>
    <${Equivalent} operation="tags.list_tags" /><//>`;
}

const undone = (c) => (c.undone_by ? "taken back" : c.undoes ? "takes back" : c.action === "add" ? "put on" : "taken off");
const TONES = { "taken back": "wait", "takes back": "warn", "put on": "good", "taken off": "work" };

function Changes({ tag }) {
  const load = async (after, limit) => {
    const found = await call("tags.changes", { tag: tag || null, after, limit });
    return { rows: found.changes, next: found.next };
  };
  const columns = [
    { name: "what", label: "What", width: "100px", text: undone, cell: (c) => html`<${Badge} state=${undone(c)} tone=${TONES[undone(c)]} />` },
    { name: "tag", label: "Tag", width: "minmax(84px, 1fr)", text: (c) => c.tag, cell: (c) => html`<strong title=${c.reason || c.tag}>${c.tag}</strong>` },
    { name: "count", label: "Slides", width: "72px", right: true, wide: true, text: (c) => c.count, cell: (c) => html`<span title=${size(c.bytes)}>${count(c.count)}</span>` },
    { name: "chosen", label: "Chosen", width: "minmax(96px, 2fr)", wide: true, text: (c) => c.chosen, cell: (c) => html`<span title=${c.chosen}>${c.chosen}</span>` },
    { name: "by", label: "By", width: "84px", wide: true, text: (c) => c.created_by, cell: (c) => c.created_by },
    { name: "at", label: "When", width: "104px", wide: true, text: (c) => c.created_at, cell: (c) => html`<${Time} at=${c.created_at} />` },
    { name: "deed", label: "", width: "72px", cell: (c) => !c.undone_by && c.count > 0 && html`<${Action} operation="tags.undo" label="Undo" title=${`Take back: ${c.tag} ${undone(c)} ${count(c.count)} slides`} said=${{ id: c.id }} consequence="What somebody changed since stays as it is." told="Taken back" />` },
  ];
  return html`<${Panel} title=${tag ? html`Changes of ${tag}` : "Changes"} id="tag-changes" aside=${tag && html`<button class="link" onClick=${() => goQuery({ tag: null })}>all tags</button>`}>
    <${Table} name="changes" label="Changes of tags" columns=${columns} load=${load} id=${(c) => c.id} deps=${[tag]} rows=${14} filter=${false} empty=${html`<${Empty} title="No tag was ever put on a slide"><${Shape} tone="wait" /> What people change stands here, newest first.<//>`} />
    <${Equivalent} operation="tags.changes" said=${{ tag: tag || null }} /><//>`;
}
