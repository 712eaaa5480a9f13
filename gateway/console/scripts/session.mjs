/**
 * Signing in and out, and what whoever has signed in may see. The gateway decides that anew for each request: what is
 * hidden here is hidden because it would be refused.
 */
import { batch, computed, effect, html, useEffect, useLayoutEffect, useRef, useState } from "./html.mjs";
import { ApiError, awaySince, ownKey, recovered, request, session, sessionOver } from "./api.mjs";
import { clockText, countOf } from "./format.mjs";

const PATH = "/console/session";
const RENEW_MS = 60_000;

/** After the end of a session that nobody uses, before it is asked about. */
const GRACE_MS = 1_000;

/** Browsers take no longer timer. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Between two questions to a gateway that does not answer. */
const AWAY_MS = 3_000;

export async function loadSession() {
  session.value = await request("GET", PATH);
}

/** @param {string} key */
async function signIn(key) {
  const info = await request("POST", PATH, { body: { key } });
  renewed = Date.now();
  batch(() => {
    // What failed for want of a session is loaded again.
    if (sessionOver.value) recovered.value += 1;
    sessionOver.value = null;
    session.value = info;
  });
}

export async function signOut() {
  session.value = await request("DELETE", PATH);
}

/** Asks whether the session goes on, and who it is. */
async function checkSession() {
  const before = session.value;
  const info = await request("GET", PATH);
  if (before?.sign_in && before.who && !info.who) sessionOver.value ||= new ApiError(401, "", "session_over", "", "");
  else if (!sessionOver.value) session.value = info;
}


/** Why the session is over, in words. */
function reasonText() {
  const { code, message } = /** @type {import("./api.mjs").ApiError} */ (sessionOver.value);
  if (code === "invalid_api_key") return "Its key is not valid any more: it was rotated or deleted, or has expired.";
  return ["missing_api_key", "session_over"].includes(code) ? `Nobody used it for ${idleText()}, or it was ended elsewhere.` : message;
}

const idleText = () => countOf(Math.max(1, Math.round((session.value?.idle_seconds ?? 0) / 60)), "minute");

/** While somebody uses the page their session goes on; while it only refreshes itself, it does not. */
let renewed = Date.now();
async function renew() {
  const info = session.value;
  if (!info?.sign_in || !info.who || sessionOver.value || Date.now() - renewed < RENEW_MS) return;
  renewed = Date.now();
  try {
    session.value = await request("PUT", PATH);
  } catch {
    // Either it is over, which the next request says, or the gateway is away, which that says too.
  }
}
for (const event of ["pointerdown", "keydown"]) addEventListener(event, () => void renew(), { passive: true });

/** @type {ReturnType<typeof setTimeout> | undefined} */
let idle;

/** When nobody has used the page for so long that its session must be over, what it shows is for nobody's eyes any more. */
async function lookWhetherIdle() {
  clearTimeout(idle);
  const info = session.value;
  if (!info?.sign_in || !info.who || sessionOver.value || document.hidden) return;
  let left = renewed + info.idle_seconds * 1000 + GRACE_MS - Date.now();
  if (left <= 0) {
    // Another page of this browser's may have gone on with it.
    await checkSession().catch(() => {});
    left = RENEW_MS;
  }
  idle = setTimeout(lookWhetherIdle, Math.min(left, LONGEST_TIMER_MS));
}
effect(() => { if (session.value?.who && !sessionOver.value) void lookWhetherIdle(); });
document.addEventListener("visibilitychange", () => void lookWhetherIdle());

/** While the gateway does not answer it is asked again and again, as long as somebody looks. */
effect(() => {
  if (!awaySince.value) return undefined;
  const timer = setInterval(() => { if (!document.hidden) checkSession().catch(() => {}); }, AWAY_MS);
  return () => clearInterval(timer);
});

const role = computed(() => session.value?.who?.role ?? "");

/** No key is needed here, so that whoever reaches the page may see everything there is. */
export const keyless = computed(() => session.value !== null && !session.value.sign_in && session.value.who !== null);

/** Callers bring their own Cohere keys: nobody signs in, and nobody sees what others did. */
export const bringsOwnKey = computed(() => session.value?.mode === "bring your own key");

/** May read keys, teams and end users. */
export const mayRead = computed(() => role.value !== "");
/** May change them. */
export const mayWrite = computed(() => role.value === "admin" || role.value === "master");
/** May give roles. */
export const isMaster = computed(() => role.value === "master");
/** Sees the calls of all keys. */
export const seesAll = computed(() => mayRead.value || (keyless.value && session.value?.reports === true));
/** Has signed in with a key of their own, and sees that one alone. */
export const isHolder = computed(() => Boolean(session.value?.who) && session.value?.sign_in === true && !seesAll.value);

/** Whether the key would go over a network unencrypted. */
function isExposed() {
  return location.protocol === "http:" && !/^(localhost|.*\.localhost|127\..*|\[::1\])$/.test(location.hostname);
}

/** When one may try again, as the gateway said. @param {import("./api.mjs").ApiError} error */
export function retryText(error) {
  return error.retryAt ? ` That is at ${clockText(error.retryAt)}.` : "";
}

/** A key, and what is wrong with it. @param {{children: any}} props what stands above it */
function SignInForm({ children }) {
  const [key, setKey] = useState("");
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  /** @param {SubmitEvent} event */
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError("");
    try {
      await signIn(key);
    } catch (failed) {
      const refused = /** @type {import("./api.mjs").ApiError} */ (failed);
      setError(refused.message + (/[.!?]$/.test(refused.message) ? "" : ".") + retryText(refused));
      setBusy(false);
    }
  };
  return html`<form class="card" onSubmit=${submit}>
    ${children}
    <label class="field">
      <span>Key</span>
      <input type="password" name="key" autocomplete="current-password" spellcheck=${false} autofocus required
        value=${key} onInput=${(/** @type {any} */ event) => setKey(event.target.value)} aria-invalid=${error ? "true" : undefined} aria-describedby="sign-in-error" />
    </label>
    <p class="error-text" id="sign-in-error" role="alert">${error}</p>
    <button class="primary" disabled=${busy || !key}>${busy ? "Signing in …" : "Sign in"}</button>
    ${isExposed() && html`<p class="warn small" role="note">This page came over plain http: whoever is on the way can read the key.</p>`}
    <p class="muted small">The session ends after ${idleText()} without use.</p>
  </form>`;
}

/** The page of those who have not signed in. */
export function SignInPage() {
  return html`<main class="sign-in"><${SignInForm}>
    <h1>cohere-gateway</h1>
    <p class="muted">Sign in with the master key, or with a key of this gateway. Without a role a key sees its own calls and limits.</p>
  <//></main>`;
}

/** Asks for a key where the session has ended. The page waits below it, out of sight, with all that was typed. */
export function SessionOver() {
  const box = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => { box.current?.showModal(); }, []);
  // Closing it gives the focus back, which removing it does not.
  useLayoutEffect(() => () => box.current?.close(), []);
  return html`<dialog class="session-over" ref=${box} aria-labelledby="session-over" onCancel=${(/** @type {Event} */ event) => event.preventDefault()}
      onKeyDown=${(/** @type {KeyboardEvent} */ event) => { if (event.key === "Escape") event.preventDefault(); }}><div class="sign-in"><${SignInForm}>
    <h1 id="session-over">The session has ended</h1>
    <p>${reasonText()}</p>
    <p class="muted">What was open, and what was typed, is still there: sign in with the same key to go on with it.</p>
  <//></div></dialog>`;
}

/** The first page of a gateway whose callers bring their own Cohere keys: there is nothing to sign in to. */
export function OwnKeyPage() {
  const [key, setKey] = useState("");
  /** @param {SubmitEvent} event */
  const submit = (event) => {
    event.preventDefault();
    ownKey.value = key.trim();
  };
  return html`
    <main class="sign-in">
      <form class="card" onSubmit=${submit}>
        <h1>cohere-gateway</h1>
        <p>Callers bring their own Cohere key to this gateway. With yours you can try it here, and see what becomes of requests on the way.</p>
        <label class="field">
          <span>Your Cohere key</span>
          <input type="password" autocomplete="off" spellcheck=${false} autofocus required value=${key} onInput=${(/** @type {any} */ event) => setKey(event.target.value)} />
        </label>
        <button class="primary" disabled=${!key.trim()}>Go on</button>
        ${isExposed() && html`<p class="warn small" role="note">This page came over plain http: whoever is on the way can read the key.</p>`}
        <p class="muted small">It stays in this page, and is sent with the requests that you make here. To issue keys, with limits, calls and usage, start the gateway with <code>COHERE_API_KEY</code> and <code>GATEWAY_MASTER_KEY</code>.</p>
      </form>
    </main>`;
}
