// An action in the words of the command line and of the API: from the same OpenAPI operation that carries it out.
import { OPERATIONS } from "./operations.js";
import { url } from "./api.js";

const OBEYED = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/u;
const OBEYED_ALL = new RegExp(OBEYED, "gu");
const figures = (one) => Array.from(new TextEncoder().encode(one), (byte) => `\\${byte.toString(8).padStart(3, "0")}`).join("");

/** @returns {string} such as `mover run clean run-1 --plan`; empty where there is no command */
export function command(name, said = {}, body = {}) {
  const template = OPERATIONS[name]?.command;
  if (!template) return "";
  const values = { ...said, ...body };
  const filled = template.replace(/\[([^\]]*)\]/g, (_, part) => optional(part, values));
  return filled.replace(/\{([^}]+)\}/g, (_, slot) => word(slot, values)).trim();
}

function optional(part, values) {
  const slot = /\{([^}]+)\}/.exec(part)?.[1];
  const [name, choices] = (slot ?? "").split(":");
  const value = values[name];
  if (value === undefined || value === null || value === "" || (value === false && !choices)) return "";
  if (choices) return part.replace(/\{[^}]+\}/, word(slot, values));
  if (value === true) return part.replace(/ ?\{[^}]+\}/, "");
  if (Array.isArray(value)) return value.map((one) => part.replace(/\{[^}]+\}/, quote(one))).join("");
  if (typeof value === "object") return Object.entries(value).map(([k, v]) => part.replace(/\{[^}]+\}/, quote(`${k}=${v}`))).join("");
  return part.replace(/\{[^}]+\}/, quote(value));
}

/** `{name}` or `{name:value=word,value=word}`, where a command is chosen by a value. */
function word(slot, values) {
  const [name, choices] = slot.split(":");
  const value = values[name];
  if (choices) return choices.split(",").map((one) => one.split("=")).find(([is]) => is === String(value))?.[1] ?? name.toUpperCase();
  return value === undefined || value === null || value === "" ? name.toUpperCase() : quote(value);
}

/** As a POSIX shell takes it. What a terminal would obey when it is pasted, or what would turn the order of letters
 * round, is written in figures ($'…' of POSIX.1-2024). */
export function quote(value) {
  const text = String(value);
  if (OBEYED.test(text)) return `$'${text.replace(/[\\']/g, "\\$&").replaceAll(OBEYED_ALL, figures)}'`;
  return /^[A-Za-z0-9@%+=:,./_-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** @returns {string} the request as curl sends it, with the token where curl's own file holds it */
export function request(name, said = {}, body = undefined) {
  const operation = OPERATIONS[name];
  if (!operation) return "";
  const address = location.origin + url(operation.path, said);
  const lines = [`curl -X ${operation.method} ${quote(address)}`, `-H "Authorization: Bearer $(cat token)"`];
  if (body !== undefined) lines.push("-H 'Content-Type: application/json'", `-d ${quote(JSON.stringify(body))}`);
  return lines.join(" \\\n  ");
}
