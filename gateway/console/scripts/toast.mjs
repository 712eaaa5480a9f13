/** Short messages on what was done, or failed, at the edge of the page. */
import { awaySince, sessionOver } from "./api.mjs";
import { clockText } from "./format.mjs";
import { html, signal, useLayoutEffect, useRef } from "./html.mjs";
import { Icon } from "./icons.mjs";

const SECONDS = 6;

/** What failed is to be read, and perhaps copied. */
const BAD_SECONDS = 20;

/** @type {import("@preact/signals-core").Signal<{id: number, text: string, bad: boolean}[]>} */
const toasts = /** @type {any} */ (signal([]));
let last = 0;

/** @param {string} text @param {boolean} [bad] */
export function toast(text, bad = false) {
  const id = ++last;
  toasts.value = [...toasts.value.slice(-3), { id, text, bad }];
  setTimeout(() => remove(id), (bad ? BAD_SECONDS : SECONDS) * 1000);
}

/** @param {number} id */
function remove(id) {
  toasts.value = toasts.value.filter((one) => one.id !== id);
}

/** Runs what a button does, and shows its error. Returns whether it succeeded. @param {() => Promise<any>} work @param {string} [done] */
export async function attempt(work, done) {
  try {
    await work();
    if (done) toast(done);
    return true;
  } catch (error) {
    failed(error);
    return false;
  }
}

/** Says that something failed; but for want of a session, which the page asks for already. @param {any} error */
export function failed(error) {
  if (!sessionOver.value) toast(error.message, true);
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
    ${toasts.value.map((one) => html`<div key=${one.id} class=${"toast" + (one.bad ? " bad" : "")}><span>${one.text}</span>${one.bad && html`<button type="button" class="icon-button" aria-label="Dismiss" onClick=${() => remove(one.id)}><${Icon} name="close" /></button>`}</div>`)}
  </div>`;
}

/** Says for as long as it holds that the gateway does not answer; above an open dialog, too. */
export function Away() {
  const box = useRef(/** @type {any} */ (null));
  const since = awaySince.value;
  useLayoutEffect(() => {
    box.current?.hidePopover?.();
    if (since) box.current?.showPopover?.();
  }, [since]);
  return html`<div class="toasts away" role="status" popover="manual" ref=${box}>
    ${since > 0 && html`<div class="toast bad"><span>The gateway has not answered since ${clockText(since)}. What is shown is from before. It is asked again until it answers.</span></div>`}
  </div>`;
}
