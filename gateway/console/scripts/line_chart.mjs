/** Lines over time, by uPlot, in the colours of the theme and as wide as there is room. */
import uPlot from "../vendor/uplot.mjs";
import { html, useEffect, useRef, useState } from "./html.mjs";
import { Chart, Legend, ReadingBox, hasLabel } from "./reading.mjs";
import { effectiveTheme } from "./theme.mjs";

const HEIGHT = 190;

/** Pixels of the axes, which the legend leaves free too. */
const LEFT = 62, BELOW = 26;

/**
 * @typedef {{name: string, colour: string, values: (number | null)[]}} Line colour: the name of a token, such as --series-1
 * @param {{times: number[], lines: Line[], format: (value: number) => string, label: string, labels: string[], titles: string[]}} props times: Unix seconds; labels, titles: of each, short and long
 */
export function LineChart({ times, lines, format, label, labels, titles }) {
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const drawn = useRef(/** @type {uPlot | null} */ (null));
  const [at, setAt] = useState(-1);
  const theme = effectiveTheme.value;
  const key = JSON.stringify([times, lines.map((line) => [line.name, line.values])]);
  useEffect(() => {
    const element = box.current;
    if (!element) return undefined;
    const style = getComputedStyle(element);
    /** @param {string} name */
    const colour = (name) => resolved(element, name);
    const font = `${Math.round(parseFloat(style.fontSize) * 0.8)}px ${style.fontFamily}`;
    const axis = { stroke: colour("--muted"), font, grid: { stroke: colour("--border"), width: 1 }, ticks: { show: false } };
    const chart = new uPlot(
      {
        padding: [10, 20, 0, 0],
        width: element.clientWidth,
        height: HEIGHT,
        legend: { show: false },
        cursor: { y: false, points: { size: 6 } },
        hooks: { setCursor: [({ cursor }) => setAt(cursor.idx ?? -1)] },
        scales: { x: { time: false }, y: { range: (_, __, most) => [0, most > 0 ? most * 1.08 : 1] } },
        axes: [{ ...axis, size: BELOW, splits: () => times.filter((_, index) => hasLabel(index, times.length)), values: (_, ticks) => ticks.map((tick) => labels[times.indexOf(tick)] ?? "") }, { ...axis, size: LEFT, values: (_, ticks) => ticks.map((tick) => format(tick)) }],
        series: [{}, ...lines.map((line) => ({ label: line.name, stroke: colour(line.colour), width: 1.8, spanGaps: false, points: { show: times.length < 60, size: 5, fill: colour(line.colour) } }))],
      },
      /** @type {any} */ ([times, ...lines.map((line) => line.values)]),
      element,
    );
    drawn.current = chart;
    const resizing = new ResizeObserver(() => { if (element.clientWidth) chart.setSize({ width: element.clientWidth, height: HEIGHT }); });
    resizing.observe(element);
    return () => {
      resizing.disconnect();
      chart.destroy();
      drawn.current = null;
      setAt(-1);
    };
  }, [key, theme]);

  /** What the keyboard reads is marked as the mouse would mark it. @param {number} index */
  const read = (index) => {
    const chart = drawn.current;
    if (chart) chart.setCursor(index < 0 ? { left: -10, top: -10 } : { left: chart.valToPos(times[index], "x"), top: 0 }, false);
    setAt(index);
  };
  const chart = drawn.current;
  const reading = at < 0 || at >= times.length ? null : { title: titles[at], lines: lines.flatMap(({ name, colour, values }) => {
    const value = values[at];
    return value === null ? [] : [{ name, colour: `var(${colour})`, text: format(value) }];
  }) };
  /** Beside the line that marks it. @param {uPlot} one @returns {Record<string, string>} */
  const place = (one) => {
    const left = one.over.offsetLeft + one.valToPos(times[at], "x");
    return at > times.length / 2 ? { right: `${one.width - left + 8}px` } : { left: `${left + 8}px` };
  };
  return html`<${Chart} class="line-chart" label=${label} count=${times.length} at=${at} onRead=${read} reading=${reading}>
    <div class="plot"><div ref=${box}></div>${chart && reading && html`<${ReadingBox} reading=${reading} style=${place(chart)} />`}</div>
    ${lines.length > 1 && html`<div style=${{ paddingLeft: `${LEFT}px` }}><${Legend} series=${lines.map((line) => ({ name: line.name, colour: `var(${line.colour})` }))} /></div>`}
  <//>`;
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
