/** Bars over time, drawn as SVG: what was counted in each hour or day, with the part of it that failed. */
import { html } from "./html.mjs";

/**
 * @typedef {{label: string, value: number, bad?: number, title: string}} Bar
 * @param {{bars: Bar[], height?: number, label: string, format: (value: number) => string}} props
 */
export function Bars({ bars, height = 132, label, format }) {
  const most = Math.max(...bars.map((bar) => bar.value), 0);
  const top = niceTop(most);
  const width = 100 / Math.max(bars.length, 1);
  const every = Math.ceil(bars.length / 6);
  return html`<div class="bars" role="img" aria-label=${label}>
    <div class="bars-scale digits" aria-hidden="true"><span>${format(top)}</span><span>${format(top / 2)}</span><span>0</span></div>
    <svg viewBox="0 0 100 ${height}" preserveAspectRatio="none" style=${{ height: `${height}px` }} aria-hidden="true">
      ${[0, 0.5].map((part) => html`<line key=${part} x1="0" x2="100" y1=${height * part + 0.5} y2=${height * part + 0.5} class="grid" />`)}
      ${bars.map((bar, index) => {
        const tall = top ? (bar.value / top) * (height - 2) : 0;
        const failed = top ? ((bar.bad ?? 0) / top) * (height - 2) : 0;
        return html`<g key=${index}><title>${bar.title}</title>
          <rect x=${index * width} width=${width} y="0" height=${height} class="hit" />
          <rect x=${index * width + width * 0.12} width=${width * 0.76} y=${height - Math.max(tall, bar.value ? 1.5 : 0)} height=${Math.max(tall, bar.value ? 1.5 : 0)} class="bar-good" />
          ${failed > 0 && html`<rect x=${index * width + width * 0.12} width=${width * 0.76} y=${height - Math.max(failed, 1.5)} height=${Math.max(failed, 1.5)} class="bar-bad" />`}
        </g>`;
      })}
      <line x1="0" x2="100" y1=${height - 0.5} y2=${height - 0.5} class="grid" />
    </svg>
    <div class="bars-labels digits" aria-hidden="true">${bars.map((bar, index) => html`<span key=${index}>${index % every === 0 ? bar.label : ""}</span>`)}</div>
  </div>`;
}

/** The next round number: 1, 2 or 5 times a power of ten. @param {number} most */
export function niceTop(most) {
  if (most <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return (/** @type {number} */ ([1, 2, 5, 10].find((step) => step * power >= most))) * power;
}
