/** What was spent of budgets in their present windows: one question for each length of a window on the page. */
import { get, recovered } from "../scripts/api.mjs";
import { resetText, windowStart, windowText } from "../scripts/budgets.mjs";
import { html, useEffect, useState } from "../scripts/html.mjs";
import { Budget } from "../scripts/parts.mjs";

const NANO = 1e9;

/**
 * Dollars by id.
 * @param {"key" | "team" | "end_user"} by @param {any[]} records @param {(record: any) => string} id @returns {Map<string, number>}
 */
export function useSpent(by, records, id) {
  const [amounts, setAmounts] = useState(/** @type {Map<string, number>} */ (new Map()));
  const starts = new Set(records.filter((one) => one.max_budget !== null).map((one) => windowStart(one.budget_duration, one.budget_reset_at)).filter(Boolean));
  const key = [...starts].sort().join() + records.length;
  useEffect(() => {
    let current = true;
    const load = async () => {
      /** @type {Map<string, number>} */
      const found = new Map();
      for (const start of starts) {
        const answer = await get("/usage", { by, since: start });
        for (const row of answer.data) found.set(`${start} ${row[by]}`, (row.cost_nanodollars ?? 0) / NANO);
      }
      const result = new Map();
      for (const record of records) {
        const start = windowStart(record.budget_duration, record.budget_reset_at);
        if (record.max_budget !== null) result.set(id(record), start ? found.get(`${start} ${id(record)}`) ?? 0 : record.spend);
      }
      if (current) setAmounts(result);
    };
    load().catch(() => {}); // the bars say that it is not known, and the table what is spent in all
    return () => { current = false; };
  }, [key, recovered.value]);
  return amounts;
}

/** @param {{record: any, spent: number | undefined}} props */
export function BudgetOf({ record, spent }) {
  if (record.max_budget === null || record.max_budget === undefined) return html`<span class="muted" title="No budget">–</span>`;
  const words = `${windowText(record.budget_duration)}; ${resetText(record.budget_reset_at)}`;
  return html`<${Budget} label="Budget" spent=${spent} most=${record.max_budget} note=${words} />`;
}
