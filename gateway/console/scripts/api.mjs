/**
 * The management API, which is the only way to data: what a screen shows can be had with curl.
 */
import { batch, signal, useEffect, useRef, useState } from "./html.mjs";

/**
 * @typedef {{name: string, role: "" | "viewer" | "admin" | "master", key_id: string | null, team_id: string | null}} SignedIn
 * @typedef {{mode: string, demo: boolean, version: string, sign_in: boolean, reports: boolean, who: SignedIn | null, csrf_token: string | null, idle_seconds: number}} SessionInfo
 */

/** Who has signed in, as the gateway said last; null before it has been asked. @type {import("@preact/signals-core").Signal<SessionInfo | null>} */
export const session = /** @type {any} */ (signal(null));

/** The Cohere key of a caller who brings their own. It is kept in this page alone, and is gone when the page is. */
export const ownKey = signal("");

/** Why the session is over; null while it lasts. What was on the page stays below the question for a key. @type {import("@preact/signals-core").Signal<ApiError | null>} */
export const sessionOver = /** @type {any} */ (signal(null));

/** Since when the gateway does not answer, in Unix milliseconds; 0 while it does. */
export const awaySince = signal(0);

/** Grows when what failed may succeed now: the gateway answers again, or somebody has signed in again. */
export const recovered = signal(0);

/** An answer that is an error, with the sentence that the gateway gave. */
export class ApiError extends Error {
  /** retryAt: when to try again, in Unix milliseconds, where the gateway said so. @param {number} status @param {string} message @param {string} code @param {string} param @param {string} requestId @param {number | null} [retryAt] */
  constructor(status, message, code, param, requestId, retryAt = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
    this.requestId = requestId;
    this.retryAt = retryAt;
  }
}

/** What the gateway says where the key of the session does not count any more. */
const SESSION_CODES = ["session_over", "missing_api_key", "invalid_api_key", "key_blocked", "team_blocked"];

/**
 * Sends a request with the session, and returns its response, whatever its status.
 * @param {string} method @param {string} path @param {{query?: Record<string, any>, body?: any, signal?: AbortSignal, headers?: Record<string, string>}} [options]
 */
export async function send(method, path, { query = {}, body, signal: aborted, headers = {} } = {}) {
  const pairs = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const text = new URLSearchParams(pairs.map(([name, value]) => [name, String(value)])).toString();
  /** @type {Record<string, string>} */
  const all = { ...headers };
  if (body !== undefined) all["content-type"] = "application/json";
  if (ownKey.value) all.authorization = `Bearer ${ownKey.value}`;
  if (method !== "GET" && session.value?.csrf_token) all["x-gateway-csrf"] = session.value.csrf_token;
  try {
    const response = await fetch(path + (text ? `?${text}` : ""), {
      method,
      headers: all,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: aborted,
      cache: "no-store",
      credentials: "same-origin",
    });
    if (awaySince.value) batch(() => { awaySince.value = 0; recovered.value += 1; });
    return response;
  } catch (error) {
    if (/** @type {any} */ (error).name === "AbortError") throw error;
    awaySince.value ||= Date.now();
    throw new ApiError(0, "The gateway does not answer", "unreachable", "", "");
  }
}

/** Returns the error that a response is. @param {Response} response @returns {Promise<ApiError>} */
export async function errorOf(response) {
  const requestId = response.headers.get("x-request-id") ?? "";
  let error;
  try {
    const body = await response.json();
    error = body.error ?? body;
  } catch {
    error = {};
  }
  const message = error.message || `The gateway answered ${response.status}`;
  const seconds = Number(response.headers.get("retry-after") || NaN);
  return new ApiError(response.status, message, error.code ?? "", error.param ?? "", requestId, seconds >= 0 ? Date.now() + seconds * 1000 : null);
}

/** The error that an answer to the session's key is: where it says that the session is over, the page asks for a key. @param {Response} response */
export async function sessionErrorOf(response) {
  const error = await errorOf(response);
  const info = session.value;
  if (info?.sign_in && info.who && SESSION_CODES.includes(error.code)) sessionOver.value ||= error;
  return error;
}

/**
 * Sends a request and returns the JSON of its answer. Throws ApiError.
 * @param {string} method @param {string} path @param {Parameters<typeof send>[2]} [options] @returns {Promise<any>}
 */
export async function request(method, path, options) {
  const response = await send(method, path, options);
  if (response.ok) return response.json();
  throw await sessionErrorOf(response);
}

/** @param {string} path @param {Record<string, any>} [query] @param {AbortSignal} [aborted] */
export const get = (path, query, aborted) => request("GET", path, { query, signal: aborted });

/** @param {string} path @param {any} [body] */
export const post = (path, body = {}) => request("POST", path, { body });

/**
 * @template T
 * @typedef {{data: T | undefined, error: ApiError | null, loading: boolean, reload: () => void}} Loaded
 */

/**
 * Loads something for as long as a component shows it, and again when what is asked changes. What is loaded again
 * stays in sight meanwhile. It is loaded again, too, when the gateway is back or somebody has signed in again. seconds:
 * also again after so long, while the page is in sight; a gateway whose page nobody looks at does nothing.
 * @template T
 * @param {string | null} path null: nothing @param {Record<string, any>} [query] @param {number} [seconds]
 * @param {(answer: any) => T} [read]
 * @returns {Loaded<T>}
 */
export function useData(path, query = {}, seconds = 0, read = (answer) => answer) {
  const key = path === null ? "" : path + "?" + JSON.stringify(query);
  const [state, setState] = useState(/** @type {any} */ ({ key: "", data: undefined, error: null, loading: true }));
  const [turn, setTurn] = useState(0);
  const reading = useRef(read);
  reading.current = read;
  useEffect(() => {
    if (path === null) return undefined;
    const aborter = new AbortController();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const load = async () => {
      clearTimeout(timer);
      try {
        const data = reading.current(await get(path, query, aborter.signal));
        if (!aborter.signal.aborted) setState({ key, data, error: null, loading: false });
      } catch (error) {
        if (aborter.signal.aborted) return;
        setState((/** @type {any} */ before) => ({ key, data: before.key === key ? before.data : undefined, error, loading: false }));
      }
      if (seconds && !document.hidden && !sessionOver.value) timer = setTimeout(seen, seconds * 1000);
    };
    const seen = () => { if (!document.hidden && seconds && !sessionOver.value) void load(); };
    document.addEventListener("visibilitychange", seen);
    void load();
    return () => {
      aborter.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [key, seconds, turn, recovered.value]);
  const fresh = state.key === key;
  return {
    data: fresh ? state.data : undefined,
    error: fresh ? state.error : null,
    loading: path !== null && (!fresh || state.loading),
    reload: () => setTurn((/** @type {number} */ number) => number + 1),
  };
}
