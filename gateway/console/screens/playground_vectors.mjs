/** The playground's embeddings, as a heat map of how alike the texts are, and rerank. */
import { durationText } from "../scripts/format.mjs";
import { html, useEffect, useState } from "../scripts/html.mjs";
import { TextField } from "../scripts/form.mjs";
import { Card } from "../scripts/parts.mjs";
import { PATHS, call, lines } from "../scripts/playground.mjs";
import { Failure } from "../scripts/states.mjs";

const MOST_TEXTS = 24;

/** @typedef {{wanted: string, names: string[], apiKey: string, onBody: (body: any) => void, onNotes: (notes: string) => void}} Props */

/** Sends a body, and holds what came of it. @param {string} path @param {any} body @param {Props} props */
function useAnswer(path, body, { apiKey, onBody, onNotes }) {
  const [state, setState] = useState(/** @type {any} */ ({}));
  useEffect(() => { onBody(body); }, [JSON.stringify(body)]);
  /** @param {Event} event */
  const submit = async (event) => {
    event.preventDefault();
    const began = performance.now();
    setState({ busy: true });
    try {
      const response = await call(path, body, apiKey);
      onNotes(response.headers.get("x-gateway-notes") ?? "");
      const cost = response.headers.get("x-gateway-cost-usd");
      setState({ answer: await response.json(), sent: body, facts: `${durationText(performance.now() - began)} · ${cost === null ? "cost unknown" : `$${cost}`}` });
    } catch (error) {
      setState({ error });
    }
  };
  return { ...state, submit };
}

/** @param {Props} props */
export function Embeddings(props) {
  const [model, setModel] = useState(props.wanted || "embed-v4.0");
  const [text, setText] = useState("A cat sat on the mat.\nThe kitten lay on the rug.\nShares fell on Monday.\nThe market lost two percent.");
  const inputs = lines(text).slice(0, MOST_TEXTS);
  const { answer, error, busy, facts, sent, submit } = useAnswer(PATHS.embeddings, { model, input: inputs }, props);
  const vectors = /** @type {number[][] | undefined} */ (answer?.data.map((/** @type {any} */ one) => one.embedding));
  return html`
    <form class="card stack tight" onSubmit=${submit}>
      <${TextField} label="Model" value=${model} onInput=${setModel} list=${props.names} />
      <label class="field"><span>Texts, one a line, ${MOST_TEXTS} at most</span><textarea rows="7" value=${text} onInput=${(/** @type {any} */ event) => setText(event.target.value)}></textarea></label>
      <div class="buttons"><button class="primary" disabled=${busy || !inputs.length}>Embed</button>${facts && html`<span class="muted small digits">${facts}</span>`}</div>
    </form>
    ${error && html`<${Failure} error=${error} />`}
    ${vectors && html`<${Card} title="How alike they are"><p class="muted small">Cosine of the angle between two vectors of ${vectors[0].length} numbers: 1 is the same direction.</p><${HeatMap} texts=${sent.input} vectors=${vectors} /><//>`}`;
}

/** @param {{texts: string[], vectors: number[][]}} props */
function HeatMap({ texts, vectors }) {
  const values = vectors.map((one) => vectors.map((other) => cosine(one, other)));
  const least = Math.min(0.999, ...values.flat());
  return html`<div class="heat-frame" tabindex="0" role="region" aria-label="Heat map"><table class="heat">
    <thead><tr><td></td>${texts.map((_, index) => html`<th key=${index} scope="col">${index + 1}</th>`)}</tr></thead>
    <tbody>${values.map((row, index) => html`<tr key=${index}><th scope="row" title=${texts[index]}>${index + 1}. ${texts[index]}</th>
      ${row.map((value, column) => html`<td key=${column} style=${{ backgroundColor: `color-mix(in srgb, var(--heat) ${Math.round((70 * (value - least)) / (1 - least))}%, transparent)` }} title=${`${texts[index]} / ${texts[column]}`}>${value.toFixed(2)}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}

/** @param {number[]} a @param {number[]} b */
export function cosine(a, b) {
  let dot = 0;
  let lengthA = 0;
  let lengthB = 0;
  for (let index = 0; index < a.length; index++) {
    dot += a[index] * b[index];
    lengthA += a[index] ** 2;
    lengthB += b[index] ** 2;
  }
  return lengthA && lengthB ? dot / Math.sqrt(lengthA * lengthB) : 0;
}

/** @param {Props} props */
export function Rerank(props) {
  const [model, setModel] = useState(props.wanted || "rerank-v3.5");
  const [query, setQuery] = useState("What is the capital of France?");
  const [text, setText] = useState("Paris is the capital of France.\nRome is the capital of Italy.\nLyon is a city in France.");
  const documents = lines(text);
  const { answer, error, busy, facts, sent, submit } = useAnswer(PATHS.rerank, { model, query, documents }, props);
  return html`
    <form class="card stack tight" onSubmit=${submit}>
      <${TextField} label="Model" value=${model} onInput=${setModel} list=${props.names} />
      <${TextField} label="Query" value=${query} onInput=${setQuery} />
      <label class="field"><span>Documents, one a line</span><textarea rows="7" value=${text} onInput=${(/** @type {any} */ event) => setText(event.target.value)}></textarea></label>
      <div class="buttons"><button class="primary" disabled=${busy || !documents.length || !query}>Rerank</button>${facts && html`<span class="muted small digits">${facts}</span>`}</div>
    </form>
    ${error && html`<${Failure} error=${error} />`}
    ${answer && html`<${Card} title="In this order"><ol class="ranked">${answer.results.map((/** @type {any} */ one) => html`<li key=${one.index}><span>${sent.documents[one.index]}</span><div class="bar"><span style=${{ width: `${Math.max(0, Math.min(100, one.relevance_score * 100))}%` }}></span></div><span class="digits muted">${one.relevance_score.toFixed(3)}</span></li>`)}</ol><//>`}`;
}
