/** Tables of rows that can be opened, by mouse and by keyboard. */
import { html } from "./html.mjs";

/**
 * number: aligned to the right, in digits of one width. hide: on narrow pages. minor: also on pages of middle width.
 * @template T
 * @typedef {{title: string, cell: (row: T) => any, number?: boolean, hide?: boolean, minor?: boolean, wide?: boolean, width?: string, label?: string}} Column
 */

/**
 * @template T
 * @param {{columns: Column<T>[], rows: T[], id: (row: T) => string, onOpen?: (row: T) => void, selected?: string, caption: string, tone?: (row: T) => string}} props
 */
export function Table({ columns, rows, id, onOpen, selected, caption, tone }) {
  /** @param {Column<T>} column */
  const classes = (column) => [column.number && "number", column.hide && "hide-narrow", column.minor && "hide-middle", column.wide && "wide"].filter(Boolean).join(" ");
  return html`<div class="table-frame" role="region" aria-label=${caption} tabindex="0"><table>
    <caption class="visually-hidden">${caption}</caption>
    <thead><tr>${columns.map((column) => html`<th key=${column.title} scope="col" class=${classes(column)} style=${column.width ? { width: column.width } : undefined}>${column.title || html`<span class="visually-hidden">${column.label}</span>`}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr key=${id(row)} data-row=${onOpen ? id(row) : undefined} class=${[onOpen && "opens", tone?.(row)].filter(Boolean).join(" ")}
        tabindex=${onOpen ? 0 : undefined} aria-selected=${onOpen ? String(selected === id(row)) : undefined}
        onClick=${onOpen && ((/** @type {MouseEvent} */ event) => { if (!isControl(event)) onOpen(row); })}
        onKeyDown=${onOpen && ((/** @type {KeyboardEvent} */ event) => { if (event.key === "Enter" && event.target === event.currentTarget) onOpen(row); })}>
      ${columns.map((column) => html`<td key=${column.title} class=${classes(column)}>${column.cell(row)}</td>`)}
    </tr>`)}</tbody>
  </table></div>`;
}

/** A click on a button or a link in a row is about that, and a text that was marked is to be copied. @param {MouseEvent} event */
function isControl(event) {
  const control = event.target instanceof Element && event.target.closest("a, button, input, select, label");
  return Boolean(control) || (getSelection()?.toString() ?? "") !== "";
}
