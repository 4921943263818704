// Bars: how full, how far, and where in its life.
import { html } from "../lib/preact.js";
import { duration, percent } from "../lib/format.js";
import { Shape } from "./states.js";

/**
 * How full something is. `parts`: [{name, share (0 to 1), tone}] from the left; `marks`: [{at (0 to 1), name}], such as
 * the high-water mark of a policy.
 */
export function Meter({ parts, marks = [], label }) {
  return html`<div class="meter" role="img" aria-label=${`${label}: ${parts.map((p) => `${p.name} ${percent(p.share, 1)}`).join(", ")}`}>
    ${parts.map((p) => html`<i key=${p.name} class=${p.tone} style=${{ width: `${100 * Math.min(1, Math.max(0, p.share))}%` }} title=${`${p.name} ${percent(p.share, 1)}`} />`)}
    ${marks.map((m) => html`<b key=${m.name} style=${{ left: `${100 * m.at}%` }} title=${m.name} />`)}</div>`;
}

/** How far something is. Unknown `of` shows that it works without saying how far. */
export function Progress({ done, of, label, tone = "work" }) {
  const share = of ? Math.min(1, done / of) : null;
  return html`<div class="progress ${share === null ? "unknown" : ""}" role="progressbar" aria-label=${label} aria-valuemin="0" aria-valuemax="100" aria-valuenow=${share === null ? undefined : Math.floor(100 * share)}><i class=${tone} style=${{ width: share === null ? "40%" : `${100 * share}%` }} /></div>`;
}

/**
 * The way of a thing through its states. `stages`: [{name, state: done | now | ahead | failed | waiting, share?, note?}].
 * `estimate`: {low_s, likely_s, high_s, based_on} until the stage that is reached next.
 */
export function StageBar({ stages, estimate, label }) {
  return html`<div class="stages">
    <ol aria-label=${label}>${stages.map((s) => html`<li key=${s.name} class=${s.state} aria-current=${s.state === "now" ? "step" : undefined}>
      <span class="track"><i style=${{ width: s.state === "done" ? "100%" : `${100 * (s.share ?? 0)}%` }} /></span>
      <span class="name"><${Shape} tone=${TONE[s.state]} />${s.name}<span class="hidden-text">, ${SAID[s.state]}</span></span>
      ${s.note && html`<span class="note">${s.note}</span>`}</li>`)}</ol>
    ${estimate && html`<p class="muted"><${Interval} of=${estimate} /></p>`}
  </div>`;
}

const TONE = { done: "good", now: "work", ahead: "wait", failed: "bad", waiting: "wait" };
const SAID = { done: "done", now: "now", ahead: "to come", failed: "failed", waiting: "waiting" };

/** An estimate is an interval: eight of ten like it ended between the two. */
export function Interval({ of }) {
  const learned = of.based_on === 1 ? "1 run" : `${of.based_on} runs`;
  return html`<span>ready in <strong>${duration(of.likely_s)}</strong>, between ${duration(of.low_s)} and ${duration(of.high_s)} (learned from ${learned})</span>`;
}
