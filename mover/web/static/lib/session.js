// Who is signed in. Where the daemon keeps sessions, a cookie that no script can read; else a token in this page's
// memory and nowhere else: closing the tab forgets it.
import { store } from "./store.js";
import { call, credentials, plain, Problem } from "./api.js";
import { OPERATIONS } from "./operations.js";

const SESSION = "/v1/session";
const WAYS = "/v1/session/ways";
/** Where the site's identity provider is asked; it comes back to `to`. */
export const PROVIDER = "/v1/session/oidc";

/**
 * @typedef {{actor: string, role: string, project: string, projects: {project: string, role: string}[],
 *   actions: string[]|null, kept: boolean}} Session
 * `actions`: what may be done, as the daemon told; `kept`: a session of the daemon. `undefined`: not asked yet; `null`: nobody.
 */
export const session = store(/** @type {Session|null|undefined} */ (undefined));

/** Is the session of who is signed in over? Then what they did here stands, unseen, until they come back. */
export const over = store(false);

/** Does this daemon keep sessions? */
export const keeps = () => Boolean(OPERATIONS["sessions.view"]);

/** What signing in may look like here. */
export const ways = store({ password: keeps(), provider: null });

export async function begin() {
  if (!keeps()) {
    session.set(null);
    return;
  }
  try {
    took(await call("sessions.view"));
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (over.get()) return;
    ways.set(await plain("GET", WAYS).catch(() => ways.get()));
    session.set(null);
  }
}

/** @param {{name: string, password: string}|{token: string}} said */
export async function signIn(said) {
  if (keeps()) {
    took(await samePlace(await plain("POST", SESSION, said)));
    return;
  }
  credentials.token = said.token.trim();
  try {
    took(await call("service.status"));
  } catch (problem) {
    credentials.token = null;
    throw problem;
  }
}

/** Who comes back goes on in the project where they were. */
async function samePlace(told) {
  const before = session.get();
  if (!before || before.actor !== told.actor || before.project === told.project) return told;
  if (!told.projects?.some((one) => one.project === before.project)) return told;
  credentials.csrf = told.csrf;
  return call("sessions.choose", {}, { body: { project: before.project } });
}

/** The daemon does not know any more who asks. Nothing is thrown away: they may come back, and only they. */
export function lost() {
  if (session.get()) over.set(true);
  else forget();
}

export async function signOut() {
  if (session.get()?.kept) await call("sessions.end").catch(() => undefined);
  forget();
}

/** The session ended, here or at the daemon: whatever was shown is dropped with the page's tree. */
export function forget() {
  credentials.token = credentials.csrf = credentials.project = null;
  session.set(null);
  over.set(false);
}

/** Everything that is shown is of one project. @param {string} project */
export async function chooseProject(project) {
  took(await call("sessions.choose", {}, { body: { project } }));
}

/** May this person ask for this operation? The daemon judges anyway; here it decides what is offered at all. */
export function may(operation) {
  const held = session.get();
  const asked = OPERATIONS[operation];
  if (!held || !asked) return false;
  return held.actions ? held.actions.includes(asked.action) : asked.roles.includes(held.role);
}

function took(told) {
  credentials.csrf = told.csrf || null;
  session.set({
    actor: told.actor, role: told.role, project: told.project, actions: told.actions ?? null, kept: Boolean(told.csrf),
    projects: told.projects ?? [{ project: told.project, role: told.role }],
  });
  over.set(false);
}
