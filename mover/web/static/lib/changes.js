// What changed, as the daemon tells it: nouns and ids. Browsers keep six connections to a daemon for all tabs together, so
// one tab of a session holds the stream and says what it hears to the others; when it closes, the next one goes on.
import { OPERATIONS } from "./operations.js";
import { store } from "./store.js";
import { follow } from "./stream.js";

const FOLLOW = "events.follow";

/** `live`, `again` (at `at` it is tried again), `polling` (nothing is told: pages ask by themselves) or `begin`. */
export const connection = store({ state: "begin", at: 0 });
const watchers = new Set();
let last = "";

/** Nobody is told of changes unless this runs. @returns {() => void} ends it */
export function listen({ actor, project, kept }) {
  const ended = new AbortController();
  const name = `mover ${actor} ${project}`;
  // whoever came by a token of this page alone may be somebody else in each tab
  const shared = kept && navigator.locks && typeof BroadcastChannel !== "undefined" ? new BroadcastChannel(name) : null;
  let leads = false;
  last = "";
  connection.set({ state: "begin", at: 0 });
  const heard = ({ id, state, nouns }) => {
    if (id) last = id;
    if (state) connection.set(state);
    if (nouns !== undefined) for (const told of [...watchers]) told(nouns);
  };
  const say = (said) => {
    if (ended.signal.aborted) return;
    heard(said);
    shared?.postMessage(said);
  };
  const lead = () => {
    leads = true;
    return follow(FOLLOW, {}, {
      last, signal: ended.signal,
      state: (state, at = 0) => say({ state: { state, at } }),
      told: ({ id, name: kind, data }) => say({ id, nouns: kind === "reset" ? null : data.nouns }),
    });
  };
  if (shared) {
    shared.onmessage = ({ data }) => {
      if (!data.joined) heard(data);
      else if (leads) shared.postMessage({ state: connection.get() });
    };
    shared.postMessage({ joined: true });
    navigator.locks.request(name, { signal: ended.signal }, lead).catch((error) => {
      if (error.name !== "AbortError") throw error;
    });
  } else lead();
  return () => {
    ended.abort();
    shared?.close();
  };
}

/**
 * Told when an answer of one of these may be another one. @param {[string, object][]} asked operations with what was said
 * @param {() => void} told @returns {() => void}
 */
export function watch(asked, told) {
  const wanted = asked.filter(([name]) => OPERATIONS[name]).map(([name, said]) => ({
    noun: OPERATIONS[name].action.split(".")[0],
    // an answer about one thing is another one when that thing changed; one about many, when any did
    ids: [...OPERATIONS[name].path.matchAll(/\{(\w+)\}/g)].map(([, key]) => said[key]),
  }));
  const concerns = (nouns) => wanted.some(({ noun, ids }) => {
    if (nouns === null) return true;
    if (!(noun in nouns)) return false;
    return nouns[noun] === null || !ids.length || ids.some((id) => nouns[noun].includes(id));
  });
  const heard = (nouns) => concerns(nouns) && told();
  watchers.add(heard);
  return () => watchers.delete(heard);
}
