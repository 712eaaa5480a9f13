/**
 * Signing in and out, and what whoever has signed in may see. The gateway decides that anew for each request: what is
 * hidden here is hidden because it would be refused.
 */
import { computed, html, useState } from "./html.mjs";
import { request, session } from "./api.mjs";

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

/** May read keys, teams and end users. */
export const mayRead = computed(() => role.value !== "");
/** May change them. */
export const mayWrite = computed(() => role.value === "admin" || role.value === "master");
/** May give roles. */
export const isMaster = computed(() => role.value === "master");
/** Sees the calls of all keys. */
export const seesAll = computed(() => mayRead.value || keyless.value);
/** Has signed in with a key of their own, and sees that one alone. */
export const isHolder = computed(() => Boolean(session.value?.who) && !seesAll.value);

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
          <input type="password" name="key" autocomplete="current-password" spellcheck="false" autofocus required
            value=${key} onInput=${(/** @type {any} */ event) => setKey(event.target.value)} aria-invalid=${error ? "true" : undefined} aria-describedby="sign-in-error" />
        </label>
        <p class="error-text" id="sign-in-error" role="alert">${error}</p>
        <button class="primary" disabled=${busy || !key}>${busy ? "Signing in …" : "Sign in"}</button>
        ${isExposed() && html`<p class="warn small" role="note">This page came over plain http: whoever is on the way can read the key.</p>`}
        <p class="muted small">The session ends after ${Math.round((info?.idle_seconds ?? 0) / 60)} minutes without use.</p>
      </form>
    </main>`;
}

/** The page of a gateway whose callers bring their own Cohere keys: there is nothing to sign in to. */
export function NoSessionsPage() {
  return html`
    <main class="sign-in">
      <div class="card">
        <h1>cohere-gateway</h1>
        <p>Callers bring their own Cohere key to this gateway, so nobody signs in here. To issue keys, with limits and a ledger, start it with <code>COHERE_API_KEY</code> and <code>GATEWAY_MASTER_KEY</code>.</p>
      </div>
    </main>`;
}
