// Amounts and moments as they stand in a line of text.
import { html, useEffect, useState } from "../lib/preact.js";
import { ago, count, duration, moment, rate, short, size, zone } from "../lib/format.js";
import { store, useStore } from "../lib/store.js";

// one clock for the whole page: all relative times turn together
const clock = store(Date.now());
setInterval(() => document.hidden || clock.set(Date.now()), 5000);

/** `3 min ago`, and the moment itself on hover and for readers. @param {{at: string|null, both?: boolean}} said */
export function Time({ at, both = false }) {
  const now = useStore(clock);
  if (!at) return html`<span class="muted">–</span>`;
  const exact = `${moment(at)} ${zone()}`;
  return html`<time datetime=${at} title=${exact} class=${both ? "" : "nowrap"}>${both ? `${moment(at)}, ${ago(at, now)}` : ago(at, now)}</time>`;
}

export const Bytes = ({ of }) => html`<span class="nowrap" title=${of === null || of === undefined ? null : `${count(of)} bytes`}>${size(of)}</span>`;
export const Rate = ({ of }) => html`<span class="nowrap">${rate(of)}</span>`;
export const Duration = ({ of }) => html`<span class="nowrap" title=${of === null || of === undefined ? null : `${Math.round(of)} s`}>${duration(of)}</span>`;
export const Count = ({ of }) => html`<span class="nowrap">${count(of)}</span>`;

/** An id, short in a row and whole on hover; `whole` in a heading. */
export const Id = ({ of, whole = false }) => (of ? html`<span class="mono" title=${of}>${whole ? of : short(of)}</span>` : html`<span class="muted">–</span>`);

/** Something to take along: shown as code, copied by a button. */
export function Copy({ text, label = "Copy", block = false }) {
  const [done, setDone] = useState(false);
  useEffect(() => {
    if (!done) return undefined;
    const timer = setTimeout(() => setDone(false), 2000);
    return () => clearTimeout(timer);
  }, [done]);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      select(text);
    }
    setDone(true);
  };
  return html`<span class=${block ? "copy block" : "copy"}><code>${text}</code><button class="plain" onClick=${copy} aria-label=${`${label}: ${text}`}>${done ? "copied" : label}</button></span>`;
}

// without a secure context there is no clipboard API: a hidden field does it the old way
function select(text) {
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

/** Names and values, such as of one run. `of`: [name, value] pairs; what is null is left out. */
export function Facts({ of }) {
  return html`<dl class="facts">${of.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** A sheet with a title. `aside` stands at the right of the title. */
export function Panel({ title, aside, children, id }) {
  return html`<section class="panel" aria-labelledby=${id && `${id}-title`} id=${id}>
    ${title && html`<header><h2 id=${id && `${id}-title`}>${title}</h2>${aside && html`<div class="row">${aside}</div>`}</header>`}${children}</section>`;
}

/** The head of a page: what it is, in what state, and what can be done with it. */
export function Head({ title, badge, below, children }) {
  return html`<div class="head"><div><h1>${title}${badge}</h1>${below && html`<p class="muted">${below}</p>`}</div>${children && html`<div class="actions">${children}</div>`}</div>`;
}

/** Views of one thing, chosen by the query parameter `name`, so that each can be sent as a link. */
export function Tabs({ of, chosen, choose, label }) {
  const keyed = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = of.findIndex(([name]) => name === chosen);
    const next = of[(at + step + of.length) % of.length][0];
    choose(next);
    event.currentTarget.querySelector(`[data-tab="${next}"]`)?.focus();
  };
  return html`<div class="tabs" role="tablist" aria-label=${label} onKeyDown=${keyed}>${of.map(([name, title, n]) => html`<button key=${name} role="tab" data-tab=${name} aria-selected=${name === chosen} tabindex=${name === chosen ? 0 : -1} onClick=${() => choose(name)}>${title}${n !== undefined && html` <span class="muted">${count(n)}</span>`}</button>`)}</div>`;
}
