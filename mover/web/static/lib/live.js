// What is asked once, and again when it changed. While changes are told, the clock asks seldom; when they are not, often.
import { useEffect, useRef, useState } from "./preact.js";
import { call, Problem } from "./api.js";
import { connection, watch } from "./changes.js";
import { over } from "./session.js";
import { follow } from "./stream.js";

const TOLD_MS = 45000;
const UNTOLD_MS = 5000;
const SLOWEST_MS = 60000;
// between two answers of one question that changes all the time: long for what takes the daemon long
const GAP_MS = 1000;
const GAP_LONGEST_MS = 10000;
const GAP_SHARE = 20;

/** How long an answer may stand when nobody says anything of it. @param {number|undefined} every what a page wishes */
export const patience = (every) => every ?? (connection.get().state === "live" ? TOLD_MS : UNTOLD_MS);

/**
 * Asks now, when it is told that something changed, when the time has come, and when it can again after it could not; one at
 * a time, and not while nobody looks. @param {{ask: (signal: AbortSignal) => Promise<boolean>, every?: number,
 * asked: () => [string, object][]}} said `ask` says whether it worked; `asked`: what it asks for, known once it did
 * @returns {{turn: () => Promise<void>, end: () => void}}
 */
export function keeping({ ask, every, asked }) {
  const ended = new AbortController();
  let timer = 0, failures = 0, busy = false, due = false, next = 0, unwatch = () => undefined;
  const later = (ms) => {
    clearTimeout(timer);
    timer = setTimeout(seen, ms);
  };
  const turn = async () => {
    if (busy) {
      due = true;
      return;
    }
    clearTimeout(timer);
    busy = true;
    due = false;
    const began = performance.now();
    const worked = await ask(ended.signal).finally(() => { busy = false; });
    if (ended.signal.aborted) return;
    failures = worked ? 0 : failures + 1;
    next = performance.now() + Math.min(Math.max(GAP_MS, (performance.now() - began) * GAP_SHARE), GAP_LONGEST_MS);
    unwatch();
    if (every === 0) return;
    unwatch = watch(asked(), told);
    later(due ? next - performance.now() : Math.min(patience(every) * 2 ** failures, Math.max(SLOWEST_MS, patience(every))));
  };
  const told = () => {
    due = true;
    if (!busy) later(Math.max(0, next - performance.now()));
  };
  const seen = () => (document.hidden || over.get() ? undefined : turn());
  const shown = () => (document.hidden || every === 0 ? undefined : seen());
  // what failed while the daemon was away is asked at once when it is back: what changed meanwhile is told then. While
  // nobody was signed in nothing was told to this tab, so all that is kept fresh is asked again
  const links = [
    connection.watch(({ state }) => state === "live" && failures && seen()),
    over.watch((left) => !left && (failures || every !== 0) && seen()),
  ];
  document.addEventListener("visibilitychange", shown);
  return {
    turn,
    end() {
      ended.abort();
      clearTimeout(timer);
      unwatch();
      for (const leave of links) leave();
      document.removeEventListener("visibilitychange", shown);
    },
  };
}

/**
 * The answer of an operation, kept fresh while the page can be seen. What was shown stays while the next comes.
 * `name` null asks nothing. `every` 0 asks once; another number is for what changes with time itself.
 * @returns {{answer: any, problem: Problem|null, at: number, again: () => void}}
 */
export function useAsk(name, said = {}, { every, body } = {}) {
  const [state, setState] = useState({ answer: undefined, problem: null, at: 0 });
  const key = JSON.stringify([name, said, body]);
  const again = useRef(() => undefined);
  const known = useRef("");
  useEffect(() => {
    if (known.current !== key) setState({ answer: undefined, problem: null, at: 0 });
    known.current = key;
    if (!name) return undefined;
    const kept = keeping({
      every,
      asked: () => [[name, said]],
      async ask(signal) {
        try {
          const answer = await call(name, said, { body, signal });
          setState({ answer, problem: null, at: Date.now() });
          return true;
        } catch (problem) {
          if (signal.aborted) return false;
          if (!(problem instanceof Problem)) throw problem;
          setState((before) => ({ ...before, problem }));
          return false;
        }
      },
    });
    again.current = kept.turn;
    kept.turn();
    return kept.end;
  }, [key, every]);
  return { ...state, again: () => again.current() };
}

/**
 * A stream of one thing's own events, for as long as the page can be seen.
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
    let ended = null;
    let last = "";
    let whole = false;
    const seen = () => {
      ended?.abort();
      if (document.hidden || whole) return;
      ended = new AbortController();
      follow(name, said, {
        last, signal: ended.signal,
        told: (event) => {
          last = event.id || last;
          latest.current(event);
        },
        state: (now) => {
          whole = now === "ended";
          setState(now);
        },
      });
    };
    document.addEventListener("visibilitychange", seen);
    seen();
    return () => {
      document.removeEventListener("visibilitychange", seen);
      ended?.abort();
    };
  }, [name, JSON.stringify(said)]);
  return state;
}
