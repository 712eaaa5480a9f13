/** Overview: what is spent, how much is called, what fails and through whose fault, and how the gateway is doing. */
import { useData } from "../scripts/api.mjs";
import { OWNERS, partsOf } from "../scripts/faults.mjs";
import { aboutText, agoText, costText, countOf, countText, shareText, shortCount } from "../scripts/format.mjs";
import { html, useEffect, useState } from "../scripts/html.mjs";
import { Card, Chip, Facts, PageHead, Tile, Time } from "../scripts/parts.mjs";
import { periodOf } from "../scripts/periods.mjs";
import { Link, href } from "../scripts/router.mjs";
import { CallBars } from "../scripts/stacked.mjs";
import { Empty, Failure, Loading, Show, valueOf } from "../scripts/states.mjs";

const RECENT = 200;

/** @type {Record<string, string>} */
const DATABASES = { sqlite: "SQLite", postgresql: "PostgreSQL" };

export default function Overview() {
  const now = new Date();
  const month = new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth(), 1)).toISOString();
  const today = now.toISOString().slice(0, 10);
  const days = useData("/usage", { by: "day", since: month }, 30);
  const period = periodOf("24h");
  const hours = useData("/usage", { by: "hour", ...period.asked }, 30);
  const faults = useData("/usage", { by: "fault", ...period.asked }, 30);
  const latency = useData("/usage", { by: "total", ...period.asked, latency: "true" }, 30, (answer) => answer.data[0]?.latency ?? null);
  const recent = useData("/audit", { kind: "call", limit: RECENT }, 15, (answer) => answer.data);
  const status = useData("/gateway/status", {}, 5);
  const all = [recent, days, hours, faults, latency, status];
  const failed = all.find((one) => one.error);
  const failure = failed && html`<${Failure} error=${failed.error} retry=${() => all.forEach((one) => one.error && one.reload())} />`;
  if (!recent.data || !days.data) return html`<${PageHead} title="Overview" />${failure ?? html`<${Loading} lines=${6} />`}`;
  const calls = recent.data;
  if (!calls.length) return html`<${PageHead} title="Overview" /><${Empty} title="No calls yet" icon="start">What is spent, called and refused appears here. <${Link} to=${href("start")}>Make the first call<//><//>`;

  const spentToday = sumOf(days.data.data.filter((/** @type {any} */ row) => row.day.startsWith(today)));
  const spentMonth = sumOf(days.data.data);
  const day = hours.data && totals(hours.data.data);
  const minute = calls.filter((/** @type {any} */ call) => Date.now() - new Date(call.time).getTime() < 60_000).length;
  return html`
    <${PageHead} title="Overview" subtitle=${html`Days are UTC, as budgets and reports count them.`} />
    ${failure}
    <div class="stack">
      <div class="tiles">
        <${Tile} label="Spent today" value=${costText(spentToday.cost)} note=${spentToday.unpriced ? `and ${countOf(spentToday.unpriced, "call")} without a price` : "UTC day"} />
        <${Tile} label="This month" value=${costText(spentMonth.cost)} note=${spentMonth.unpriced ? `and ${countOf(spentMonth.unpriced, "call")} without a price` : `since the 1st`} />
        <${Tile} label="Calls, last minute" value=${minute >= RECENT ? `${RECENT}+` : countText(minute)} note=${day && `${shortCount(day.calls)} in 24 h`} />
        <${Tile} label="Failed, 24 h" value=${valueOf(hours, () => shareText(day.failures, day.calls))} note=${day && `${countText(day.failures)} of ${countText(day.calls)}`} tone=${day && day.failures * 20 > day.calls ? "warn" : ""} />
        <${Tile} label="Latency, p95, 24 h" value=${valueOf(latency, (data) => aboutText(data?.p95_ms) || "–")} note=${latency.data === undefined ? "" : !latency.data?.p50_ms ? "nothing was served" : `half within ${aboutText(latency.data.p50_ms)}${latency.data.ttft_p50_ms ? `, first token ${aboutText(latency.data.ttft_p50_ms)}` : ""}`} />
        <${Tile} label="In flight" value=${valueOf(status, (data) => countText(data.calls.in_flight))} note=${status.data?.calls.waiting ? `${countText(status.data.calls.waiting)} waiting` : "calls to Cohere now"} tone=${status.data?.calls.waiting ? "warn" : ""} />
      </div>
      <${Card} title="Calls by the hour" actions=${html`<${Link} to=${href("usage")}>Usage<//>`}>
        <${Show} of=${hours}>${(/** @type {any} */ data) => html`<${CallBars} label="Calls in each of the last 24 hours, with those that failed" format=${shortCount} ...${hourBars(period.times, data.data)} />`}<//>
      <//>
      <div class="columns">
        <div class="stack"><${Card} title="Failures by fault, 24 h" actions=${html`<${Link} to=${href("calls", { fault: "any" })}>Show them<//>`}><${Show} of=${faults}>${(/** @type {any} */ data) => html`<${Faults} rows=${data.data} calls=${day?.calls ?? 0} />`}<//><//>
        <${Card} title="Last refusals and failures"><${Refusals} /><//></div>
        <div class="stack"><${Card} title="How it is doing"><${Show} of=${status}>${(/** @type {any} */ data) => html`<${Health} status=${data} />`}<//><//>
        <${Card} title="Models on their way out" actions=${html`<${Link} to=${href("models")}>Models<//>`}><${Deprecated} /><${OldNames} calls=${calls} /><//></div>
      </div>
    </div>`;
}

/** @param {any[]} rows */
function sumOf(rows) {
  return { cost: rows.reduce((sum, row) => sum + (row.cost_nanodollars ?? 0), 0), unpriced: rows.reduce((sum, row) => sum + row.unpriced_calls, 0) };
}

/** @param {any[]} rows */
function totals(rows) {
  return { calls: rows.reduce((sum, row) => sum + row.calls, 0), failures: rows.reduce((sum, row) => sum + row.failures, 0) };
}

/** One column for each hour, for those without calls too. @param {number[]} times @param {any[]} rows */
function hourBars(times, rows) {
  const byHour = new Map(rows.map((row) => [new Date(row.hour).getTime(), row]));
  const clocks = times.map((at) => `${String(new Date(at).getHours()).padStart(2, "0")}:00`);
  return { labels: clocks, titles: clocks, rows: times.map((at) => byHour.get(at)).map((row) => ({ calls: row?.calls ?? 0, failures: row?.failures ?? 0, cost: costText(row ? row.cost_nanodollars : 0) })) };
}

/** @param {{rows: any[], calls: number}} props */
function Faults({ rows, calls }) {
  const failed = rows.filter((row) => row.fault);
  if (!failed.length) return html`<p class="muted">Nothing failed in the last 24 hours.</p>`;
  return html`<table class="units"><tbody>${failed.sort((a, b) => b.calls - a.calls).map((row) => {
    const [owner, what] = partsOf(row.fault);
    const [who, tone] = OWNERS[owner] ?? [owner, ""];
    return html`<tr key=${row.fault}><td><${Chip} tone=${tone}>${who}<//></td><td><${Link} to=${href("calls", { fault: row.fault })}>${what}<//></td><td class="number">${countText(row.calls)}</td><td class="number muted">${shareText(row.calls, calls)}</td></tr>`;
  })}</tbody></table>`;
}

/** @param {{status: any}} props */
function Health({ status }) {
  const { cohere_keys: keys, breakers } = status;
  return html`<${Facts} rows=${[
    ["State", html`<${Chip} tone=${status.state === "ready" ? "good" : "warn"}>${status.state}<//>`],
    ...status.reasons.map((/** @type {string} */ reason) => ["", html`<span class="warn">${reason}</span>`]),
    ["Upstream", status.upstream],
    ["Cohere keys", keys.length ? html`<span class="chips">${keys.map((/** @type {any} */ key) => html`<${Chip} key=${key.number} tone=${key.state === "ready" ? "good" : key.state === "resting" ? "warn" : "bad"} title=${`${countText(key.used)} calls in this minute${key.trial ? ", a trial key" : ""}`}>${key.number} ${key.state}${key.seconds > 0 ? ` for ${Math.ceil(key.seconds)} s` : ""}<//>`)}</span>` : "the callers' own"],
    ["Circuit breakers", breakers.length ? html`<span class="chips">${breakers.map((/** @type {any} */ one) => html`<${Chip} tone="bad" key=${one.model}>${one.model ?? "connection"} open, ${Math.ceil(one.seconds)} s<//>`)}</span>` : "all closed"],
    ["Database", DATABASES[status.database] ?? status.database],
    ["Redis", status.redis ? "shared" : "none: limits are counted here"],
    ["Answer cache", status.cache],
    ["Workers", countText(status.workers)],
  ]} />`;
}

function Refusals() {
  const refused = useData("/audit", { kind: "call", fault: "any", limit: 5 }, 0, (answer) => answer.data);
  return html`<${Show} of=${refused}>${(/** @type {any[]} */ rows) => !rows.length ? html`<p class="muted">None.</p>` : html`<ul class="sentences">${rows.map((row) => html`<li key=${row.id}><${Link} to=${href(`calls/${row.id}`)}>${row.sentence}<//> <span class="muted small"><${Time} at=${row.time} ago /></span></li>`)}</ul>`}<//>`;
}

/** Models that Cohere deprecates and that were called in the last 30 days. */
function Deprecated() {
  const [seconds, setSeconds] = useState(2);
  const models = useData("/gateway/models", {}, seconds);
  const usage = useData("/usage", { by: "model" }, 300, (answer) => answer.data);
  const names = models.data?.deprecated;
  // The list is read when somebody asks for the first time, and is there a moment later.
  useEffect(() => { setSeconds(names === null ? Math.min(seconds * 2, 60) : 300); }, [names === null, models.data]);
  if (models.error || usage.error) return html`<p class="muted">${(models.error ?? usage.error)?.message}</p>`;
  if (names === undefined || !usage.data) return html`<${Loading} lines=${1} />`;
  if (names === null) return html`<p class="muted">Cohere's list of models has not been read yet.</p>`;
  const called = usage.data.filter((/** @type {any} */ row) => names.includes(row.model));
  if (!called.length) return html`<p class="muted">${names.length ? `Cohere deprecates ${countOf(names.length, "model")}; none of them was called in 30 days.` : "Cohere deprecates no model."}</p>`;
  return html`<ul class="sentences">${called.map((/** @type {any} */ row) => html`<li key=${row.model}><${Chip} tone="warn">deprecated<//> <${Link} to=${href("calls", { model: row.model })}><code>${row.model}</code><//> <span class="muted small">${countOf(row.calls, "call")} in 30 days</span></li>`)}</ul>`;
}

/** Models that callers still name and Cohere has removed: another one answers. @param {{calls: any[]}} props */
function OldNames({ calls }) {
  /** @type {Map<string, {count: number, keys: Set<string>, at: string}>} */
  const found = new Map();
  for (const call of calls) {
    const note = call.notes.find((/** @type {string} */ one) => /^model \S+ -> \S+$/.test(one));
    if (!note) continue;
    const entry = found.get(note) ?? { count: 0, keys: new Set(), at: call.time };
    entry.count += 1;
    entry.keys.add(call.key_alias ?? call.key_id ?? "–");
    found.set(note, entry);
  }
  if (!found.size) return html`<p class="muted">No call of the last ${countText(calls.length)} named a model that Cohere has removed.</p>`;
  return html`<ul class="sentences">${[...found].map(([note, entry]) => html`<li key=${note}><code>${note.replace("model ", "").replace("->", "→")}</code> <span class="muted small">${countOf(entry.count, "call")}, by ${[...entry.keys].slice(0, 4).join(", ")}, last ${agoText(entry.at)}</span></li>`)}</ul>`;
}
