/** Files of all rows that a list of the ledger has, not only of those that are shown. */
import { html } from "../scripts/html.mjs";

const HINT = "All of them, newest first: 100,000 at most, and the last line says where the next file begins";

/** @param {{filters: Record<string, any>}} props as `/audit` takes them */
export function ExportLinks({ filters }) {
  /** @param {string} format */
  const address = (format) => `/audit/export?${new URLSearchParams({ ...filters, format })}`;
  return html`<a class="button" href=${address("csv")} download title=${HINT}>CSV</a>
    <a class="button" href=${address("jsonl")} download title=${HINT}>JSON Lines</a>`;
}
