// One value of a YAML text changed, and the rest left as somebody wrote it: comments, order, blank lines. It knows keys
// by their indentation, which is all that policies need; the daemon reads what comes out and says what is wrong with it.

/**
 * @param {string} text
 * @param {(string|number)[]} path keys from the outermost on, and places in lists
 * @param {any} value undefined takes the key, or the member of a list, away
 * @param {any} whole what stands at path[0] afterwards: written anew where it stands between braces
 */
export function setIn(text, path, value, whole) {
  return `${inMap(text.replace(/\n+$/, "").split("\n"), 0, path, value, whole).join("\n")}\n`;
}

function inMap(lines, indent, [key, ...rest], value, whole) {
  const at = find(lines, key, indent);
  if (at < 0) return whole === undefined ? lines : [...lines, `${" ".repeat(indent)}${word(key)}: ${flow(whole)}`];
  const end = blockEnd(lines, at, lines.length);
  const nested = rest.length > 0 && end > at + 1 && /:\s*(#.*)?$/.test(lines[at]);
  if (!nested || whole === undefined) return replaced(lines, at, end, whole, /^ *(".*?"|'.*?'|[^:]+):/.exec(lines[at])[0]);
  const inner = lines.slice(at + 1, end);
  const next = whole[rest[0]];
  const done = typeof rest[0] === "number" ? inList(inner, rest, value, next) : inMap(inner, depth(inner.find(said)), rest, value, next);
  return [...lines.slice(0, at + 1), ...done, ...lines.slice(end)];
}

function inList(lines, [index, ...rest], value, whole) {
  const indent = depth(lines.find(said));
  const starts = lines.flatMap((line, n) => (depth(line) === indent && line.slice(indent).startsWith("- ") ? [n] : []));
  if (index >= starts.length) return [...lines, `${" ".repeat(indent)}- ${flow(whole)}`];
  const from = starts[index];
  const until = starts[index + 1] ?? lines.length;
  const end = from + lines.slice(from, until).findLastIndex(said) + 1;
  const lead = /^ *- */.exec(lines[from])[0];
  const item = [" ".repeat(lead.length) + lines[from].slice(lead.length), ...lines.slice(from + 1, end)];
  if (!rest.length || /^\s*\{/.test(item[0])) return replaced(lines, from, end, rest.length ? whole : value, lead.slice(0, -1));
  const done = inMap(item, lead.length, rest, value, whole[rest[0]]);
  const first = done.findIndex(said);
  if (first < 0) return replaced(lines, from, end, {}, lead.slice(0, -1));
  done[first] = lead + done[first].slice(lead.length);
  return [...lines.slice(0, from), ...done, ...lines.slice(end)];
}

/** `lead` is what comes before the value: a key with its colon, or a dash. A comment behind the value stays. */
function replaced(lines, at, end, value, lead) {
  const comment = end === at + 1 ? /\s+#[^"'\]}]*$/.exec(lines[at])?.[0] ?? "" : "";
  return [...lines.slice(0, at), ...(value === undefined ? [] : [`${lead} ${flow(value)}${comment}`]), ...lines.slice(end)];
}

const spelt = (key) => [key, `"${key}"`, `'${key}'`].map((one) => `${one}:`);
const find = (lines, key, indent) => lines.findIndex((line) => depth(line) === indent && spelt(key).some((one) => line.slice(indent).startsWith(one)));
const said = (line) => line.trim() !== "" && !line.trim().startsWith("#");
const depth = (line) => /^ */.exec(line)[0].length;

/** The line after the last that belongs to the key at `at`; blank lines and comments that follow belong to what follows. */
function blockEnd(lines, at, to) {
  const indent = depth(lines[at]);
  let end = at + 1;
  for (let n = at + 1; n < to; n += 1) {
    const line = lines[n];
    if (!said(line)) continue;
    if (depth(line) < indent || (depth(line) === indent && !line.slice(indent).startsWith("- "))) break;
    end = n + 1;
  }
  return end;
}

const PLAIN = /^[A-Za-z_/][\w./@ +-]*$/;
const RESERVED = /^(true|false|null|~)$/i;

const word = (key) => (PLAIN.test(key) && !RESERVED.test(key) ? key : JSON.stringify(key));

/** On one line. What is not surely a plain word is quoted as JSON, which YAML reads. */
export function flow(value) {
  if (Array.isArray(value)) return `[${value.map(flow).join(", ")}]`;
  if (value && typeof value === "object") return `{${Object.entries(value).map(([key, one]) => `${word(key)}: ${flow(one)}`).join(", ")}}`;
  if (typeof value === "string" && PLAIN.test(value) && !RESERVED.test(value) && value === value.trim()) return value;
  return JSON.stringify(value ?? null);
}
