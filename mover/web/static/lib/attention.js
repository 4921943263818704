// Does somebody sit here? A page asks by itself all day; only who moves, types or scrolls keeps a session from being idle.
const AWAY_MS = 60000;
let touched = performance.now();

for (const kind of ["pointermove", "pointerdown", "keydown", "wheel"])
  addEventListener(kind, () => { touched = performance.now(); }, { passive: true, capture: true });

/** Nobody did anything for a minute. */
export const unattended = () => performance.now() - touched > AWAY_MS;
