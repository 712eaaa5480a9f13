/** What stands in the place of data: while it is loaded, where there is none, and where it cannot be had. */
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

/** An error, in the gateway's own sentence. @param {{error: any, retry?: () => void}} props */
export function Failure({ error, retry }) {
  return html`<div class="failure" role="alert">
    <div><strong>${error.status === 403 ? "Not permitted" : "This cannot be shown"}</strong><p>${error.message}</p>
    ${error.requestId && html`<p class="muted small">Request ${error.requestId}</p>`}</div>
    ${retry && html`<button onClick=${retry}>Try again</button>`}
  </div>`;
}

/** @param {{address: string}} props */
export function Missing({ address }) {
  return html`<${Empty} page title="There is no such page">“${address}” is not a screen of the console, or your key may not see it. <${Link} to=${href("")}>Go to the first screen<//><//>`;
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
