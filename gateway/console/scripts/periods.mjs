/** Periods that usage is shown of: whole hours or whole days in UTC, as the sums of the ledger are. */

export const HOUR = 3_600_000;
export const DAY = 24 * HOUR;

const MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];

/** Hours of the periods that end now. @type {Record<string, number>} */
const LENGTHS = { "24h": 24, "7d": 24 * 7, "30d": 24 * 30, "90d": 24 * 90, "1y": 24 * 365 };

/** Names, and how they are called. @type {[string, string][]} */
export const PERIODS = [["24h", "24 h"], ["7d", "7 d"], ["30d", "30 d"], ["90d", "90 d"], ["1y", "1 year"], ["month", "This month"], ["last-month", "Last month"]];

/**
 * step: what a column of a chart is. times: the beginnings of the columns, in Unix milliseconds. asked: what `/usage` is
 * asked with; without `until` the period ends now. before: the period that it is compared with, and what that is called.
 * file: its name in names of files.
 * @typedef {{name: string, step: "hour" | "day", times: number[], asked: {since: string, until?: string}, before: {since: string, until: string, text: string}, file: string}} Period
 */

/** @param {string} name one of PERIODS @param {number} [now] Unix milliseconds @returns {Period} */
export function periodOf(name, now = Date.now()) {
  const month = monthOf(name, now);
  if (month) return month;
  const hours = LENGTHS[name];
  const [step, length] = /** @type {["hour" | "day", number]} */ (hours > 24 ? ["day", DAY] : ["hour", HOUR]);
  const end = Math.floor(now / length) * length + length;
  const since = end - hours * HOUR;
  const text = `the ${(PERIODS.find(([one]) => one === name) ?? ["", ""])[1]} before`;
  return { name, step, times: columns(since, end, length), asked: { since: iso(since) }, before: { since: iso(since - hours * HOUR), until: iso(since), text }, file: name };
}

/** A calendar month: the present one as far as it has come, and then beside it as many days of the last one. @param {string} name @param {number} now @returns {Period | null} */
function monthOf(name, now) {
  if (name !== "month" && name !== "last-month") return null;
  const today = new Date(now);
  /** @param {number} ago */
  const first = (ago) => Date.UTC(today.getUTCFullYear(), today.getUTCMonth() - ago, 1);
  const ago = name === "month" ? 0 : 1;
  const since = first(ago);
  const until = ago ? first(0) : Math.floor(now / DAY) * DAY + DAY;
  const earlier = first(ago + 1);
  const other = MONTHS[new Date(earlier).getUTCMonth()];
  const before = { since: iso(earlier), until: iso(ago ? since : Math.min(since, earlier + until - since)), text: ago ? other : `the same days of ${other}` };
  return { name, step: "day", times: columns(since, until, DAY), asked: { since: iso(since), ...(ago ? { until: iso(until) } : {}) }, before, file: iso(since).slice(0, 7) };
}

/** @param {number} since @param {number} until @param {number} length */
function columns(since, until, length) {
  return Array.from({ length: Math.round((until - since) / length) }, (_, index) => since + index * length);
}

/** @param {number} time */
function iso(time) {
  return new Date(time).toISOString();
}
