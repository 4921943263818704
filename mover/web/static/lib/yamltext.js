// One value of a YAML text changed, and the rest left as somebody wrote it: comments, order, blank lines. It knows keys
// by their indentation, which is all that policies need; the daemon reads what comes out and says what is wrong with it.

/**
 * @param {string} text
 * @param {string[]} path keys from the outermost on, one or two
 * @param {any} value undefined takes the key away
 * @param {any} whole what stands at path[0] afterwards: written anew where it stands on one line
 */
export function setIn(text, path, value, whole) {
  const lines = text.replace(/\n+$/, "").split("\n");
  const at = find(lines, path[0], 0, 0, lines.length);
  if (at < 0) return ended(whole === undefined ? lines : [...lines, `${path[0]}: ${flow(whole)}`]);
  const end = blockEnd(lines, at, lines.length);
  const nested = path.length > 1 && end > at + 1 && /:\s*(#.*)?$/.test(lines[at]);
  if (nested && whole !== undefined) return ended(within(lines, path[1], value, at, end));
  return ended(replaced(lines, at, end, whole, path[0], ""));
}

function within(lines, key, value, at, end) {
  const first = lines.slice(at + 1, end).find((line) => line.trim() && !line.trim().startsWith("#")) ?? "  ";
  const pad = " ".repeat(depth(first));
  const inner = find(lines, key, pad.length, at + 1, end);
  if (inner >= 0) return replaced(lines, inner, blockEnd(lines, inner, end), value, key, pad);
  return value === undefined ? lines : [...lines.slice(0, end), `${pad}${key}: ${flow(value)}`, ...lines.slice(end)];
}

function replaced(lines, at, end, value, key, pad) {
  const said = end === at + 1 ? /\s+#.*$/.exec(lines[at])?.[0] ?? "" : "";
  return [...lines.slice(0, at), ...(value === undefined ? [] : [`${pad}${key}: ${flow(value)}${said}`]), ...lines.slice(end)];
}

const find = (lines, key, indent, from, to) => lines.findIndex((line, n) => n >= from && n < to && depth(line) === indent && line.slice(indent).startsWith(`${key}:`));
const depth = (line) => /^ */.exec(line)[0].length;
const ended = (lines) => `${lines.join("\n")}\n`;

/** The line after the last that belongs to the key at `at`; blank lines and comments that follow belong to what follows. */
function blockEnd(lines, at, to) {
  const indent = depth(lines[at]);
  let end = at + 1;
  for (let n = at + 1; n < to; n += 1) {
    const line = lines[n];
    if (!line.trim()) continue;
    if (depth(line) < indent || (depth(line) === indent && !line.slice(indent).startsWith("- "))) break;
    end = n + 1;
  }
  return end;
}

const PLAIN = /^[A-Za-z_/][\w./@ +-]*$/;
const RESERVED = /^(true|false|null|~)$/i;

/** On one line. What is not surely a plain word is quoted as JSON, which YAML reads. */
export function flow(value) {
  if (Array.isArray(value)) return `[${value.map(flow).join(", ")}]`;
  if (value && typeof value === "object") return `{${Object.entries(value).map(([key, one]) => `${PLAIN.test(key) ? key : JSON.stringify(key)}: ${flow(one)}`).join(", ")}}`;
  if (typeof value === "string" && PLAIN.test(value) && !RESERVED.test(value) && value === value.trim()) return value;
  return JSON.stringify(value ?? null);
}
