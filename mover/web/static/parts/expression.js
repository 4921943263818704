// A cohort expression while it is typed: what may come next, and where it is wrong. A plain text field lies over a
// sheet that holds the same text, so that the browser itself says where a character stands, also in a wrapped line.
import { html, useId, useLayoutEffect, useMemo, useRef, useState } from "../lib/preact.js";
import { Shape } from "./states.js";

const OFFERED = 12;
// said of files where nothing better is known; here the place is marked
const GENERAL = "Mend the named line and run the command again.";
const OPERATORS = ["=", "<>", "<", "<=", ">", ">=", "in (", "between", "is null", "is not null", "like"];
const ORDERED = new Set(["integer", "number", "year", "date"]);
const ASKS_FOR_VALUE = /(\w+)\s*(?:=|<>|!=|<=?|>=?|\blike|\bbetween(?:\s+\S+\s+and)?|\bin\s*\((?:[^()]*,)?)$/i;

/**
 * What may stand at a place: columns, their operators, their values, or what joins two conditions.
 * @param {string} text @param {number} at the caret @param {{name: string, type: string, allowed: string[]|null, values: any[]|null}[]} columns
 * @returns {{from: number, typed: string, words: {text: string, note: string}[]}}
 */
export function offers(text, at, columns) {
  const before = text.slice(0, at);
  const quoted = (before.match(/'/g) ?? []).length % 2 === 1;
  const from = quoted ? before.lastIndexOf("'") : before.length - /\w*$/.exec(before)[0].length;
  const typed = before.slice(from);
  const words = following(before.slice(0, from).trimEnd(), columns, quoted);
  const wanted = typed.toLowerCase();
  const found = words.filter((one) => one.text.toLowerCase().startsWith(wanted) && one.text !== typed);
  return { from, typed, words: found.slice(0, OFFERED) };
}

function following(head, columns, quoted) {
  const known = (name) => columns.find((one) => one.name === name?.toLowerCase());
  const asked = known(ASKS_FOR_VALUE.exec(head)?.[1]);
  if (asked) return (asked.allowed ?? asked.values ?? []).map((value) => ({ text: literal(value), note: asked.name }));
  if (quoted) return [];
  if (!head || /(?:\b(?:and|or|not)|\()$/i.test(head)) return columns.map((one) => ({ text: one.name, note: one.type })).concat({ text: "not", note: "the opposite" });
  const column = known(/(\w+)$/.exec(head)?.[1]);
  if (column?.type === "tag") return ["=", "<>", "in (", "is null"].map((one) => ({ text: one, note: "" }));
  if (column) return OPERATORS.filter((one) => ORDERED.has(column.type) ? one !== "like" : !/^[<>]=?$|between/.test(one) || one === "<>").map((one) => ({ text: one, note: "" }));
  return [{ text: "and", note: "both" }, { text: "or", note: "either" }];
}

/** A value as an expression writes it. */
export const literal = (value) => (typeof value === "string" ? `'${value.replaceAll("'", "''")}'` : String(value));

/** Where the daemon says it is wrong, from 0; null where it says no place. */
export function wrongAt(problem) {
  const found = /^character (\d+)$/.exec(problem?.where ?? "");
  return found ? Number(found[1]) - 1 : null;
}

/** @param {{text: string, set: (text: string) => void, columns: any[], problem?: any, label: string}} props */
export function Expression({ text, set, columns, problem, label }) {
  const [caret, setCaret] = useState(null);
  const [active, setActive] = useState(-1);
  const [place, setPlace] = useState({ left: 0, top: 0 });
  const field = useRef(null);
  const mark = useRef(null);
  const id = useId();
  const offer = useMemo(() => (caret === null ? null : offers(text, caret, columns)), [text, caret, columns]);
  const open = Boolean(offer?.words.length);
  const wrong = wrongAt(problem);
  useLayoutEffect(() => {
    if (open && mark.current) setPlace({ left: Math.min(mark.current.offsetLeft, Math.max(0, field.current.clientWidth - 240)), top: mark.current.offsetTop + mark.current.offsetHeight });
  }, [open, offer?.from, text]);

  const look = (value, at) => {
    setCaret(at);
    setActive(offers(value, at, columns).typed ? 0 : -1);
  };
  const typed = ({ currentTarget: { value, selectionStart } }) => {
    set(value);
    look(value, selectionStart);
  };
  const take = (word) => {
    const next = `${text.slice(0, offer.from)}${word.text}${word.text.endsWith("(") ? "" : " "}`;
    const whole = next + text.slice(caret).replace(/^[\w']*\s?/, "");
    set(whole);
    look(whole, next.length);
    requestAnimationFrame(() => {
      field.current?.focus();
      field.current?.setSelectionRange(next.length, next.length);
    });
  };
  const keyed = (event) => {
    if (event.key === " " && event.ctrlKey) look(text, field.current.selectionStart);
    else if (!open) return;
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") setActive((active + (event.key === "ArrowDown" ? 1 : -1) + offer.words.length + (active < 0 && event.key === "ArrowUp" ? 1 : 0)) % offer.words.length);
    else if (event.key === "Enter" && active >= 0) take(offer.words[active]);
    else if (event.key === "Escape") setCaret(null);
    else return;
    event.preventDefault();
  };
  return html`<div class="expression">
    <div class="expression-box">
      <pre aria-hidden="true">${sheet(text, { wrong, from: offer?.from ?? null, mark })}</pre>
      <textarea ref=${field} role="combobox" aria-label=${label} aria-autocomplete="list" aria-expanded=${open} aria-controls=${`${id}-list`} aria-activedescendant=${open && active >= 0 ? `${id}-${active}` : undefined}
        aria-invalid=${Boolean(problem)} aria-describedby=${problem ? `${id}-wrong` : undefined} spellcheck=${false} autocapitalize="off" autocomplete="off" rows="1" placeholder="such as: diagnosis = 'PRAD' and gleason >= 7"
        value=${text} onInput=${typed} onKeyDown=${keyed} onClick=${() => setCaret(null)} onBlur=${() => setCaret(null)} />
      ${open && html`<ul id=${`${id}-list`} role="listbox" aria-label="What may come here" style=${{ left: `${place.left}px`, top: `${place.top}px` }}>${offer.words.map((word, at) => html`<li key=${word.text} id=${`${id}-${at}`} role="option" aria-selected=${at === active} onMouseDown=${(event) => {
        event.preventDefault();
        take(word);
      }}><code>${word.text}</code><span class="muted small">${word.note}</span></li>`)}</ul>`}
    </div>
    <div id=${`${id}-wrong`} class="wrong" role="status">${problem && html`<${Wrong} problem=${problem} show=${wrong === null ? null : () => {
      field.current.focus();
      field.current.setSelectionRange(wrong, wrong + 1);
    }} />`}</div></div>`;
}

/** The text under the field: only what stands before a mark matters, the letters themselves are the field's. */
function sheet(text, { wrong, from, mark }) {
  const cuts = [...new Set([0, wrong, wrong === null ? null : wrong + 1, from, text.length].filter((at) => at !== null && at <= text.length))].sort((a, b) => a - b);
  const parts = cuts.map((at, i) => {
    const part = text.slice(at, cuts[i + 1]);
    const anchor = at === from && html`<span ref=${mark} key="mark">​</span>`;
    return at === wrong ? html`${anchor}<mark key="wrong">${part || " "}</mark>` : html`${anchor}${part}`;
  });
  return html`${parts}${"\n"}`;
}

function Wrong({ problem, show }) {
  const [what] = problem.message.split(":\n");
  return html`<p><${Shape} tone="bad" /> ${show ? html`<button type="button" class="link" onClick=${show}>${problem.where}</button>: ` : ""}${what}.</p>${problem.hint && problem.hint !== GENERAL && html`<p class="small muted">${problem.hint}</p>`}`;
}
