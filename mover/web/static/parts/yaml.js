// A text of YAML with numbered lines and marks where it is wrong. A plain text field underneath: undo, spell-check off,
// screen readers and Tab (to leave it) work as everywhere.
import { html, useId, useRef } from "../lib/preact.js";
import { plural } from "../lib/format.js";
import { Shape } from "./states.js";

/**
 * @param {{text: string, set?: (text: string) => void, marks?: {line: number, column?: number, text: string}[], label: string, rows?: number}} props
 * Lines of `marks` count from 1; without `set` it is only to be read.
 */
export function Yaml({ text, set, marks = [], label, rows = 24 }) {
  const gutter = useRef(null);
  const field = useRef(null);
  const id = useId();
  const lines = text.split("\n").length;
  const wrong = new Set(marks.map((m) => m.line));
  const scrolled = (event) => {
    gutter.current.scrollTop = event.currentTarget.scrollTop;
  };
  const show = ({ line, column = 1 }) => {
    const before = text.split("\n").slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
    const at = Math.min(text.length, before + column - 1);
    field.current.focus();
    field.current.setSelectionRange(at, at);
  };
  return html`<div class="yaml"><div class="yaml-box">
      <ol class="gutter" ref=${gutter} aria-hidden="true">${Array.from({ length: lines }, (_, at) => html`<li key=${at} class=${wrong.has(at + 1) ? "wrong" : ""}>${at + 1}</li>`)}</ol>
      <textarea ref=${field} aria-label=${label} aria-invalid=${marks.length > 0} aria-describedby=${marks.length ? id : undefined} spellcheck=${false} autocapitalize="off" wrap="off" rows=${rows} readonly=${!set} value=${text} onInput=${(event) => set?.(event.currentTarget.value)} onKeyDown=${(event) => set && indent(event, set)} onScroll=${scrolled} /></div>
    <ul id=${id} class="marks" role="status">${marks.map((m, at) => html`<li key=${at}><${Shape} tone="bad" /> <button type="button" class="link" onClick=${() => show(m)}>line ${m.line}</button> ${m.text}</li>`)}${set && !marks.length && html`<li class="hidden-text">${plural(lines, "line")}, no mistake found</li>`}</ul></div>`;
}

/** A new line begins where the one before began. */
function indent(event, set) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  const field = event.currentTarget;
  const { value, selectionStart: from, selectionEnd: to } = field;
  const line = value.slice(value.lastIndexOf("\n", from - 1) + 1, from);
  const depth = /^\s*(- )?/.exec(line)[0].replace("-", " ") + (/:\s*$/.test(line) ? "  " : "");
  event.preventDefault();
  field.setRangeText(`\n${depth}`, from, to, "end");
  set(field.value);
}
