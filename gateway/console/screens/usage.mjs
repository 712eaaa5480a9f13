/** Usage: cost, calls, tokens and latency, by key, team, end user, model or method, from a day to a year. */
import { get, useData } from "../scripts/api.mjs";
import { OWNERS, partsOf } from "../scripts/faults.mjs";
import { aboutText, costText, countOf, countText, dollarText, durationText, shareText, shortCount } from "../scripts/format.mjs";
import { html, useEffect, useState } from "../scripts/html.mjs";
import { Segments } from "../scripts/form.mjs";
import { LineChart } from "../scripts/line_chart.mjs";
import { Card, Cost, PageHead, Tile } from "../scripts/parts.mjs";
import { PERIODS, periodOf } from "../scripts/periods.mjs";
import { Link, href, navigate, route, setQuery } from "../scripts/router.mjs";
import { seesAll } from "../scripts/session.mjs";
import { COLOURS, StackedBars } from "../scripts/stacked.mjs";
import { Empty, Show } from "../scripts/states.mjs";
import { DownloadLink } from "./export_links.mjs";
import { Table } from "../scripts/table.mjs";

const NANO = 1e9;
const SERIES = COLOURS.length - 1;

/** Rows of the table before somebody asks for all. */
const MANY = 100;

/** @type {[string, string][]} */
const BY = [["model", "Model"], ["key", "Key"], ["team", "Team"], ["end_user", "End user"], ["method", "Method"]];
const FILTERS = ["key", "team", "user", "end_user", "model", "method", "fault"];

/** @typedef {Sums & {id: string, name: string}} Group */
/** What every sum has. @typedef {{calls: number, failures: number, cost: number, unpriced: number, input: number, output: number, cached: number, thinking: number, ms: number, units: Record<string, number>}} Sums */

export default function Usage() {
  const { query } = route.value;
  const period = periodOf(PERIODS.some(([name]) => name === query.range) ? query.range : "30d");
  const by = BY.some(([name]) => name === query.by) ? query.by : query.end_user ? "end_user" : "model";
  const { step, asked } = period;
  const filters = Object.fromEntries(FILTERS.filter((name) => query[name]).map((name) => [name, query[name]]));
  const span = { ...asked, ...filters };
  const groups = useData("/usage", { ...span, by }, 60, (answer) => groupsOf(answer.data, by));
  const times = useData("/usage", { ...span, by: step }, 60, (answer) => answer.data);
  // End users are counted by nothing else: of one it is known that calls failed, and not whose fault it was.
  const faults = useData(filters.end_user ? null : "/usage", { ...span, by: `fault,${step}` }, 60, (answer) => answer.data);
  // Five hundred end users over a year are too many sums to draw: those that cost most are asked for one by one.
  const drawn = (groups.data ?? []).filter((group) => group.id && group.cost).slice(0, SERIES);
  const series = useSeries(drawn.map((group) => group.id), by, step, span);
  // How long calls took is no sum: percentiles are asked for by time, by group, and for all. Of keys they are counted by days.
  const ofKeys = !seesAll.value || ["key", "team", "user"].some((name) => filters[name]);
  const timed = !filters.end_user && !(step === "hour" && ofKeys);
  const latency = { ...span, latency: "true" };
  const overTime = useData(timed ? "/usage" : null, { ...latency, by: step }, 60, readLatency);
  const byGroup = useData(timed && by !== "end_user" && !(step === "hour" && ["key", "team"].includes(by)) ? "/usage" : null, { ...latency, by }, 60, readLatency);
  const inAll = useData(timed ? "/usage" : null, { ...latency, by: "total" }, 60, (answer) => answer.data[0]?.latency);
  // What the same groups cost in as long a time before, by which a change is seen.
  const before = useData("/usage", { ...filters, by, since: period.before.since, until: period.before.until }, 300, readCosts);
  // As the table has it: a row for each group, with its latency where that is shown.
  const shown = { ...span, by, ...(byGroup.data ? { latency: "true" } : {}) };
  const choices = BY.filter(([name]) => seesAll.value || !["key", "team"].includes(name));
  return html`
    <${PageHead} title="Usage" subtitle="Sums that are written with the calls, so a year is read as fast as a day. Days are UTC.">
      <${DownloadLink} path="/usage" query=${{ ...shown, format: "csv" }} probe=${["/usage", { ...span, by: "total" }]} name=${`usage-by-${by}-${period.file}.csv`} title="The table, as a file">CSV<//>
    <//>
    <div class="filters">
      <${Segments} label="Range" value=${period.name} onInput=${(/** @type {string} */ value) => setQuery({ range: value })} options=${PERIODS.map(([value, text]) => ({ value, text }))} />
      <${Segments} label="By" value=${by} onInput=${(/** @type {string} */ value) => setQuery({ by: value })} options=${choices.map(([value, text]) => ({ value, text }))} />
      ${Object.entries(filters).map(([name, value]) => html`<span class="chip accent" key=${name}><span class="truncate" title=${value}>${name.replace("_", " ")}: ${value}</span> <button class="chip-button" aria-label=${`Remove the filter ${name}`} onClick=${() => setQuery({ [name]: null })}>×</button></span>`)}
    </div>
    <${Show} of=${groups} lines=${8}>${(/** @type {Group[]} */ found) => found.length
      ? html`<${Show} of=${times} lines=${8}>${(/** @type {any[]} */ rows) => html`<${Charts} groups=${found} drawn=${drawn} series=${series} rows=${rows} faults=${faults.data} by=${by} period=${period} overTime=${overTime.data} byGroup=${byGroup.data} inAll=${inAll.data} before=${before.data} filters=${filters} />`}<//>`
      : html`<${Empty} title="Nothing in this time" icon="usage">${Object.keys(filters).length ? html`<${Link} to=${href("usage", { range: period.name, by })}>Remove the filters<//>` : html`Calls are counted here a moment after they were answered.`}<//>`}<//>`;
}

/** Sums by what they are of, the dearest first. @param {any[]} rows @param {string} by @returns {Group[]} */
function groupsOf(rows, by) {
  return rows.map((row) => add({ id: row[by] ?? "", name: nameOf(row, by), ...zero() }, row)).sort((a, b) => b.cost - a.cost || b.calls - a.calls);
}

/**
 * What groups cost over time, by id: a question for each, all at once.
 * @param {string[]} ids @param {string} by @param {string} step @param {Record<string, string>} span @returns {Map<string, any[]> | undefined}
 */
function useSeries(ids, by, step, span) {
  const key = JSON.stringify([ids, by, step, span]);
  const [state, setState] = useState({ key: "", series: /** @type {Map<string, any[]> | undefined} */ (undefined) });
  useEffect(() => {
    const aborter = new AbortController();
    Promise.all(ids.map((id) => get("/usage", { ...span, [by]: id, by: step }, aborter.signal))).then(
      (answers) => setState({ key, series: new Map(answers.map((answer, index) => [ids[index], answer.data])) }),
      () => {}, // the sum of all is drawn as one, and the table says whose it is
    );
    return () => aborter.abort();
  }, [key]);
  return state.key === key ? state.series : undefined;
}

/** Nano-dollars by group. @param {{data: any[]}} answer @returns {Map<any, number>} */
function readCosts(answer) {
  return new Map(answer.data.map((row) => [Object.values(row)[0] ?? "", row.cost_nanodollars ?? 0]));
}

/** Latencies by their time or group. @param {{data: any[]}} answer @returns {Map<any, any>} */
function readLatency(answer) {
  return new Map(answer.data.map((row) => [row.hour ? new Date(row.hour).getTime() : row.day ? new Date(row.day).getTime() : Object.values(row)[0] ?? "", row.latency]));
}

/** @param {{groups: Group[], drawn: Group[], series?: Map<string, any[]>, rows: any[], faults?: any[], by: string, period: import("../scripts/periods.mjs").Period, overTime?: Map<any, any>, byGroup?: Map<any, any>, inAll?: any, before?: Map<any, number>, filters: Record<string, string>}} props rows: sums over time; faults: the same of each fault; series: of those that are drawn by themselves; latencies: where they are counted; before: what groups cost in the time before */
function Charts({ groups: sorted, drawn, series, rows, faults, by, period, overTime, byGroup, inAll, before, filters }) {
  const [whole, setWhole] = useState(false);
  const { step, times } = period;
  const column = new Map(times.map((time, index) => [time, index]));
  /** @param {any} row */
  const columnOf = (row) => column.get(new Date(row[step]).getTime()) ?? -1;
  const total = rows.reduce((/** @type {Sums} */ sum, row) => add(sum, row), zero());
  /** @param {any[]} some @returns {number[]} dollars */
  const dollarsOf = (some) => {
    const values = times.map(() => 0);
    for (const row of some) if (columnOf(row) >= 0) values[columnOf(row)] += (row.cost_nanodollars ?? 0) / NANO;
    return values;
  };
  const costs = drawn.filter((group) => series?.has(group.id)).map((group, index) => ({ name: group.name, colour: COLOURS[index], values: dollarsOf(series?.get(group.id) ?? []) }));
  // Differences of rounded sums are no cost.
  const rest = dollarsOf(rows).map((all, index) => Math.max(0, Number((all - costs.reduce((sum, one) => sum + one.values[index], 0)).toFixed(9))));
  const others = sorted.filter((group) => !drawn.includes(group) && group.cost);
  const restName = !series ? "all" : by === "end_user" || !others.length ? "all others" : others.length === 1 ? others[0].name : `${countText(others.length)} more`;
  if (rest.some(Boolean)) costs.push({ name: restName, colour: COLOURS[SERIES], values: rest });
  /** @param {string} name @param {string} colour @param {(row: any) => number} read @param {any[]} some */
  const summed = (name, colour, read, some = rows) => {
    const values = times.map(() => 0);
    for (const row of some) if (columnOf(row) >= 0) values[columnOf(row)] += read(row);
    return { name, colour, values };
  };
  const failed = faults
    ? Object.entries(OWNERS).map(([owner, [, , name, colour]]) => summed(name, colour, (row) => row.failures, faults.filter((row) => row.fault && partsOf(row.fault)[0] === owner))).filter((one) => one.values.some(Boolean))
    : [summed("failed", "var(--bad)", (row) => row.failures)];
  const callCounts = summed("", "", (row) => row.calls).values;
  const milliseconds = summed("", "", (row) => row.total_ms).values;
  const labels = times.map((time) => (step === "hour" ? `${String(new Date(time).getHours()).padStart(2, "0")}:00` : new Date(time).toISOString().slice(5, 10)));
  const titles = times.map((time) => (step === "hour" ? new Date(time).toLocaleString() : new Date(time).toISOString().slice(0, 10)));
  const common = { labels, titles };
  const costBefore = [...(before?.values() ?? [])].reduce((sum, cost) => sum + cost, 0);
  /** What a group's calls are, and what it is made of. @param {string} id */
  const within = (id) => ({ ...filters, [by]: id });
  /** @param {string} id @param {Record<string, string>} more */
  const callsOf = (id, more = {}) => href("calls", { ...more, ...within(id), ...period.asked });
  /** @param {string} id */
  const detailsOf = (id) => (by === "end_user" ? callsOf(id) : href("usage", { ...route.value.query, ...within(id), by: next }));
  const next = by === "key" ? "model" : seesAll.value ? "key" : by === "model" ? "method" : "model";
  return html`<div class="stack">
    <div class="tiles">
      <${Tile} label="Cost" value=${costText(total.cost)} note=${total.unpriced ? `and ${countOf(total.unpriced, "call")} without a price` : costBefore ? `${changeText(total.cost, costBefore)} on ${period.before.text}` : "as Cohere bills"} />
      <${Tile} label="Calls" value=${shortCount(total.calls)} note=${`${shareText(total.failures, total.calls)} failed`} />
      <${Tile} label="Tokens" value=${shortCount(total.input + total.output)} note=${`${shortCount(total.input)} in, ${shortCount(total.output)} out`} />
      ${inAll?.p50_ms ? html`<${Tile} label="Latency, p95" value=${aboutText(inAll.p95_ms)} note=${`half within ${aboutText(inAll.p50_ms)}`} />` : html`<${Tile} label="Time taken, mean" value=${durationText(total.calls ? total.ms / total.calls : null)} note="of all calls" />`}
      ${inAll?.ttft_p50_ms ? html`<${Tile} label="First token, p95" value=${aboutText(inAll.ttft_p95_ms)} note=${`half within ${aboutText(inAll.ttft_p50_ms)}`} />` : ""}
      ${Object.entries(total.units).filter(([unit]) => isOther(unit)).map(([unit, amount]) => html`<${Tile} key=${unit} label=${unit[0].toUpperCase() + unit.slice(1).replaceAll("_", " ")} value=${shortCount(amount)} note="billed" />`)}
    </div>
    <div class="columns charts">
      <${Card} title="Cost"><${StackedBars} ...${common} label="Cost over time" format=${dollarText} series=${costs} /><//>
      <${Card} title="Calls"><${StackedBars} ...${common} label="Calls over time, with those that failed" format=${shortCount} series=${[...failed, summed("served", "var(--series-1)", (row) => row.calls - row.failures)]} /><//>
      <${Card} title="Tokens"><${StackedBars} ...${common} label="Tokens over time" format=${shortCount} series=${[
        summed("input", COLOURS[0], (row) => row.tokens.input - row.tokens.cached), summed("cached input", COLOURS[5], (row) => row.tokens.cached),
        summed("output", COLOURS[1], (row) => row.tokens.output - row.tokens.thinking), summed("thinking", COLOURS[3], (row) => row.tokens.thinking)].filter((one) => one.values.some(Boolean))} /><//>
      ${overTime ? html`<${Card} title="Latency of served calls"><${LineChart} ...${common} times=${times.map((time) => time / 1000)} label="Latency over time" format=${aboutText} lines=${latencyLines(times, overTime)} /><//>`
        : html`<${Card} title="Time taken, mean"><${LineChart} ...${common} times=${times.map((time) => time / 1000)} label="Mean time of a call" format=${aboutText} lines=${[{ name: "mean", colour: "--series-1", values: callCounts.map((calls, index) => (calls ? milliseconds[index] / calls : null)) }]} /><//>`}
    </div>
    <${Table} caption="Usage" rows=${whole ? sorted : sorted.slice(0, MANY)} id=${(/** @type {any} */ group) => group.id || "-"} opens=${(/** @type {any} */ group) => Boolean(group.id)} onOpen=${(/** @type {any} */ group) => navigate(detailsOf(group.id))} columns=${[
      { title: (BY.find(([name]) => name === by) ?? ["", ""])[1], cell: (/** @type {any} */ group) => (group.id ? html`<${Link} title=${by === "end_user" ? "Show the calls" : "What it is made of"} to=${detailsOf(group.id)}><span class="truncate models">${group.name}</span><//>` : html`<span class="muted truncate models" title=${group.name}>${group.name}</span>`) },
      { title: "Cost", number: true, cell: (/** @type {any} */ group) => group.unpriced && !group.cost ? html`<${Cost} nano=${null} />` : html`<${Cost} nano=${group.cost} />${group.unpriced ? html` <span class="unknown" title=${`${group.unpriced} calls have no price`}>+ ?</span>` : ""}` },
      { title: "Share", number: true, hide: true, cell: (/** @type {any} */ group) => shareText(group.cost, total.cost) },
      ...(costBefore ? [{ title: "Change", number: true, hide: true, cell: (/** @type {any} */ group) => html`<span title=${`${costText(before?.get(group.id) ?? 0)} in ${period.before.text}`}>${changeText(group.cost, before?.get(group.id) ?? 0)}</span>` }] : []),
      { title: "Calls", number: true, cell: (/** @type {any} */ group) => (group.id ? html`<${Link} title="Show them" to=${callsOf(group.id)}>${countText(group.calls)}<//>` : countText(group.calls)) },
      { title: "Failed", number: true, tiny: true, cell: (/** @type {any} */ group) => (group.failures && group.id ? html`<${Link} title="Show them" to=${callsOf(group.id, { fault: "any" })}>${countText(group.failures)}<//>` : amount(group.failures)) },
      { title: "Input", number: true, hide: true, cell: (/** @type {any} */ group) => amount(group.input) },
      ...(total.cached ? [{ title: "Cached", number: true, hide: true, minor: true, cell: (/** @type {any} */ group) => amount(group.cached) }] : []),
      { title: "Output", number: true, hide: true, cell: (/** @type {any} */ group) => amount(group.output) },
      ...(total.thinking ? [{ title: "Thinking", number: true, hide: true, minor: true, cell: (/** @type {any} */ group) => amount(group.thinking) }] : []),
      ...(byGroup ? [
        { title: "p50", number: true, hide: true, cell: (/** @type {any} */ group) => aboutText(byGroup.get(group.id)?.p50_ms) },
        { title: "p95", number: true, hide: true, cell: (/** @type {any} */ group) => aboutText(byGroup.get(group.id)?.p95_ms) },
        { title: "First token", number: true, hide: true, minor: true, cell: (/** @type {any} */ group) => aboutText(byGroup.get(group.id)?.ttft_p50_ms) },
      ] : [{ title: "Mean time", number: true, hide: true, cell: (/** @type {any} */ group) => durationText(group.calls ? group.ms / group.calls : null) }]),
      ...(Object.keys(total.units).some(isOther) ? [{ title: "Other units", hide: true, minor: true, cell: (/** @type {any} */ group) => Object.entries(group.units).filter(([unit]) => isOther(unit)).map(([unit, count]) => `${countText(count)} ${unit.replaceAll("_", " ")}`).join(", ") }] : []),
    ]} />
    ${sorted.length > MANY && !whole && html`<div class="table-foot"><span>${countText(MANY)} of ${countText(sorted.length)} shown, the dearest first</span><button onClick=${() => setWhole(true)}>Show all</button></div>`}
  </div>`;
}

/** Lines of what half of the calls, and nineteen of twenty, took at most; those without any calls are left out. @param {number[]} times @param {Map<any, any>} latency */
function latencyLines(times, latency) {
  /** @type {[string, string, string][]} */
  const lines = [["p95", "--series-2", "p95_ms"], ["p50", "--series-1", "p50_ms"], ["first token, p95", "--series-4", "ttft_p95_ms"], ["first token, p50", "--series-3", "ttft_p50_ms"]];
  return lines.map(([name, colour, field]) => ({ name, colour, values: times.map((time) => latency.get(time)?.[field] ?? null) })).filter((line) => line.values.some((value) => value !== null));
}

/** A unit that is no token. @param {string} unit */
function isOther(unit) {
  return !unit.endsWith("_tokens");
}

/** How much more or less it is than before: +102 %. @param {number} now @param {number} before */
function changeText(now, before) {
  if (!before) return now ? "new" : "–";
  const percent = Math.round((100 * (now - before)) / before);
  return percent > 999 ? `×${shortCount(now / before)}` : `${percent > 0 ? "+" : percent < 0 ? "−" : "±"}${Math.abs(percent)} %`;
}

/** @param {number} count */
function amount(count) {
  return count ? countText(count) : html`<span class="muted">–</span>`;
}

/** @param {any} row @param {string} by */
function nameOf(row, by) {
  return row[`${by}_alias`] || row[by] || (by === "team" ? "no team" : by === "end_user" ? "nobody named" : by === "key" ? "no key" : "none: refused before it was known");
}

/** @returns {Sums} */
function zero() {
  return { calls: 0, failures: 0, cost: 0, unpriced: 0, input: 0, output: 0, cached: 0, thinking: 0, ms: 0, units: {} };
}

/** @template {Sums} T @param {T} sum @param {any} row @returns {T} */
function add(sum, row) {
  return merge(sum, { calls: row.calls, failures: row.failures, cost: row.cost_nanodollars ?? 0, unpriced: row.unpriced_calls, ...row.tokens, ms: row.total_ms, units: row.units });
}

/** @template {Sums} T @param {T} sum @param {Sums} other @returns {T} */
function merge(sum, other) {
  for (const name of /** @type {const} */ (["calls", "failures", "cost", "unpriced", "input", "output", "cached", "thinking", "ms"])) sum[name] += other[name];
  for (const [unit, amount] of Object.entries(other.units)) sum.units[unit] = (sum.units[unit] ?? 0) + amount;
  return sum;
}
