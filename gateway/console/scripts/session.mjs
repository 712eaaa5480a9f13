/**
 * Signing in and out, and what whoever has signed in may see. The gateway decides that anew for each request: what is
 * hidden here is hidden because it would be refused.
 */
import { computed, html, useState } from "./html.mjs";
import { ownKey, request, session } from "./api.mjs";

const PATH = "/console/session";
const RENEW_MS = 60_000;

export async function loadSession() {
  session.value = await request("GET", PATH);
}

/** @param {string} key */
async function signIn(key) {
  session.value = await request("POST", PATH, { body: { key } });
}

export async function signOut() {
  session.value = await request("DELETE", PATH);
}

/** While somebody uses the page their session goes on; while it only refreshes itself, it does not. */
let renewed = Date.now();
async function renew() {
  const info = session.value;
  if (!info?.sign_in || !info.who || Date.now() - renewed < RENEW_MS) return;
  renewed = Date.now();
  try {
    session.value = await request("PUT", PATH);
  } catch {
    // Either it is over, which the next request says, or the gateway is away, which that says too.
  }
}
for (const event of ["pointerdown", "keydown"]) addEventListener(event, () => void renew(), { passive: true });

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

/** The page of those who have not signed in. */
export function SignInPage() {
  const [key, setKey] = useState("");
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  const info = session.value;
  /** @param {SubmitEvent} event */
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError("");
    try {
      await signIn(key);
    } catch (failed) {
      setError(/** @type {Error} */ (failed).message);
      setBusy(false);
    }
  };
  return html`
    <main class="sign-in">
      <form class="card" onSubmit=${submit}>
        <h1>cohere-gateway</h1>
        <p class="muted">Sign in with the master key, or with a key of this gateway. Without a role a key sees its own calls and limits.</p>
        <label class="field">
          <span>Key</span>
          <input type="password" name="key" autocomplete="current-password" spellcheck=${false} autofocus required
            value=${key} onInput=${(/** @type {any} */ event) => setKey(event.target.value)} aria-invalid=${error ? "true" : undefined} aria-describedby="sign-in-error" />
        </label>
        <p class="error-text" id="sign-in-error" role="alert">${error}</p>
        <button class="primary" disabled=${busy || !key}>${busy ? "Signing in …" : "Sign in"}</button>
        ${isExposed() && html`<p class="warn small" role="note">This page came over plain http: whoever is on the way can read the key.</p>`}
        <p class="muted small">The session ends after ${Math.round((info?.idle_seconds ?? 0) / 60)} minutes without use.</p>
      </form>
    </main>`;
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
