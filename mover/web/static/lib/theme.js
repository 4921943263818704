// Light, dark, or as the system says. The choice is the one thing these pages keep in the browser.
const KEY = "mover-theme";
const CHOICES = ["system", "light", "dark"];
const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", () => applyTheme());

function chosen() {
  try {
    const said = localStorage.getItem(KEY);
    return CHOICES.includes(said) ? said : "system";
  } catch {
    return "system"; // a browser may forbid keeping anything
  }
}

export function applyTheme(choice = chosen()) {
  const root = document.documentElement;
  root.dataset.choice = choice;
  root.dataset.theme = choice === "system" ? (dark.matches ? "dark" : "light") : choice;
}

/** @returns {string} the choice that holds from now on */
export function nextTheme() {
  const choice = CHOICES[(CHOICES.indexOf(chosen()) + 1) % CHOICES.length];
  try {
    localStorage.setItem(KEY, choice);
  } catch {
    // it holds until the page is left
  }
  applyTheme(choice);
  return choice;
}
