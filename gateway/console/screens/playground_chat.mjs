/** The playground's conversation, by Chat Completions or Responses: streamed, with thinking, tools, schema, documents, images. */
import { clockText, durationText } from "../scripts/format.mjs";
import { html, useEffect, useId, useRef, useState } from "../scripts/html.mjs";
import { SelectField, TextField } from "../scripts/form.mjs";
import { Card } from "../scripts/parts.mjs";
import { PATHS, call, chatBody, cited, readAnswer, responsesBody } from "../scripts/playground.mjs";
import { toast } from "../scripts/toast.mjs";

const DEFAULT_MODEL = "command-a-03-2025";
const LARGEST_IMAGE = 4 * 1024 * 1024;
const EFFORTS = [["", "as the model does"], ["none", "none"], ["low", "low"], ["medium", "medium"], ["high", "high"]];
const TOOLS = JSON.stringify([{ type: "function", function: { name: "get_weather", description: "The weather in a city", parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } } }], null, 2);
const SCHEMA = JSON.stringify({ type: "object", properties: { answer: { type: "string" } }, required: ["answer"], additionalProperties: false }, null, 2);

/**
 * @param {{api: "chat" | "responses", wanted: string, names: string[], apiKey: string, onBody: (body: any) => void, onNotes: (notes: string) => void}} props
 */
export function Chat({ api, wanted, names, apiKey, onBody, onNotes }) {
  const [options, setOptions] = useState({ model: wanted || DEFAULT_MODEL, system: "", temperature: "", maxTokens: "", effort: "", tools: "", schema: "", documents: "", stream: true });
  const [turns, setTurns] = useState(/** @type {import("../scripts/playground.mjs").Turn[]} */ ([]));
  const [text, setText] = useState("What is the capital of France?");
  const [images, setImages] = useState(/** @type {string[]} */ ([]));
  const [running, setRunning] = useState(/** @type {import("../scripts/playground.mjs").Turn | null} */ (null));
  const aborter = useRef(/** @type {AbortController | null} */ (null));
  const last = turns.at(-1);
  const open = (last?.role === "assistant" && last.calls?.length ? last.calls : []);
  const build = api === "chat" ? chatBody : responsesBody;
  // Without a new message the request beside it is the last one, which had not its answer in it yet.
  const asked = last?.role === "assistant" ? turns.slice(0, -1) : turns;
  const next = /** @type {import("../scripts/playground.mjs").Turn[]} */ (text || images.length ? [...turns, { role: "user", text, images }] : asked);
  let body = null;
  let problem = "";
  try {
    body = build(options, open.length ? turns : next.length ? next : [{ role: "user", text: "…" }]);
  } catch (error) {
    problem = /** @type {Error} */ (error).message;
  }
  useEffect(() => { onBody(body); }, [JSON.stringify(body)]);
  useEffect(() => () => aborter.current?.abort(), []);
  /** @param {string} name */
  const set = (name) => (/** @type {any} */ value) => setOptions({ ...options, [name]: value });

  /** again: what is being typed is no part of it. @param {import("../scripts/playground.mjs").Turn[]} wanted @param {boolean} [again] */
  const ask = async (wanted, again) => {
    const began = performance.now();
    aborter.current = new AbortController();
    setTurns(wanted);
    if (!again) {
      setText("");
      setImages([]);
    }
    setRunning({ role: "assistant", text: "" });
    /** @type {import("../scripts/playground.mjs").Turn} */
    let partial = { role: "assistant", text: "" };
    try {
      const response = await call(PATHS[api], build(options, wanted), apiKey, aborter.current.signal);
      onNotes(response.headers.get("x-gateway-notes") ?? "");
      const turn = await readAnswer(api, response, options.stream, (piece) => { partial = piece; setRunning(piece); });
      turn.facts = [...(turn.facts ?? []), durationText(performance.now() - began)];
      setTurns([...wanted, turn]);
    } catch (error) {
      // What came stays in sight: after a stop it is part of the conversation, after an error it is not.
      const stopped = aborter.current.signal.aborted;
      setTurns([...wanted, stopped && partial.text ? { ...partial, calls: [], facts: ["stopped"] } : { ...partial, calls: [], error: stopped ? "Stopped." : /** @type {Error} */ (error).message, retryAt: /** @type {any} */ (error).retryAt }]);
    }
    setRunning(null);
  };
  /** @param {Event} event */
  const submit = (event) => {
    event.preventDefault();
    if (!running && !problem && !open.length && (text || images.length)) void ask(next);
  };
  /** @param {any} event */
  const addImages = async (event) => {
    for (const file of event.target.files) {
      if (file.size > LARGEST_IMAGE) toast(`${file.name} is larger than 4 MB`, true);
      else setImages((/** @type {string[]} */ before) => [...before, ""]);
    }
    const urls = await Promise.all([...event.target.files].filter((file) => file.size <= LARGEST_IMAGE).map(dataUrl));
    setImages((/** @type {string[]} */ before) => [...before.filter(Boolean), ...urls]);
    event.target.value = "";
  };

  return html`
    <${Card}>
      <div class="form-grid">
        <${TextField} label="Model" value=${options.model} onInput=${set("model")} list=${names} />
        <${TextField} label="Temperature" value=${options.temperature} onInput=${set("temperature")} placeholder="the model's" />
        <${TextField} label="Longest answer" value=${options.maxTokens} onInput=${set("maxTokens")} unit="tokens" />
        <${SelectField} label="Thinking" value=${options.effort} options=${EFFORTS} onInput=${set("effort")} />
      </div>
      <details><summary>System, tools, schema, documents</summary><div class="stack tight">
        <${Area} label="System" value=${options.system} onInput=${set("system")} rows=${2} />
        <${Area} label="Tools, as JSON" value=${options.tools} onInput=${set("tools")} rows=${4} example=${TOOLS} />
        <${Area} label="Schema of the answer, as JSON" value=${options.schema} onInput=${set("schema")} rows=${4} example=${SCHEMA} />
        <${Area} label="Documents, one a line" value=${options.documents} onInput=${set("documents")} rows=${3} example=${"Paris is the capital of France.\nRome is the capital of Italy."} />
      </div></details>
      ${problem && html`<p class="error-text" role="alert">${problem}</p>`}
    <//>
    <div class="turns" aria-live="polite">
      ${turns.map((turn, index) => html`<${Turned} key=${index} turn=${turn} onRetry=${turn.error && index === turns.length - 1 && !running ? () => ask(turns.slice(0, -1), true) : undefined} />`)}
      ${running && html`<${Turned} turn=${running} running />`}
      ${!running && open.length > 0 && html`<${ToolResults} key=${turns.length} calls=${open} onResults=${(/** @type {string[]} */ results) => ask([...turns, ...open.map((one, index) => /** @type {const} */ ({ role: "tool", text: results[index], callId: one.id }))])} />`}
    </div>
    <form class="card prompt" onSubmit=${submit}>
      <textarea aria-label="Message" rows="3" value=${text} placeholder="Message (Ctrl and Enter send it)" onInput=${(/** @type {any} */ event) => setText(event.target.value)}
        onKeyDown=${(/** @type {KeyboardEvent} */ event) => { if (event.key === "Enter" && (event.metaKey || event.ctrlKey)) submit(event); }}></textarea>
      ${images.length > 0 && html`<div class="pictures">${images.map((url, index) => html`<img key=${index} src=${url} alt=${`Picture ${index + 1}`} />`)}</div>`}
      <div class="buttons">
        ${running ? html`<button type="button" onClick=${() => aborter.current?.abort()}>Stop</button>` : html`<button class="primary" title=${open.length ? "The tools are to answer first" : undefined} disabled=${Boolean(problem) || open.length > 0 || !(text || images.length)}>Send</button>`}
        <label class="check"><input type="checkbox" checked=${options.stream} onChange=${(/** @type {any} */ event) => set("stream")(event.target.checked)} /> stream</label>
        <label class="button file">Add pictures<input type="file" accept="image/*" multiple onChange=${addImages} /></label>
        ${turns.length > 0 && !running && html`<button type="button" class="plain" onClick=${() => setTurns([])}>Begin anew</button>`}
      </div>
    </form>`;
}

/** @param {File} file @returns {Promise<string>} */
function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

/** @param {{label: string, value: string, onInput: (value: string) => void, rows: number, example?: string}} props */
function Area({ label, value, onInput, rows, example }) {
  const id = useId();
  return html`<div class="field"><div class="field-head"><label for=${id}>${label}</label>${example && !value && html`<button type="button" class="plain small" onClick=${() => onInput(example)}>an example</button>`}</div>
    <textarea id=${id} class=${/^[[{]/.test(example ?? "") ? "mono" : ""} rows=${rows} value=${value} spellcheck=${false} onInput=${(/** @type {any} */ event) => onInput(event.target.value)}></textarea></div>`;
}

/** @param {{turn: import("../scripts/playground.mjs").Turn, running?: boolean, onRetry?: () => void}} props */
function Turned({ turn, running, onRetry }) {
  const when = turn.retryAt ? html`<span class="small">Try again at ${clockText(turn.retryAt)}.</span>` : null;
  const retry = onRetry && html`<div class="buttons"><button type="button" onClick=${onRetry}>Try again</button>${when}</div>`;
  if (turn.error && !turn.text && !turn.thinking) return html`<div class="turn failed"><p role="alert">${turn.error}</p>${retry}</div>`;
  return html`<div class=${`turn ${turn.role}`}>
    <span class="muted small">${{ user: "You", assistant: "Model", tool: "Tool result" }[turn.role]}</span>
    ${turn.thinking && html`<details open=${running && !turn.text}><summary>Thinking</summary><p class="thinking">${turn.thinking}</p></details>`}
    ${(turn.images ?? []).length > 0 && html`<div class="pictures">${turn.images?.map((url, index) => html`<img key=${index} src=${url} alt=${`Picture ${index + 1}`} />`)}</div>`}
    <p class="words">${turn.citations?.length ? cited(turn.text, turn.citations).map((piece, index) => (piece.title ? html`<u key=${index} class="citation" tabindex="0" title=${piece.title}>${piece.text}</u>` : piece.text)) : turn.text}${running && html`<span class="pulse caret"></span>`}</p>
    ${(turn.calls ?? []).map((one) => html`<div class="tool-call" key=${one.id}><code>${one.name}(${one.arguments})</code></div>`)}
    ${turn.error && html`<span class="bad" role="alert">${turn.error}</span>${retry}`}
    ${turn.facts && html`<span class="muted small digits">${turn.facts.join(" · ")}</span>`}
  </div>`;
}

/** What the tools would have answered: a field for each call, sent on together. @param {{calls: import("../scripts/playground.mjs").ToolCall[], onResults: (texts: string[]) => void}} props */
function ToolResults({ calls, onResults }) {
  const [texts, setTexts] = useState(calls.map(() => ""));
  /** @param {number} at @param {string} text */
  const set = (at, text) => setTexts(texts.map((/** @type {string} */ one, /** @type {number} */ index) => (index === at ? text : one)));
  return html`<form class="turn tool" onSubmit=${(/** @type {Event} */ event) => { event.preventDefault(); onResults(texts); }}>
    ${calls.map((one, index) => html`<label class="field" key=${one.id}><span>What ${one.name} answers${calls.length > 1 && html` <code class="muted">${one.arguments}</code>`}</span><input value=${texts[index]} onInput=${(/** @type {any} */ event) => set(index, event.target.value)} placeholder='{"temperature": 21}' /></label>`)}
    <div class="buttons"><button>${calls.length > 1 ? "Send the results" : "Send the result"}</button></div></form>`;
}
