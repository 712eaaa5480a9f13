/** Calls: each one that came, newest first, with what became of it and why. */
import { countText, durationText, localTime, timeText, utcOf } from "../scripts/format.mjs";
import { html, useState } from "../scripts/html.mjs";
import { Search, Segments } from "../scripts/form.mjs";
import { FeedFoot, FeedHead, useFeed } from "../scripts/feed.mjs";
import { Icon } from "../scripts/icons.mjs";
import { Chip, Cost, PageHead, Time } from "../scripts/parts.mjs";
import { Link, href, navigate, route, setQuery } from "../scripts/router.mjs";
import { seesAll } from "../scripts/session.mjs";
import { Empty, Failure, Loading } from "../scripts/states.mjs";
import { Table } from "../scripts/table.mjs";
import { CallDrawer, statusText, statusTone } from "./call_drawer.mjs";
import { ExportLinks } from "./export_links.mjs";

/** Filters of the URL that go to the ledger as they are. */
const FILTERS = ["key", "team", "user", "end_user", "method", "model", "status", "fault", "min_cost", "slower_than", "notes", "tag", "metadata", "text", "request_id", "since", "until"];

/** @type {[string, string][]} */
const OUTCOMES = [["", "All"], ["2xx", "2xx"], ["4xx", "4xx"], ["5xx", "5xx"], ["failed", "Failed"]];

/** Filters behind "More". @type {[string, string, string][]} */
const FIELDS = [
  ["key", "Key", "alias or id"], ["team", "Team", "name or id"], ["end_user", "End user", "as the request names it"], ["model", "Model", "command-a-03-2025"],
  ["method", "Method", "v2.chat"], ["fault", "Fault", "any, provider_timeout …"], ["min_cost", "Cost, at least", "USD"], ["slower_than", "Slower than", "ms"],
  ["request_id", "Request id", "req_…"], ["tag", "Tag", "nightly"], ["metadata", "Metadata", "project=apollo"],
];

/** Times, typed in the reader's zone. @type {[string, string][]} */
const TIMES = [["since", "From"], ["until", "To"]];

/** @type {import("../scripts/table.mjs").Column<any>[]} */
const COLUMNS = [
  { title: "Time", width: "8.4rem", cell: (call) => html`<${Time} at=${call.time} />` },
  { title: "Status", width: "6rem", cell: (call) => html`<${Chip} tone=${statusTone(call)} title=${call.fault ?? call.outcome}>${statusText(call)}<//>` },
  { title: "Key", cell: (call) => html`<span class="truncate" title=${call.key_alias ?? call.key_id}>${call.key_alias ?? call.key_id ?? "–"}</span>` },
  { title: "End user", hide: true, cell: (call) => html`<span class="truncate" title=${call.end_user}>${call.end_user}</span>` },
  { title: "Method", width: "6.6rem", hide: true, cell: (call) => call.method ?? call.operation },
  { title: "Model", width: "17%", hide: true, cell: (call) => html`<${ModelOf} call=${call} />` },
  { title: "In", width: "4.7rem", number: true, hide: true, cell: (call) => tokens(call.tokens.input) },
  { title: "Out", width: "4.2rem", number: true, hide: true, cell: (call) => tokens(call.tokens.output) },
  { title: "Cost", width: "8rem", number: true, tiny: true, cell: (call) => (call.cost_nanodollars === 0 ? html`<span class="muted">–</span>` : html`<${Cost} nano=${call.cost_nanodollars} />`) },
  { title: "Took", width: "5rem", number: true, tiny: true, cell: (call) => durationText(call.total_ms) },
  { title: "First token", width: "6.2rem", number: true, hide: true, minor: true, cell: (call) => durationText(call.ttft_ms) },
  { title: "Notes", width: "4.8rem", number: true, hide: true, cell: (call) => html`${call.cache === "hit" && html`<${Chip} tone="accent">cache<//> `}${call.attempts.length > 1 && html`<${Chip} tone="warn" title="Attempts">${call.attempts.length}×<//> `}${call.notes.length > 0 && html`<span title=${call.notes.join("\n")}>${call.notes.length}</span>`}` },
];

export default function Calls() {
  const { query, path } = route.value;
  const id = path.split("/")[1] ?? "";
  const filters = { kind: "call", ...Object.fromEntries(FILTERS.filter((name) => query[name]).map((name) => [name, query[name]])) };
  const feed = useFeed(filters, !query.until);
  const [more, setMore] = useState(false);
  // A stream that was cut has the status 200, so what failed is no matter of the status.
  const choose = (/** @type {string} */ outcome) => setQuery(outcome === "failed" ? { status: null, fault: "any" } : { status: outcome, fault: query.fault === "any" ? null : query.fault });
  const names = Object.keys(filters).filter((name) => name !== "kind");
  const hidden = names.filter((name) => !["text", "status"].includes(name) && !(["notes", "fault"].includes(name) && query[name] === "any"));
  const row = id ? feed.rows.find((one) => one.id === id) : undefined;

  return html`
    <${PageHead} title="Calls" subtitle=${seesAll.value ? "Each call at either API, whatever became of it." : "Each call of your key, whatever became of it."}>
      <${ExportLinks} filters=${filters} />
    <//>
    <div class="filters">
      <${Search} placeholder="Search in the sentences" value=${query.text ?? ""} onInput=${(/** @type {string} */ text) => setQuery({ text })} />
      <${Segments} label="Outcome" value=${query.fault === "any" ? "failed" : query.status ?? ""} onInput=${choose} options=${OUTCOMES.map(([value, text]) => ({ value, text }))} />
      <label class="check"><input type="checkbox" checked=${query.notes === "any"} onChange=${(/** @type {any} */ event) => setQuery({ notes: event.target.checked ? "any" : null })} /> With notes</label>
      <button aria-expanded=${more} onClick=${() => setMore(!more)}>Filters${hidden.length ? ` (${hidden.length})` : ""}<${Icon} name="down" /></button>
      ${names.length > 0 && html`<${Link} class="button" to=${href("calls")}>Clear<//>`}
      ${hidden.map((name) => html`<span class="chip accent" key=${name}><span class="truncate" title=${query[name]}>${name.replace("_", " ")}: ${chipText(name, query[name])}</span> <button class="chip-button" aria-label=${`Remove the filter ${name}`} onClick=${() => setQuery({ [name]: null })}>×</button></span>`)}
    </div>
    ${more && html`<div class="card filter-fields"><div class="form-grid">${FIELDS.filter(([name]) => seesAll.value || !["key", "team"].includes(name)).map(([name, label, hint]) => html`<label class="field" key=${name}><span>${label}</span>
      <input value=${query[name] ?? ""} placeholder=${hint} onChange=${(/** @type {any} */ event) => setQuery({ [name]: event.target.value.trim() })} /></label>`)}
      ${TIMES.map(([name, label]) => html`<label class="field" key=${name}><span>${label}</span>
      <input type="datetime-local" value=${localTime(query[name])} onChange=${(/** @type {any} */ event) => setQuery({ [name]: utcOf(event.target.value) })} /></label>`)}</div></div>`}
    <${FeedHead} feed=${feed} />
    ${feed.error && html`<${Failure} error=${feed.error} retry=${feed.reload} />`}
    ${feed.loading || (feed.searching && !feed.rows.length) ? html`<${Loading} lines=${8} />` : feed.rows.length ? html`
      <${Table} fixed more=${feed.more} caption="Calls" rows=${feed.rows} columns=${COLUMNS} id=${(/** @type {any} */ call) => call.id} selected=${id} onOpen=${(/** @type {any} */ call) => navigate(href(`calls/${call.id}`, query), Boolean(id))} />
      <${FeedFoot} feed=${feed} older="Older calls" />`
    : !feed.error && (names.length ? html`<${Empty} title="No call is like that">${feed.more ? html`None among the latest ones. <button onClick=${feed.older} disabled=${feed.searching}>Look further back</button>` : html`<${Link} to=${href("calls")}>Show all calls<//>`}<//>`
      : html`<${Empty} title="No calls yet" icon="calls">The first one appears here a moment after it was answered. <${Link} to=${href("start")}>How to make it<//><//>`)}
    ${id && !feed.loading && html`<${CallDrawer} id=${id} row=${row} onClose=${() => navigate(href("calls", query))} />`}`;
}

/** The model that was asked for and, where it is another, the one that was used. @param {{call: any}} props */
function ModelOf({ call }) {
  const asked = (call.model_asked ?? "").replace(/^cohere\//, "");
  if (!call.model || asked === call.model || !asked) return html`<span class="truncate">${call.model ?? asked}</span>`;
  return html`<span class="truncate" title=${`${call.model_asked} → ${call.model}`}><span class="muted">${asked} → </span>${call.model}</span>`;
}

/** A filter in words. @param {string} name @param {string} value */
function chipText(name, value) {
  return (name === "since" || name === "until") && localTime(value) ? timeText(value) : value;
}

/** @param {number} count */
function tokens(count) {
  return count ? countText(count) : html`<span class="muted">–</span>`;
}
