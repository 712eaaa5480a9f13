/** Models: what each can do, its other names, what it replaces, and what it costs, with the source of the price. */
import { useData } from "../scripts/api.mjs";
import { html } from "../scripts/html.mjs";
import { Drawer } from "../scripts/drawer.mjs";
import { Search, Segments } from "../scripts/form.mjs";
import { countText, dollarText } from "../scripts/format.mjs";
import { Chip, Facts, PageHead } from "../scripts/parts.mjs";
import { Link, href, navigate, route, setQuery } from "../scripts/router.mjs";
import { Empty, Show } from "../scripts/states.mjs";
import { Table } from "../scripts/table.mjs";

/** Capabilities that a table shows, in words. @type {[string, string][]} */
const SKILLS = [["tools", "tools"], ["tool_choice", "tool choice"], ["reasoning", "thinking"], ["images", "images"], ["documents", "documents"], ["json_schema", "JSON schema"]];

/** Prices in words. @type {[string, string][]} */
const PRICES = [["input", "input, per million tokens"], ["output", "output, per million tokens"], ["cached", "cached input, per million tokens"], ["image_tokens", "image, per million tokens"], ["search", "per search"], ["image", "per image"], ["page", "per page"], ["classification", "per classification"], ["audio_second", "per second of audio"]];

export default function Models() {
  const { query, path } = route.value;
  const id = decodeURIComponent(path.split("/").slice(1).join("/"));
  const models = useData("/gateway/models");
  const search = (query.search ?? "").toLowerCase();
  const kind = query.kind ?? "";
  const rows = (models.data?.data ?? []).filter((/** @type {any} */ model) => (!kind || model.kind === kind) && (!search || [model.id, ...model.aliases, ...model.synonyms, ...model.replaces].join(" ").toLowerCase().includes(search)));
  const opened = (models.data?.data ?? []).find((/** @type {any} */ model) => model.id === id);
  const columns = [
    { title: "Model", cell: (/** @type {any} */ model) => html`<strong class="model-name">${model.id}</strong>${model.deprecated && html` <${Chip} tone="warn" title="Cohere's list of models says so">deprecated<//>`}` },
    { title: "Kind", tiny: true, cell: (/** @type {any} */ model) => model.kind },
    { title: "Can", hide: true, cell: (/** @type {any} */ model) => html`<span class="chips">${model.capabilities ? SKILLS.filter(([name]) => model.capabilities[name]).map(([name, text]) => html`<${Chip} key=${name}>${text}<//>`) : model.dimensions.length ? html`<${Chip}>${sizes(model.dimensions)}<//>` : ""}</span>` },
    { title: "Input", number: true, cell: (/** @type {any} */ model) => price(model, "input") },
    { title: "Output", number: true, cell: (/** @type {any} */ model) => price(model, "output") },
    { title: "Search", number: true, hide: true, cell: (/** @type {any} */ model) => price(model, "search") },
    { title: "Other names", hide: true, minor: true, cell: (/** @type {any} */ model) => [...model.aliases, ...model.synonyms, ...model.replaces].join(", ") },
  ];
  return html`
    <${PageHead} title="Models" subtitle="As the gateway's tables know them. Any other model of Cohere's can be called as well; tokens are priced by the million." />
    <div class="filters">
      <${Search} placeholder="Search by any name" value=${query.search ?? ""} onInput=${(/** @type {string} */ text) => setQuery({ search: text })} />
      <${Segments} label="Kind" value=${kind} onInput=${(/** @type {string} */ value) => setQuery({ kind: value })} options=${[["", "All"], ["chat", "Chat"], ["embed", "Embed"], ["rerank", "Rerank"], ["transcription", "Speech"]].map(([value, text]) => ({ value, text }))} />
    </div>
    <${Show} of=${models} lines=${8}>${() => rows.length
      ? html`<${Table} caption="Models" rows=${rows} columns=${columns} id=${(/** @type {any} */ model) => model.id} selected=${id} onOpen=${(/** @type {any} */ model) => navigate(href(`models/${encodeURIComponent(model.id)}`, query))} />`
      : html`<${Empty} title="No model is called so"><${Link} to=${href("models")}>Show all<//><//>`}<//>
    ${opened && html`<${Drawer} title=${opened.id} follows onClose=${() => navigate(href("models", query))} actions=${html`${["chat", "embed", "rerank"].includes(opened.kind) && html`<${Link} class="button" to=${href("playground", { model: opened.id })}>Open in playground<//>`}<${Link} class="button" to=${href("calls", { model: opened.id })}>Calls<//><${Link} class="button" to=${href("usage", { model: opened.id })}>Usage<//>`}>
      <${Facts} rows=${[
        ["Kind", opened.kind],
        ["Deprecated", opened.deprecated && html`<span class="warn">by Cohere: it will be removed</span>`],
        ["Call it", html`<code>cohere/${opened.id}</code>`],
        ["Aliases here", opened.aliases.join(", ")],
        ["Also called", opened.synonyms.join(", ")],
        ["Replaces", opened.replaces.length > 0 && `${opened.replaces.join(", ")}${models.data.successors ? "" : " (switched off)"}`],
        ["Fallbacks", opened.fallbacks.join(", ")],
        ["Dimensions", opened.dimensions.length > 1 ? `${sizes(opened.dimensions)}; ${opened.dimensions[0]} where none is asked for` : sizes(opened.dimensions)],
        ["Longest answer", opened.capabilities?.max_output && `${countText(opened.capabilities.max_output)} tokens`],
      ]} />
      ${opened.capabilities && html`<section><h3>Can</h3><${Facts} rows=${SKILLS.map(([name, text]) => [text, opened.capabilities[name] ? "yes" : html`<span class="muted">no</span>`])} /></section>`}
      <section><h3>Price</h3>${opened.price ? html`<${Facts} rows=${[
        ...PRICES.map(([name, text]) => [text, opened.price[name] !== undefined && opened.price[name] !== null && dollarText(opened.price[name])]),
        ["Source", opened.price.source && (/^https:/.test(opened.price.source) ? html`<a href=${opened.price.source} target="_blank" rel="noreferrer">${opened.price.source}</a>` : opened.price.source)],
        ["Read on", opened.price.date],
      ]} />` : html`<p class="muted">Not known: calls with it have an unknown cost. The setting <code>[prices."${opened.id}"]</code> gives it one.</p>`}</section>
    <//>`}`;
}

/** @param {number[]} dimensions */
function sizes(dimensions) {
  return [...dimensions].sort((a, b) => a - b).join(", ");
}

/** @param {any} model @param {string} name */
function price(model, name) {
  if (!model.price) return name === "input" ? html`<span class="unknown" title="Calls with it have an unknown cost">unknown</span>` : "";
  const value = model.price?.[name];
  return value === undefined || value === null ? html`<span class="muted">–</span>` : dollarText(value);
}
