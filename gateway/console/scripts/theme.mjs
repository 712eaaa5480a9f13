/** Light, dark, or as the system has it; kept in the browser. */
import { effect, signal } from "./html.mjs";

const THEMES = ["auto", "light", "dark"];
const NAME = "console-theme";

/** @returns {string} */
function stored() {
  try {
    return localStorage.getItem(NAME) ?? "auto";
  } catch {
    return "auto"; // storage may be forbidden
  }
}

export const theme = signal(THEMES.includes(stored()) ? stored() : "auto");

/** The kind that is in force, `light` or `dark`. Charts draw on a canvas and read their colours when it changes. */
const dark = matchMedia("(prefers-color-scheme: dark)");
export const effectiveTheme = signal("light");

effect(() => {
  document.documentElement.dataset.theme = theme.value;
  effectiveTheme.value = theme.value === "auto" ? (dark.matches ? "dark" : "light") : theme.value;
});
dark.addEventListener("change", () => {
  if (theme.value === "auto") effectiveTheme.value = dark.matches ? "dark" : "light";
});

export function nextTheme() {
  theme.value = THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length];
  try {
    localStorage.setItem(NAME, theme.value);
  } catch {
    // it holds for this page alone
  }
}
