// A value that many components watch: the session, the toasts, the place.
import { useEffect, useState } from "./preact.js";

/**
 * @template T
 * @param {T} value
 * @returns {{get(): T, set(next: T): void, watch(told: (value: T) => void): () => void}}
 */
export function store(value) {
  const watchers = new Set();
  return {
    get: () => value,
    set(next) {
      if (Object.is(next, value)) return;
      value = next;
      for (const told of [...watchers]) told(value);
    },
    watch(told) {
      watchers.add(told);
      return () => watchers.delete(told);
    },
  };
}

/** The value of a store, and a new drawing whenever it changes. */
export function useStore(kept) {
  const [value, setValue] = useState(kept.get());
  useEffect(() => {
    setValue(() => kept.get());
    return kept.watch((next) => setValue(() => next));
  }, [kept]);
  return value;
}
