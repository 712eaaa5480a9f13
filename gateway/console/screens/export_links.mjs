/** Files of what a list has. A file that cannot be made is said on the page: the browser would name it an error of its own. */
import { request } from "../scripts/api.mjs";
import { html, useState } from "../scripts/html.mjs";
import { attempt } from "../scripts/toast.mjs";

const HINT = "All of them, newest first: 100,000 at most, and the last line says where the next file begins";

/** @param {{filters: Record<string, any>}} props as `/audit` takes them */
export function ExportLinks({ filters }) {
  return html`${[["CSV", "csv"], ["JSON Lines", "jsonl"]].map(([text, format]) => html`<${DownloadLink} key=${format} path="/audit/export" query=${{ ...filters, format }} probe=${["/audit", { ...filters, limit: 1 }]} title=${HINT}>${text}<//>`)}`;
}

/**
 * A link to a file. probe: what is asked first, to know whether it can be had.
 * @param {{path: string, query: Record<string, any>, probe: [string, Record<string, any>], name?: string, title: string, children: any}} props
 */
export function DownloadLink({ path, query, probe: [probed, asked], name = "", title, children }) {
  const [busy, setBusy] = useState(false);
  /** @param {MouseEvent} event */
  const load = async (event) => {
    const link = /** @type {HTMLAnchorElement} */ (event.currentTarget);
    if (link.dataset.ready) return;
    event.preventDefault();
    if (busy) return;
    setBusy(true);
    if (await attempt(() => request("GET", probed, { query: asked }))) {
      link.dataset.ready = "yes";
      link.click();
      delete link.dataset.ready;
    }
    setBusy(false);
  };
  return html`<a class="button" href=${`${path}?${new URLSearchParams(query)}`} download=${name} title=${title} aria-busy=${busy ? "true" : undefined} onClick=${load}>${children}</a>`;
}
