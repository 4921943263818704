// Dialogs, and above all the one before every action: what would be done and why, the same action as a command and as
// a request, then the button. The plan comes from the daemon; nothing is judged here.
import { html, useEffect, useId, useMemo, useRef, useState } from "../lib/preact.js";
import { call, intention, Problem } from "../lib/api.js";
import { command, request } from "../lib/equivalent.js";
import { count, duration, plural, size, words } from "../lib/format.js";
import { OPERATIONS } from "../lib/operations.js";
import { may } from "../lib/session.js";
import { toast } from "../lib/toasts.js";
import { Failure, Skeleton } from "./states.js";
import { Copy } from "./figures.js";

const STEPS_SHOWN = 200;
const TYPING_MS = 400;

/** The browser's own modal dialog: it keeps the focus inside and gives it back. */
export function Dialog({ title, close, children, wide = false }) {
  const box = useRef(null);
  const id = useId();
  useEffect(() => {
    box.current.showModal();
    return () => box.current?.close();
  }, []);
  const cancelled = (event) => {
    event.preventDefault();
    close();
  };
  return html`<dialog ref=${box} class=${wide ? "wide" : ""} aria-labelledby=${id} onCancel=${cancelled}>
    <header><h2 id=${id}>${title}</h2><button class="plain" onClick=${close} aria-label="Close">✕</button></header>
    <div class="body">${children}</div></dialog>`;
}

/** The same as a command and as a request. @param {{operation: string, said?: object, body?: object, open?: boolean}} said */
export function Equivalent({ operation, said = {}, body, open = false }) {
  const line = command(operation, said, body);
  return html`<details class="equivalent" open=${open}><summary>The same by command line and API</summary>
    ${line ? html`<p class="small muted">command line</p><${Copy} text=${line} block />` : html`<p class="small muted">There is no command for this.</p>`}
    <p class="small muted">API</p><${Copy} text=${request(operation, said, body)} block /></details>`;
}

/**
 * A button for one operation: absent for a role that may not ask for it, and on a press the plan, the equivalent, the
 * fields that the body needs, and only then the deed.
 *
 * @param {{
 *   operation: string, label: string, title?: string, said?: object, body?: object,
 *   fields?: Field[], consequence?: any, danger?: boolean, first?: boolean, disabled?: string,
 *   agree?: string, done?: (answer: any) => void, told?: string, deed?: string,
 * }} props `said`: path and query; `body`: what is fixed of the body; `consequence`: what it does, in a sentence;
 * `disabled`: why it cannot be asked for now; `agree`: the field that takes the digest of the plan that was shown, where it
 * has one; `told`: the toast; null where `done` tells; `deed`: what its last
 * button says where that is not `label`.
 * @typedef {{name: string, label: string, kind?: "text"|"long"|"lines"|"pairs"|"number"|"check"|"choice"|"moment", hint?: string,
 *   required?: boolean, least?: number, most?: number, choices?: [string, string][], value?: any, in?: "body"|"said",
 *   of?: string}} Field `of`: a member, by its label, of the body's field of that name.
 */
export function Action(props) {
  const [open, setOpen] = useState(false);
  if (!may(props.operation)) return null;
  const look = [props.danger && "danger", props.first && "first"].filter(Boolean).join(" ");
  return html`<button class=${look} disabled=${Boolean(props.disabled)} title=${props.disabled || undefined} onClick=${() => setOpen(true)}>${props.label}</button>
    ${open && html`<${ActionDialog} ...${props} close=${() => setOpen(false)} />`}`;
}

export function ActionDialog({ operation, label, title, said = {}, body, fields = [], consequence, danger, agree, done, told, deed = label, close }) {
  const [values, setValues] = useState(() => Object.fromEntries(fields.map((f) => [f.name, f.value ?? (f.kind === "check" ? false : "")])));
  const [state, setState] = useState({ problem: null, busy: false });
  const key = useMemo(intention, []);
  const [digest, setDigest] = useState(null);
  const asked = { said: { ...said, ...taken(fields, values, "said") }, body: bodyOf(body, fields, values) };
  const sent = agree && digest ? { ...asked.body, [agree]: digest } : asked.body;
  const ready = fields.every((f) => !f.required || said_(values[f.name], f));
  const apply = async () => {
    setState({ problem: null, busy: true });
    try {
      const answer = await call(operation, asked.said, { body: sent, key });
      if (told !== null) toast(told ?? `${label}: done`);
      close();
      done?.(answer);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      setState({ problem, busy: false });
    }
  };
  const send = (event) => {
    event.preventDefault();
    if (ready && !state.busy) apply();
  };
  return html`<${Dialog} title=${title ?? label} close=${close} wide>
    <form onSubmit=${send} class="stack">
      ${consequence && html`<p>${consequence}</p>`}
      ${fields.map((f) => html`<${FieldRow} key=${f.name} field=${f} value=${values[f.name]} set=${(value) => setValues({ ...values, [f.name]: value })} />`)}
      ${ready && OPERATIONS[operation].query.includes("plan") && html`<${Planned} operation=${operation} asked=${asked} shown=${setDigest} />`}
      ${state.problem && html`<${Failure} problem=${state.problem} />`}
      <${Equivalent} operation=${operation} said=${asked.said} body=${sent} />
      <div class="row apart last"><button type="button" onClick=${close}>Not now</button>
        <button class=${danger ? "danger first" : "first"} disabled=${!ready || state.busy}>${state.busy ? "Working" : deed}</button></div>
    </form><//>`;
}

/** What the daemon would do, asked anew when what is asked for changes. */
function Planned({ operation, asked, shown }) {
  const [found, setFound] = useState({ plan: null, problem: null });
  const key = JSON.stringify(asked);
  useEffect(() => {
    const ended = new AbortController();
    shown(null);
    const timer = setTimeout(async () => {
      try {
        const plan = await call(operation, { ...asked.said, plan: true }, { body: asked.body, signal: ended.signal });
        setFound({ plan, problem: null });
        shown(plan.digest ?? null);
      } catch (problem) {
        if (!ended.signal.aborted) setFound({ plan: null, problem });
      }
    }, found.plan ? TYPING_MS : 0);
    return () => {
      clearTimeout(timer);
      ended.abort();
    };
  }, [key]);
  if (found.problem instanceof Problem) return html`<${Failure} problem=${found.problem} />`;
  if (found.problem) throw found.problem;
  return found.plan ? html`<${Plan} plan=${found.plan} />` : html`<${Skeleton} rows=${3} />`;
}

/** How long such took: a word where both ends are the same. */
const span = ({ seconds_low: low, seconds_high: high }) => (duration(low) === duration(high) ? `about ${duration(high)}` : `between ${duration(low)} and ${duration(high)}`);

/** A plan: counts, bytes, and every step with its reason. */
export function Plan({ plan }) {
  const totals = Object.entries(plan.counts).filter(([, n]) => n > 0);
  return html`<section class="plan" aria-label="Plan"><p><strong>Plan, nothing is done yet.</strong> ${totals.length ? totals.map(([name, n]) => `${count(n)} ${words(name)}`).join(", ") : "Nothing to do"}${plan.bytes > 0 && `; ${size(plan.bytes)}`}${plan.free_bytes !== null && plan.free_bytes !== undefined && `; ${size(plan.needed_bytes)} needed, ${size(plan.free_bytes)} free`}${plan.seconds_high ? `; ${span(plan)}` : ""}.</p>
    ${plan.steps.length > 0 && html`<div class="scroll" tabindex="0" role="region" aria-label="Steps of the plan"><table><thead><tr><th>do</th><th>what</th><th>why</th><th class="right">size</th></tr></thead>
      <tbody>${plan.steps.slice(0, STEPS_SHOWN).map((s, at) => html`<tr key=${at}><td class="nowrap">${words(s.action)}</td><td class="mono">${s.subject}</td><td>${s.reason}</td><td class="right nowrap">${s.bytes ? size(s.bytes) : ""}</td></tr>`)}</tbody></table></div>`}
    ${(plan.truncated || plan.steps.length > STEPS_SHOWN) && html`<p class="muted">${plural(Math.min(plan.steps.length, STEPS_SHOWN), "step")} shown; the counts are of all.</p>`}</section>`;
}

/** One field of a form, with its label, its hint and what it takes. */
export function FieldRow({ field, value, set }) {
  const id = useId();
  const hint = field.hint ? `${id}-hint` : undefined;
  const shared = { id, "aria-describedby": hint, required: field.required };
  const typed = (event) => set(event.currentTarget.value);
  const input = {
    check: () => html`<input type="checkbox" ...${shared} checked=${value} onChange=${(event) => set(event.currentTarget.checked)} />`,
    choice: () => html`<select ...${shared} value=${value} onChange=${typed}>${field.choices.map(([is, said]) => html`<option key=${is} value=${is}>${said}</option>`)}</select>`,
    long: () => html`<textarea ...${shared} rows="3" minlength=${field.least} maxlength=${field.most} value=${value} onInput=${typed} />`,
    lines: () => html`<textarea ...${shared} rows="4" placeholder="one a line" value=${value} onInput=${typed} />`,
    pairs: () => html`<textarea ...${shared} rows="4" placeholder="name=value, one a line" value=${value} onInput=${typed} />`,
    number: () => html`<input type="number" ...${shared} min=${field.least} max=${field.most} value=${value} onInput=${typed} />`,
    moment: () => html`<input type="datetime-local" ...${shared} value=${value} onInput=${typed} />`,
  }[field.kind] ?? (() => html`<input type="text" ...${shared} minlength=${field.least} maxlength=${field.most} value=${value} onInput=${typed} />`);
  return html`<div class="field ${field.kind === "check" ? "inline" : ""}"><label for=${id}>${field.label}${field.required && html` <span class="muted">(needed)</span>`}</label>${input()}${field.hint && html`<small id=${hint} class="muted">${field.hint}</small>`}</div>`;
}

function said_(value, field) {
  return typeof value === "string" ? value.trim().length >= (field.kind === "number" ? 1 : field.least ?? 1) : value !== undefined;
}

/** Values as the API takes them; what nobody said is left out. */
function taken(fields, values, place) {
  const found = {};
  for (const field of fields.filter((f) => (f.in ?? "body") === place)) {
    const value = values[field.name];
    if (value === "" || value === undefined || value === false) continue;
    if (field.of) found[field.of] = { ...found[field.of], [field.label]: value };
    else if (field.kind === "lines") found[field.name] = value.split("\n").map((one) => one.trim()).filter(Boolean);
    else if (field.kind === "pairs") found[field.name] = Object.fromEntries(value.split("\n").filter((one) => one.includes("=")).map((one) => [one.slice(0, one.indexOf("=")).trim(), one.slice(one.indexOf("=") + 1).trim()]));
    else if (field.kind === "number") found[field.name] = Number(value);
    else if (field.kind === "moment") found[field.name] = new Date(value).toISOString();
    else found[field.name] = value;
  }
  return found;
}

function bodyOf(body, fields, values) {
  const said = taken(fields, values, "body");
  return body === undefined && !fields.some((f) => (f.in ?? "body") === "body") ? undefined : { ...body, ...said };
}
