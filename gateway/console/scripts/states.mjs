/** What stands in the place of data: while it is loaded, where there is none, and where it cannot be had. */
import { clockText } from "./format.mjs";
import { html } from "./html.mjs";
import { Icon } from "./icons.mjs";
import { Link, href } from "./router.mjs";

/** @param {{lines?: number}} props */
export function Loading({ lines = 3 }) {
  return html`<div class="loading" role="status" aria-label="Loading">${Array.from({ length: lines }, (_, index) => html`<div key=${index} class="bone"></div>`)}</div>`;
}

/** Says what there is not, and what to do about it. page: it is all there is on the page. @param {{title: string, children?: any, icon?: string, page?: boolean}} props */
export function Empty({ title, children, icon = "search", page }) {
  return html`<div class="empty"><${Icon} name=${icon} size=${28} />${page ? html`<h1>${title}</h1>` : html`<h2>${title}</h2>`}<div class="muted">${children}</div></div>`;
}

/** What kind of failure it is, in a few words. @param {any} error */
function titleOf({ status, retryAt }) {
  if (status === 403) return "Not permitted";
  if (status === 429) return retryAt ? `Not now: try again at ${clockText(retryAt)}` : "Not now";
  return status === 503 ? "Not available now" : "This did not work";
}

/** An error, in the gateway's own sentence. @param {{error: any, retry?: () => void}} props */
export function Failure({ error, retry }) {
  if (error.status === 0) return html`<div class="failure" role="alert"><div><strong>${error.message}</strong><p>It may be stopped, or the network away. It is asked again until it answers.</p></div>${retry && html`<button onClick=${retry}>Try again</button>`}</div>`;
  return html`<div class="failure" role="alert">
    <div><strong>${titleOf(error)}</strong><p>${error.message}</p>
    ${error.requestId && html`<p class="muted small">Request ${error.requestId}</p>`}</div>
    ${retry && html`<button onClick=${retry}>Try again</button>`}
  </div>`;
}

/** @param {{address: string}} props */
export function Missing({ address }) {
  return html`<${Empty} page title="There is no such page">“${address}” is not a screen of the console. <${Link} to=${href("")}>Go to the first screen<//><//>`;
}

/**
 * A value of what is loaded; until it is there a mark, and where it cannot be had one that says so. What is not known is
 * never shown as 0.
 * @template T @param {import("./api.mjs").Loaded<T>} of @param {(data: T) => any} read
 */
export function valueOf(of, read) {
  if (of.data !== undefined) return read(of.data);
  return of.error ? html`<span class="unknown" title=${of.error.message}>not known</span>` : html`<span class="muted" aria-label="Loading">…</span>`;
}

/**
 * Shows data once it is there, and what is wrong where it is not.
 * @template T
 * @param {{of: import("./api.mjs").Loaded<T>, lines?: number, children: (data: T) => any}} props
 */
export function Show({ of, lines, children }) {
  if (of.data === undefined) return of.error ? html`<${Failure} error=${of.error} retry=${of.reload} />` : html`<${Loading} lines=${lines} />`;
  return html`${of.error && html`<${Failure} error=${of.error} retry=${of.reload} />`}${children(of.data)}`;
}
