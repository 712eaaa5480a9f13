/**
 * Which screen is shown, and with which filters: all of it is in the URL, so that a page can be sent to somebody else.
 */
import { computed, html, signal } from "./html.mjs";

export const BASE = "/console";

/** @typedef {{path: string, query: Record<string, string>}} Route path: below /console, without slashes at its ends */

/** @returns {Route} */
function current() {
  const path = location.pathname.slice(BASE.length).replace(/^\/+|\/+$/g, "");
  return { path, query: Object.fromEntries(new URLSearchParams(location.search)) };
}

export const route = signal(current());

/** The first word of the path, which names the screen. */
export const screenName = computed(() => route.value.path.split("/")[0]);

addEventListener("popstate", () => { route.value = current(); });

/**
 * Returns the address of a screen. Values that are empty are left out.
 * @param {string} path @param {Record<string, string | number | null | undefined>} [query]
 */
export function href(path, query = {}) {
  const pairs = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const text = new URLSearchParams(pairs.map(([name, value]) => [name, String(value)])).toString();
  return BASE + (path ? `/${path}` : "") + (text ? `?${text}` : "");
}

/** Goes to a screen. replace: without a step back to here, as while filters are typed. @param {string} address @param {boolean} [replace] */
export function navigate(address, replace = false) {
  if (address === location.pathname + location.search) return;
  history[replace ? "replaceState" : "pushState"](null, "", address);
  route.value = current();
}

/** Changes some filters of this screen. @param {Record<string, string | number | null | undefined>} changes @param {boolean} [replace] */
export function setQuery(changes, replace = true) {
  navigate(href(route.value.path, { ...route.value.query, ...changes }), replace);
}

/**
 * A link inside the console; with a modifier key it opens as any other.
 * @param {{to: string, children?: any, class?: string, title?: string, current?: boolean, onClick?: () => void}} props
 */
export function Link({ to, children, current: isCurrent, onClick, ...rest }) {
  /** @param {MouseEvent} event */
  const follow = (event) => {
    if (event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    onClick?.();
    navigate(to);
  };
  return html`<a href=${to} onClick=${follow} aria-current=${isCurrent ? "page" : undefined} ...${rest}>${children}</a>`;
}
