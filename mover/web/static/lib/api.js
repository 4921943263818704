// The API as the OpenAPI document describes it: `operations.js` is made from that document by the daemon that serves
// this file, so a name that is not there cannot be called.
import { OPERATIONS } from "./operations.js";
import { unattended } from "./attention.js";

const UNSAFE = new Set(["POST", "DELETE", "PUT", "PATCH"]);
/** Who asks: held in memory only. The cookie of a session is the browser's, and no script can read it. */
export const credentials = { token: null, csrf: null, project: null };
/** Told when the daemon no longer knows who asks. */
export const gate = { left: () => undefined };

/** A failure as the daemon tells it (RFC 9457): what, where, whether again, and what a person can do. */
export class Problem extends Error {
  constructor(told) {
    super(told.detail ?? "something went wrong");
    Object.assign(this, { status: 0, code: "", where: "", retry: "later", hint: "", request: "", details: [] }, told);
  }
}

/**
 * Ask for an operation by its name, such as `runs.view`.
 * @param {string} name
 * @param {Object<string, any>} [said] path parameters by name; the others become query parameters (null is left out)
 * @param {{body?: any, key?: string, signal?: AbortSignal}} [more]
 * @returns {Promise<any>} the parsed answer, or text where the operation answers none of JSON
 */
export async function call(name, said = {}, more = {}) {
  tracked?.push([name, said]);
  const answer = await ask(name, said, more);
  const media = answer.headers.get("Content-Type") ?? "";
  return media.includes("json") && !media.includes("jsonl") ? answer.json() : answer.text();
}

let tracked = null;

/** What is asked for while `begin` runs up to its first wait: a list asks again when that changes. */
export function tracking(begin) {
  const asked = [];
  tracked = asked;
  try {
    return { answer: begin(), asked };
  } finally {
    tracked = null;
  }
}

/** The answer itself, for streams and files. Raises Problem. */
export async function ask(name, said = {}, { body, key, signal, headers = {} } = {}) {
  const operation = OPERATIONS[name];
  if (!operation) throw new Problem({ code: "unknown-operation", detail: `this daemon cannot do ${name}`, retry: "never" });
  const init = { method: operation.method, signal, headers: { ...headers, ...ours(operation.method) }, cache: "no-store" };
  if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers["Content-Type"] = "application/json";
  }
  if (key) init.headers["Idempotency-Key"] = key;
  return answered(url(operation.path, said), init);
}

/** What is asked by nobody yet, such as signing in: it is in no list of operations. */
export async function plain(method, path, body) {
  const said = body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  return (await answered(path, { method, ...said })).json();
}

async function answered(address, init) {
  let answer;
  try {
    answer = await fetch(address, { ...init, credentials: "same-origin", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ code: "no-answer", detail: "the daemon does not answer", retry: "later", hint: "This page asks again by itself." });
  }
  if (answer.ok) return answer;
  throw await problem(answer);
}

/** @returns {string} the path with its parameters in place, and the rest as a query */
export function url(path, said = {}) {
  const query = new URLSearchParams();
  let filled = path;
  for (const [name, value] of Object.entries(said)) {
    if (value === undefined || value === null || value === "") continue;
    if (filled.includes(`{${name}}`)) filled = filled.replace(`{${name}}`, encodeURIComponent(value));
    else query.set(name, String(value));
  }
  const rest = query.toString();
  return rest ? `${filled}?${rest}` : filled;
}

/** What stays the same when one request is repeated: made once for each intention of a person. */
export function intention() {
  const random = crypto.getRandomValues(new Uint8Array(12));
  return "web/" + Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** What says who asks, for who loads by other means than `ask`. */
export function ours(method) {
  const headers = {};
  if (credentials.token) headers.Authorization = `Bearer ${credentials.token}`;
  if (credentials.project) headers["Mover-Project"] = credentials.project;
  if (credentials.csrf && UNSAFE.has(method)) headers["Mover-CSRF"] = credentials.csrf;
  if (unattended()) headers["Mover-Unattended"] = "1";
  return headers;
}

async function problem(answer) {
  let told = {};
  try {
    told = await answer.json();
  } catch {
    told = { detail: `the daemon answered ${answer.status}` };
  }
  if (answer.status === 401) gate.left();
  return new Problem({ ...told, status: answer.status });
}
