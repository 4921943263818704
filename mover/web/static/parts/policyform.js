// A form from a policy's JSON Schema: each field in the words of the schema, with its bounds, its default and what there
// is to choose from here. What a form cannot say well, such as a table's columns, stays in the text.
import { html } from "../lib/preact.js";
import { duration, plural, size, words } from "../lib/format.js";
import { FieldRow } from "./dialog.js";

const FIRST = ["name", "from", "to", "tier"];
const TIERS = new Set(["from", "to", "tier", "second_copy", "repair_from"]);

/** @param {{schema: any, kind: string, value: any, fixed: boolean, change: (path: string[], value: any, whole: any) => void}} props */
export function PolicyForm({ schema, kind, value, fixed, change }) {
  const shape = shapeOf(schema, kind);
  if (!shape) return null;
  return html`<div class="policy-form">${fieldsOf(shape).map(([key, spec]) => {
    if (key === "name" && fixed) return null;
    const of = resolved(schema, spec);
    if (of.properties) return html`<${Group} key=${key} schema=${schema} name=${key} of=${of} said=${spec} value=${value[key]} change=${change} />`;
    return html`<${Field} key=${key} schema=${schema} name=${key} of=${of} said=${spec} value=${value[key]} set=${(to) => change([key], to, to)} />`;
  })}</div>`;
}

export function shapeOf(schema, kind) {
  const name = schema.document.discriminator.mapping[kind]?.split("/").at(-1);
  return name && schema.document.$defs[name];
}

function Group({ schema, name, of, said, value, change }) {
  return html`<fieldset><legend>${words(name)}</legend>${(said.description ?? of.description) && html`<p class="small muted">${said.description ?? of.description}</p>`}
    <div class="policy-form">${fieldsOf(of).map(([key, spec]) => html`<${Field} key=${key} schema=${schema} name=${key} of=${resolved(schema, spec)} said=${{ ...spec, default: said.default?.[key] ?? spec.default }} value=${value?.[key]} set=${(to) => change([name, key], to, without({ ...value, [key]: to }))} />`)}</div></fieldset>`;
}

const without = (one) => {
  const left = Object.fromEntries(Object.entries(one).filter(([, value]) => value !== undefined));
  return Object.keys(left).length ? left : undefined;
};

function fieldsOf(shape) {
  const nested = (spec) => Boolean(spec.$ref || (spec.anyOf ?? []).some((one) => one.$ref));
  const place = (key) => (FIRST.includes(key) ? FIRST.indexOf(key) : FIRST.length + (nested(shape.properties[key]) ? 2 : shape.required?.includes(key) ? 0 : 1));
  return Object.entries(shape.properties).filter(([key]) => key !== "kind").sort(([a], [b]) => place(a) - place(b));
}

/** What is left of a choice between something and nothing. */
function resolved(schema, spec) {
  if (spec.$ref) return schema.document.$defs[spec.$ref.split("/").at(-1)];
  const some = (spec.anyOf ?? []).filter((one) => one.type !== "null");
  return some.length === 1 ? resolved(schema, some[0]) : spec;
}

function Field({ schema, name, of, said, value, set }) {
  const kind = kindOf(schema, name, of);
  const hint = [said.description, kind && hintOf(name, of, said)].filter(Boolean).join(" ");
  if (!kind) return html`<div class="field"><span class="label">${words(name)}</span><small class="muted">${hint} ${value === undefined ? "None." : `${plural(Array.isArray(value) ? value.length : Object.keys(value).length, "entry", "entries")}.`} Edited as YAML.</small></div>`;
  const label = words(name.replace(/_s$/, ""));
  const field = { ...kind, name, label, hint };
  return html`<${FieldRow} field=${field} value=${shown(kind, value, said)} set=${(to) => set(taken(kind, to))} />`;
}

function kindOf(schema, name, of) {
  const tiers = schema.tiers.map((tier) => [tier.name, `${tier.name} (${tier.zone} ${tier.role})`]);
  if (of.enum) return { kind: "choice", choices: [["", "as by default"], ...of.enum.map((one) => [one, one])] };
  if (of.type === "boolean") return { kind: "check" };
  if (of.type === "integer" || of.type === "number") return { kind: "number", least: of.minimum, most: of.maximum };
  if (of.anyOf) return { kind: "text", loose: true };
  if (of.type === "array") return of.items?.$ref || of.items?.type === "object" ? null : { kind: "lines" };
  if (of.type === "object") return null;
  if (TIERS.has(name)) return { kind: "choice", choices: [["", "–"], ...tiers] };
  if (name === "profile") return { kind: "choice", choices: [["", "as by default"], ...schema.profiles.map((one) => [one, one])] };
  return { kind: "text" };
}

function hintOf(name, of, said) {
  const bounds = [of.minimum !== undefined && `at least ${spoken(name, of.minimum)}`, of.maximum !== undefined && `at most ${spoken(name, of.maximum)}`].filter(Boolean).join(", ");
  const standard = said.default === undefined || said.default === null || said.default === "" || (Array.isArray(said.default) && !said.default.length) ? "" : `By default ${spoken(name, said.default)}.`;
  return [name.endsWith("_s") && of.type !== "string" && !name.includes("bytes") && !name.includes("files") ? "In seconds." : "", bounds && `${bounds[0].toUpperCase()}${bounds.slice(1)}.`, standard].filter(Boolean).join(" ");
}

function spoken(name, amount) {
  if (typeof amount !== "number") return Array.isArray(amount) ? amount.join(", ") : String(amount);
  if (name.includes("bytes")) return `${amount} (${size(amount)})`;
  return name.endsWith("_s") && amount >= 60 ? `${amount} (${duration(amount)})` : String(Number.isInteger(amount) ? amount : Number(amount.toPrecision(3)));
}

function shown(kind, value, said) {
  if (kind.kind === "check") return value ?? said.default ?? false;
  if (kind.kind === "lines") return (value ?? []).map(String).join("\n");
  return value === undefined || value === null ? "" : String(value);
}

function taken(kind, to) {
  if (kind.kind === "check") return to;
  if (to === "") return undefined;
  if (kind.kind === "lines") return to.split("\n").map((one) => one.trim()).filter(Boolean);
  if (kind.kind === "number" || (kind.loose && /^\d+$/.test(to))) return Number(to);
  return to;
}
