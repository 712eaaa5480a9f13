/**
 * A list of the ledger, newest first, which stays as it is while it is read: what comes meanwhile is counted, and shown
 * when the reader wants it. Older rows come with the cursor, a page at a time as the reader nears the end, so its length
 * does not matter.
 */
import { get, recovered, sessionOver } from "./api.mjs";
import { countText } from "./format.mjs";
import { html, useEffect, useRef, useState } from "./html.mjs";

const PAGE = 60;
const EVERY_MS = 2500;

/** Rows that are put above a list; where more have come, the list begins anew. */
const MOST_FRESH = 400;

/** Pixels before the end of the page at which older rows are loaded. */
const NEAR = 1500;

/** Rows written out of order that are looked for beside those that were counted. */
const LATE = 20;

/** An empty page that has a next one was filtered out as a whole: the search goes on so often by itself. */
const EMPTY_PAGES = 6;

/**
 * @typedef {{rows: any[], fresh: string, more: boolean, searching: boolean, error: any, stale: any, loading: boolean, showFresh: () => Promise<void> | void, older: () => void, reload: () => void}} Feed
 * @param {Record<string, any>} filters as `/audit` takes them @param {boolean} live @returns {Feed}
 */
export function useFeed(filters, live) {
  const key = JSON.stringify(filters);
  const [state, setState] = useState(/** @type {any} */ ({ key: "", rows: [], cursor: null, error: null, loading: true, searching: false }));
  const [fresh, setFresh] = useState(NONE);
  const [turn, setTurn] = useState(0);

  useEffect(() => {
    const aborter = new AbortController();
    setFresh(NONE);
    setState((/** @type {any} */ before) => ({ ...before, loading: true, error: null }));
    let newest = "";
    pages(filters, null, (rows, cursor, searching, first) => {
      newest ||= first;
      setState((/** @type {any} */ before) => ({ key, rows: before.key === key && !before.loading ? [...before.rows, ...rows] : rows, cursor, newest, error: null, loading: false, searching }));
    }, aborter.signal).catch((error) => {
      if (!aborter.signal.aborted) setState((/** @type {any} */ before) => ({ ...(before.key === key && !before.loading ? before : { key, rows: [], cursor: null }), error, loading: false, searching: false }));
    });
    return () => aborter.abort();
  }, [key, turn]);

  useEffect(() => {
    if (!live || state.key !== key || state.loading) return undefined;
    const aborter = new AbortController();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const look = async () => {
      if (!document.hidden && !sessionOver.value) {
        try {
          setFresh({ ...(await get("/audit/newer", { ...filters, cursor: state.newest }, aborter.signal)), error: null });
        } catch (error) {
          // The next look may succeed; what is shown is still true, but perhaps not all.
          if (!aborter.signal.aborted) setFresh((/** @type {any} */ before) => ({ ...before, error }));
        }
      }
      if (!aborter.signal.aborted) timer = setTimeout(look, EVERY_MS);
    };
    timer = setTimeout(look, EVERY_MS);
    return () => { aborter.abort(); clearTimeout(timer); };
  }, [key, live, state.key, state.loading, state.newest]);

  // What could not be loaded is loaded when the gateway is back, or somebody has signed in again.
  const known = useRef(recovered.value);
  useEffect(() => {
    if (known.current !== recovered.value && state.error) reload();
    known.current = recovered.value;
  }, [recovered.value, state.error]);

  const reload = () => setTurn((/** @type {number} */ number) => number + 1);
  const showFresh = async () => {
    if (fresh.count > MOST_FRESH) return reload();
    try {
      const { data, newest_cursor: newest } = await get("/audit", { ...filters, limit: fresh.count + LATE });
      setState((/** @type {any} */ before) => {
        const known = new Set(before.rows.map((/** @type {any} */ row) => row.id));
        const oldest = before.rows.at(-1);
        // Older ones than the list has come with its next page.
        const added = data.filter((/** @type {any} */ row) => !known.has(row.id) && (!oldest || before.cursor === null || row.time >= oldest.time));
        return { ...before, newest, rows: [...added, ...before.rows].sort(newestFirst) };
      });
      setFresh(NONE);
    } catch (error) {
      setState((/** @type {any} */ before) => ({ ...before, error }));
    }
  };
  const older = async () => {
    setState((/** @type {any} */ before) => ({ ...before, searching: true }));
    try {
      await pages(filters, state.cursor, (rows, cursor, searching) => setState((/** @type {any} */ before) => (before.key === key ? { ...before, rows: [...before.rows, ...rows], cursor, searching } : before)));
    } catch (error) {
      setState((/** @type {any} */ before) => ({ ...before, error, searching: false }));
    }
  };
  const current = state.key === key;
  return {
    rows: current ? state.rows : [],
    fresh: fresh.count ? `${fresh.count}${fresh.more ? "+" : ""} new` : "",
    more: current && state.cursor !== null,
    searching: state.searching,
    error: current ? state.error : null,
    stale: fresh.error,
    loading: !current || state.loading,
    showFresh,
    older,
    reload,
  };
}

const NONE = { count: 0, more: false, error: /** @type {any} */ (null) };

/** @param {any} a @param {any} b */
function newestFirst(a, b) {
  return a.time < b.time ? 1 : a.time > b.time ? -1 : a.id < b.id ? 1 : -1;
}

/**
 * Reads a page, and more of them while they have few rows: each is shown as it comes.
 * @param {Record<string, any>} filters @param {string | null} cursor
 * @param {(rows: any[], cursor: string | null, searching: boolean, newest: string) => void} show searching: more are read
 * @param {AbortSignal} [aborted]
 */
async function pages(filters, cursor, show, aborted) {
  let count = 0;
  for (let page = 1; page <= EMPTY_PAGES; page++) {
    const answer = await get("/audit", { ...filters, limit: PAGE, cursor }, aborted);
    if (aborted?.aborted) return;
    count += answer.data.length;
    cursor = answer.next_cursor;
    const searching = cursor !== null && count < PAGE / 2 && page < EMPTY_PAGES;
    show(answer.data, cursor, searching, answer.newest_cursor);
    if (!searching) return;
  }
}

/** Says how much is new, and shows it: from the top, where it is. @param {{feed: Feed}} props */
export function FeedHead({ feed }) {
  const show = async () => {
    await feed.showFresh();
    scrollTo(0, 0);
    // The button goes with what it said, and whoever pressed it goes on in the list.
    /** @type {HTMLElement | null} */ (document.querySelector(".table-frame"))?.focus({ preventScroll: true });
  };
  return html`<div class="feed-head" aria-live="polite">${feed.stale && !feed.error && html`<p class="warn small">Whether there are newer ones is not known: ${feed.stale.message}. It is looked for again.</p>`}${feed.fresh && html`<button class="primary" onClick=${show}>${feed.fresh}</button>`}</div>`;
}

/** How many rows there are, and the way to older ones. @param {{feed: Feed, older?: string}} props */
export function FeedFoot({ feed, older = "Older" }) {
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const loading = useRef(feed.older);
  loading.current = feed.older;
  const before = useRef(0);
  const count = feed.rows.length;
  const waits = feed.more && !feed.searching && !feed.error;
  useEffect(() => {
    if (!waits || !box.current) return undefined;
    // Where few rows are found the search through all that there are is the reader's to ask for.
    const found = count - (count < before.current ? 0 : before.current);
    before.current = count;
    if (found < PAGE / 2) return undefined;
    const observer = new IntersectionObserver((entries) => { if (entries.some((one) => one.isIntersecting)) loading.current(); }, { rootMargin: `${NEAR}px` });
    observer.observe(box.current);
    return () => observer.disconnect();
  }, [waits, count]);
  return html`<div class="table-foot" ref=${box}><span>${countText(count)} shown</span>${feed.more && html`<button disabled=${feed.searching} onClick=${feed.older}>${feed.searching ? "Looking …" : older}</button>`}</div>`;
}
