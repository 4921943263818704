// Where the person is: a path and a query, both in the address bar, so that everything can be sent as a link.
import { html } from "./preact.js";
import { store } from "./store.js";

export const BASE = "/ui";
export const place = store(here());

function here() {
  return { path: location.pathname, query: new URLSearchParams(location.search) };
}

addEventListener("popstate", () => place.set(here()));

/** @param {string} to a path below /ui, such as `/runs/run-1` */
export function go(to, { replace = false } = {}) {
  const target = BASE + to;
  if (target === location.pathname + location.search) return;
  history[replace ? "replaceState" : "pushState"](null, "", target);
  place.set(here());
  if (!replace) scrollTo(0, 0);
}

/** Change parameters of the query and leave the rest; null removes. A filter is part of the address. */
export function goQuery(changes) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") query.delete(name);
    else query.set(name, value);
  }
  const said = query.toString();
  history.replaceState(null, "", location.pathname + (said ? `?${said}` : ""));
  place.set(here());
}

/** A link inside the pages; a modified click is the browser's own. */
export function Link({ to, children, ...more }) {
  const follow = (event) => {
    if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    go(to);
  };
  return html`<a href=${BASE + to} onClick=${follow} ...${more}>${children}</a>`;
}

/** @returns {Object<string, string>|null} parameters of a pattern such as `/runs/{id}`, or null */
export function match(pattern, path) {
  const wanted = (BASE + pattern).split("/");
  const given = path.replace(/\/+$/, "").split("/");
  if (pattern === "/") wanted.pop();
  if (wanted.length !== given.length) return null;
  const found = {};
  for (let at = 0; at < wanted.length; at += 1) {
    const name = /^\{(\w+)\}$/.exec(wanted[at])?.[1];
    if (!name && wanted[at] !== given[at]) return null;
    if (name) {
      try {
        found[name] = decodeURIComponent(given[at]);
      } catch {
        return null;
      }
    }
  }
  return found;
}
