// Who is signed in. A cookie that scripts cannot read where the daemon keeps sessions; else a token, kept in this
// page's memory and nowhere else: closing the tab forgets it.
import { store } from "./store.js";
import { call, credentials, Problem } from "./api.js";
import { OPERATIONS } from "./operations.js";

/**
 * @typedef {{actor: string, role: string, project: string, projects: {project: string, role: string}[], means: "session"|"token"}} Session
 * `undefined`: not asked yet; `null`: nobody.
 */
export const session = store(/** @type {Session|null|undefined} */ (undefined));

/** What signing in may look like on this daemon: asked once, without rights. */
export const ways = store({ password: false, oidc: null, token: true });

export async function begin() {
  try {
    const told = await call("session.view");
    credentials.csrf = told.csrf ?? null;
    took(told, "session");
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    learn(problem);
    session.set(null);
  }
}

/** @param {{name: string, password: string}} said */
export async function signIn(said) {
  const told = await call("session.open", {}, { body: said });
  credentials.csrf = told.csrf ?? null;
  took(told, "session");
}

/** @param {string} secret */
export async function useToken(secret) {
  credentials.token = secret.trim();
  try {
    const told = await call("service.status");
    took(told, "token");
  } catch (problem) {
    credentials.token = null;
    throw problem;
  }
}

export async function signOut() {
  if (session.get()?.means === "session") await call("session.close").catch(() => undefined);
  forget();
}

/** The session ended, here or at the daemon: whatever was shown is dropped with the page's tree. */
export function forget() {
  credentials.token = credentials.csrf = credentials.project = null;
  session.set(null);
}

/** @param {string} project */
export function chooseProject(project) {
  const held = session.get();
  if (!held) return;
  credentials.project = project;
  const role = held.projects.find((one) => one.project === project)?.role ?? held.role;
  session.set({ ...held, project, role });
}

/** May this person ask for this operation? The daemon judges anyway; here it decides what is offered at all. */
export function may(operation) {
  const held = session.get();
  return Boolean(held && OPERATIONS[operation]?.roles.includes(held.role));
}

function took(told, means) {
  const projects = told.projects ?? [{ project: told.project, role: told.role }];
  session.set({ actor: told.actor, role: told.role, project: told.project, projects, means });
}

function learn(problem) {
  const told = problem.details?.[0] ?? {};
  ways.set({ password: Boolean(told.password), oidc: told.oidc ?? null, token: true });
}
