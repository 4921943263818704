// A column of boxes with which rows of a table are chosen; what is chosen stays while pages come and go.
import { html } from "../lib/preact.js";

/** @param {Set<string>} chosen ids @param {(next: Set<string>) => void} set */
export const Choose = (chosen, set) => ({
  name: "chosen", label: "", width: "20px",
  cell: ({ id }) => html`<input type="checkbox" aria-label=${`Choose ${id}`} checked=${chosen.has(id)} onClick=${(event) => {
    // the row would be drawn again between the click and the change, with the box as it was
    event.stopPropagation();
    const next = new Set(chosen);
    next[event.currentTarget.checked ? "add" : "delete"](id);
    set(next);
  }} />`,
});
