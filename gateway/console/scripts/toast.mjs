/** Short messages on what was done, or failed, at the edge of the page. */
import { html, signal, useLayoutEffect, useRef } from "./html.mjs";

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
  const box = useRef(/** @type {any} */ (null));
  const shown = toasts.value.length;
  // A popover that is shown later lies above an open dialog, where what failed has to be read.
  useLayoutEffect(() => {
    box.current?.hidePopover?.();
    if (shown) box.current?.showPopover?.();
  }, [toasts.value]);
  return html`<div class="toasts" role="status" aria-live="polite" popover="manual" ref=${box}>
    ${toasts.value.map((one) => html`<div key=${one.id} class=${"toast" + (one.bad ? " bad" : "")}>${one.text}</div>`)}
  </div>`;
}
