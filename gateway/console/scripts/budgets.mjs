/** Windows of budgets in words, and what was spent in the present one. */
import { agoText, dayText } from "./format.mjs";

/** @type {Record<string, string>} */
const UNITS = { s: "second", m: "minute", h: "hour", d: "day", w: "week", mo: "month" };
const SECONDS = { s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 };

/** The number and the unit of a duration; 30 days are a month. @param {string | null} duration */
const parts = (duration) => /^(\d+)(mo|[smhdw])$/.exec(duration === "30d" ? "1mo" : (duration ?? ""));

/** "a month", "every 2 weeks"; of a budget without a window "in all". @param {string | null} duration */
export function windowText(duration) {
  const match = parts(duration);
  if (!match) return "in all";
  return match[1] === "1" ? `a ${UNITS[match[2]]}`.replace("a hour", "an hour") : `every ${match[1]} ${UNITS[match[2]]}s`;
}

/** "begins anew on 1 Dec, in 2 d". @param {string | null} resetAt @param {number} [now] */
export function resetText(resetAt, now = Date.now()) {
  if (!resetAt) return "never begins anew";
  return `begins anew on ${dayText(resetAt)} (UTC), ${agoText(resetAt, now)}`;
}

/** When the window began that ends then, as ISO 8601; "" for a budget of all time, and where reports are not so fine. @param {string | null} duration @param {string | null} resetAt */
export function windowStart(duration, resetAt) {
  const match = parts(duration);
  if (!match || !resetAt) return "";
  const end = new Date(resetAt);
  const count = Number(match[1]);
  if (match[2] === "mo") end.setUTCMonth(end.getUTCMonth() - count);
  else end.setTime(end.getTime() - count * SECONDS[/** @type {"s"} */ (match[2])] * 1000);
  return end.toISOString();
}
