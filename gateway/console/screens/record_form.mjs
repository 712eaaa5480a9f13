/**
 * The form of keys, teams and end users. It sends what was changed and nothing else, and shows that before it does:
 * what is left out keeps, null clears. An error of the gateway's stands at the field that it names.
 */
import { html, useLayoutEffect, useRef, useState } from "../scripts/html.mjs";
import { SelectField, TextField } from "../scripts/form.mjs";
import { permissionSentence } from "../scripts/permissions.mjs";
import { isMaster } from "../scripts/session.mjs";
import { sessionOver } from "../scripts/api.mjs";
import { Failure } from "../scripts/states.mjs";
import { PermissionEditor } from "./permission_editor.mjs";

/** @typedef {"key" | "team" | "end_user"} Kind */

/**
 * How a field is typed and read. kinds: of records that have it.
 * @type {Record<string, {read: (text: string) => any, write: (value: any) => string}>}
 */
const TYPES = {
  text: { read: (text) => text.trim() || null, write: (value) => value ?? "" },
  number: { read: (text) => (text.trim() === "" ? null : Number.isNaN(Number(text)) ? text : Number(text)), write: (value) => (value === null || value === undefined ? "" : String(value)) },
  list: { read: (text) => text.split(/[,\n]/).map((one) => one.trim()).filter(Boolean), write: (value) => (value ?? []).join(", ") },
};

/** @type {Record<string, "text" | "number" | "list">} */
const FIELDS = {
  key_alias: "text", team_alias: "text", alias: "text", user_id: "text", team_id: "text", role: "text", models: "list", tags: "list", allowed_ips: "list",
  rpm_limit: "number", tpm_limit: "number", max_parallel_requests: "number", max_budget: "number", soft_budget: "number", budget_duration: "text", duration: "text", safety_mode: "text",
};

const EMPTY_IS_NULL = ["budget_duration", "safety_mode", "team_id", "key_alias", "team_alias", "alias"];

/**
 * @param {{kind: Kind, record: any, isNew: boolean, catalog: any, teams?: any[], models?: string[], onSave: (changes: Record<string, any>) => Promise<any>, onClose: () => void}} props
 */
export function RecordForm({ kind, record, isNew, catalog, teams = [], models = [], onSave, onClose }) {
  const initial = /** @type {Record<string, string>} */ ({});
  for (const [name, type] of Object.entries(FIELDS)) initial[name] = TYPES[type].write(record[name]);
  const [texts, setTexts] = useState(initial);
  const [permissions, setPermissions] = useState(record.permissions ?? null);
  const [error, setError] = useState(/** @type {any} */ (null));
  const [busy, setBusy] = useState(false);

  const form = useRef(/** @type {HTMLFormElement | null} */ (null));
  // The form is longer than the page: what is wrong comes into view.
  useLayoutEffect(() => {
    if (!error) return;
    const field = /** @type {HTMLElement | null} */ (form.current?.querySelector('[aria-invalid="true"]'));
    if (field) field.focus();
    else form.current?.querySelector(".failure, .permissions .error-text")?.scrollIntoView({ block: "center" });
  }, [error]);

  const changes = changesOf(record, initial, texts, permissions);
  const values = Object.fromEntries(Object.entries(FIELDS).map(([name, type]) => [name, TYPES[type].read(texts[name])]));
  /** @param {string} name */
  const errorAt = (name) => (error && (error.param === name || error.param?.startsWith(`${name}[`) || error.param?.startsWith(`${name}.`)) ? error.message : "");
  /** @param {string} name @param {string} label @param {Record<string, any>} [rest] */
  const field = (name, label, rest = {}) => html`<${TextField} label=${label} value=${texts[name]} error=${errorAt(name)} onInput=${(/** @type {string} */ text) => setTexts({ ...texts, [name]: text })} ...${rest} />`;
  /** @param {SubmitEvent} event */
  const submit = async (event) => {
    event.preventDefault();
    if (busy) return;
    setBusy(true);
    setError(null);
    try {
      await onSave(changes);
    } catch (failed) {
      setBusy(false);
      // For want of a session the page asks for a key; then this is tried again.
      if (!sessionOver.value) setError(failed);
    }
  };
  /** Whether there is a field at which an error of this one stands. @param {string} name */
  const shownAt = (name) => (Object.hasOwn(FIELDS, name?.split(/[[.]/)[0]) || name?.startsWith("permissions")) && !(kind === "end_user" && /^(models|permissions|tags|allowed_ips|safety_mode)/.test(name));
  const rights = kind !== "end_user";
  return html`<form class="stack" ref=${form} onSubmit=${submit}>
    <div class="form-grid">
      ${kind === "key" && field("key_alias", "Alias", { hint: "A name for tables and reports", autofocus: isNew })}
      ${kind === "team" && field("team_alias", "Name", { autofocus: isNew })}
      ${kind === "team" && isNew && field("team_id", "Id", { hint: "Empty: the gateway makes one" })}
      ${kind === "end_user" && isNew && field("user_id", "User", { hint: "As requests name it, in user or safety_identifier", required: true, autofocus: true })}
      ${kind === "end_user" && field("alias", "Name")}
      ${kind === "key" && html`<${SelectField} label="Team" value=${texts.team_id} error=${errorAt("team_id")} onInput=${(/** @type {string} */ id) => setTexts({ ...texts, team_id: id })} hint="Bounds what the key may do"
        options=${[["", "none"], ...(texts.team_id && !teams.some((team) => team.team_id === texts.team_id) ? [[texts.team_id, texts.team_id]] : []), ...teams.map((team) => [team.team_id, team.team_alias || team.team_id])]} />`}
      ${kind === "key" && field("user_id", "Owner", { hint: "A label: whose key it is" })}
      ${kind === "key" && field("duration", isNew ? "Expires after" : "Expires after, from now", { hint: isNew ? "Such as 30d or 12h; empty for never" : "Such as 30d; -1 for never; empty keeps it", placeholder: isNew ? "never" : "" })}
      ${kind === "key" && isMaster.value && html`<${SelectField} label="Role" value=${texts.role} error=${errorAt("role")} onInput=${(/** @type {string} */ role) => setTexts({ ...texts, role })} hint="What it may manage here" options=${[["", "none: calls only"], ["viewer", "viewer: reads everything"], ["admin", "admin: manages keys"]]} />`}
    </div>
    ${rights && html`<section><h3>What it may do</h3>
      <p class="sentence">${permissionSentence(catalog, { ...record, ...values, models: values.models, permissions })}</p>
      <${PermissionEditor} catalog=${catalog} value=${permissions} onInput=${setPermissions} error=${errorAt("permissions")} inherits=${kind === "key" && texts.team_id ? "as its team" : "default"} />
      <div class="form-grid">
        ${field("models", "Models", { hint: "Names and globs such as command-*; empty: all", list: models })}
        <${SelectField} label="Safety mode, at least" value=${texts.safety_mode} error=${errorAt("safety_mode")} onInput=${(/** @type {string} */ mode) => setTexts({ ...texts, safety_mode: mode })} hint="A weaker one is raised" options=${[["", "as requests ask"], ["CONTEXTUAL", "contextual"], ["STRICT", "strict"]]} />
      </div>
    </section>`}
    <section><h3>Limits</h3><div class="form-grid">
      ${field("rpm_limit", "Requests", { unit: "a minute" })}
      ${field("tpm_limit", "Tokens", { unit: "a minute" })}
      ${field("max_parallel_requests", "Requests at once")}
    </div></section>
    <section><h3>Budget</h3><div class="form-grid">
      ${field("max_budget", "Spends at most", { unit: "USD" })}
      ${field("budget_duration", "Renewed every", { placeholder: "never", hint: "1h, 1d, 7d, 1mo …, on the UTC calendar", list: ["1h", "1d", "7d", "1mo"] })}
      ${field("soft_budget", "Alert from", { unit: "USD" })}
    </div></section>
    ${rights && html`<section><h3>More</h3><div class="form-grid">
      ${field("allowed_ips", "Addresses that may call", { placeholder: "any", hint: "10.0.0.0/8, 192.0.2.7 …" })}
      ${field("tags", "Tags", { hint: "Labels for reports" })}
    </div></section>`}
    ${!isNew && html`<${Changes} record=${record} changes=${changes} />`}
    ${error && !shownAt(error.param) && html`<${Failure} error=${error} />`}
    <div class="buttons end"><button type="button" onClick=${onClose}>Cancel</button>
      <button class="primary" aria-disabled=${busy ? "true" : undefined} disabled=${!isNew && !Object.keys(changes).length}>${isNew ? "Create" : "Save"}</button></div>
  </form>`;
}

/** What is sent: the fields that have another value than before. @param {any} record @param {Record<string, string>} initial @param {Record<string, string>} texts @param {any} permissions */
function changesOf(record, initial, texts, permissions) {
  /** @type {Record<string, any>} */
  const changes = {};
  for (const [name, type] of Object.entries(FIELDS)) {
    if (texts[name] === initial[name]) continue;
    const value = TYPES[type].read(texts[name]);
    changes[name] = value === null && !EMPTY_IS_NULL.includes(name) && type === "text" ? (name === "role" ? "" : null) : value;
    if (name === "duration" && value === null) delete changes[name];
  }
  if (JSON.stringify(permissions) !== JSON.stringify(record.permissions ?? null)) changes.permissions = permissions;
  return changes;
}

/** The difference, before it is saved. @param {{record: any, changes: Record<string, any>}} props */
function Changes({ record, changes }) {
  const names = Object.keys(changes);
  if (!names.length) return html`<p class="muted small">Nothing is changed.</p>`;
  return html`<section class="changes" aria-live="polite"><h3>This will change</h3><ul>${names.map((name) => html`<li key=${name}><code>${name}</code> <del>${shown(record[name])}</del> → <ins>${shown(changes[name])}</ins></li>`)}</ul></section>`;
}

/** @param {any} value */
export function shown(value) {
  if (value === null || value === undefined || value === "" || (Array.isArray(value) && !value.length)) return "none";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
