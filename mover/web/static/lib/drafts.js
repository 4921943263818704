// A text on its way from where it was proposed to the editor of its policy. It stands in no address: it may hold the name
// of a column. Looked at once, or gone with the page.
let handed = null;

/** @param {{policy: string, digest: string, text: string}} draft */
export function hand(draft) {
  handed = draft;
}

export function taken(policy) {
  const found = handed?.policy === policy ? handed : null;
  handed = null;
  return found;
}
