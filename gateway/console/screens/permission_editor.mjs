/** The editor of permissions: a preset, or off, read or full for each group of Cohere's methods. */
import { html } from "../scripts/html.mjs";
import { Segments } from "../scripts/form.mjs";
import { exceptions, groupLevel } from "../scripts/permissions.mjs";

/**
 * @param {{catalog: import("../scripts/permissions.mjs").Catalog, value: import("../scripts/permissions.mjs").Permissions, onInput: (value: import("../scripts/permissions.mjs").Permissions) => void, inherits: string, error?: string}} props
 * inherits: what nothing at all means, such as "as its team"
 */
export function PermissionEditor({ catalog, value, onInput, inherits, error }) {
  const kind = value === null ? "" : typeof value === "string" ? value : "custom";
  const custom = value !== null && typeof value === "object";
  const presets = [{ value: "", text: inherits }, ...Object.keys(catalog.presets).map((name) => ({ value: name, text: name })), { value: "custom", text: "custom" }];
  /** All groups are named, so that what is seen is what holds, whatever the default is. */
  const asMap = () => ({
    ...Object.fromEntries(catalog.groups.map((group) => [group.name, groupLevel(catalog, value, group)])),
    ...Object.fromEntries(exceptions(catalog, value)),
  });
  /** @param {string} name */
  const choose = (name) => onInput(name === "" ? null : name === "custom" ? asMap() : name);
  /** @param {string} name @param {string} level */
  const setLevel = (name, level) => onInput({ ...asMap(), [name]: level });
  /** @param {string} name */
  const without = (name) => {
    const map = /** @type {Record<string, string>} */ ({ ...asMap() });
    delete map[name];
    onInput(map);
  };
  return html`<fieldset class="permissions">
    <legend class="visually-hidden">Permissions</legend>
    <${Segments} label="Preset" value=${kind} options=${presets} onInput=${choose} />
    <div class="permission-grid">${catalog.groups.map((group) => {
      const level = groupLevel(catalog, value, group);
      return html`<div class=${`permission ${level}`} key=${group.name} title=${group.methods.map((method) => method.name).join(", ")}>
        <span>${group.name.replace("_", " ")}</span>
        <${Segments} small label=${group.name} value=${level} onInput=${(/** @type {string} */ chosen) => setLevel(group.name, chosen)}
          options=${[{ value: "off", text: "Off" }, { value: "read", text: "Read", disabled: group.readable ? "" : "It computes an answer and keeps nothing: there is nothing to read" }, { value: "full", text: "Full" }]} />
      </div>`;
    })}</div>
    ${custom && exceptions(catalog, value).length > 0 && html`<div class="chips">${exceptions(catalog, value).map(([name, level]) => html`<span class="chip" key=${name}>${name}: ${level} <button type="button" class="chip-button" aria-label=${`Remove ${name}`} onClick=${() => without(name)}>×</button></span>`)}</div>`}
    ${error && html`<p class="error-text" role="alert">${error}</p>`}
  </fieldset>`;
}
