/** Stacked bars over time, drawn as SVG, with a legend, and the numbers of the column that is read. */
import { html, useState } from "./html.mjs";
import { Chart, Legend, ReadingBox, hasLabel } from "./reading.mjs";

const HEIGHT = 168;

/** Colours of series, in this order; the last one is for the rest. */
export const COLOURS = ["var(--series-1)", "var(--series-2)", "var(--series-3)", "var(--series-4)", "var(--series-5)", "var(--series-6)", "var(--series-7)"];

/**
 * @typedef {{name: string, colour: string, values: number[]}} Series values: one for each column
 * @param {{series: Series[], labels: string[], titles: string[], format: (value: number) => string, label: string, height?: number, beside?: [string, string[]]}} props
 * labels: below the columns; titles: of each column, longer; height: in pixels; beside: what is read with each column and not drawn
 */
export function StackedBars({ series, labels, titles, format, label, height = HEIGHT, beside }) {
  const [at, setAt] = useState(-1);
  const sums = labels.map((_, index) => series.reduce((sum, one) => sum + one.values[index], 0));
  const top = niceTop(Math.max(0, ...sums));
  const width = 100 / Math.max(labels.length, 1);
  const gap = labels.length > 120 ? 0 : width * 0.12;
  const reading = at < 0 || at >= labels.length ? null : { title: titles[at], lines: [
    ...series.filter((one) => one.values[at]).map((one) => ({ name: one.name, colour: one.colour, text: format(one.values[at]) })),
    ...(series.length > 1 ? [{ name: "In all", text: format(sums[at]), sum: true }] : []),
    ...(beside ? [{ name: beside[0], text: beside[1][at] }] : []),
  ] };
  return html`<${Chart} class="bars stacked" label=${label} count=${labels.length} at=${at} onRead=${setAt} reading=${reading}>
    <div class="bars-scale digits" aria-hidden="true"><span>${format(top)}</span><span>${format(top / 2)}</span><span>${format(0)}</span></div>
    <div class="plot">
      <svg viewBox="0 0 100 ${height}" preserveAspectRatio="none" style=${{ height: `${height}px` }} aria-hidden="true">
        ${[0, 0.5].map((part) => html`<line key=${part} x1="0" x2="100" y1=${height * part + 0.5} y2=${height * part + 0.5} class="grid" />`)}
        ${labels.map((_, index) => {
          let bottom = height;
          return html`<g key=${index} onMouseEnter=${() => setAt(index)}><rect x=${index * width} width=${width} y="0" height=${height} class=${index === at ? "hit at" : "hit"} />
            ${series.map((one) => {
              const tall = (one.values[index] / top) * (height - 2);
              if (!(tall > 0)) return null;
              const shown = Math.max(tall, 0.8);
              bottom -= shown;
              return html`<rect key=${one.name} x=${index * width + gap} width=${width - 2 * gap} y=${bottom} height=${shown} style=${{ fill: one.colour }} />`;
            })}</g>`;
        })}
        <line x1="0" x2="100" y1=${height - 0.5} y2=${height - 0.5} class="grid" />
      </svg>
      ${reading && html`<${ReadingBox} reading=${reading} style=${at > labels.length / 2 ? { right: `${100 - at * width}%` } : { left: `${(at + 1) * width}%` }} />`}
    </div>
    <div class="bars-labels digits" aria-hidden="true">${labels.map((text, index) => html`<span key=${index}>${hasLabel(index, labels.length) ? text : ""}</span>`)}</div>
    ${series.length > 1 && html`<${Legend} series=${series} />`}
  <//>`;
}

/**
 * Calls over time, with those that failed, and what they cost.
 * @param {{rows: {calls: number, failures: number, cost: string}[], labels: string[], titles: string[], label: string, format: (value: number) => string}} props rows: one for each column
 */
export function CallBars({ rows, labels, titles, label, format }) {
  return html`<${StackedBars} label=${label} labels=${labels} titles=${titles} format=${format} height=${132} beside=${["cost", rows.map((row) => row.cost)]}
    series=${[{ name: "failed", colour: "var(--bad)", values: rows.map((row) => row.failures) }, { name: "served", colour: "var(--series-1)", values: rows.map((row) => row.calls - row.failures) }]} />`;
}

/** The next number whose half is round as well. @param {number} most */
function niceTop(most) {
  if (most <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return (/** @type {number} */ ([1, 2, 4, 6, 8, 10].find((step) => step * power >= most * (1 - 1e-9)))) * power;
}
