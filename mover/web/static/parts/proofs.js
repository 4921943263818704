// Proofs as they stand: what was proved of how much, by what.
import { html } from "../lib/preact.js";
import { count } from "../lib/format.js";
import { Bytes, Time } from "./figures.js";
import { Badge, Empty } from "./states.js";

const PROVES = {
  verified: "every byte was read again", deidentified: "only what the rules keep is left", complete: "every pack has exactly one outcome",
  aligned: "every row and image is in exactly one state", adopted: "somebody answers for it, and it was judged here", searched: "nothing of the later tables is in it",
};

/** @param {{of: object[], brief?: boolean}} said `brief`: where there is room for two columns */
export function Proofs({ of, brief = false }) {
  if (!of.length) return html`<${Empty} title="Nothing is proved yet" />`;
  if (brief) return html`<ul class="lines">${of.map((p) => html`<li key=${p.id}><div class="row apart"><${Badge} state=${p.kind} tone="good" /><span class="muted small"><${Time} at=${p.at} /></span></div><span class="small muted">${PROVES[p.kind] ?? ""}</span><span class="mono small" title=${p.root}>${p.root.slice(0, 24)}…</span></li>`)}</ul>`;
  return html`<div class="scroll"><table><thead><tr><th>proved</th><th>that</th><th class="right">count</th><th class="right">size</th><th>root</th><th>by</th><th>when</th></tr></thead>
    <tbody>${of.map((p) => html`<tr key=${p.id}><td><${Badge} state=${p.kind} tone="good" /></td><td class="sentence">${PROVES[p.kind] ?? ""}</td><td class="right">${count(p.count)}</td><td class="right"><${Bytes} of=${p.bytes} /></td><td class="mono nowrap" title=${p.root}>${p.root.slice(0, 12)}…</td><td class="nowrap">${p.verifier}</td><td class="nowrap"><${Time} at=${p.at} /></td></tr>`)}</tbody></table></div>`;
}
