// Words for states: a shape, a colour and the word itself, so that nobody needs the colour. And what stands where
// nothing is yet: emptiness with the next step, waiting without jumping, failure with what a person can do.
import { html } from "../lib/preact.js";
import { words } from "../lib/format.js";

const TONES = {
  good: `complete ready protected cleaned published aligned verified done granted applied restored clean passed online
    matched written checked whole immutable kept registered purged repaired cleared ok live approved retired released
    loaded caught-up same`,
  work: `walking working staging sealed leased finishing protecting cleaning running merging matching reading listing
    confirming planning moving restoring scanning registering making copying deidentifying releasing`,
  wait: `declared requested admitted waiting waiting-for-images asked idle found paused duplicate withdrawn cancelled
    lapsed excluded trashed forgotten declined revoked aborted scanned judged gone planned held unknown ended expected`,
  warn: `quarantined late incomplete missing expired suspect doubt changed stranger unreadable image-without-row
    row-without-image cancelling offline`,
  bad: `failed refused damaged bit-rot conflict broken not-immutable collapsed flood denied`,
};
const TONE_OF = new Map(Object.entries(TONES).flatMap(([tone, names]) => names.split(/\s+/).map((name) => [name, tone])));

/** @returns {"good"|"work"|"wait"|"warn"|"bad"} */
export const toneOf = (state) => TONE_OF.get(String(state).replaceAll(" ", "-")) ?? "wait";

const SHAPES = {
  good: html`<circle cx="6" cy="6" r="6" /><path class="cut" d="M3.2 6.2l2 2 3.6-4" />`,
  work: html`<circle class="ring" cx="6" cy="6" r="5" /><path d="M6 1a5 5 0 0 1 0 10z" />`,
  wait: html`<circle class="ring" cx="6" cy="6" r="5" />`,
  warn: html`<path d="M6 .5l6 11H0z" /><path class="cut" d="M6 4.4v3M6 9.2v.6" />`,
  bad: html`<rect width="12" height="12" rx="2" /><path class="cut" d="M3.6 3.6l4.8 4.8M8.4 3.6l-4.8 4.8" />`,
};

/** Only the shape, for where the word stands already. */
export function Shape({ tone }) {
  return html`<svg class="shape ${tone}" viewBox="0 0 12 12" aria-hidden="true">${SHAPES[tone]}</svg>`;
}

/** @param {{state: string, tone?: string, children?: any}} said `children` instead of the state's own word */
export function Badge({ state, tone = toneOf(state), children }) {
  return html`<span class="badge ${tone}"><${Shape} tone=${tone} />${children ?? words(state)}</span>`;
}

/** Counts by state, the worst first: `{published: 40, quarantined: 2}`. */
export function Tally({ counts, order = ["bad", "warn", "work", "wait", "good"] }) {
  const known = Object.entries(counts ?? {}).filter(([, n]) => n > 0);
  known.sort(([a], [b]) => order.indexOf(toneOf(a)) - order.indexOf(toneOf(b)));
  if (!known.length) return html`<span class="muted">–</span>`;
  return html`<span class="tally">${known.map(([state, n]) => html`<${Badge} key=${state} state=${state}>${n.toLocaleString("en")} ${words(state)}<//>`)}</span>`;
}

/** @param {{title: string, children?: any}} said what is not there, and what makes it come */
export function Empty({ title, children }) {
  return html`<div class="empty"><p><strong>${title}</strong></p>${children && html`<p class="muted">${children}</p>`}</div>`;
}

/** Grey bars where rows will be: the page does not jump when they come. */
export function Skeleton({ rows = 3 }) {
  return html`<div class="skeleton" aria-busy="true"><span class="hidden-text">loading</span>
    ${Array.from({ length: rows }, (_, at) => html`<i key=${at} />`)}</div>`;
}

const AGAIN = { never: "It will not work by itself.", later: "It may work later, as it is.", elsewhere: "It may work from another copy or node." };

/** A problem of the API with its four answers; `again` offers to try now. */
export function Failure({ problem, again }) {
  const facts = problem.details ?? [];
  return html`<div class="failure" role="alert">
    <p><${Shape} tone="bad" /> <strong>${problem.message}</strong></p>
    <dl>
      ${problem.where && html`<dt>where</dt><dd class="mono">${problem.where}</dd>`}
      <dt>again</dt><dd>${AGAIN[problem.retry] ?? problem.retry}</dd>
      ${problem.hint && html`<dt>to do</dt><dd>${problem.hint}</dd>`}
      ${problem.code && html`<dt>code</dt><dd class="mono">${problem.code}${problem.request && `, request ${problem.request}`}</dd>`}
    </dl>
    ${facts.length > 0 && html`<ul class="facts-list">${facts.slice(0, 20).map((one, at) => html`<li key=${at} class="mono small">${Object.entries(one).map(([k, v]) => `${k} ${typeof v === "object" ? JSON.stringify(v) : v}`).join("  ")}</li>`)}
      ${facts.length > 20 && html`<li class="muted">and ${facts.length - 20} more</li>`}</ul>`}
    ${again && html`<p><button onClick=${again}>Try again</button></p>`}
  </div>`;
}

/**
 * What `useAsk` knows, drawn: waiting, refused, or `children(answer)`. A failure after a first answer stands above
 * what was shown, with its age.
 */
export function Asked({ asked, rows, children }) {
  const { answer, problem, again } = asked;
  if (answer === undefined) return problem ? html`<${Failure} problem=${problem} again=${again} />` : html`<${Skeleton} rows=${rows} />`;
  return html`${problem && html`<p class="stale" role="status"><${Shape} tone="warn" /> Not fresh: ${problem.message}. <button class="link" onClick=${again}>Ask again</button></p>`}${children(answer)}`;
}
