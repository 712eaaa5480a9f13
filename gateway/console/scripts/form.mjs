/** Fields of forms. An error of the gateway's stands at the field that it names. */
import { html, useId } from "./html.mjs";

/**
 * @param {{label: string, hint?: any, error?: string, children: (id: string, described: string) => any}} props
 */
export function Field({ label, hint, error, children }) {
  const id = useId();
  return html`<div class=${"field" + (error ? " invalid" : "")}>
    <label for=${id}>${label}</label>
    ${children(id, `${id}-hint`)}
    <p class=${error ? "error-text" : "hint"} id=${`${id}-hint`}>${error || hint}</p>
  </div>`;
}

/**
 * @param {{label: string, value: string, onInput: (value: string) => void, hint?: any, error?: string, type?: string, placeholder?: string, required?: boolean, unit?: string, search?: boolean, list?: string[], autofocus?: boolean, mono?: boolean}} props
 */
export function TextField({ label, value, onInput, hint, error, type = "text", placeholder, required, unit, list, autofocus, mono }) {
  const listId = useId();
  return html`<${Field} label=${label} hint=${hint} error=${error}>${(/** @type {string} */ id, /** @type {string} */ described) => html`
    <div class="input-frame"><input id=${id} type=${type} class=${mono ? "mono" : undefined} value=${value} placeholder=${placeholder} required=${required} autocomplete="off" spellcheck=${false}
      inputmode=${type === "text" && unit ? "decimal" : undefined} autofocus=${autofocus} aria-describedby=${described} aria-invalid=${error ? "true" : undefined} list=${list ? listId : undefined}
      onInput=${(/** @type {any} */ event) => onInput(event.target.value)} />${unit && html`<span class="unit">${unit}</span>`}</div>
    ${list && html`<datalist id=${listId}>${list.map((one) => html`<option key=${one} value=${one} />`)}</datalist>`}`}<//>`;
}

/**
 * @param {{label: string, value: string, options: [string, string][], onInput: (value: string) => void, hint?: any, error?: string, disabled?: boolean}} props
 */
export function SelectField({ label, value, options, onInput, hint, error, disabled }) {
  return html`<${Field} label=${label} hint=${hint} error=${error}>${(/** @type {string} */ id, /** @type {string} */ described) => html`
    <select id=${id} value=${value} disabled=${disabled} aria-describedby=${described} aria-invalid=${error ? "true" : undefined} onChange=${(/** @type {any} */ event) => onInput(event.target.value)}>
      ${options.map(([name, text]) => html`<option key=${name} value=${name} selected=${name === value}>${text}</option>`)}
    </select>`}<//>`;
}

/**
 * A few choices side by side, one of which holds.
 * @param {{label: string, value: string, options: {value: string, text: string, disabled?: string}[], onInput: (value: string) => void, small?: boolean, disabled?: boolean}} props
 */
export function Segments({ label, value, options, onInput, small, disabled }) {
  const name = useId();
  return html`<div class=${"segments" + (small ? " small" : "")} role="radiogroup" aria-label=${label}>${options.map((option) => html`
    <label key=${option.value} class=${option.disabled || disabled ? "off" : ""} title=${option.disabled}><input type="radio" name=${name} value=${option.value} checked=${option.value === value}
      disabled=${Boolean(option.disabled) || disabled} onChange=${() => onInput(option.value)} /><span>${option.text}</span></label>`)}
  </div>`;
}

/** A search that `/` goes to. @param {{value: string, onInput: (value: string) => void, placeholder: string}} props */
export function Search({ value, onInput, placeholder }) {
  return html`<input class="search" type="search" data-search value=${value} placeholder=${placeholder} aria-label=${placeholder} autocomplete="off" spellcheck=${false}
    onInput=${(/** @type {any} */ event) => onInput(event.target.value)} />`;
}
