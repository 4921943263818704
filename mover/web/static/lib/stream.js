// Server-sent events of an operation, read by `fetch`: a token in a header, and our own word on when to come back.
import { ask, Problem } from "./api.js";

const AGAIN_MS = 3000;
const LONGEST_MS = 15000;
const REFUSED_MS = 60000;

/**
 * Until the signal, or until the daemon says there is no more. A stream that was cut, by a daemon that stops among
 * others, goes on after the last event that had an id, at whichever daemon answers then.
 * @param {{told: (event: {id: string, name: string, data: any}) => void, state: (state: "live"|"again"|"polling"|"ended", at?: number) => void,
 *   signal: AbortSignal, last?: string}} more `state` is told with `again` when the next try comes
 */
export async function follow(name, said, { told, state, signal, last = "" }) {
  let failures = 0;
  while (!signal.aborted) {
    let wait = Math.min(AGAIN_MS * 1.5 ** failures, LONGEST_MS);
    try {
      const answer = await ask(name, said, { signal, headers: last ? { "Last-Event-ID": last } : {} });
      state("live");
      for await (const event of events(answer.body, signal)) {
        failures = 0;
        if (event.id) last = event.id;
        told(event);
      }
      if (!signal.aborted) state("ended");
      return;
    } catch (problem) {
      if (signal.aborted) return;
      failures += 1;
      // too many streams, or none for this role: the page asks by itself meanwhile. Whoever is signed out is asked to come in
      const refused = problem instanceof Problem && problem.status >= 400 && problem.status < 500;
      if (refused) wait = REFUSED_MS;
      state(refused ? "polling" : "again", Date.now() + wait);
    }
    await pause(wait, signal);
  }
}

/** The framing of the HTML standard, section 9.2: fields by line, an event by an empty line, comments by a colon. */
async function* events(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  signal.addEventListener("abort", () => reader.cancel().catch(() => undefined), { once: true });
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = { id: "", name: "message", data: null };
      for (const line of block.split("\n")) {
        const colon = line.indexOf(": ");
        const field = line.slice(0, colon);
        if (field === "id") event.id = line.slice(colon + 2);
        if (field === "event") event.name = line.slice(colon + 2);
        if (field === "data") event.data = JSON.parse(line.slice(colon + 2));
      }
      if (event.data !== null) yield event;
    }
  }
}

const pause = (ms, signal) => new Promise((done) => {
  const timer = setTimeout(done, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); done(); }, { once: true });
});
