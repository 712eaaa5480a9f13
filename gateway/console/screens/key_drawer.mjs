/** One key: what it may do, its limits and budget, and what can be done to it. */
import { post, useData } from "../scripts/api.mjs";
import { resetText, windowText } from "../scripts/budgets.mjs";
import { countText } from "../scripts/format.mjs";
import { html, useState } from "../scripts/html.mjs";
import { Confirm, Dialog, Drawer } from "../scripts/drawer.mjs";
import { SelectField } from "../scripts/form.mjs";
import { Chip, Cost, Facts, Time } from "../scripts/parts.mjs";
import { permissionSentence, teamName } from "../scripts/permissions.mjs";
import { Link, href } from "../scripts/router.mjs";
import { mayWrite } from "../scripts/session.mjs";
import { Show, valueOf } from "../scripts/states.mjs";
import { attempt } from "../scripts/toast.mjs";
import { BudgetOf, useSpent } from "./budget_cell.mjs";
import { RecordForm } from "./record_form.mjs";

/** Words and tones for what has become of a key. @type {Record<string, [string, string]>} */
export const STATUS = { active: ["active", "good"], revoked: ["blocked", "bad"], expired: ["expired", "warn"], deleted: ["deleted", ""] };

const GRACE = [["", "at once"], ["1h", "in an hour"], ["24h", "in a day"], ["7d", "in a week"]];

/**
 * @param {{id: string, catalog: import("../scripts/api.mjs").Loaded<any>, teams: any[], models: string[], onChange: () => void, onSecret: (secret: any) => void, onClose: () => void}} props
 */
export function KeyDrawer({ id, catalog, teams, models, onChange, onSecret, onClose }) {
  const loaded = useData("/key/info", { key: id }, 0, (answer) => ({ ...answer.info, key_id: id }));
  const last = useData("/audit", { key: id, kind: "call", limit: 1 }, 0, (answer) => answer.data[0] ?? null);
  const refused = useData("/audit", { key: id, kind: "call", fault: "any", limit: 1 }, 0, (answer) => answer.data[0] ?? null);
  const [asking, setAsking] = useState("");
  const [grace, setGrace] = useState("24h");
  const key = loaded.data;
  const spent = useSpent("key", key ? [key] : [], (row) => row.key_id);
  const name = key ? key.key_alias || id : id;
  const changed = () => { setAsking(""); loaded.reload(); onChange(); };
  /** @param {string} path @param {any} body @param {string} done */
  const act = async (path, body, done) => { if (await attempt(() => post(path, body), done)) changed(); };
  const close = () => setAsking("");
  const alive = key && key.status !== "deleted";

  const actions = alive && html`
    <${Link} class="button" to=${href("calls", { key: id })}>Calls<//>
    <${Link} class="button" to=${href("usage", { key: id })}>Usage<//>
    ${mayWrite.value && html`<button onClick=${() => setAsking("edit")}>Edit</button>
      <button onClick=${() => setAsking("rotate")}>Rotate</button>
      ${key.blocked ? html`<button onClick=${() => act("/key/unblock", { key: id }, `${name} may call again`)}>Unblock</button>` : html`<button onClick=${() => setAsking("block")}>Block</button>`}
      <button class="danger" onClick=${() => setAsking("delete")}>Delete</button>`}`;

  return html`<${Drawer} title=${name} onClose=${onClose} actions=${actions}>
    <${Show} of=${loaded}>${(/** @type {any} */ data) => html`
      ${catalog.data && html`<p class="sentence">${permissionSentence(catalog.data, data)}</p>`}
      <${Facts} rows=${[
        ["Status", html`<${Chip} tone=${(STATUS[data.status] ?? ["", ""])[1]}>${(STATUS[data.status] ?? [data.status])[0]}<//>`],
        ["Key", html`<code>${data.key_name}</code>`],
        ["Id", html`<code>${id}</code>`],
        ["Role", data.role],
        ["Team", data.team_id && html`<${Link} to=${href("teams/" + encodeURIComponent(data.team_id))}>${teamName(teams, data.team_id)}<//>`],
        ["Owner", data.user_id],
        ["Models", data.models.length ? data.models.join(", ") : "all"],
        ["Aliases", Object.entries(data.aliases).map(([from, to]) => `${from} → ${to}`).join(", ")],
        ["Safety mode, at least", data.safety_mode],
        ["Addresses", data.allowed_ips?.join(", ")],
        ["Tags", data.tags.join(", ")],
      ]} />
      <section><h3>Limits and budget</h3><${Facts} rows=${[
        ["Requests a minute", limit(data.rpm_limit)],
        ["Tokens a minute", limit(data.tpm_limit)],
        ["Requests at once", limit(data.max_parallel_requests)],
        ["By model", data.model_rpm_limit && JSON.stringify(data.model_rpm_limit)],
        ["Spent in all", html`<${Cost} dollars=${data.total_spend} />`],
        ["Budget", data.max_budget === null ? "none" : html`<${BudgetOf} record=${data} spent=${spent.get(id)} /><span class="muted small">${windowText(data.budget_duration)}; ${resetText(data.budget_reset_at)}</span>`],
        ["Alert from", data.soft_budget !== null && html`<${Cost} dollars=${data.soft_budget} />`],
      ]} /></section>
      <section><h3>Life</h3><${Facts} rows=${[
        ["Last call", valueOf(last, (row) => (row ? html`<${Link} to=${href("calls/" + row.id, { key: id })}><${Time} at=${row.time} ago /><//>` : "none yet"))],
        ["Last refused", valueOf(refused, (row) => row && html`<${Link} to=${href("calls/" + row.id, { key: id, fault: "any" })}>${row.sentence}<//> <span class="muted small"><${Time} at=${row.time} ago /></span>`)],
        ["Expires", data.expires ? html`<${Time} at=${data.expires} ago />` : "never"],
        ["Made", html`<${Time} at=${data.created_at} /> by ${data.created_by}`],
        ["Changed", data.updated_at !== data.created_at && html`<${Time} at=${data.updated_at} /> by ${data.updated_by}`],
        ["Rotated", data.last_rotation_at && html`<${Time} at=${data.last_rotation_at} />, ${data.rotation_count === 1 ? "once" : `${countText(data.rotation_count)} times`}`],
        ["Old secret works until", data.previous_until && html`<${Time} at=${data.previous_until} />`],
      ]} /></section>
      ${asking === "edit" && html`<${Dialog} title=${`Edit ${name}`} class="wide" keeps onClose=${close}><${Show} of=${catalog} lines=${6}>${(/** @type {any} */ known) => html`<${RecordForm} kind="key" record=${data} catalog=${known} teams=${teams} models=${models} onClose=${close}
        onSave=${async (/** @type {any} */ fields) => { await post("/key/update", { key: id, ...fields }); changed(); }} />`}<//><//>`}`}<//>
    ${asking === "block" && html`<${Confirm} title=${`Block ${name}?`} action="Block" danger onClose=${close} onConfirm=${() => act("/key/block", { key: id }, `${name} is blocked`)}>Every request with it is refused, within two seconds on every replica. Streams that run are not cut. It can be unblocked.<//>`}
    ${asking === "delete" && html`<${Confirm} title=${`Delete ${name}?`} action="Delete" danger word=${name} onClose=${close} onConfirm=${async () => { if (await attempt(() => post("/key/delete", { keys: [id] }), `${name} is deleted`)) { onChange(); onClose(); } }}>It cannot be brought back. Its calls and what it has spent stay in the ledger.<//>`}
    ${asking === "rotate" && html`<${Confirm} title=${`Rotate ${name}?`} action="Make another secret" onClose=${close} onConfirm=${() => attempt(async () => {
        const made = await post("/key/regenerate", { key: id, ...(grace ? { grace_period: grace } : {}) });
        changed();
        onSecret({ secret: made.key, alias: name, rotated: true, grace });
      })}><p>The key stays what it is: its limits, what it has spent and its stored responses. Only its secret changes.</p>
      <${SelectField} label="The old secret stops working" value=${grace} options=${GRACE} onInput=${setGrace} /><//>`}
  <//>`;
}

/** @param {number | null} value */
function limit(value) {
  return value === null || value === undefined ? "no limit" : countText(value);
}
