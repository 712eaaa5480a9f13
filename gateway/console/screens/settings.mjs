/** Settings in force, each with where it is set; read only. Of a secret it is said whether there is one. */
import { useData } from "../scripts/api.mjs";
import { html } from "../scripts/html.mjs";
import { Search, Segments } from "../scripts/form.mjs";
import { countText } from "../scripts/format.mjs";
import { Chip, PageHead } from "../scripts/parts.mjs";
import { route, setQuery } from "../scripts/router.mjs";
import { Empty, Show } from "../scripts/states.mjs";
import { Table } from "../scripts/table.mjs";
import { shown } from "./record_form.mjs";

export default function SettingsScreen() {
  const { query } = route.value;
  const settings = useData("/gateway/settings");
  const search = (query.search ?? "").toLowerCase();
  const rows = (settings.data?.data ?? []).filter((/** @type {any} */ one) => (query.show !== "set" || one.origin.kind !== "default") && (query.show !== "changed" || !one.is_default) && (!search || `${one.name} ${one.about} ${one.environment.join(" ")} ${one.origin.name}`.toLowerCase().includes(search)));
  const columns = [
    { title: "Setting", cell: (/** @type {any} */ one) => html`<div class="two-lines"><code class="setting">${one.name}</code><code class="muted">${one.environment.join(", ")}</code><span class="only-narrow muted small">${withCode(one.about)}</span></div>` },
    { title: "Value", cell: (/** @type {any} */ one) => html`<span class=${one.is_default ? "muted value" : "value"}>${shown(one.value)}</span>${one.origin.kind !== "default" && html`<div class="only-tiny"><${OriginOf} origin=${one.origin} /></div>`}` },
    { title: "From", tiny: true, cell: (/** @type {any} */ one) => html`<${OriginOf} origin=${one.origin} />` },
    { title: "Meaning", wide: true, hide: true, cell: (/** @type {any} */ one) => withCode(one.about) },
  ];
  return html`
    <${PageHead} title="Settings" subtitle="What is in force now. They are changed in gateway.toml, in the environment or on the command line, not here." />
    <div class="filters">
      <${Search} placeholder="Search by name or meaning" value=${query.search ?? ""} onInput=${(/** @type {string} */ text) => setQuery({ search: text })} />
      <${Segments} label="Which" value=${query.show ?? ""} onInput=${(/** @type {string} */ value) => setQuery({ show: value })} options=${[{ value: "", text: "All" }, { value: "set", text: "Set" }, { value: "changed", text: "Not the default" }]} />
    </div>
    <${Show} of=${settings} lines=${8}>${() => rows.length
      ? html`<${Table} caption="Settings" rows=${rows} columns=${columns} id=${(/** @type {any} */ one) => one.name} /><div class="table-foot"><span>${countText(rows.length)} settings</span></div>`
      : !search ? html`<${Empty} title=${query.show === "set" ? "Nothing is set" : "All are the defaults"} icon="settings">Every setting has its default.<//>`
      : html`<${Empty} title="No setting is like that" icon="settings">Names are those of the file gateway.toml.<//>`}<//>`;
}

/** What stands between backticks is code. @param {string} text */
function withCode(text) {
  return text.split("`").map((part, index) => (index % 2 ? html`<code key=${index}>${part}</code>` : part));
}

/** Words for where a setting comes from. @type {Record<string, string>} */
const KINDS = { default: "default", file: "file", environment: "environment", command_line: "command line", start: "chosen at start" };

/** @param {{origin: {kind: string, name: string, over: string[]}}} props over: what this one beats */
function OriginOf({ origin }) {
  return html`<${Chip} tone=${origin.kind === "default" ? "" : "accent"}>${KINDS[origin.kind] ?? origin.kind}<//>
    ${origin.name && html`<div class="muted origin"><code>${origin.name}</code></div>`}
    ${origin.over.map((one) => html`<div class="muted origin" key=${one}>wins over <code>${one}</code></div>`)}`;
}
