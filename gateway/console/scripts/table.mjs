/** Tables of rows that can be opened, by mouse and by keyboard. */
import { html, useRef } from "./html.mjs";

/**
 * number: aligned to the right, in digits of one width. hide: on narrow pages. minor: also on pages of middle width.
 * @template T
 * @typedef {{title: string, cell: (row: T) => any, number?: boolean, hide?: boolean, minor?: boolean, wide?: boolean, width?: string, label?: string}} Column
 */

/**
 * Columns that are the same array as before say that a row looks as it did: of a list of a thousand rows only those
 * that changed are made anew.
 * @template T
 * @param {{columns: Column<T>[], rows: T[], id: (row: T) => string, onOpen?: (row: T) => void, selected?: string, caption: string, tone?: (row: T) => string}} props
 */
export function Table({ columns, rows, id, onOpen, selected, caption, tone }) {
  const opening = useRef(onOpen);
  opening.current = onOpen;
  const before = useRef(/** @type {{columns: Column<T>[], rows: Map<string, {row: T, chosen: boolean, element: any}>}} */ ({ columns, rows: new Map() }));
  const known = before.current.columns === columns ? before.current.rows : new Map();
  /** @param {Column<T>} column */
  const classes = (column) => [column.number && "number", column.hide && "hide-narrow", column.minor && "hide-middle", column.wide && "wide"].filter(Boolean).join(" ");
  /** @param {T} row @param {string} name @param {boolean} chosen */
  const rowOf = (row, name, chosen) => html`<tr key=${name} data-row=${onOpen ? name : undefined} class=${[onOpen && "opens", tone?.(row)].filter(Boolean).join(" ")}
        tabindex=${onOpen ? 0 : undefined} aria-selected=${onOpen ? String(chosen) : undefined}
        onClick=${onOpen && ((/** @type {MouseEvent} */ event) => { if (!isControl(event)) opening.current?.(row); })}
        onKeyDown=${onOpen && ((/** @type {KeyboardEvent} */ event) => { if (event.key === "Enter" && event.target === event.currentTarget) opening.current?.(row); })}>
      ${columns.map((column) => html`<td key=${column.title} class=${classes(column)}>${column.cell(row)}</td>`)}
    </tr>`;
  const elements = new Map(rows.map((row) => {
    const name = id(row);
    const chosen = selected === name;
    const old = known.get(name);
    return [name, old && old.row === row && old.chosen === chosen ? old : { row, chosen, element: rowOf(row, name, chosen) }];
  }));
  before.current = { columns, rows: elements };
  return html`<div class="table-frame" role="region" aria-label=${caption} tabindex="0"><table>
    <caption class="visually-hidden">${caption}</caption>
    <thead><tr>${columns.map((column) => html`<th key=${column.title} scope="col" class=${classes(column)} style=${column.width ? { width: column.width } : undefined}>${column.title || html`<span class="visually-hidden">${column.label}</span>`}</th>`)}</tr></thead>
    <tbody>${[...elements.values()].map((one) => one.element)}</tbody>
  </table></div>`;
}

/** A click on a button or a link in a row is about that, and a text that was marked is to be copied. @param {MouseEvent} event */
function isControl(event) {
  const control = event.target instanceof Element && event.target.closest("a, button, input, select, label");
  return Boolean(control) || (getSelection()?.toString() ?? "") !== "";
}
