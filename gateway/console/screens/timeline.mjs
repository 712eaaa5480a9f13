/** Where the time of a call went: each attempt at Cohere, what became of it and what it cost, the first token, the end. */
import { costText, durationText } from "../scripts/format.mjs";
import { html } from "../scripts/html.mjs";

/** What ends an attempt or a call, by codes of the gateway, in words. Others are words already. @type {Record<string, string>} */
const ENDS = {
  upstream_cut: "the stream broke off", upstream_protocol_error: "the answer could not be read", upstream_unreachable: "no connection", upstream_timeout: "no answer in time",
  upstream_unavailable: "not available", rate_limit_exceeded: "rate limit", client_closed: "the caller left", cancelled: "the caller cancelled it",
};

/** A first attempt that begins later had to wait, for its turn or for a key. */
const WAITED_MS = 50;

/** @param {string} code */
const endText = (code) => ENDS[code] ?? code.replaceAll("_", " ").toLowerCase();

/** @param {any} attempt */
const succeeded = (attempt) => attempt.status >= 200 && attempt.status < 300;

/** What became of an attempt, and what it cost. @param {any} call @param {any} attempt @param {boolean} last */
function outcomeText(call, attempt, last) {
  const billed = call.attempts.filter(succeeded).length;
  const error = attempt.error ?? (last && call.outcome !== "ok" ? (ENDS[call.outcome] ? call.outcome : call.error ?? call.fault ?? "") : "");
  const cost = !succeeded(attempt)
    ? attempt.status || call.cost_nanodollars !== null ? "not billed" : "cost unknown"
    : call.cost_nanodollars === null ? "cost unknown"
    : billed > 1 ? `one of ${billed} that cost ${costText(call.cost_nanodollars)} together` : `${call.estimated ? "about " : ""}${costText(call.cost_nanodollars)}`;
  return [attempt.key > 0 && `key ${attempt.key}`, attempt.model, error && endText(error), cost].filter(Boolean).join(", ");
}

/**
 * Attempts in the order in which they began. Rows of older versions do not say when that was: then each begins where the
 * one before it ended.
 * @param {any} call @returns {{attempt: any, start: number, known: boolean}[]}
 */
function placed(call) {
  const known = call.attempts.every((/** @type {any} */ attempt) => attempt.start_ms !== undefined);
  let at = Math.min((call.overhead_ms ?? 0) / 2, Math.max(0, call.total_ms - (call.upstream_ms ?? call.total_ms)));
  const result = call.attempts.map((/** @type {any} */ attempt) => {
    const start = known ? attempt.start_ms : at;
    at += attempt.ms;
    return { attempt, start, known };
  });
  return known ? result.sort((/** @type {any} */ a, /** @type {any} */ b) => a.start - b.start) : result;
}

/** @param {{call: any}} props */
export function Timeline({ call }) {
  const total = Math.max(call.total_ms, 0.1);
  const attempts = placed(call);
  const share = (/** @type {number} */ ms) => `${Math.max(0, Math.min(100, (100 * ms) / total))}%`;
  return html`<div class="timeline">
    ${attempts.map(({ attempt, start, known }, index) => {
      const answer = attempt.status ? `${attempt.upstream ?? "Cohere"} ${attempt.status}` : `${attempt.upstream ? `${attempt.upstream}: ` : ""}no answer`;
      const failed = !succeeded(attempt) || attempt.error || (index === attempts.length - 1 && call.outcome !== "ok");
      const from = Math.min(start, total * 0.99);
      return html`<div class="span" key=${index}><span>${attempts.length > 1 ? `${index + 1}. ` : ""}${answer}</span>
        <div class="track"><span class=${failed ? "bad" : ""} style=${{ left: share(from), width: share(Math.min(attempt.ms, total - from)) }}></span></div>
        <span class="digits">${durationText(attempt.ms)}</span>
        <span class="ending">${outcomeText(call, attempt, index === attempts.length - 1)}${known && (index > 0 || start >= WAITED_MS) ? `; after ${durationText(start)}` : ""}</span></div>`;
    })}
    ${call.ttft_ms !== null && html`<div class="span"><span>First token</span><div class="track"><span class="mark" style=${{ left: share(Math.min(call.ttft_ms, total * 0.99)) }}></span></div><span class="digits">${durationText(call.ttft_ms)}</span></div>`}
    ${call.overhead_ms !== null && html`<div class="span"><span>The gateway</span><div class="track"></div><span class="digits">${durationText(call.overhead_ms)}</span></div>`}
    <div class="span total"><span>In all</span><div class="track"><span class="all" style=${{ width: "100%" }}></span></div><span class="digits">${durationText(call.total_ms)}</span>
      ${call.outcome !== "ok" && html`<span class="ending">ended: ${endText(ENDS[call.outcome] ? call.outcome : call.error ?? call.fault ?? call.outcome)}</span>`}</div>
  </div>`;
}
