/** My key: what the holder of a key may do with it, its limits and budget, and what it has done. */
import { session, useData } from "../scripts/api.mjs";
import { resetText, windowStart, windowText } from "../scripts/budgets.mjs";
import { costText, countText, shareText, shortCount } from "../scripts/format.mjs";
import { html } from "../scripts/html.mjs";
import { Budget, Card, Cost, Facts, PageHead, Tile, Time } from "../scripts/parts.mjs";
import { permissionSentence } from "../scripts/permissions.mjs";
import { periodOf } from "../scripts/periods.mjs";
import { Link, href } from "../scripts/router.mjs";
import { CallBars } from "../scripts/stacked.mjs";
import { Show, valueOf } from "../scripts/states.mjs";

const DAYS = 30;

export default function MyKey() {
  const key = useData("/key/info", {}, 30, (answer) => answer.info);
  const catalog = useData("/gateway/permissions");
  const period = periodOf(`${DAYS}d`);
  const days = useData("/usage", { by: "day", ...period.asked }, 60, (answer) => answer.data);
  const record = key.data;
  const start = record ? windowStart(record.budget_duration, record.budget_reset_at) : "";
  const spent = useData(record && record.max_budget !== null && start ? "/usage" : null, { by: "key", since: start }, 60, (answer) => (answer.data[0]?.cost_nanodollars ?? 0) / 1e9);
  /** @param {any[]} rows @param {string} name */
  const sumOf = (rows, name) => rows.reduce((sum, row) => sum + (row[name] ?? 0), 0);
  return html`
    <${PageHead} title=${session.value?.who?.name ?? "My key"} subtitle="What this key may do, and what it has done.">
      <${Link} class="button" to=${href("calls")}>Its calls<//><${Link} class="button" to=${href("usage")}>Its usage<//>
    <//>
    <${Show} of=${key} lines=${6}>${(/** @type {any} */ data) => html`<div class="stack">
      ${catalog.data && html`<p class="sentence">${permissionSentence(catalog.data, data)}</p>`}
      <div class="tiles">
        <${Tile} label=${`Spent, ${DAYS} d`} value=${valueOf(days, (rows) => costText(sumOf(rows, "cost_nanodollars")))} note=${html`<${Cost} dollars=${data.total_spend} /> in all`} />
        <${Tile} label=${`Calls, ${DAYS} d`} value=${valueOf(days, (rows) => shortCount(sumOf(rows, "calls")))} note=${days.data && `${shareText(sumOf(days.data, "failures"), sumOf(days.data, "calls"))} failed`} />
        <${Tile} label="Requests a minute" value=${limit(data.rpm_limit)} note=${data.rpm_limit === null ? "no limit" : "at most"} />
        <${Tile} label="Tokens a minute" value=${limit(data.tpm_limit)} note=${data.tpm_limit === null ? "no limit" : "at most"} />
      </div>
      <div class="columns">
        <${Card} title="Budget">${data.max_budget === null ? html`<p class="muted">This key has no budget of its own.${data.team_id ? " Its team may have one." : ""}</p>` : html`<${Budget} label="Budget" spent=${start ? spent.data : data.spend ?? 0} most=${data.max_budget} /><p class="muted small">${windowText(data.budget_duration)}; ${resetText(data.budget_reset_at)}</p>`}<//>
        <${Card} title="The key"><${Facts} rows=${[
          ["Key", html`<code>${data.key_name}</code>`],
          ["Team", data.team_alias || data.team_id],
          ["Models", data.models.length ? data.models.join(", ") : data.team_id ? "all that its team may use" : "all"],
          ["Requests at once", data.max_parallel_requests === null ? "no limit" : countText(data.max_parallel_requests)],
          ["Expires", data.expires ? html`<${Time} at=${data.expires} ago />` : "never"],
          ["Addresses", data.allowed_ips?.join(", ")],
        ]} /><//>
      </div>
      <${Card} title="Calls by the day"><${Show} of=${days}>${(/** @type {any[]} */ rows) => html`<${CallBars} label=${`Calls on each of the last ${DAYS} days, with those that failed`} format=${shortCount} ...${dayBars(period.times, rows)} />`}<//><//>
    </div>`}<//>`;
}

/** @param {number | null} value */
function limit(value) {
  return value === null ? "–" : countText(value);
}

/** One column for each day, for those without calls too. @param {number[]} times @param {any[]} rows */
function dayBars(times, rows) {
  const byDay = new Map(rows.map((row) => [row.day.slice(0, 10), row]));
  const days = times.map((at) => new Date(at).toISOString().slice(0, 10));
  return { labels: days.map((day) => day.slice(5)), titles: days, rows: days.map((day) => byDay.get(day)).map((row) => ({ calls: row?.calls ?? 0, failures: row?.failures ?? 0, cost: costText(row ? row.cost_nanodollars : 0) })) };
}
