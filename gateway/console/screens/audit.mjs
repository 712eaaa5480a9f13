/** Audit: who changed which key, team or end user, with the record before and after, and all calls beside it. */
import { useData } from "../scripts/api.mjs";
import { html } from "../scripts/html.mjs";
import { Drawer } from "../scripts/drawer.mjs";
import { Search, Segments } from "../scripts/form.mjs";
import { FeedFoot, FeedHead, useFeed } from "../scripts/feed.mjs";
import { Chip, CopyButton, Facts, PageHead, Time } from "../scripts/parts.mjs";
import { Link, href, navigate, route, setQuery } from "../scripts/router.mjs";
import { Empty, Failure, Loading } from "../scripts/states.mjs";
import { Table } from "../scripts/table.mjs";
import { ExportLinks } from "./export_links.mjs";
import { shown } from "./record_form.mjs";

const PASSED_ON = ["text", "since", "until", "key"];

/** @type {import("../scripts/table.mjs").Column<any>[]} */
const COLUMNS = [
  { title: "Time", width: "9rem", cell: (one) => html`<${Time} at=${one.time} />` },
  { title: "What happened", wide: true, cell: (one) => html`<span class="clamped" title=${one.sentence}>${one.sentence}</span>` },
  { title: "Who", width: "13%", hide: true, cell: (one) => html`<span class="truncate" title=${one.key_alias}>${one.key_alias}</span>` },
  { title: "From", width: "8.5rem", hide: true, minor: true, cell: (one) => one.address },
];

export default function Audit() {
  const { query, path } = route.value;
  const id = decodeURIComponent(path.split("/")[1] ?? "");
  const kind = query.kind ?? "change";
  const filters = { ...(kind === "all" ? {} : { kind }), ...Object.fromEntries(PASSED_ON.filter((name) => query[name]).map((name) => [name, query[name]])) };
  const feed = useFeed(filters, true);
  const listed = id ? feed.rows.find((one) => one.id === id) : undefined;
  // One that is older than those that are listed is read by itself.
  const loaded = useData(id && !feed.loading && !listed ? "/audit" : null, { id, limit: 1 }, 0, (answer) => answer.data[0] ?? null);
  const row = listed ?? loaded.data;
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
    <${FeedHead} feed=${feed} />
    ${feed.error && html`<${Failure} error=${feed.error} retry=${feed.reload} />`}
    ${feed.loading || (feed.searching && !feed.rows.length) ? html`<${Loading} lines=${6} />` : feed.rows.length ? html`
      <${Table} fixed more=${feed.more} caption="Audit" rows=${feed.rows} columns=${COLUMNS} id=${(/** @type {any} */ one) => one.id} selected=${id} onOpen=${open} />
      <${FeedFoot} feed=${feed} />`
    : !feed.error && html`<${Empty} title="Nothing happened yet" icon="audit">Changes of keys, teams and end users appear here.<//>`}
    ${id && !row && !feed.loading && !loaded.loading && html`<${Drawer} title="Change" follows onClose=${() => navigate(href("audit", query))}>${loaded.error ? html`<${Failure} error=${loaded.error} retry=${loaded.reload} />` : html`<${Empty} title="There is no such change">Its row may be older than the ledger keeps rows.<//>`}<//>`}
    ${row && html`<${Drawer} title="Change" follows onClose=${() => navigate(href("audit", query))} actions=${html`<${CopyButton} text=${JSON.stringify(row, null, 2)} label="Copy the row">Copy JSON<//>`}>
      <p class="sentence">${row.sentence}</p>
      <${Facts} rows=${[["Time", html`<${Time} at=${row.time} />`], ["Who", row.key_alias], ["From", row.address], ["Action", html`<${Chip}>${row.action}<//>`], ["Of", html`<${ObjectOf} row=${row} />`]]} />
      <section><h3>Before and after</h3><${Difference} before=${row.before ?? {}} after=${row.after ?? {}} /></section>
    <//>`}`;
}

/** What each change changes, and the row above it says. */
const KEPT_ASIDE = ["created_at", "created_by", "updated_at", "updated_by", "revision", "digest"];

/** Where the records of a kind are shown. @type {Record<string, string>} */
const SCREENS = { key: "keys", team: "teams", end_user: "end-users" };

/** What was changed, by the name that it had. @param {{row: any}} props */
function ObjectOf({ row }) {
  const { kind, id } = row.object;
  const record = row.after ?? row.before ?? {};
  const name = record.key_alias || record.team_alias || record.alias || id;
  const text = html`${kind.replace("_", " ")} ${name}`;
  return SCREENS[kind] && row.after ? html`<${Link} to=${href(`${SCREENS[kind]}/${encodeURIComponent(id)}`)}>${text}<//>` : text;
}

/** The fields that differ. @param {{before: any, after: any}} props */
function Difference({ before, after }) {
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])].filter((name) => !KEPT_ASIDE.includes(name) && JSON.stringify(before[name]) !== JSON.stringify(after[name]));
  if (!names.length) return html`<p class="muted">Nothing differs.</p>`;
  return html`<div class="changes"><ul>${names.map((name) => html`<li key=${name}><code>${name}</code> <del>${shown(before[name])}</del> → <ins>${shown(after[name])}</ins></li>`)}</ul></div>`;
}
