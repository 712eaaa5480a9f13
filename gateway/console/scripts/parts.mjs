/** Small parts that many screens have: heads, tiles, chips, bars, times, code to copy. */
import { html, useEffect, useState } from "./html.mjs";
import { agoText, costText, dollarText, timeText, utcText } from "./format.mjs";
import { Icon } from "./icons.mjs";

/** @param {{title: any, children?: any, subtitle?: any}} props children: what can be done on the page */
export function PageHead({ title, subtitle, children }) {
  return html`<header class="page-head"><div><h1>${title}</h1>${subtitle && html`<p class="muted">${subtitle}</p>`}</div><div class="buttons">${children}</div></header>`;
}

/** @param {{title?: any, children: any, actions?: any, class?: string}} props */
export function Card({ title, children, actions, class: extra = "" }) {
  return html`<section class=${`card ${extra}`}>${title && html`<header><h2>${title}</h2>${actions}</header>`}${children}</section>`;
}

/** One number, what it is, and what puts it in its place. @param {{label: string, value: any, note?: any, tone?: string}} props */
export function Tile({ label, value, note, tone = "" }) {
  return html`<div class=${`tile ${tone}`}><span class="tile-label">${label}</span><strong class="tile-value">${value}</strong><span class="tile-note">${note}</span></div>`;
}

/** @param {{children: any, tone?: string, title?: string}} props */
export function Chip({ children, tone = "", title }) {
  return html`<span class=${`chip ${tone}`} title=${title}>${children}</span>`;
}

/** A time in the reader's zone, with UTC on hover. @param {{at: string | null | undefined, ago?: boolean, none?: string}} props */
export function Time({ at, ago, none = "" }) {
  if (!at) return none;
  return html`<time datetime=${at} title=${utcText(at)}>${ago ? agoText(at) : timeText(at)}</time>`;
}

/** Money whose price may be unknown. @param {{nano?: number | null, dollars?: number | null}} props */
export function Cost({ nano, dollars }) {
  if (dollars !== undefined && dollars !== null) return html`<span class="digits">${dollarText(dollars)}</span>`;
  if (nano === null || nano === undefined) return html`<span class="unknown" title="The price of something in it is not known">unknown</span>`;
  return html`<span class="digits">${costText(nano)}</span>`;
}

/** A budget as a bar: spent, of how much, and when it begins anew. @param {{spent: number | undefined, most: number, note?: string, label: string}} props spent: undefined while it is not known */
export function Budget({ spent, most, note, label }) {
  if (spent === undefined) return html`<div class="budget" title=${note}><div class="budget-text digits"><span class="unknown" title="What is spent is not known">…</span><span class="muted">of ${dollarText(most)}</span></div><div class="bar"></div></div>`;
  const share = most > 0 ? spent / most : spent > 0 ? 1 : 0;
  const tone = share >= 1 ? "bad" : share >= 0.8 ? "warn" : "";
  return html`<div class="budget" title=${note}>
    <div class="budget-text digits"><span>${dollarText(spent)}</span><span class="muted">of ${dollarText(most)}</span></div>
    <div class=${`bar ${tone}`} role="meter" aria-label=${label} aria-valuemin="0" aria-valuemax=${most} aria-valuenow=${Math.min(spent, most)} aria-valuetext=${`${dollarText(spent)} of ${dollarText(most)}`}><span style=${{ width: `${Math.min(100, share * 100)}%` }}></span></div>
  </div>`;
}

/** @param {{text: string, label?: string, children?: any, class?: string}} props */
export function CopyButton({ text, label = "Copy", children, class: extra = "" }) {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return undefined;
    const timer = setTimeout(() => setCopied(false), 1600);
    return () => clearTimeout(timer);
  }, [copied]);
  const copy = async () => {
    if (await copyText(text)) setCopied(true);
  };
  return html`<button type="button" class=${children ? extra : `icon-button ${extra}`} title=${label} aria-label=${children ? undefined : copied ? "Copied" : label} onClick=${copy}>
    <${Icon} name=${copied ? "check" : "copy"} />${children && (copied ? "Copied" : children)}</button>`;
}

/** Puts a text on the clipboard. Over plain http the browser has no clipboard for pages, and a field is copied. @param {string} text */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const before = document.activeElement;
    const field = document.createElement("textarea");
    field.value = text;
    const parent = document.querySelector("dialog[open]") ?? document.body;
    parent.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    if (before instanceof HTMLElement) before.focus({ preventScroll: true });
    return done;
  }
}

/** Code to copy. @param {{code: string, label?: string}} props */
export function Code({ code, label = "Copy the code" }) {
  return html`<div class="code"><pre tabindex="0"><code>${code}</code></pre><${CopyButton} text=${code} label=${label} /></div>`;
}

/**
 * The same in several languages.
 * @param {{codes: [string, string][]}} props name and code
 */
export function CodeTabs({ codes }) {
  const [name, setName] = useState(codes[0][0]);
  const code = (codes.find(([one]) => one === name) ?? codes[0])[1];
  return html`<div class="code-tabs">
    <${Tabs} names=${codes.map(([one]) => one)} value=${name} onInput=${setName} label="Language" />
    <${Code} code=${code} />
  </div>`;
}

/** @param {{names: string[], value: string, onInput: (name: string) => void, label: string}} props */
export function Tabs({ names, value, onInput, label }) {
  /** @param {KeyboardEvent} event */
  const move = (event) => {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (!step) return;
    event.preventDefault();
    onInput(names[(names.indexOf(value) + step + names.length) % names.length]);
    const list = /** @type {HTMLElement} */ (event.currentTarget);
    requestAnimationFrame(() => /** @type {HTMLElement | null} */ (list.querySelector('[aria-selected="true"]'))?.focus());
  };
  return html`<div class="tabs" role="tablist" aria-label=${label} onKeyDown=${move}>${names.map((name) => html`<button key=${name} type="button" role="tab" tabindex=${name === value ? 0 : -1} aria-selected=${String(name === value)} onClick=${() => onInput(name)}>${name}</button>`)}</div>`;
}

/** Names and values, one under the other. @param {{rows: [any, any][]}} props rows without a value are left out */
export function Facts({ rows }) {
  const there = rows.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false);
  return html`<dl class="facts">${there.map(([name, value], index) => html`<div key=${index}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}
