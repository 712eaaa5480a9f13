/** What opens beside a list, and dialogs that ask before something is lost. */
import { html, useEffect, useId, useLayoutEffect, useRef, useState } from "./html.mjs";
import { Icon } from "./icons.mjs";
import { onEscape } from "./keyboard.mjs";

/**
 * Gives the focus back to where it was before a box took it: else it is lost with the box, and the keyboard with it.
 * follows: to the row that is read now, which j and k may have changed meanwhile.
 * @param {{current: HTMLElement | null}} box @param {boolean | undefined} follows
 */
function useFocusReturn(box, follows) {
  const row = useRef(/** @type {HTMLElement | null} */ (null));
  useLayoutEffect(() => { if (follows) row.current = document.querySelector('tr[aria-selected="true"]') ?? row.current; });
  useLayoutEffect(() => {
    const before = document.activeElement;
    return () => {
      const now = document.activeElement;
      // A button that is disabled while its work is done has lost the focus already.
      if (now !== document.body && !box.current?.contains(now)) return;
      const target = row.current?.isConnected ? row.current : before instanceof HTMLElement && before.isConnected && before !== document.body ? before : document.querySelector('tr[aria-selected="true"], .table-frame');
      /** @type {HTMLElement | null} */ (target)?.focus({ preventScroll: true });
    };
  }, []);
}

/** follows: j and k show the next row in it. @param {{title: any, onClose: () => void, children: any, actions?: any, follows?: boolean, wide?: boolean}} props */
export function Drawer({ title, onClose, children, actions, follows, wide }) {
  const id = useId();
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const close = useRef(onClose);
  close.current = onClose;
  useFocusReturn(box, follows);
  useLayoutEffect(() => onEscape(() => close.current()), []);  // before it is painted: what is seen can be closed
  // What is read is what scrolls, and what the keyboard goes on from.
  useEffect(() => { /** @type {HTMLElement | null | undefined} */ (box.current?.querySelector(".drawer-body"))?.focus({ preventScroll: true }); }, []);
  return html`<aside class=${"drawer" + (wide ? " drawer-wide" : "")} ref=${box} tabindex="-1" aria-labelledby=${id} data-follows=${follows ? "" : undefined}>
    <header><h2 id=${id}>${title}</h2>
      <button class="icon-button" aria-label="Close" title="Close (Esc)" onClick=${onClose}><${Icon} name="close" /></button></header>
    <div class="drawer-body" tabindex="0">${children}</div>
    ${actions && html`<footer>${actions}</footer>`}
  </aside>`;
}

/** A dialog over the page. keeps: a click beside it does not close it, since something was typed in it, or is shown once. @param {{title: string, onClose: () => void, children: any, class?: string, keeps?: boolean}} props */
export function Dialog({ title, onClose, children, class: extra = "", keeps }) {
  const id = useId();
  const box = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => {
    const dialog = box.current;
    if (!dialog?.open) dialog?.showModal();
  }, []);
  // Closing it gives the focus back, which removing it does not.
  useLayoutEffect(() => () => box.current?.close(), []);
  return html`<dialog ref=${box} class=${extra} aria-labelledby=${id} onCancel=${(/** @type {Event} */ event) => { event.preventDefault(); onClose(); }}
      onClick=${(/** @type {Event} */ event) => { if (event.target === box.current && !keeps) onClose(); }}>
    <div class="dialog-inner"><h2 id=${id}>${title}</h2>${children}</div>
  </dialog>`;
}

/**
 * Asks before something is done. word: what must be typed, where it cannot be taken back.
 * @param {{title: string, action: string, word?: string, danger?: boolean, onConfirm: () => Promise<any>, onClose: () => void, children: any}} props
 */
export function Confirm({ title, action, word, danger, onConfirm, onClose, children }) {
  const [typed, setTyped] = useState("");
  const [busy, setBusy] = useState(false);
  /** @param {Event} event */
  const submit = async (event) => {
    event.preventDefault();
    if (busy) return;
    setBusy(true);
    await onConfirm();
    setBusy(false);
  };
  return html`<${Dialog} title=${title} onClose=${onClose}>
    <form onSubmit=${submit}>
      <div>${children}</div>
      ${word && html`<label class="field"><span>Type <strong>${word}</strong> to go on</span><input value=${typed} autocomplete="off" spellcheck=${false} onInput=${(/** @type {any} */ event) => setTyped(event.target.value)} /></label>`}
      <div class="buttons end"><button type="button" onClick=${onClose}>Cancel</button>
        <button class=${danger ? "danger" : "primary"} aria-disabled=${busy ? "true" : undefined} disabled=${word && typed !== word}>${action}</button></div>
    </form>
  <//>`;
}
