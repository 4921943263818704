// Where it begins: who is there, which page, and the frame around it.
import { html, render, useEffect, useErrorBoundary, useRef, useState } from "./lib/preact.js";
import { gate } from "./lib/api.js";
import { pressable, useKey } from "./lib/keys.js";
import { BASE, go, Link, match, place } from "./lib/router.js";
import { connection, listen } from "./lib/changes.js";
import { begin, chooseProject, forget, lost, may, over, session, signOut } from "./lib/session.js";
import { useStore } from "./lib/store.js";
import { drop, toasts } from "./lib/toasts.js";
import { applyTheme, nextTheme } from "./lib/theme.js";
import { Dialog, Empty, Failure, Shape, Skeleton } from "./parts/all.js";
import { PAGES } from "./pages/table.js";
import { Again, SignIn } from "./parts/signin.js";

let first = true; // nobody has gone anywhere yet
const offered = () => PAGES.filter((page) => may(page.needs));

function App() {
  const who = useStore(session);
  if (who === undefined) return html`<p class="boot" role="status">Asking who you are …</p>`;
  return who === null ? html`<${SignIn} />` : html`<${Frame} who=${who} key=${`${who.actor} ${who.project}`} />`;
}

function Frame({ who }) {
  const here = useStore(place);
  const [open, setOpen] = useState(false);
  const [help, setHelp] = useState(false);
  const { page, said } = find(here.path);
  const left = useStore(over);
  useEffect(() => (left ? undefined : listen(who)), [left]);
  useKey("?", "what can be pressed", () => setHelp(true));
  useEffect(() => setOpen(false), [here.path]);
  return html`<div class="frame ${open ? "open" : ""} ${left ? "over" : ""}">
    <a class="skip" href="#page">Skip to the page</a>
    ${offered().map((one) => html`<${Shortcut} key=${one.name} page=${one} />`)}
    <${Side} who=${who} current=${page?.name} help=${() => setHelp(true)} />
    <header class="top"><button class="menu" aria-expanded=${open} onClick=${() => setOpen(!open)}>Menu</button>
      <${Crumbs} page=${page} said=${said} /><span class="grow" /><${ThemeButton} /></header>
    <main class="page" id="page" tabindex="-1"><${Loaded} key=${page?.name ?? "none"} page=${page} said=${said} query=${here.query} /></main>
    <${Toasts} />
    ${left ? html`<${Again} who=${who} leave=${forget} />` : html`<${Lost} />`}
    ${help && html`<${Help} close=${() => setHelp(false)} />`}
  </div>`;
}

/** Away by itself. What stands on the page is as old as the loss, and what was typed stays. */
function Lost() {
  const { state, at } = useStore(connection);
  const [now, setNow] = useState(Date.now());
  const box = useRef(null);
  useEffect(() => {
    if (state !== "again") return undefined;
    const said = box.current;
    const tick = () => setNow(Date.now());
    tick();
    const timer = setInterval(tick, 1000);
    said.showPopover?.();
    return () => {
      said.hidePopover?.();
      clearInterval(timer);
    };
  }, [state]);
  const left = Math.ceil((at - now) / 1000);
  return html`<div class="lost" popover="manual" ref=${box} role="status">${state === "again" && html`<${Shape} tone="warn" /> Connection lost, <span aria-hidden="true">trying again ${left > 0 ? `in ${left} s` : "now"}</span><span class="hidden-text">trying again by itself</span>. What you typed stays.`}</div>`;
}

function find(path) {
  for (const page of offered())
    for (const pattern of page.paths) {
      const said = match(pattern, path);
      if (said) return { page, said };
    }
  return { page: null, said: {} };
}

/** The page's module, its own failures kept inside the frame. */
function Loaded({ page, said, query }) {
  const [state, setState] = useState({ Page: null, failed: false });
  const [error, reset] = useErrorBoundary((raised) => console.error(raised));
  useEffect(() => {
    document.title = page ? `${Object.values(said)[0] ?? page.title} – Mover` : "Mover";
    // a new page is read from its beginning; the very first one has the focus of the document
    if (!first) document.getElementById("page")?.focus({ preventScroll: true });
    first = false;
  }, [page, JSON.stringify(said)]);
  useEffect(() => {
    page?.load().then(({ default: Page }) => setState({ Page, failed: false }), () => setState({ Page: null, failed: true }));
  }, [page]);
  if (!page) return html`<${Empty} title="There is no such page, or not for your role">Go to <${Link} to="/">the overview<//>.<//>`;
  if (state.failed) return html`<${Empty} title="This page could not be loaded"><button onClick=${() => location.reload()}>Load again</button>: the daemon may have been updated, or is not there.<//>`;
  if (error) return html`<${Failure} problem=${{ message: "this page could not be drawn", retry: "later", hint: "Its data is safe: this is a mistake of the page.", code: "page-failed" }} again=${reset} />`;
  return state.Page ? html`<${state.Page} ...${said} query=${query} />` : html`<${Skeleton} rows=${6} />`;
}

function Shortcut({ page }) {
  useKey(`g ${page.key}`, `go to ${page.title}`, () => go(page.paths[0]));
  return null;
}

function Side({ who, current, help }) {
  return html`<nav class="side" aria-label="Pages">
    <${Link} class="brand" to="/"><${Mark} />Mover<//>
    <ul>${offered().map((page) => html`<li key=${page.name}><${Link} to=${page.paths[0]} aria-current=${page.name === current ? "page" : undefined}>${page.title}<//></li>`)}</ul>
    <div class="who">
      <span><strong>${who.actor}</strong>, ${who.role}</span>
      ${who.projects.length > 1 ? html`<label>project <select value=${who.project} onChange=${(event) => chooseProject(event.currentTarget.value)}>${who.projects.map((one) => html`<option key=${one.project}>${one.project}</option>`)}</select></label>` : html`<span>project ${who.project}</span>`}
      <span class="row"><button class="link" onClick=${signOut}>Sign out</button><button class="link" onClick=${help}>Keys <kbd>?</kbd></button></span>
    </div></nav>`;
}

const Mark = () => html`<svg viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="7" fill="#4a3d8f" /><rect x="6" y="10" width="12" height="12" rx="2" fill="#fff" /><path d="M21 9l6 7-6 7" fill="none" stroke="#f4a6c0" stroke-width="3" stroke-linecap="round" stroke-linejoin="round" /></svg>`;

function Crumbs({ page, said }) {
  const last = Object.values(said).at(-1);
  return html`<nav aria-label="Where you are"><ol class="crumbs">${page && html`<li><${Link} to=${page.paths[0]} aria-current=${last ? undefined : "page"}>${page.title}<//></li>`}${last && html`<li><span class="mono clip" aria-current="page">${last}</span></li>`}</ol></nav>`;
}

function ThemeButton() {
  const [theme, setTheme] = useState(document.documentElement.dataset.choice);
  return html`<button class="plain" onClick=${() => setTheme(nextTheme())} title="light, dark, or as the system"><span class="wide-only">Theme: </span>${theme}</button>`;
}

function Toasts() {
  const said = useStore(toasts);
  return html`<div class="toasts" role="region" aria-label="News" aria-live="polite">${said.map((one) => html`<div key=${one.id} class="toast ${one.tone}" role=${one.tone === "bad" ? "alert" : "status"}><${Shape} tone=${one.tone} /><span class="grow">${one.text}</span><button class="plain" aria-label="Close" onClick=${() => drop(one.id)}>✕</button></div>`)}</div>`;
}

function Help({ close }) {
  return html`<${Dialog} title="What can be pressed" close=${close}><table><tbody>${pressable().map(([key, help]) => html`<tr key=${key}><td class="nowrap">${key.split(" ").map((one) => html`<kbd key=${one}>${one}</kbd> `)}</td><td>${help}</td></tr>`)}
    <tr><td><kbd>Esc</kbd></td><td>close a dialog, change nothing</td></tr><tr><td class="nowrap"><kbd>↑</kbd> <kbd>↓</kbd> <kbd>Enter</kbd></td><td>in a table: move, open</td></tr></tbody></table><//>`;
}

gate.left = lost;
// who signed in at the identity provider, in another tab, comes back to this one
document.addEventListener("visibilitychange", () => !document.hidden && over.get() && begin());
applyTheme();
if (location.pathname === "/ui") history.replaceState(null, "", `${BASE}/`);
render(html`<${App} />`, document.getElementById("app"));
begin();
