/** What a chart says of one of its columns: a box beside the column and, for whoever reads by keyboard, spoken words. */
import { html, useId, useState } from "./html.mjs";

/**
 * One column in words. sum: set apart from those above it. colour: as CSS has it.
 * @typedef {{title: string, lines: {name: string, text: string, colour?: string, sum?: boolean}[]}} Reading
 */

/** Whether a column has its label below it: six or so have, and none that would stand over the edge. @param {number} index @param {number} count of columns */
export function hasLabel(index, count) {
  const every = Math.max(1, Math.ceil(count / 6));
  return index % every === 0 && (count - index) * 2 >= every;
}

/**
 * The frame of a chart. By keyboard the arrow keys go from column to column, Page Up and Page Down over several, Home and
 * End to the first and the last; Esc ends it. at: the column that is read, -1 for none.
 * @param {{label: string, class: string, count: number, at: number, onRead: (at: number) => void, reading: Reading | null, children: any}} props count: columns
 */
export function Chart({ label, class: extra, count, at, onRead, reading, children }) {
  const hint = useId();
  const [spoken, setSpoken] = useState(false);
  const many = Math.max(2, Math.ceil(count / 6));
  /** @param {KeyboardEvent} event */
  const move = (event) => {
    if (event.metaKey || event.ctrlKey || event.altKey) return;
    /** @type {Record<string, number>} */
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -many, PageDown: many, Home: -count, End: count };
    if (event.key === "Escape" && at >= 0) onRead(-1);
    else if (event.key in steps) {
      setSpoken(true);
      onRead(Math.max(0, Math.min(count - 1, (at < 0 ? count : at) + steps[event.key])));
    } else return;
    event.preventDefault();
  };
  return html`<div class=${extra} role="application" aria-roledescription="chart" aria-label=${label} aria-describedby=${hint} tabindex="0" onKeyDown=${move}
      onMouseMove=${() => setSpoken(false)} onMouseLeave=${() => onRead(-1)} onBlur=${() => onRead(-1)}>
    ${children}
    <span id=${hint} hidden>The arrow keys read it column by column.</span>
    <span class="visually-hidden" role="status">${spoken && reading ? sentenceOf(reading) : ""}</span>
  </div>`;
}

/** @param {Reading} reading */
function sentenceOf({ title, lines }) {
  return `${title}: ${lines.length ? lines.map(({ name, text }) => `${name} ${text}`).join(", ") : "nothing"}`;
}

/** The box, in a frame that is `position: relative`. style: where it stands in it. @param {{reading: Reading, style: Record<string, string>}} props */
export function ReadingBox({ reading: { title, lines }, style }) {
  return html`<div class="reading" style=${style} aria-hidden="true"><strong>${title}</strong>
    ${lines.map(({ name, text, colour, sum }) => html`<div key=${name} class=${sum ? "sum" : ""}><span class=${colour ? "dot" : ""} style=${{ background: colour }}></span><span class="truncate">${name}</span><span class="digits">${text}</span></div>`)}
  </div>`;
}

/** Names of series and their colours. @param {{series: {name: string, colour: string}[]}} props */
export function Legend({ series }) {
  return html`<p class="legend wrap">${series.map(({ name, colour }) => html`<span key=${name}><span class="dot" style=${{ background: colour }}></span><span class="truncate" title=${name}>${name}</span></span>`)}</p>`;
}
