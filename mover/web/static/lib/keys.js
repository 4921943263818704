// Keys: `?` for help, `g` and a letter to go somewhere, `/` for the filter of a page. None of them while somebody types.
import { useEffect } from "./preact.js";

const CHORD_MS = 1500;
const known = new Map();
let begun = 0;

/** A key of a page, for as long as the page stands. @param {string} key one character, or `g x` */
export function useKey(key, help, act) {
  useEffect(() => {
    known.set(key, { help, act });
    return () => known.delete(key);
  }, [key, help, act]);
}

/** @returns {[string, string][]} what can be pressed now */
export const pressable = () => [...known].map(([key, { help }]) => [key, help]);

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (event.target.closest?.("input, textarea, select, [contenteditable], dialog[open]")) return;
  const chord = Date.now() - begun < CHORD_MS ? `g ${event.key}` : null;
  begun = event.key === "g" ? Date.now() : 0;
  const found = (chord && known.get(chord)) ?? known.get(event.key);
  if (!found) return;
  event.preventDefault();
  begun = 0;
  found.act();
});
