// One door to what draws: pages import from here and never from vendor.
import { h, render, Fragment, createContext, createRef, createPortal } from "../vendor/preact.js";
import htm from "../vendor/htm.js";

export { h, render, Fragment, createContext, createRef, createPortal };
export {
  useState, useEffect, useLayoutEffect, useMemo, useRef, useCallback, useReducer, useContext, useId, useErrorBoundary,
} from "../vendor/hooks.js";

/** Markup as a tagged template. What stands in `${}` is text and never markup: nothing here can set inner HTML. */
export const html = htm.bind(h);
