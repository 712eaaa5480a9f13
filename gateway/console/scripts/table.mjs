/** Tables of rows that can be opened, by mouse and by keyboard. Of a long one only the rows near the view are drawn. */
import { html, useLayoutEffect, useRef } from "./html.mjs";
import { onMove } from "./keyboard.mjs";
import { MANY, useRowsInView } from "./rows_in_view.mjs";

/**
 * number: aligned to the right, in digits of one width. hide: on narrow pages. tiny: on telephones. minor: also on pages
 * of middle width. width: of a table whose columns do not depend on its rows.
 * @template T
 * @typedef {{title: string, cell: (row: T) => any, number?: boolean, hide?: boolean, tiny?: boolean, minor?: boolean, wide?: boolean, width?: string, label?: string}} Column
 */

/**
 * Columns that are the same array as before say that a row looks as it did: only those rows that changed are made anew.
 * fixed: columns have their own widths, and all rows one height, as a list must that may become long. more: there are
 * rows that have not been loaded. opens: which rows can be opened, where not all can.
 * @template T
 * @param {{columns: Column<T>[], rows: T[], id: (row: T) => string, onOpen?: (row: T) => void, opens?: (row: T) => boolean, selected?: string, caption: string, tone?: (row: T) => string, fixed?: boolean, more?: boolean}} props
 */
export function Table({ columns, rows, id, onOpen, opens, selected, caption, tone, fixed, more }) {
  const frame = useRef(/** @type {HTMLElement | null} */ (null));
  const opening = useRef(onOpen);
  opening.current = onOpen;
  const long = Boolean(fixed) && rows.length > MANY;
  const view = useRowsInView(frame, rows.length, long);
  useMoves(frame, { rows, id, onOpen, selected, reveal: view.reveal });
  const before = useRef(/** @type {{columns: Column<T>[], rows: Map<string, Drawn<T>>}} */ ({ columns, rows: new Map() }));
  const known = before.current.columns === columns ? before.current.rows : new Map();
  /** @param {Column<T>} column */
  const classes = (column) => [column.number && "number", column.hide && "hide-narrow", column.tiny && "hide-tiny", column.minor && "hide-middle", column.wide && "wide"].filter(Boolean).join(" ");
  /** @param {T} row @param {string} name @param {boolean} chosen @param {number | undefined} index */
  const rowOf = (row, name, chosen, index) => {
    const can = onOpen && (!opens || opens(row));
    return html`<tr key=${name} data-row=${name} class=${[can && "opens", tone?.(row)].filter(Boolean).join(" ")}
        tabindex=${can ? 0 : -1} aria-selected=${can ? String(chosen) : undefined} aria-rowindex=${index}
        onClick=${can && ((/** @type {MouseEvent} */ event) => { if (!isControl(event)) opening.current?.(row); })}
        onKeyDown=${can && ((/** @type {KeyboardEvent} */ event) => { if (event.key === "Enter" && event.target === event.currentTarget) opening.current?.(row); })}>
      ${columns.map((column) => html`<td key=${column.title} class=${classes(column)}>${column.cell(row)}</td>`)}
    </tr>`;
  };
  const drawn = new Map(rows.slice(view.first, view.last).map((row, offset) => {
    const name = id(row);
    const chosen = selected === name;
    const index = long ? view.first + offset + 2 : undefined; // the head is the first row
    const old = known.get(name);
    return [name, old && old.row === row && old.chosen === chosen && old.index === index ? old : { row, chosen, index, element: rowOf(row, name, chosen, index) }];
  }));
  before.current = { columns, rows: drawn };
  return html`<div class="table-frame" role="region" aria-label=${caption} tabindex="0" ref=${frame}>
    <table class=${fixed ? "fixed" : undefined} aria-rowcount=${long ? (more ? -1 : rows.length + 1) : undefined}>
    <caption class="visually-hidden">${caption}</caption>
    <thead><tr aria-rowindex=${long ? 1 : undefined}>${columns.map((column) => html`<th key=${column.title} scope="col" class=${classes(column)} style=${column.width ? { width: column.width } : undefined}>${column.title || html`<span class="visually-hidden">${column.label}</span>`}</th>`)}</tr></thead>
    <tbody>${view.above > 0 && html`<${Gap} key="above" height=${view.above} />`}${[...drawn.values()].map((one) => one.element)}${view.below > 0 && html`<${Gap} key="below" height=${view.below} />`}</tbody>
  </table></div>`;
}

/** A row as it was drawn last. index: as screen readers count it. @template T @typedef {{row: T, chosen: boolean, index: number | undefined, element: any}} Drawn */

/** The place of rows that are not drawn. @param {{height: number}} props pixels */
function Gap({ height }) {
  return html`<tr class="gap" aria-hidden="true" style=${{ height: `${height}px` }}></tr>`;
}

/**
 * j and k, from the row that has the focus, or is open, or had the focus before it went out of sight.
 * @template T
 * @param {{current: HTMLElement | null}} frame
 * @param {{rows: T[], id: (row: T) => string, onOpen?: (row: T) => void, selected?: string, reveal: (index: number) => void}} table
 */
function useMoves(frame, table) {
  const now = useRef(table);
  now.current = table;
  const last = useRef("");
  const wanted = useRef("");
  const focus = () => {
    // Who reads in the drawer stays there.
    const reads = Boolean(document.activeElement?.closest(".drawer[data-follows]"));
    const row = wanted.current && [...(frame.current?.querySelectorAll("tr[data-row]") ?? [])].find((one) => /** @type {HTMLElement} */ (one).dataset.row === wanted.current);
    if (!row) return;
    wanted.current = "";
    if (!reads) /** @type {HTMLElement} */ (row).focus({ preventScroll: true });
    row.scrollIntoView({ block: "nearest" });
  };
  useLayoutEffect(focus);
  useLayoutEffect(() => {
    const box = frame.current;
    if (!box) return undefined;
    const remember = (/** @type {FocusEvent} */ event) => {
      last.current = /** @type {HTMLElement | null} */ (/** @type {HTMLElement} */ (event.target).closest("tr[data-row]"))?.dataset.row ?? "";
    };
    box.addEventListener("focusin", remember);
    const off = onMove((step) => {
      const { rows, id, onOpen, selected, reveal } = now.current;
      if (!rows.length) return;
      const from = box.contains(document.activeElement) ? last.current : selected || last.current;
      const index = from ? rows.findIndex((row) => id(row) === from) : -1;
      const next = Math.max(0, Math.min(rows.length - 1, index + step));
      wanted.current = last.current = id(rows[next]);
      reveal(next);
      focus();
      // With a drawer open, the next row is read in it.
      if (document.querySelector(".drawer[data-follows]")) onOpen?.(rows[next]);
    });
    return () => { box.removeEventListener("focusin", remember); off(); };
  }, []);
}

/** A click on a button or a link in a row is about that, and a text that was marked is to be copied. @param {MouseEvent} event */
function isControl(event) {
  const control = event.target instanceof Element && event.target.closest("a, button, input, select, label");
  return Boolean(control) || (getSelection()?.toString() ?? "") !== "";
}
