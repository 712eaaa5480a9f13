/** Playground: requests by hand, and beside each what Cohere gets for it, the notes, and the code that makes it. */
import { session, useData } from "../scripts/api.mjs";
import { html, useEffect, useState } from "../scripts/html.mjs";
import { Segments, TextField } from "../scripts/form.mjs";
import { Card, Chip, Code, CodeTabs, PageHead, Tabs } from "../scripts/parts.mjs";
import { call, codes } from "../scripts/playground.mjs";
import { route, setQuery } from "../scripts/router.mjs";
import { Chat } from "./playground_chat.mjs";
import { Embeddings, Rerank } from "./playground_vectors.mjs";

const APIS = [{ value: "chat", text: "Chat" }, { value: "responses", text: "Responses" }, { value: "embeddings", text: "Embeddings" }, { value: "rerank", text: "Rerank" }];

/** A pause after the last key, before what would be sent is asked for. */
const PAUSE_MS = 350;

/** Which tab a call's method belongs to. @param {Record<string, string>} query */
function apiOf(query) {
  if (APIS.some((one) => one.value === query.api)) return query.api;
  return /embed/.test(query.method ?? "") ? "embeddings" : /rerank/.test(query.method ?? "") ? "rerank" : "chat";
}

export default function Playground() {
  const { query } = route.value;
  const api = apiOf(query);
  const models = useData("/gateway/models", {}, 0, (answer) => answer.data);
  const [key, setKey] = useState("");
  const [body, setBody] = useState(/** @type {any} */ (null));
  const [notes, setNotes] = useState("");
  const kinds = { chat: "chat", responses: "chat", embeddings: "embed", rerank: "rerank" };
  const names = (models.data ?? []).filter((/** @type {any} */ model) => model.kind === kinds[/** @type {"chat"} */ (api)]).map((/** @type {any} */ model) => model.id);
  const common = { wanted: query.model ?? "", names, apiKey: key, onBody: setBody, onNotes: setNotes };
  return html`
    <${PageHead} title="Playground" subtitle="Requests as your programs send them, and what becomes of them on the way to Cohere." />
    <div class="filters">
      <${Segments} label="API" value=${api} onInput=${(/** @type {string} */ value) => { setNotes(""); setQuery({ api: value, method: null, model: null }); }} options=${APIS} />
      ${session.value?.sign_in && html`<div class="key-choice"><${TextField} label="Key" type="password" value=${key} onInput=${setKey} placeholder="your session's; or paste another" /></div>`}
    </div>
    <div class="playground">
      <div class="stack">${api === "embeddings" ? html`<${Embeddings} ...${common} />` : api === "rerank" ? html`<${Rerank} ...${common} />` : html`<${Chat} key=${api} api=${api} ...${common} />`}</div>
      <${Beside} api=${api} body=${body} apiKey=${key} notes=${notes} />
    </div>`;
}

/** @param {{api: string, body: any, apiKey: string, notes: string}} props notes: of the last answer */
function Beside({ api, body, apiKey, notes }) {
  const [tab, setTab] = useState("Sent to Cohere");
  const [state, setState] = useState(/** @type {any} */ ({}));
  const text = JSON.stringify(body);
  useEffect(() => {
    if (!body) return undefined;
    const aborter = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const response = await call(`/gateway/translate/${api}`, body, apiKey, aborter.signal);
        setState({ answer: await response.json() });
      } catch (error) {
        if (!aborter.signal.aborted) setState({ error });
      }
    }, PAUSE_MS);
    return () => { aborter.abort(); clearTimeout(timer); };
  }, [api, text, apiKey]);
  const translated = state.answer;
  return html`<div class="beside"><${Card}>
    <${Tabs} label="Beside the request" names=${["Sent to Cohere", "Notes", "Code"]} value=${tab} onInput=${setTab} />
    ${tab === "Code" ? body && html`<${CodeTabs} key=${api} codes=${codes(api, body, translated?.requests[0])} />`
      : state.error ? html`<p class="error-text" role="alert">${state.error.message}</p>`
      : tab === "Notes" ? html`${translated?.notes.length ? html`<ul class="notes">${translated.notes.map((/** @type {any} */ note) => html`<li key=${note.text}><${Chip} tone=${note.kind === "ignored" ? "warn" : ""}>${note.kind}<//> ${note.text}</li>`)}</ul>` : html`<p class="muted">None: everything is sent as it was asked for.</p>`}
          ${notes && html`<h3>Of the last answer</h3><p>${notes}</p>`}`
      : translated?.unparsed_files ? html`<p class="muted">Cohere would be asked to read the files first, so what is sent is not known before.</p>`
      : html`${translated?.requests.map((/** @type {any} */ one, /** @type {number} */ index) => html`<${Code} key=${index} code=${JSON.stringify(one, shortened, 2)} label="Copy what Cohere gets" />`)}
          ${translated && !translated.requests.length && html`<p class="muted">Nothing.</p>`}`}
  <//></div>`;
}

/** Pictures and long texts are shown by their beginning. @param {string} _ @param {any} value */
function shortened(_, value) {
  return typeof value === "string" && value.length > 2000 ? `${value.slice(0, 120)} … (${value.length} characters)` : value;
}
