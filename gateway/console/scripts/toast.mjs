/** Short messages on what was done, or failed, at the edge of the page. */
import { html, signal } from "./html.mjs";

const SECONDS = 6;

/** @type {import("@preact/signals-core").Signal<{id: number, text: string, bad: boolean}[]>} */
const toasts = /** @type {any} */ (signal([]));
let last = 0;

/** @param {string} text @param {boolean} [bad] */
export function toast(text, bad = false) {
  const id = ++last;
  toasts.value = [...toasts.value.slice(-3), { id, text, bad }];
  setTimeout(() => { toasts.value = toasts.value.filter((one) => one.id !== id); }, SECONDS * 1000);
}

/** Runs what a button does, and shows its error. Returns whether it succeeded. @param {() => Promise<any>} work @param {string} [done] */
export async function attempt(work, done) {
  try {
    await work();
    if (done) toast(done);
    return true;
  } catch (error) {
    toast(/** @type {Error} */ (error).message, true);
    return false;
  }
}

export function Toasts() {
  return html`<div class="toasts" role="status" aria-live="polite">
    ${toasts.value.map((one) => html`<div key=${one.id} class=${"toast" + (one.bad ? " bad" : "")}>${one.text}</div>`)}
  </div>`;
}
