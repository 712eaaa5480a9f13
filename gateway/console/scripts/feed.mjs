/**
 * A list of the ledger, newest first, which stays as it is while it is read: what comes meanwhile is counted, and shown
 * when the reader wants it. Older rows come with the cursor, a page at a time, so its length does not matter.
 */
import { get } from "./api.mjs";
import { useEffect, useState } from "./html.mjs";

const PAGE = 60;
const EVERY_MS = 2500;

/** Rows that are put above a list; where more have come, the list begins anew. */
const MOST_FRESH = 400;

/** Rows written out of order that are looked for beside those that were counted. */
const LATE = 20;

/** An empty page that has a next one was filtered out as a whole: the search goes on so often by itself. */
const EMPTY_PAGES = 6;

/**
 * @typedef {{rows: any[], fresh: string, more: boolean, searching: boolean, error: any, loading: boolean, showFresh: () => void, older: () => void, reload: () => void}} Feed
 * @param {Record<string, any>} filters as `/audit` takes them @param {boolean} live @returns {Feed}
 */
export function useFeed(filters, live) {
  const key = JSON.stringify(filters);
  const [state, setState] = useState(/** @type {any} */ ({ key: "", rows: [], cursor: null, error: null, loading: true, searching: false }));
  const [fresh, setFresh] = useState({ count: 0, more: false });
  const [turn, setTurn] = useState(0);

  useEffect(() => {
    const aborter = new AbortController();
    setFresh(NONE);
    setState((/** @type {any} */ before) => ({ ...before, loading: true, error: null }));
    pages(filters, null, aborter.signal).then(
      ({ rows, cursor, newest }) => setState({ key, rows, cursor, newest, error: null, loading: false, searching: false }),
      (error) => { if (!aborter.signal.aborted) setState({ key, rows: [], cursor: null, error, loading: false, searching: false }); },
    );
    return () => aborter.abort();
  }, [key, turn]);

  useEffect(() => {
    if (!live || state.key !== key || state.loading) return undefined;
    const aborter = new AbortController();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const look = async () => {
      if (!document.hidden) {
        try {
          setFresh(await get("/audit/newer", { ...filters, cursor: state.newest }, aborter.signal));
        } catch {
          // The next look may succeed; what is shown is still true.
        }
      }
      if (!aborter.signal.aborted) timer = setTimeout(look, EVERY_MS);
    };
    timer = setTimeout(look, EVERY_MS);
    return () => { aborter.abort(); clearTimeout(timer); };
  }, [key, live, state.key, state.loading, state.newest]);

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
      const { rows, cursor } = await pages(filters, state.cursor);
      setState((/** @type {any} */ before) => (before.key === key ? { ...before, rows: [...before.rows, ...rows], cursor, searching: false } : before));
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
    loading: !current || state.loading,
    showFresh,
    older,
    reload,
  };
}

const NONE = { count: 0, more: false };

/** @param {any} a @param {any} b */
function newestFirst(a, b) {
  return a.time < b.time ? 1 : a.time > b.time ? -1 : a.id < b.id ? 1 : -1;
}

/** @param {Record<string, any>} filters @param {string | null} cursor @param {AbortSignal} [aborted] */
async function pages(filters, cursor, aborted) {
  /** @type {any[]} */
  const rows = [];
  let newest = "";
  for (let page = 0; page < EMPTY_PAGES; page++) {
    const answer = await get("/audit", { ...filters, limit: PAGE, cursor }, aborted);
    rows.push(...answer.data);
    newest ||= answer.newest_cursor;
    cursor = answer.next_cursor;
    if (cursor === null || rows.length >= PAGE / 2) break;
  }
  return { rows, cursor, newest };
}
