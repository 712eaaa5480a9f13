/** The screen of teams and of end users, which are managed alike: a list, a drawer, a form. */
import { post, useData } from "../scripts/api.mjs";
import { resetText, windowText } from "../scripts/budgets.mjs";
import { countText } from "../scripts/format.mjs";
import { html, useState } from "../scripts/html.mjs";
import { Confirm, Dialog, Drawer } from "../scripts/drawer.mjs";
import { Search } from "../scripts/form.mjs";
import { Icon } from "../scripts/icons.mjs";
import { Chip, Cost, Facts, PageHead, Time } from "../scripts/parts.mjs";
import { Link, href, navigate, route, setQuery } from "../scripts/router.mjs";
import { mayWrite } from "../scripts/session.mjs";
import { Empty, Show } from "../scripts/states.mjs";
import { Table } from "../scripts/table.mjs";
import { attempt } from "../scripts/toast.mjs";
import { BudgetOf, useSpent } from "./budget_cell.mjs";
import { modelNames } from "./keys.mjs";
import { RecordForm } from "./record_form.mjs";

/**
 * @typedef {object} Props
 * @property {"team" | "end_user"} kind @property {"team" | "end_user"} by @property {string} title @property {string} one
 * @property {string} path @property {string} icon @property {string} subtitle @property {string} list @property {string} make
 * @property {string} update @property {string} remove @property {string} block @property {string} unblock
 * @property {(row: any) => string} id @property {(row: any) => string} name
 * @property {(id: string) => any} naming @property {(id: string) => any} removing @property {(id: string) => any} [blocking]
 * @property {string} removal @property {(id: string) => any} links @property {(catalog: any, row: any) => string} [sentence]
 * @property {any[]} columns @property {any[]} after
 */

/** @param {Props} props */
export function RecordsScreen(props) {
  const { kind, title, one, path, id: idOf, name } = props;
  const { query, path: address } = route.value;
  const id = decodeURIComponent(address.split("/").slice(1).join("/"));
  const records = useData(props.list);
  const catalog = useData("/gateway/permissions");
  const models = useData("/gateway/models");
  const [asking, setAsking] = useState("");
  const all = records.data ?? [];
  const spent = useSpent(props.by, all, idOf);
  const search = (query.search ?? "").toLowerCase();
  const rows = all.filter((/** @type {any} */ row) => !search || `${idOf(row)} ${name(row)} ${row.alias ?? ""}`.toLowerCase().includes(search));
  const opened = id ? all.find((/** @type {any} */ row) => idOf(row) === id) : undefined;
  const close = () => setAsking("");
  const changed = () => { close(); records.reload(); };
  /** @param {string} to @param {any} body @param {string} done */
  const act = async (to, body, done) => { if (await attempt(() => post(to, body), done)) changed(); };
  const naming = props.blocking ?? props.naming;

  const columns = [
    { title: title.replace(/s$/, ""), cell: (/** @type {any} */ row) => html`<div class="two-lines"><strong class="truncate" title=${name(row)}>${name(row)}</strong>${name(row) !== idOf(row) && html`<code class="muted">${idOf(row)}</code>`}</div>` },
    { title: "Status", cell: (/** @type {any} */ row) => html`<${Chip} tone=${row.blocked ? "bad" : "good"}>${row.blocked ? "blocked" : "active"}<//>` },
    ...props.columns,
    { title: "Budget", tiny: true, cell: (/** @type {any} */ row) => html`<${BudgetOf} record=${row} spent=${spent.get(idOf(row))} />` },
    ...props.after,
  ];
  return html`
    <${PageHead} title=${title} subtitle=${props.subtitle}>${mayWrite.value && html`<button class="primary" onClick=${() => setAsking("new")}><${Icon} name="plus" />New ${one}</button>`}<//>
    <div class="filters"><${Search} placeholder="Search" value=${query.search ?? ""} onInput=${(/** @type {string} */ text) => setQuery({ search: text })} /></div>
    <${Show} of=${records}>${() => rows.length
      ? html`<${Table} caption=${title} rows=${rows} columns=${columns} id=${idOf} selected=${id} onOpen=${(/** @type {any} */ row) => navigate(href(`${path}/${encodeURIComponent(idOf(row))}`, query))} />
        <div class="table-foot"><span>${countText(rows.length)} ${rows.length === 1 ? one : `${one}s`}</span></div>`
      : all.length ? html`<${Empty} title=${`No ${one} is like that`}><${Link} to=${href(path)}>Show all<//><//>`
        : html`<${Empty} title=${`No ${one}s yet`} icon=${props.icon}>${props.subtitle}<//>`}<//>
    ${id && records.data && !opened && html`<${Drawer} title=${id} onClose=${() => navigate(href(path, query))}><${Empty} title=${`There is no such ${one}`}>It may have been deleted. What it did stays in Audit and Calls.<//><//>`}
    ${opened && html`<${Drawer} key=${id} title=${name(opened)} onClose=${() => navigate(href(path, query))} actions=${html`${props.links(id)}
        ${mayWrite.value && html`<button onClick=${() => setAsking("edit")}>Edit</button>
        ${opened.blocked ? html`<button onClick=${() => act(props.unblock, naming(id), `${name(opened)} may call again`)}>Unblock</button>` : html`<button onClick=${() => setAsking("block")}>Block</button>`}
        <button class="danger" onClick=${() => setAsking("delete")}>Delete</button>`}`}>
      ${props.sentence && catalog.data && html`<p class="sentence">${props.sentence(catalog.data, opened)}</p>`}
      <${Facts} rows=${[
        ["Id", html`<code>${id}</code>`],
        ["Name", opened.alias],
        ["Models", opened.models && (opened.models.length ? opened.models.join(", ") : "all")],
        ["Requests a minute", opened.rpm_limit === null ? "no limit" : countText(opened.rpm_limit)],
        ["Tokens a minute", opened.tpm_limit === null ? "no limit" : countText(opened.tpm_limit)],
        ["Requests at once", opened.max_parallel_requests === null ? "no limit" : countText(opened.max_parallel_requests)],
        ["Spent in all", html`<${Cost} dollars=${opened.total_spend} />`],
        ["Budget", opened.max_budget === null ? "none" : html`<${BudgetOf} record=${opened} spent=${spent.get(id)} /><span class="muted small">${windowText(opened.budget_duration)}; ${resetText(opened.budget_reset_at)}</span>`],
        ["Made", html`<${Time} at=${opened.created_at} /> by ${opened.created_by}`],
        ["Changed", opened.updated_at !== opened.created_at && html`<${Time} at=${opened.updated_at} /> by ${opened.updated_by}`],
      ]} />
    <//>`}
    ${asking === "new" && html`<${Dialog} title=${`New ${one}`} class="wide" keeps onClose=${close}><${Show} of=${catalog} lines=${6}>${(/** @type {any} */ known) => html`<${RecordForm} kind=${kind} isNew record=${{}} catalog=${known} models=${modelNames(models.data)} onClose=${close}
      onSave=${async (/** @type {any} */ fields) => { await post(props.make, fields); changed(); }} />`}<//><//>`}
    ${asking === "edit" && opened && html`<${Dialog} title=${`Edit ${name(opened)}`} class="wide" keeps onClose=${close}><${Show} of=${catalog} lines=${6}>${(/** @type {any} */ known) => html`<${RecordForm} kind=${kind} record=${opened} catalog=${known} models=${modelNames(models.data)} onClose=${close}
      onSave=${async (/** @type {any} */ fields) => { await post(props.update, { ...props.naming(id), ...fields }); changed(); }} />`}<//><//>`}
    ${asking === "block" && opened && html`<${Confirm} title=${`Block ${name(opened)}?`} action="Block" danger onClose=${close} onConfirm=${() => act(props.block, naming(id), `${name(opened)} is blocked`)}>Every request of theirs is refused until they are unblocked.<//>`}
    ${asking === "delete" && opened && html`<${Confirm} title=${`Delete ${name(opened)}?`} action="Delete" danger word=${name(opened)} onClose=${close} onConfirm=${async () => { if (await attempt(() => post(props.remove, props.removing(id)), `${name(opened)} is deleted`)) { changed(); navigate(href(path)); } }}>${props.removal}<//>`}`;
}
