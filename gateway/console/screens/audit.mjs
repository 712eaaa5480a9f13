/** Audit: who changed which key, team or end user, with the record before and after, and all calls beside it. */
import { countText } from "../scripts/format.mjs";
import { html } from "../scripts/html.mjs";
import { Drawer } from "../scripts/drawer.mjs";
import { Search, Segments } from "../scripts/form.mjs";
import { useFeed } from "../scripts/feed.mjs";
import { Chip, CopyButton, Facts, PageHead, Time } from "../scripts/parts.mjs";
import { href, navigate, route, setQuery } from "../scripts/router.mjs";
import { Empty, Failure, Loading } from "../scripts/states.mjs";
import { Table } from "../scripts/table.mjs";
import { ExportLinks } from "./export_links.mjs";
import { shown } from "./record_form.mjs";

const PASSED_ON = ["text", "since", "until", "key"];

export default function Audit() {
  const { query, path } = route.value;
  const id = decodeURIComponent(path.split("/")[1] ?? "");
  const kind = query.kind ?? "change";
  const filters = { ...(kind === "all" ? {} : { kind }), ...Object.fromEntries(PASSED_ON.filter((name) => query[name]).map((name) => [name, query[name]])) };
  const feed = useFeed(filters, true);
  const row = id ? feed.rows.find((one) => one.id === id) : undefined;
  const columns = [
    { title: "Time", cell: (/** @type {any} */ one) => html`<${Time} at=${one.time} />` },
    { title: "What happened", wide: true, cell: (/** @type {any} */ one) => one.sentence },
    { title: "Who", hide: true, cell: (/** @type {any} */ one) => one.key_alias },
    { title: "From", hide: true, cell: (/** @type {any} */ one) => one.address },
  ];
  /** @param {any} one */
  const open = (one) => navigate(one.kind === "call" ? href(`calls/${one.id}`) : href(`audit/${encodeURIComponent(one.id)}`, query));
  return html`
    <${PageHead} title="Audit" subtitle="What happened, in sentences. A change has the record before and after, without secrets.">
      <${ExportLinks} filters=${filters} />
    <//>
    <div class="filters">
      <${Search} placeholder="Search in the sentences" value=${query.text ?? ""} onInput=${(/** @type {string} */ text) => setQuery({ text })} />
      <${Segments} label="What" value=${kind} onInput=${(/** @type {string} */ value) => setQuery({ kind: value === "change" ? null : value })} options=${[{ value: "change", text: "Changes" }, { value: "all", text: "Changes and calls" }]} />
    </div>
    <div class="feed-head" aria-live="polite">${feed.fresh && html`<button class="primary" onClick=${feed.showFresh}>${feed.fresh}</button>`}</div>
    ${feed.error && html`<${Failure} error=${feed.error} retry=${feed.reload} />`}
    ${feed.loading ? html`<${Loading} lines=${6} />` : feed.rows.length ? html`
      <${Table} caption="Audit" rows=${feed.rows} columns=${columns} id=${(/** @type {any} */ one) => one.id} selected=${id} onOpen=${open} />
      <div class="table-foot"><span>${countText(feed.rows.length)} shown</span>${feed.more && html`<button disabled=${feed.searching} onClick=${feed.older}>Older</button>`}</div>`
    : !feed.error && html`<${Empty} title="Nothing happened yet" icon="audit">Changes of keys, teams and end users appear here.<//>`}
    ${row && html`<${Drawer} title="Change" follows onClose=${() => navigate(href("audit", query))} actions=${html`<${CopyButton} text=${JSON.stringify(row, null, 2)} label="Copy the row">Copy JSON<//>`}>
      <p class="sentence">${row.sentence}</p>
      <${Facts} rows=${[["Time", html`<${Time} at=${row.time} />`], ["Who", row.key_alias], ["From", row.address], ["Action", html`<${Chip}>${row.action}<//>`], ["Of", `${row.object.kind} ${row.object.id}`]]} />
      <section><h3>Before and after</h3><${Difference} before=${row.before ?? {}} after=${row.after ?? {}} /></section>
    <//>`}`;
}

/** The fields that differ. @param {{before: any, after: any}} props */
function Difference({ before, after }) {
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])].filter((name) => JSON.stringify(before[name]) !== JSON.stringify(after[name]));
  if (!names.length) return html`<p class="muted">Nothing differs.</p>`;
  return html`<div class="changes"><ul>${names.map((name) => html`<li key=${name}><code>${name}</code> <del>${shown(before[name])}</del> → <ins>${shown(after[name])}</ins></li>`)}</ul></div>`;
}
