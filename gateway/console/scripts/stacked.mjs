/** Stacked bars over time, drawn as SVG, with a legend, and the numbers of the column under the pointer. */
import { niceTop } from "./bars.mjs";
import { html, useState } from "./html.mjs";

const HEIGHT = 168;

/** Colours of series, in this order; the last one is for the rest. */
export const COLOURS = ["var(--series-1)", "var(--series-2)", "var(--series-3)", "var(--series-4)", "var(--series-5)", "var(--series-6)", "var(--series-7)"];

/**
 * @typedef {{name: string, colour: string, values: number[]}} Series values: one for each column
 * @param {{series: Series[], labels: string[], titles: string[], format: (value: number) => string, label: string}} props
 * labels: below the columns; titles: of each column, longer
 */
export function StackedBars({ series, labels, titles, format, label }) {
  const [at, setAt] = useState(-1);
  const sums = labels.map((_, index) => series.reduce((sum, one) => sum + one.values[index], 0));
  const top = niceTop(Math.max(0, ...sums));
  const width = 100 / Math.max(labels.length, 1);
  const every = Math.max(1, Math.ceil(labels.length / 6));
  const gap = labels.length > 120 ? 0 : width * 0.12;
  return html`<div class="bars stacked" role="img" aria-label=${label} onMouseLeave=${() => setAt(-1)}>
    <div class="bars-scale digits" aria-hidden="true"><span>${format(top)}</span><span>${format(top / 2)}</span><span>${format(0)}</span></div>
    <div class="plot">
      <svg viewBox="0 0 100 ${HEIGHT}" preserveAspectRatio="none" style=${{ height: `${HEIGHT}px` }} aria-hidden="true">
        ${[0, 0.5].map((part) => html`<line key=${part} x1="0" x2="100" y1=${HEIGHT * part + 0.5} y2=${HEIGHT * part + 0.5} class="grid" />`)}
        ${labels.map((_, index) => {
          let bottom = HEIGHT;
          return html`<g key=${index} onMouseEnter=${() => setAt(index)}><rect x=${index * width} width=${width} y="0" height=${HEIGHT} class=${index === at ? "hit at" : "hit"} />
            ${series.map((one) => {
              const tall = (one.values[index] / top) * (HEIGHT - 2);
              if (!(tall > 0)) return null;
              const shown = Math.max(tall, 0.8);
              bottom -= shown;
              return html`<rect key=${one.name} x=${index * width + gap} width=${width - 2 * gap} y=${bottom} height=${shown} style=${{ fill: one.colour }} />`;
            })}</g>`;
        })}
        <line x1="0" x2="100" y1=${HEIGHT - 0.5} y2=${HEIGHT - 0.5} class="grid" />
      </svg>
      ${at >= 0 && at < labels.length && html`<div class=${"reading" + (at > labels.length / 2 ? " left" : "")} style=${at > labels.length / 2 ? { right: `${100 - at * width}%` } : { left: `${(at + 1) * width}%` }}>
        <strong>${titles[at]}</strong>
        ${series.filter((one) => one.values[at]).map((one) => html`<div key=${one.name}><span class="dot" style=${{ background: one.colour }}></span><span class="truncate">${one.name}</span><span class="digits">${format(one.values[at])}</span></div>`)}
        ${series.length > 1 && html`<div class="sum"><span></span><span>In all</span><span class="digits">${format(sums[at])}</span></div>`}
      </div>`}
    </div>
    <div class="bars-labels digits" aria-hidden="true">${labels.map((text, index) => html`<span key=${index}>${index % every === 0 ? text : ""}</span>`)}</div>
    ${series.length > 1 && html`<p class="legend wrap">${series.map((one) => html`<span key=${one.name}><span class="dot" style=${{ background: one.colour }}></span><span class="truncate" title=${one.name}>${one.name}</span></span>`)}</p>`}
  </div>`;
}
