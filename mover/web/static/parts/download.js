// A file that an operation answers, saved by the browser: asked with the rights of whoever is signed in.
import { html, useState } from "../lib/preact.js";
import { ask, Problem } from "../lib/api.js";
import { may } from "../lib/session.js";
import { toast } from "../lib/toasts.js";

const KEPT_MS = 10_000;

/** A button that saves the answer of `operation` as `name`; absent for a role that may not ask for it. */
export function Download({ operation, said, name, label }) {
  const [busy, setBusy] = useState(false);
  if (!may(operation)) return null;
  const take = async () => {
    setBusy(true);
    try {
      const answer = await ask(operation, said);
      save(await answer.blob(), name);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      toast([problem.message, problem.hint].filter(Boolean).join(". "), "bad");
    } finally {
      setBusy(false);
    }
  };
  return html`<button disabled=${busy} onClick=${take}>${label}</button>`;
}

/** The figure beside it as a file for a report: the same numbers, drawn by the daemon. `name` without its ending. */
export function SaveFigure({ operation, said, name }) {
  if (!may(operation)) return null;
  return html`<p class="row small muted save-figure" role="group" aria-label=${`Save the figure ${name}`}>Save as${["svg", "png"].map((format) => html`<${Download} key=${format} operation=${operation} said=${{ ...said, format }} name=${`${name}.${format}`} label=${format.toUpperCase()} />`)}</p>`;
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), KEPT_MS);
}
