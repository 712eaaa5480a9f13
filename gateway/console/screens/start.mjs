/** The first run: what this gateway is, a key with one click, the first call in the reader's language, and its coming. */
import { get, post, session, sessionOver, useData } from "../scripts/api.mjs";
import { costText, durationText } from "../scripts/format.mjs";
import { html, useEffect, useState } from "../scripts/html.mjs";
import { Card, Code, CodeTabs, Facts, PageHead } from "../scripts/parts.mjs";
import { Link, href } from "../scripts/router.mjs";
import { bringsOwnKey, isHolder, mayWrite, seesAll } from "../scripts/session.mjs";
import { failed as sayFailed } from "../scripts/toast.mjs";
import { Failure } from "../scripts/states.mjs";
import { firstCalls } from "./secret.mjs";

const EVERY_MS = 1500;

/** @type {Record<string, string>} */
const MODES = {
  demo: "Demo: any key or none is accepted, and a stand-in answers.",
  "virtual keys": "Virtual keys: callers need a key that is issued here; the Cohere key stays with the gateway.",
  open: "Open: whoever reaches this address may call.",
  "bring your own key": "Callers bring their own Cohere key.",
};

export default function Start() {
  const info = /** @type {import("../scripts/api.mjs").SessionInfo} */ (session.value);
  const status = useData(seesAll.value ? "/gateway/status" : null);
  const [key, setKey] = useState("");
  const [busy, setBusy] = useState(false);
  const needsKey = info.sign_in;
  const used = key || (needsKey ? "YOUR_KEY" : bringsOwnKey.value ? "YOUR_COHERE_KEY" : "any");
  const make = async () => {
    setBusy(true);
    try {
      setKey((await post("/key/generate", { key_alias: `first-${Math.random().toString(36).slice(2, 8)}` })).key);
    } catch (error) {
      sayFailed(error);
    }
    setBusy(false);
  };
  return html`
    <${PageHead} title="Get started" subtitle="Programs that speak OpenAI's API change their base URL and their key, and work." />
    <ol class="steps">
      <li><${Card} title="This gateway"><${Facts} rows=${[
        ["Base URL, OpenAI's API", html`<code>${location.origin}/v1</code>`],
        ["Base URL, Cohere's API", html`<code>${location.origin}/cohere</code>`],
        ["Mode", MODES[info.mode]],
        ["Upstream", info.demo ? html`<strong>The emulator</strong>, which stands in for Cohere` : status.data?.upstream],
        ["Version", info.version],
      ]} /><//></li>
      <li><${Card} title="A key">${
        bringsOwnKey.value ? html`<p>Your own Cohere key, in the place of <code>YOUR_COHERE_KEY</code>: it is passed on, and never stored.</p>`
        : !needsKey ? html`<p>None is needed here: any will do. To issue keys with permissions, limits and budgets, start the gateway with <code>GATEWAY_MASTER_KEY</code>.</p>`
        : key ? html`<p>It is shown once, so copy it now. It may chat, embed and rerank; <${Link} to=${href("keys")}>Keys<//> changes that.</p><${Code} code=${key} label="Copy the key" />`
        : mayWrite.value ? html`<p>It may chat, embed and rerank, without limits for now.</p><button class="primary" disabled=${busy} onClick=${make}>Make a key</button>`
        : html`<p>Use the one that you have signed in with, in the place of <code>YOUR_KEY</code>.</p>`}<//></li>
      <li><${Card} title="The first call"><${CodeTabs} codes=${firstCalls(used)} /><//></li>
      <li>${seesAll.value || isHolder.value ? html`<${FirstCall} since=${key} />` : html`<${Card} title="See what becomes of it"><p>The playground sends requests, and shows what Cohere gets for them. Calls and usage are shown where keys are issued (<code>GATEWAY_MASTER_KEY</code>): here nobody could be told apart from the others.</p><p class="buttons"><${Link} class="button" to=${href("playground")}>Open the playground<//></p><//>`}</li>
    </ol>`;
}

/** Waits for a call that comes after the page was opened, or the key was made. @param {{since: string}} props */
function FirstCall({ since }) {
  const [call, setCall] = useState(/** @type {any} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  useEffect(() => {
    setCall(null);
    const began = new Date(Date.now() - 1000).toISOString();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    let current = true;
    const look = async () => {
      try {
        const page = document.hidden || sessionOver.value ? null : await get("/audit", { kind: "call", since: began, limit: 1 });
        if (!current) return;
        setError(null);
        if (page?.data.length) {
          setCall(page.data[0]);
          return;
        }
      } catch (failed) {
        if (current) setError(failed); // the next look may succeed
      }
      if (current) timer = setTimeout(look, EVERY_MS);
    };
    void look();
    return () => { current = false; clearTimeout(timer); };
  }, [since]);
  if (error) return html`<${Card} title="Your first call"><${Failure} error=${error} /><p class="muted">It is looked for all the same.</p><//>`;
  if (!call) return html`<${Card} title="Waiting for your first call"><p class="waiting" role="status"><span class="pulse" aria-hidden="true"></span>It appears here a moment after it was answered.</p><//>`;
  const failed = call.status >= 400;
  return html`<${Card} title=${failed ? "It came, and failed" : "It came"}>
    <p role="status" class="first-call"><strong class=${failed ? "bad" : "good"}>${call.status}</strong>, ${durationText(call.total_ms)}, ${costText(call.cost_nanodollars)}</p>
    <p>${call.sentence}</p>
    <p class="buttons"><${Link} class="button" to=${href(`calls/${call.id}`)}>Show the call<//><${Link} class="button" to=${href("playground")}>Open the playground<//></p><//>`;
}
