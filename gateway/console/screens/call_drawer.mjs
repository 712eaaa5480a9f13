/** One call: its sentence, how its time was spent, what it cost by unit, its notes and ids. */
import { useData } from "../scripts/api.mjs";
import { costText, countText, shellQuoted } from "../scripts/format.mjs";
import { html, useState } from "../scripts/html.mjs";
import { Drawer } from "../scripts/drawer.mjs";
import { Chip, Code, CopyButton, Cost, Facts, Time } from "../scripts/parts.mjs";
import { Link, href } from "../scripts/router.mjs";
import { mayRead, mayWrite } from "../scripts/session.mjs";
import { teamName } from "../scripts/permissions.mjs";
import { Empty, Failure, Loading, Show } from "../scripts/states.mjs";
import { Timeline } from "./timeline.mjs";

/** @param {any} call */
export function statusTone(call) {
  return call.status >= 500 ? "bad" : call.status >= 400 ? "warn" : call.fault ? "bad" : "good";
}

/** The status; of an answer that broke off after it, so much too. @param {any} call */
export function statusText(call) {
  return call.status ? `${call.status}${call.fault && call.status < 400 ? " cut" : ""}` : "–";
}

/** Names of a price, by Cohere's units; tokens are priced by the million. @type {Record<string, [string, number]>} */
const PRICES = {
  input_tokens: ["input", 1e6], output_tokens: ["output", 1e6], image_tokens: ["image_tokens", 1e6], search_units: ["search", 1],
  images: ["image", 1], pages: ["page", 1], classifications: ["classification", 1], audio_seconds: ["audio_second", 1],
};

/** @type {Record<string, string>} */
const DOORS = { openai: "OpenAI's", native: "Cohere's own", websocket: "WebSocket", management: "management" };

/** @param {{id: string, row: any, onClose: () => void}} props row: undefined where the list does not have it */
export function CallDrawer({ id, row, onClose }) {
  const loaded = useData(row ? null : "/audit", { id, limit: 1 }, 0, (answer) => answer.data[0] ?? null);
  const models = useData("/gateway/models");
  const call = row ?? loaded.data;
  const title = call ? html`<${Chip} tone=${statusTone(call)}>${statusText(call)}<//> ${call.method ?? call.operation}` : "Call";
  const actions = call && html`
    <${CopyButton} text=${curlOf(call)} label="A request like this one, without its text">Copy as curl<//>
    ${playable(call) && html`<${Link} class="button" title="Open in the playground" to=${href("playground", { model: call.model_asked ?? call.model, method: call.method })}>Playground<//>`}
    <${CopyButton} text=${location.origin + href(`calls/${call.id}`)} label="Copy the link">Copy link<//>
    <${CopyButton} text=${JSON.stringify(call, null, 2)} label="Copy the row">Copy JSON<//>`;
  return html`<${Drawer} title=${title} onClose=${onClose} actions=${actions} follows>
    ${call ? html`<${CallBody} call=${call} prices=${models.data} />`
      : loaded.error ? html`<${Failure} error=${loaded.error} retry=${loaded.reload} />`
      : loaded.loading ? html`<${Loading} />`
      : html`<${Empty} title="There is no such call">Its row may be older than the ledger keeps rows, or belong to another key.<//>`}
  <//>`;
}

/** @param {{call: any, prices: any}} props */
function CallBody({ call, prices }) {
  const teams = useData(call.team_id && mayRead.value ? "/team/list" : null);
  return html`
    <p class="sentence">${call.sentence}</p>
    ${call.fault && html`<p><${Chip} tone="bad">${call.fault}<//> ${call.error && html`<code>${call.error}</code>`}</p>`}
    <section><h3>Time</h3><${Timeline} call=${call} /></section>
    <section><h3>Cost</h3><${CostTable} call=${call} prices=${prices} /></section>
    ${call.notes.length > 0 && html`<section><h3>Notes</h3><ul class="notes">${call.notes.map((/** @type {string} */ note) => html`<li key=${note}>${note}</li>`)}</ul></section>`}
    ${call.has_body && mayWrite.value && html`<${Bodies} id=${call.id} />`}
    <section><h3>Who and what</h3><${Facts} rows=${[
      ["Time", html`<${Time} at=${call.time} />`],
      ["Key", call.key_id && mayRead.value ? html`<${Link} to=${href(`keys/${call.key_id}`)}>${call.key_alias ?? call.key_id}<//>` : call.key_alias ?? call.key_id],
      ["Team", call.team_id && (mayRead.value ? html`<${Link} to=${href("teams/" + encodeURIComponent(call.team_id))}>${teamName(teams.data, call.team_id)}<//>` : call.team_id)],
      ["Owner", call.user_id],
      ["End user", call.end_user && html`<${Link} to=${href("calls", { end_user: call.end_user })}>${call.end_user}<//>`],
      ["Tags", call.tags.join(", ")],
      ["Model", call.model && (call.model_asked && call.model_asked !== call.model ? `${call.model_asked} → ${call.model}` : call.model)],
      ["About", call.object],
      ["API", `${DOORS[call.door] ?? call.door}${call.streamed ? ", streamed" : ""}`],
      ["Outcome", `${call.outcome}, ${call.decision}`],
      ["Cache", call.cache && (call.saved_nanodollars ? `${call.cache}, saved ${costText(call.saved_nanodollars)}` : call.cache)],
      ["Bytes", `${countText(call.bytes.received)} in, ${countText(call.bytes.sent)} out`],
      ["Address", call.address],
    ]} /></section>
    <section><h3>Ids</h3><${Facts} rows=${[
      ["Call", html`<${Id} text=${call.id} of="call" />`],
      ["Request", html`<${Id} text=${call.request_id} of="request" />`],
      ...call.attempts.filter((/** @type {any} */ one) => one.trace_id).map((/** @type {any} */ one, /** @type {number} */ index) => [`Cohere's trace ${call.attempts.length > 1 ? index + 1 : ""}`, html`<${Id} text=${one.trace_id} of="attempt" />`]),
    ]} /></section>`;
}

/** What was sent and answered, where policy has it stored; loaded when somebody asks for it. @param {{id: string}} props */
function Bodies({ id }) {
  const [open, setOpen] = useState(false);
  const loaded = useData(open ? `/audit/${id}/body` : null);
  if (!open) return html`<section><h3>Bodies</h3><button onClick=${() => setOpen(true)}>Show what was sent and answered</button></section>`;
  return html`<section><h3>Bodies</h3><${Show} of=${loaded}>${(/** @type {any} */ bodies) => ["request", "response"].map((name) => bodies[name] && html`<div class="body" key=${name}>
    <p class="muted small">${name}, ${bodies[name].type}, ${countText(bodies[name].bytes)} bytes${bodies[name].truncated ? ", cut" : ""}</p>
    ${bodies[name].text && html`<${Code} code=${indented(bodies[name].text)} />`}</div>`)}<//></section>`;
}

/** JSON with a field a line; any other text as it is. @param {string} text */
function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** @param {{text: string, of: string}} props of: what it is the id of */
function Id({ text, of }) {
  return html`<span class="id"><code>${text}</code><${CopyButton} text=${text} label=${`Copy the id of the ${of}`} /></span>`;
}

/** What was billed, by unit. @param {{call: any, prices: any}} props */
function CostTable({ call, prices }) {
  const units = Object.entries(call.units).filter(([, count]) => count);
  const price = prices?.data.find((/** @type {any} */ model) => model.id === call.model)?.price ?? {};
  const stale = prices && call.price_version && prices.price_version !== call.price_version;
  const facts = html`<p class="muted small">${countText(call.tokens.input)} tokens in${call.tokens.cached ? `, ${countText(call.tokens.cached)} of them cached` : ""}; ${countText(call.tokens.output)} out${call.tokens.thinking ? `, ${countText(call.tokens.thinking)} of them thinking` : ""}${call.estimated ? "; estimated, since Cohere never reported them" : ""}.</p>`;
  if (!units.length) return html`<p><${Cost} nano=${call.cost_nanodollars} /> ${call.cost_nanodollars === 0 && html`<span class="muted">nothing was billed</span>`}</p>${call.cost_nanodollars !== 0 && facts}`;
  return html`<table class="units"><tbody>${units.map(([unit, count]) => {
    const [name, per] = PRICES[unit] ?? ["", 1];
    const each = price[name];
    return html`<tr key=${unit}><td>${unit.replaceAll("_", " ")}</td><td class="number">${countText(/** @type {number} */ (count))}</td><td class="number muted">${!prices ? "…" : each === undefined ? "no price" : `$${each}${per === 1e6 ? " / M" : ""}`}</td><td class="number">${each === undefined || stale ? "" : html`<${Cost} dollars=${(each * Number(count)) / per} />`}</td></tr>`;
  })}<tr class="sum"><td>In all</td><td></td><td></td><td class="number"><${Cost} nano=${call.cost_nanodollars} /></td></tr></tbody></table>
  ${stale && html`<p class="muted small">The prices have changed since then: the sum is that of then.</p>`}${facts}`;
}

/** @param {any} call */
function playable(call) {
  return /^(v2\.)?(chat|embed|rerank)$/.test(call.method ?? "");
}

/** A curl for a call like this one. What was written in it is not stored, so its place is held. @param {any} call */
function curlOf(call) {
  const model = call.model_asked ?? call.model ?? "command-a-03-2025";
  /** @type {Record<string, [string, any]>} */
  const bodies = {
    embeddings: ["/v1/embeddings", { model, input: ["..."] }],
    rerank: ["/v1/rerank", { model, query: "...", documents: ["..."] }],
    responses: ["/v1/responses", { model, input: "..." }],
    chat: ["/v1/chat/completions", { model, messages: [{ role: "user", content: "..." }], ...(call.streamed ? { stream: true } : {}) }],
  };
  const [path, body] = bodies[call.operation] ?? bodies.chat;
  const user = call.end_user ? ` \\\n  -H ${shellQuoted(`x-litellm-end-user-id: ${call.end_user}`)}` : "";
  return `curl ${location.origin}${path} \\\n  -H "Authorization: Bearer $GATEWAY_KEY" \\\n  -H 'Content-Type: application/json'${user} \\\n  -d ${shellQuoted(JSON.stringify(body))}`;
}
