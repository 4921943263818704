// Short news at the corner, read aloud by screen readers. What must be read stays until it is closed.
import { store } from "./store.js";

const STAY_MS = 6000;
const MOST = 4;
let number = 0;
export const toasts = store(/** @type {{id: number, tone: string, text: string}[]} */ ([]));

/** @param {string} text @param {"good"|"work"|"warn"|"bad"} [tone] */
export function toast(text, tone = "good") {
  number += 1;
  const id = number;
  toasts.set([...toasts.get(), { id, tone, text }].slice(-MOST));
  if (tone === "good" || tone === "work") setTimeout(() => drop(id), STAY_MS);
}

export function drop(id) {
  toasts.set(toasts.get().filter((one) => one.id !== id));
}
