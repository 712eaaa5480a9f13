/**
 * The keyboard: `/` searches, j and k go through the rows of a table, Enter opens one, Esc closes what is open. Keys
 * that somebody types into a field are theirs.
 */

/** @type {(() => void)[]} */
const closers = [];

/** What Esc closes, the last one first. Returns how it is taken off again. @param {() => void} close */
export function onEscape(close) {
  closers.push(close);
  return () => {
    const index = closers.lastIndexOf(close);
    if (index >= 0) closers.splice(index, 1);
  };
}

/** @param {EventTarget | null} target */
function isTyped(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}

/** @type {((step: number) => void)[]} */
const movers = [];

/** What j and k do, the last table's first. Returns how it is taken off again. @param {(step: number) => void} move -1: to the row above */
export function onMove(move) {
  movers.push(move);
  return () => {
    const index = movers.lastIndexOf(move);
    if (index >= 0) movers.splice(index, 1);
  };
}

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.metaKey || event.ctrlKey || event.altKey) return;
  if (event.key === "Escape") {
    if (document.querySelector("dialog[open]")) return; // it is the dialog's, not of the drawer that is below it
    const close = closers.at(-1);
    if (close) {
      event.preventDefault();
      close();
    } else if (isTyped(event.target)) /** @type {HTMLElement} */ (event.target).blur();
    return;
  }
  if (isTyped(event.target) || document.querySelector("dialog[open]")) return;
  if (event.key === "/") {
    const search = /** @type {HTMLInputElement | null} */ (document.querySelector("[data-search]"));
    if (search) {
      event.preventDefault();
      search.focus();
      search.select();
    }
  } else if (event.key === "j" || event.key === "k") movers.at(-1)?.(event.key === "j" ? 1 : -1);
});

const STOPS = 'a[href], button:not(:disabled), input:not(:disabled), select:not(:disabled), textarea:not(:disabled), [tabindex="0"]';

/**
 * A control that goes with what it did, such as a filter that is taken off, would take the keyboard with it: what stands
 * where it stood has the focus then. A mouse needs none.
 */
addEventListener("click", (event) => {
  if (event.detail || !(event.target instanceof Element)) return;
  const control = event.target.closest("a, button");
  if (!control) return;
  /** @type {HTMLElement[]} */
  const around = [];
  for (let box = control.parentElement; box && box !== document.body; box = box.parentElement) around.push(box);
  // After what was done is drawn.
  requestAnimationFrame(() => setTimeout(() => {
    if (document.activeElement !== document.body || control.isConnected) return;
    const box = around.find((one) => one.isConnected);
    if (!box) return;
    /** @type {HTMLElement} */ (box.id === "content" ? box : box.querySelector(STOPS) ?? box).focus({ preventScroll: true });
  }));
}, { capture: true });
