// Original names of packs, for a purpose that stands in the audit. They are held while the dialog is open, and nowhere
// else: not in the address, not in a toast, not in what a page keeps.
import { html, useState } from "../lib/preact.js";
import { plural } from "../lib/format.js";
import { Action, Dialog } from "./dialog.js";

const AT_MOST = 1000;

export function Reveal({ packs }) {
  const [names, setNames] = useState(null);
  const none = packs.length === 0 ? "Choose packs first" : packs.length > AT_MOST ? "At most 1,000 at once" : undefined;
  const fields = [{ name: "purpose", label: "Why you look", kind: "long", required: true, least: 8, most: 512, hint: "It stands in the audit record beside your name." }];
  return html`<${Action} operation="batches.reveal" label=${packs.length ? `Names of ${packs.length}` : "Names"} title="Look at original names" body=${{ packs }} fields=${fields} disabled=${none}
      consequence=${`The names of ${plural(packs.length, "pack")} are unsealed for you alone. The look is recorded, whatever comes of it.`} told="The look is on record" done=${(answer) => setNames(answer.names)} />
    ${names && html`<${Dialog} title="Original names" close=${() => setNames(null)} wide><p class="muted">Gone when this is closed. They identify people: copy them nowhere.</p>
      <div class="scroll"><table><thead><tr><th>pack</th><th>names</th></tr></thead><tbody>${Object.entries(names).map(([id, of]) => html`<tr key=${id}><td class="mono nowrap">${id}</td><td class="mono">${of.map((name) => html`<div key=${name}>${name}</div>`)}</td></tr>`)}</tbody></table></div><//>`}`;
}
