/**
 * Numbers, money, durations and times as people read them. Pure functions: nothing here touches the page.
 *
 * Money comes as nano-dollars (integers) or dollars. `null` is "not known", and is shown so, never as 0.
 */

export const UNKNOWN = "unknown";
const NANO = 1_000_000_000;

/** @param {number | null | undefined} nanodollars */
export function costText(nanodollars) {
  return nanodollars === null || nanodollars === undefined ? UNKNOWN : dollarText(nanodollars / NANO);
}

/** Dollars with as many digits as matter: $1,234.50, $0.0003. @param {number} dollars */
export function dollarText(dollars) {
  if (dollars === 0) return "$0";
  const size = Math.abs(dollars);
  if (size >= 1) return (dollars < 0 ? "-$" : "$") + size.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  const digits = Math.min(9, Math.max(2, 2 - Math.floor(Math.log10(size))));
  return (dollars < 0 ? "-$" : "$") + size.toFixed(digits).replace(/(\.\d\d\d*?)0+$/, "$1");
}

/** 12,345. @param {number | null | undefined} count */
export function countText(count) {
  return count === null || count === undefined ? "" : count.toLocaleString("en-US", { maximumFractionDigits: 2 });
}

/** 12.3k, 4.5M: for charts and tiles. @param {number} count */
export function shortCount(count) {
  const size = Math.abs(count);
  if (size >= 1e9) return trimmed(count / 1e9) + "B";
  if (size >= 1e6) return trimmed(count / 1e6) + "M";
  if (size >= 1e4) return trimmed(count / 1e3) + "k";
  return countText(Math.round(count * 100) / 100);
}

/** @param {number} value */
function trimmed(value) {
  return value.toFixed(Math.abs(value) < 100 ? 1 : 0).replace(/\.0$/, "");
}

/** Milliseconds as "640 ms", "1.24 s" or "2 min 5 s". @param {number | null | undefined} ms */
export function durationText(ms) {
  if (ms === null || ms === undefined) return "";
  if (ms === 0) return "0 ms";
  if (ms < 1) return "<1 ms";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
  const minutes = Math.floor(ms / 60_000);
  return `${minutes} min ${Math.round((ms - minutes * 60_000) / 1000)} s`;
}

/** A duration that is known to two digits: "640 ms", "1.2 s", "12 s". @param {number | null | undefined} ms */
export function aboutText(ms) {
  if (ms === null || ms === undefined) return "";
  if (ms >= 120_000) return "2 min or more";
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
}

/** Share of a whole: 12.3 %. @param {number} part @param {number} whole */
export function shareText(part, whole) {
  if (!whole) return "0 %";
  const percent = (100 * part) / whole;
  return `${percent >= 10 || percent === 0 ? Math.round(percent) : percent.toFixed(1)} %`;
}

/** A time in the reader's zone, as short as it can be: the time alone today, else the day too. @param {string} iso @param {Date} [now] */
export function timeText(iso, now = new Date()) {
  const time = new Date(iso);
  if (Number.isNaN(time.getTime())) return iso;
  const clock = clockText(time.getTime());
  if (time.toDateString() === now.toDateString()) return clock;
  const day = `${time.getDate()} ${MONTHS[time.getMonth()]}`;
  return time.getFullYear() === now.getFullYear() ? `${day} ${clock}` : `${day} ${time.getFullYear()} ${clock}`;
}

/** The time of day in the reader's zone. @param {number} ms Unix milliseconds */
export function clockText(ms) {
  const time = new Date(ms);
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
}

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** A day in the reader's zone. @param {string} iso @param {Date} [now] */
export function dayText(iso, now = new Date()) {
  const time = new Date(iso);
  const day = `${time.getDate()} ${MONTHS[time.getMonth()]}`;
  return time.getFullYear() === now.getFullYear() ? day : `${day} ${time.getFullYear()}`;
}

/** The same time in UTC, for the title of what shows it in the reader's zone. @param {string} iso */
export function utcText(iso) {
  const time = new Date(iso);
  return Number.isNaN(time.getTime()) ? iso : time.toISOString().replace("T", " ").replace(/\.(\d{3})Z$/, ".$1 UTC");
}

/** A time as fields for times have it, to the minute, in the reader's zone; "" for what is no time. @param {string | undefined} iso */
export function localTime(iso) {
  const time = new Date(/^\d{4}-\d\d-\d\dT/.test(iso ?? "") ? /** @type {string} */ (iso) : NaN);
  if (Number.isNaN(time.getTime())) return "";
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}T${two(time.getHours())}:${two(time.getMinutes())}`;
}

/** What a field for times has, in UTC. @param {string} local */
export function utcOf(local) {
  return local ? new Date(local).toISOString().replace(".000Z", "Z") : "";
}

/** "3 min ago", "in 2 d". @param {string | number} when ISO 8601, or milliseconds @param {number} [now] milliseconds */
export function agoText(when, now = Date.now()) {
  const ms = (typeof when === "number" ? when : new Date(when).getTime()) - now;
  const size = Math.abs(ms);
  if (size < 45_000) return ms > 0 ? "in a moment" : "just now";
  /** @type {[number, string][]} */
  const units = [[86_400_000, "d"], [3_600_000, "h"], [60_000, "min"]];
  const [length, name] = units.find(([length]) => size >= length) ?? units[2];
  const text = `${Math.max(1, Math.round(size / length))} ${name}`;
  return ms > 0 ? `in ${text}` : `${text} ago`;
}

/** @param {number} value */
function two(value) {
  return String(value).padStart(2, "0");
}

/** "1 key", "2 keys". @param {number} count @param {string} one @param {string} [many] */
export function countOf(count, one, many = one + "s") {
  return `${countText(count)} ${count === 1 ? one : many}`;
}

/** A text for a shell, in single quotes where it needs them. @param {string} text */
export function shellQuoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
