// What is asked again, and what is told as it happens. A page holds at most one stream: browsers keep six connections.
import { useEffect, useRef, useState } from "./preact.js";
import { ask, call, Problem } from "./api.js";

const EVERY_MS = 5000;
const SLOWEST_MS = 60000;
const STREAM_AGAIN_MS = 2000;

/**
 * The answer of an operation, kept fresh while the page can be seen. What was shown stays while the next comes.
 * `name` null asks nothing. `every` 0 asks once.
 * @returns {{answer: any, problem: Problem|null, at: number, again: () => void}}
 */
export function useAsk(name, said = {}, { every = EVERY_MS, body } = {}) {
  const [state, setState] = useState({ answer: undefined, problem: null, at: 0 });
  const key = JSON.stringify([name, said, body]);
  const again = useRef(() => undefined);
  const known = useRef("");
  useEffect(() => {
    if (known.current !== key) setState({ answer: undefined, problem: null, at: 0 });
    known.current = key;
    if (!name) return undefined;
    const ended = new AbortController();
    let timer = 0;
    let failures = 0;
    const turn = async () => {
      clearTimeout(timer);
      try {
        const answer = await call(name, said, { body, signal: ended.signal });
        failures = 0;
        setState({ answer, problem: null, at: Date.now() });
      } catch (problem) {
        if (ended.signal.aborted) return;
        failures += 1;
        if (!(problem instanceof Problem)) throw problem;
        setState((before) => ({ ...before, problem }));
      }
      if (every && !ended.signal.aborted) timer = setTimeout(seen, Math.min(every * 2 ** failures, SLOWEST_MS));
    };
    const seen = () => (document.hidden ? undefined : turn());
    again.current = turn;
    document.addEventListener("visibilitychange", seen);
    turn();
    return () => {
      ended.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [key, every]);
  return { ...state, again: () => again.current() };
}

/**
 * Server-sent events of an operation. A stream that was cut goes on after the last event that had an id; one that
 * is refused leaves the page to what `useAsk` asks anyway.
 * @param {string|null} name
 * @param {(event: {id: string, name: string, data: any}) => void} told
 * @returns {"live"|"again"|"polling"|"ended"} how it stands
 */
export function useEvents(name, said, told) {
  const [state, setState] = useState("again");
  const latest = useRef(told);
  latest.current = told;
  useEffect(() => {
    if (!name) return undefined;
    const ended = new AbortController();
    follow(name, said, { told: (event) => latest.current(event), state: setState, signal: ended.signal });
    return () => ended.abort();
  }, [name, JSON.stringify(said)]);
  return state;
}

/** Until the signal, or until the daemon says there is no more. */
export async function follow(name, said, { told, state, signal }) {
  let last = "";
  while (!signal.aborted) {
    try {
      const headers = last ? { "Last-Event-ID": last } : {};
      const answer = await ask(name, said, { signal, headers });
      state("live");
      for await (const event of events(answer.body, signal)) {
        if (event.id) last = event.id;
        told(event);
      }
      if (!signal.aborted) state("ended");
      return;
    } catch (problem) {
      if (signal.aborted) return;
      if (problem instanceof Problem && problem.status >= 400 && problem.status < 500) {
        state("polling");
        return;
      }
      state("again");
      await pause(STREAM_AGAIN_MS);
    }
  }
}

/** The framing of the HTML standard, section 9.2: fields by line, an event by an empty line, comments by a colon. */
async function* events(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  signal.addEventListener("abort", () => reader.cancel().catch(() => undefined));
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

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
