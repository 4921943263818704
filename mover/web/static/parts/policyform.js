// A form from a policy's JSON Schema: each field in the words of the schema, with its bounds, its default and what there
// is to choose from here; lists of things, member by member. What a form cannot say well stays in the text.
import { html, useState } from "../lib/preact.js";
import { duration, plural, size, words } from "../lib/format.js";
import { FieldRow } from "./dialog.js";

const FIRST = ["name", "from", "to", "tier"];
const TIERS = new Set(["from", "to", "tier", "second_copy", "repair_from"]);

/**
 * @param {{schema: any, kind: string, value: any, fixed: boolean, change: (path: (string|number)[], value: any, whole: any) => void}} props
 * `change` gets what stands at the first of the path afterwards, too.
 */
export function PolicyForm({ schema, kind, value, fixed, change }) {
  const shape = shapeOf(schema, kind);
  if (!shape) return null;
  const set = (path, to) => change(path, to, put(value, path, to)?.[path[0]]);
  return html`<${Fields} schema=${schema} of=${shape} value=${value} path=${[]} set=${set} without=${fixed ? "name" : null} />`;
}

/** Every field of a thing; `set` takes the whole path. */
function Fields({ schema, of, value, path, set, without, defaults }) {
  return html`<div class="policy-form">${fieldsOf(of).map(([key, spec]) => {
    if (key === without) return null;
    const said = defaults && key in defaults ? { ...spec, default: defaults[key] } : spec;
    const shape = resolved(schema, spec);
    const shared = { key, schema, name: key, of: shape, said, value: value?.[key], path: [...path, key], set };
    if (shape.properties) return html`<${Group} ...${shared} />`;
    if (shape.items?.$ref) return html`<${List} ...${shared} />`;
    if (shape.additionalProperties?.$ref) return html`<${Named} ...${shared} />`;
    return html`<${Field} ...${shared} set=${(to) => set([...path, key], to)} />`;
  })}</div>`;
}

/** The value with another at a path; what is empty by it is left out, but for members of lists. */
function put(value, [key, ...rest], to) {
  const next = rest.length ? put(value?.[key], rest, to) : to;
  if (typeof key === "number") {
    const list = [...(value ?? [])];
    list.splice(key, 1, ...(next === undefined && !rest.length ? [] : [next ?? {}]));
    return list.length ? list : undefined;
  }
  const { [key]: _, ...others } = value ?? {};
  const left = next === undefined ? others : { ...value, [key]: next };
  return Object.keys(left).length ? left : undefined;
}

export function shapeOf(schema, kind) {
  const name = schema.document.discriminator.mapping[kind]?.split("/").at(-1);
  return name && schema.document.$defs[name];
}

function Group({ schema, name, of, said, value, path, set }) {
  return html`<fieldset><legend>${words(name)}</legend>${(said.description ?? of.description) && html`<p class="small muted">${said.description ?? of.description}</p>`}
    <${Fields} schema=${schema} of=${of} value=${value} path=${path} set=${set} defaults=${said.default} /></fieldset>`;
}

/** What a new member has to say, still to be said; of a column nothing leaves before somebody says so. */
const fresh = (shape) => Object.fromEntries((shape.required ?? []).map((key) => [key, empty(shape.properties[key])]));
const empty = (spec) => (spec.enum?.includes("drop") ? "drop" : { array: [], object: {} }[spec.type] ?? "");

function List({ schema, name, of, said, value, path, set }) {
  const shape = resolved(schema, of.items);
  const members = value ?? [];
  return html`<fieldset><legend>${words(name)}</legend><p class="small muted">${said.description}</p>
    ${members.map((one, at) => html`<details key=${at} class="policy-member" open=${members.length < 3}><summary>${one?.name || `${words(name)} ${at + 1}`}</summary>
      <${Fields} schema=${schema} of=${shape} value=${one} path=${[...path, at]} set=${set} />
      <div class="row"><button type="button" onClick=${() => set([...path, at], undefined)}>Remove ${one?.name || at + 1}</button></div></details>`)}
    <div class="row"><button type="button" disabled=${members.length >= (of.maxItems ?? Infinity)} onClick=${() => set([...path, members.length], fresh(shape))}>Add to ${words(name)}</button></div></fieldset>`;
}

/** Things by their names, such as a table's columns: here what each has to say; all else stays in the text. */
function Named({ schema, name, of, said, value, path, set }) {
  const [added, setAdded] = useState("");
  const shape = resolved(schema, of.additionalProperties);
  const needed = fieldsOf(shape).filter(([key]) => shape.required?.includes(key));
  const add = () => {
    set([...path, added], fresh(shape));
    setAdded("");
  };
  return html`<fieldset><legend>${words(name)}</legend>${said.description && html`<p class="small muted">${said.description}</p>`}
    <div class="policy-named">${Object.entries(value ?? {}).map(([one, rule]) => html`<div key=${one} class="row apart"><span class="mono clip" title=${one}>${one}</span>
      <span class="row">${needed.map(([key, spec]) => html`<select key=${key} aria-label=${`${key} of ${one}`} value=${rule?.[key]} onChange=${(event) => set([...path, one, key], event.currentTarget.value)}>${resolved(schema, spec).enum.map((word) => html`<option key=${word} value=${word}>${word}</option>`)}</select>`)}
      <button type="button" class="plain" aria-label=${`Remove ${one}`} onClick=${() => set([...path, one], undefined)}>✕</button></span></div>`)}</div>
    <div class="row"><input type="text" aria-label=${`A further name among ${words(name)}`} maxlength="200" value=${added} onInput=${(event) => setAdded(event.currentTarget.value)} />
      <button type="button" disabled=${!added.trim() || added in (value ?? {})} onClick=${add}>Add</button><small class="muted">What else each can say, such as <code>values</code> or <code>map</code>, is edited as YAML.</small></div></fieldset>`;
}

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
  const [typed, setTyped] = useState("");
  const hint = [said.description, kind && hintOf(name, of, said)].filter(Boolean).join(" ");
  if (!kind) return html`<div class="field"><span class="label">${words(name)}</span><small class="muted">${hint} ${value === undefined ? "None." : `${plural(Array.isArray(value) ? value.length : Object.keys(value).length, "entry", "entries")}.`} Edited as YAML.</small></div>`;
  const label = words(name.replace(/_s$/, ""));
  const field = { ...kind, name, label, hint };
  // an empty line, or half of a pair, stands while somebody types it
  const standing = kind.kind === "lines" && same(taken(kind, typed), value) ? typed : shown(kind, value, said);
  return html`<${FieldRow} field=${field} value=${standing} set=${(to) => (setTyped(to), set(taken(kind, to)))} />`;
}

function kindOf(schema, name, of) {
  const tiers = schema.tiers.map((tier) => [tier.name, `${tier.name} (${tier.zone} ${tier.role})`]);
  if (of.enum) return { kind: "choice", numbers: typeof of.enum[0] === "number", choices: [["", "as by default"], ...of.enum.map((one) => [one, one])] };
  if (of.type === "boolean") return { kind: "check" };
  if (of.type === "integer" || of.type === "number") return { kind: "number", least: of.minimum, most: of.maximum };
  if (of.anyOf) return { kind: "text", loose: true };
  if (of.type === "array") return of.items?.type === "object" ? null : { kind: "lines" };
  if (of.type === "object") return ["string", undefined].includes(of.additionalProperties?.type) ? { kind: "lines", pairs: true } : null;
  if (TIERS.has(name)) return { kind: "choice", choices: [["", "–"], ...tiers] };
  if (name === "profile") return { kind: "choice", choices: [["", "as by default"], ...schema.profiles.map((one) => [one, one])] };
  return { kind: "text" };
}

function hintOf(name, of, said) {
  const bounds = [of.minimum !== undefined && `at least ${spoken(name, of.minimum)}`, of.maximum !== undefined && `at most ${spoken(name, of.maximum)}`].filter(Boolean).join(", ");
  const standard = said.default === undefined || said.default === null || said.default === "" || (typeof said.default === "object" && !Object.keys(said.default).length) ? "" : `By default ${spoken(name, said.default)}.`;
  return [name.endsWith("_s") && of.type !== "string" && !name.includes("bytes") && !name.includes("files") ? "In seconds." : "", bounds && `${bounds[0].toUpperCase()}${bounds.slice(1)}.`, standard].filter(Boolean).join(" ");
}

function spoken(name, amount) {
  if (typeof amount !== "number") return Array.isArray(amount) ? amount.join(", ") : String(amount);
  if (name.includes("bytes")) return `${amount} (${size(amount)})`;
  return name.endsWith("_s") && amount >= 60 ? `${amount} (${duration(amount)})` : String(Number.isInteger(amount) ? amount : Number(amount.toPrecision(3)));
}

function shown(kind, value, said) {
  if (kind.kind === "check") return value ?? said.default ?? false;
  if (kind.pairs) return Object.entries(value ?? {}).map(([key, one]) => `${key}: ${one}`).join("\n");
  if (kind.kind === "lines") return (value ?? []).map(String).join("\n");
  return value === undefined || value === null ? "" : String(value);
}

function taken(kind, to) {
  if (kind.kind === "check") return to;
  if (to === "") return undefined;
  if (kind.pairs) return pairsOf(to);
  if (kind.kind === "lines") return to.split("\n").map((one) => one.trim()).filter(Boolean);
  if (kind.kind === "number" || kind.numbers || (kind.loose && /^\d+$/.test(to))) return Number(to);
  return to;
}

const same = (one, other) => JSON.stringify(one ?? null) === JSON.stringify(other ?? null);

function pairsOf(text) {
  const typed = text.split("\n").map((line) => /^\s*(.+?)\s*:\s*(.*?)\s*$/.exec(line)).filter(Boolean);
  return typed.length ? Object.fromEntries(typed.map(([, key, one]) => [key, /^\d+$/.test(one) ? Number(one) : one])) : undefined;
}
