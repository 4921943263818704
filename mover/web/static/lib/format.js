// How amounts are said: the words of the command line, so that the same run reads the same in both.
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const COUNT = new Intl.NumberFormat("en");
const MINUTE = 60, HOUR = 3600, DAY = 86400;

/** @param {number|null|undefined} bytes */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  let amount = bytes, unit = 0;
  while (Math.abs(amount) >= 1024 && unit < UNITS.length - 1) {
    amount /= 1024;
    unit += 1;
  }
  return unit ? `${amount.toFixed(1)} ${UNITS[unit]}` : `${amount} B`;
}

export const rate = (bytes) => (bytes === null || bytes === undefined ? "–" : `${size(Math.round(bytes))}/s`);
export const count = (amount) => (amount === null || amount === undefined ? "–" : COUNT.format(amount));
export const plural = (amount, one, many = `${one}s`) => `${count(amount)} ${amount === 1 ? one : many}`;

/** Two units at most: `3 d 4 h`, `12 min`, `48 s`. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds > 0 && seconds < 1) return "under 1 s";
  const s = Math.max(0, Math.round(seconds));
  if (s < MINUTE) return `${s} s`;
  if (s < HOUR) return `${Math.floor(s / MINUTE)} min${s % MINUTE && s < 10 * MINUTE ? ` ${s % MINUTE} s` : ""}`;
  if (s < DAY) return `${Math.floor(s / HOUR)} h${Math.floor((s % HOUR) / MINUTE) ? ` ${Math.floor((s % HOUR) / MINUTE)} min` : ""}`;
  return `${Math.floor(s / DAY)} d${s < 14 * DAY && Math.floor((s % DAY) / HOUR) ? ` ${Math.floor((s % DAY) / HOUR)} h` : ""}`;
}

/** `3 min ago`, `in 2 h`, `now`. */
export function ago(at, now = Date.now()) {
  const seconds = (now - new Date(at).getTime()) / 1000;
  if (Math.abs(seconds) < 5) return "now";
  return seconds > 0 ? `${duration(seconds)} ago` : `in ${duration(-seconds)}`;
}

/** Local time to the second, with its zone: a log and a page must be comparable. */
export function moment(at) {
  const date = new Date(at);
  const two = (n) => String(n).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** What an address says of a time, where it says one: addresses are typed and sent by anybody. */
export const time = (at) => (at && !Number.isNaN(Date.parse(at)) ? at : null);
export const zone = () => Intl.DateTimeFormat().resolvedOptions().timeZone;
export const percent = (part, whole) => (whole ? `${Math.floor((100 * part) / whole)} %` : "–");
/** The end of an id: enough to tell two apart in one list. The whole stands in the title. */
export const short = (id) => (id && id.length > 14 ? `${id.split("-")[0]}…${id.slice(-6)}` : id);
/** `scan-done` as a person says it. */
export const words = (code) => (code ?? "").replaceAll("-", " ").replaceAll("_", " ");

/** How long ago what stands on a tier was used, in a plain sentence; of the first files where a look did not reach all. */
export const usedLately = (of) => `Half of ${of.whole ? "its" : "the first"} ${plural(of.count, "file")} ${of.count === 1 ? "was" : "were"} used in the last ${duration(of.median_s)}; the one unused longest, ${duration(of.oldest_s)} ago.`;
