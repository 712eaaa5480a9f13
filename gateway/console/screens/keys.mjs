/** Keys: what each may do and what it has spent; making, changing, blocking, rotating and deleting them. */
import { post, useData } from "../scripts/api.mjs";
import { countText, shortCount } from "../scripts/format.mjs";
import { html, useState } from "../scripts/html.mjs";
import { Icon } from "../scripts/icons.mjs";
import { Search } from "../scripts/form.mjs";
import { Chip, Cost, PageHead } from "../scripts/parts.mjs";
import { permissionSentence, permissionWord, teamName } from "../scripts/permissions.mjs";
import { Link, href, navigate, route, setQuery } from "../scripts/router.mjs";
import { mayWrite } from "../scripts/session.mjs";
import { Empty, Show, valueOf } from "../scripts/states.mjs";
import { Table } from "../scripts/table.mjs";
import { toast } from "../scripts/toast.mjs";
import { Dialog } from "../scripts/drawer.mjs";
import { KeyDrawer, STATUS } from "./key_drawer.mjs";
import { BudgetOf, useSpent } from "./budget_cell.mjs";
import { RecordForm } from "./record_form.mjs";
import { Secret } from "./secret.mjs";

const SIZE = 50;

export default function Keys() {
  const { query, path } = route.value;
  const id = path.split("/")[1] ?? "";
  const page = Number(query.page ?? 1);
  const asked = { return_full_object: true, size: SIZE, page, search: query.search, team_id: query.team, status: query.status, sort_by: "created_at", sort_order: "desc" };
  const keys = useData("/key/list", asked);
  const catalog = useData("/gateway/permissions");
  const teams = useData("/team/list");
  const models = useData("/gateway/models");
  const calls = useData("/usage", { by: "key", since: "720h" }, 0, (answer) => new Map(answer.data.map((/** @type {any} */ row) => [row.key, row.calls])));
  const [creating, setCreating] = useState(false);
  const [secret, setSecret] = useState(/** @type {any} */ (null));
  const spent = useSpent("key", keys.data?.keys ?? [], (row) => row.key_id);
  const reload = () => { keys.reload(); };
  const filtered = Boolean(query.search || query.team || query.status);

  /** @type {import("../scripts/table.mjs").Column<any>[]} */
  const columns = [
    { title: "Key", cell: (row) => html`<div class="two-lines"><strong class="truncate" title=${row.key_alias}>${row.key_alias || row.key_id}</strong><code class="muted">${row.key_name}</code></div>` },
    { title: "Status", cell: (row) => html`<${Status} status=${row.status} />` },
    { title: "Team", hide: true, cell: (row) => row.team_id && html`<${Link} to=${href("keys", { team: row.team_id })}><span class="truncate team">${teamName(teams.data, row.team_id)}</span><//>` },
    { title: "Permissions", tiny: true, cell: (row) => html`<span class="chips" title=${catalog.data && permissionSentence(catalog.data, row)}>${row.role && html`<${Chip} tone="accent">${row.role}<//>`}<${Chip}>${permissionWord(row.permissions, row.team_id, row.role)}<//></span>` },
    { title: "Models", hide: true, minor: true, cell: (row) => html`<span class="truncate models" title=${row.models.join(", ")}>${row.models.length ? row.models.join(", ") : "all"}</span>` },
    { title: "Spent", number: true, cell: (row) => html`<${Cost} dollars=${row.total_spend} />` },
    { title: "Budget", tiny: true, cell: (row) => html`<${BudgetOf} record=${row} spent=${spent.get(row.key_id)} />` },
    { title: "Limits a minute", hide: true, cell: (row) => limitsText(row) },
    { title: "Calls, 30 d", number: true, hide: true, cell: (row) => html`<${Link} to=${href("calls", { key: row.key_id })}>${valueOf(calls, (counts) => countText(counts.get(row.key_id) ?? 0))}<//>` },
  ];

  return html`
    <${PageHead} title="Keys" subtitle="Who may call, with which methods and models, how often, and for how much.">
      ${mayWrite.value && html`<button class="primary" onClick=${() => setCreating(true)}><${Icon} name="plus" />New key</button>`}
    <//>
    <div class="filters">
      <${Search} placeholder="Search by alias or id" value=${query.search ?? ""} onInput=${(/** @type {string} */ text) => setQuery({ search: text, page: null })} />
      <select aria-label="Status" value=${query.status ?? ""} onChange=${(/** @type {any} */ event) => setQuery({ status: event.target.value, page: null })}>
        ${[["", "Any status"], ["active", "Active"], ["revoked", "Blocked"], ["expired", "Expired"], ["deleted", "Deleted"]].map(([value, text]) => html`<option key=${value} value=${value} selected=${value === (query.status ?? "")}>${text}</option>`)}
      </select>
      <select aria-label="Team" value=${query.team ?? ""} onChange=${(/** @type {any} */ event) => setQuery({ team: event.target.value, page: null })}>
        <option value="">Any team</option>
        ${(teams.data ?? []).map((/** @type {any} */ team) => html`<option key=${team.team_id} value=${team.team_id} selected=${team.team_id === query.team}>${team.team_alias || team.team_id}</option>`)}
      </select>
    </div>
    <${Show} of=${keys} lines=${6}>${(/** @type {any} */ data) => data.keys.length
      ? html`<${Table} caption="Keys" rows=${data.keys} columns=${columns} id=${(/** @type {any} */ row) => row.key_id} selected=${id}
          onOpen=${(/** @type {any} */ row) => navigate(href(`keys/${row.key_id}`, query))} tone=${(/** @type {any} */ row) => (row.status === "active" ? "" : "faded")} />
        <${Pages} page=${page} pages=${data.total_pages} total=${data.total_count} what="key" />`
      : filtered ? html`<${Empty} title="No key is like that"><${Link} to=${href("keys")}>Show all keys<//><//>`
        : html`<${Empty} title="No keys yet" icon="key">A key calls the gateway with permissions, limits and a budget of its own.
            ${mayWrite.value && html`<p class="buttons centered"><button class="primary" onClick=${() => setCreating(true)}>Make the first key</button><${Link} class="button" to=${href("start")}>Get started<//></p>`}<//>`}<//>
    ${id && html`<${KeyDrawer} key=${id} id=${id} catalog=${catalog} teams=${teams.data ?? []} models=${modelNames(models.data)} onChange=${reload} onSecret=${setSecret} onClose=${() => navigate(href("keys", query))} />`}
    ${creating && html`<${Dialog} title="New key" class="wide" keeps onClose=${() => setCreating(false)}><${Show} of=${catalog} lines=${6}>${(/** @type {any} */ known) => html`
      <${RecordForm} kind="key" isNew record=${{ team_id: query.team }} catalog=${known} teams=${teams.data ?? []} models=${modelNames(models.data)} onClose=${() => setCreating(false)}
        onSave=${async (/** @type {any} */ fields) => {
          const made = await post("/key/generate", query.team && fields.team_id === undefined ? { team_id: query.team, ...fields } : fields);
          setCreating(false);
          setSecret({ secret: made.key, alias: made.key_alias || made.key_id });
          reload();
        }} />`}<//><//>`}
    ${secret && html`<${Secret} ...${secret} onClose=${() => { setSecret(null); toast(`${secret.alias} may call`); }} />`}`;
}

/** @param {any} data */
export function modelNames(data) {
  return (data?.data ?? []).map((/** @type {any} */ model) => model.id);
}

/** @param {number | null} limit */
function limitText(limit) {
  return limit === null || limit === undefined ? html`<span class="muted" title="No limit">–</span>` : countText(limit);
}

/** Requests and tokens, as far as they are limited. @param {{rpm_limit: number | null, tpm_limit: number | null}} record */
export function limitsText({ rpm_limit: requests, tpm_limit: tokens }) {
  const parts = [requests !== null && (requests === 1 ? "1 request" : `${shortCount(requests)} requests`), tokens !== null && `${shortCount(tokens)} tokens`].filter(Boolean);
  return parts.length ? html`<span class="digits">${parts.join(", ")}</span>` : limitText(null);
}

/** @param {{status: string}} props */
export function Status({ status }) {
  const [text, tone] = STATUS[status] ?? [status, ""];
  return html`<${Chip} tone=${tone}>${text}<//>`;
}

/** @param {{page: number, pages: number, total: number, what: string}} props */
export function Pages({ page, pages, total, what }) {
  return html`<div class="table-foot"><span>${countText(total)} ${total === 1 ? what : `${what}s`}</span>
    ${pages > 1 && html`<span class="buttons"><button disabled=${page <= 1} onClick=${() => setQuery({ page: page - 1 })}>Newer</button><span class="digits">${page} of ${pages}</span><button disabled=${page >= pages} onClick=${() => setQuery({ page: page + 1 })}>Older</button></span>`}
  </div>`;
}
