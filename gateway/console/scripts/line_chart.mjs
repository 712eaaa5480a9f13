/** Lines over time, by uPlot, in the colours of the theme and as wide as there is room. */
import uPlot from "../vendor/uplot.mjs";
import { html, useEffect, useRef } from "./html.mjs";
import { effectiveTheme } from "./theme.mjs";

const HEIGHT = 190;

/**
 * @typedef {{name: string, colour: string, values: (number | null)[]}} Line colour: the name of a token, such as --series-1
 * @param {{times: number[], lines: Line[], format: (value: number) => string, label: string, labels: string[], titles: string[]}} props times: Unix seconds; labels, titles: of each, short and long
 */
export function LineChart({ times, lines, format, label, labels, titles }) {
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const theme = effectiveTheme.value;
  const key = JSON.stringify([times, lines.map((line) => [line.name, line.values])]);
  useEffect(() => {
    const element = box.current;
    if (!element) return undefined;
    const style = getComputedStyle(element);
    /** @param {string} name */
    const colour = (name) => resolved(element, name);
    const every = Math.max(1, Math.ceil(times.length / 6));
    const font = `${Math.round(parseFloat(style.fontSize) * 0.8)}px ${style.fontFamily}`;
    const axis = { stroke: colour("--muted"), font, grid: { stroke: colour("--border"), width: 1 }, ticks: { show: false } };
    const chart = new uPlot(
      {
        padding: [10, 8, 0, 0],
        width: element.clientWidth,
        height: HEIGHT,
        legend: { live: true, markers: { width: 0, fill: (/** @type {any} */ _, /** @type {number} */ index) => (index ? colour(lines[index - 1].colour) : "transparent") } },
        cursor: { y: false, points: { size: 6 } },
        scales: { x: { time: false }, y: { range: (_, __, most) => [0, most > 0 ? most * 1.08 : 1] } },
        axes: [{ ...axis, splits: () => times.filter((_, index) => index % every === 0), values: (_, ticks) => ticks.map((tick) => labels[times.indexOf(tick)] ?? "") }, { ...axis, size: 62, values: (_, ticks) => ticks.map((tick) => format(tick)) }],
        series: [
          { label: "Time", value: (_, at) => titles[times.indexOf(at)] ?? "" },
          ...lines.map((line) => ({ label: line.name, stroke: colour(line.colour), width: 1.8, spanGaps: false, points: { show: times.length < 60, size: 5, fill: colour(line.colour) }, value: (/** @type {any} */ _, /** @type {number | null} */ value) => (value === null ? "" : format(value)) })),
        ],
      },
      /** @type {any} */ ([times, ...lines.map((line) => line.values)]),
      element,
    );
    const resizing = new ResizeObserver(() => { if (element.clientWidth) chart.setSize({ width: element.clientWidth, height: HEIGHT }); });
    resizing.observe(element);
    return () => {
      resizing.disconnect();
      chart.destroy();
    };
  }, [key, theme]);
  return html`<div class="line-chart" ref=${box} role="img" aria-label=${label}></div>`;
}

/** A token's colour as a canvas takes it. @param {HTMLElement} element @param {string} name */
function resolved(element, name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  element.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}
