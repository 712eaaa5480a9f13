/**
 * What the playground sends, and how it reads what comes. Pure but for `call`: bodies of requests out of what was typed,
 * and answers, whole or streamed, into turns.
 */
import { errorOf, send, sessionErrorOf } from "./api.mjs";
import { shellQuoted } from "./format.mjs";
import { events } from "./sse.mjs";

/**
 * @typedef {{start: number, end: number, title: string}} Citation in characters of the text
 * @typedef {{id: string, name: string, arguments: string}} ToolCall
 * @typedef {{role: "user" | "assistant" | "tool", text: string, thinking?: string, calls?: ToolCall[], citations?: Citation[], images?: string[], callId?: string, items?: any[], error?: string, retryAt?: number | null, facts?: string[]}} Turn items: of a response, which go back as they came
 * @typedef {{model: string, system: string, temperature: string, maxTokens: string, effort: string, tools: string, schema: string, documents: string, stream: boolean}} Options
 */

/** Where each kind of request goes. @type {Record<string, string>} */
export const PATHS = { chat: "/v1/chat/completions", responses: "/v1/responses", embeddings: "/v1/embeddings", rerank: "/v1/rerank" };

/** The JSON of a field; a sentence where it is none. @param {string} text @param {string} name */
export function parsed(text, name) {
  if (!text.trim()) return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${name}: ${/** @type {Error} */ (error).message}`);
  }
}

/** @param {string} text */
export function lines(text) {
  return text.split("\n").map((line) => line.trim()).filter(Boolean);
}

/** @param {Options} options @param {Turn[]} turns @returns {any} */
export function chatBody(options, turns) {
  const tools = parsed(options.tools, "Tools");
  const schema = parsed(options.schema, "Schema");
  const documents = lines(options.documents);
  return clean({
    model: options.model,
    messages: [...(options.system ? [{ role: "system", content: options.system }] : []), ...turns.filter((turn) => !turn.error).map(message)],
    temperature: number(options.temperature),
    max_tokens: number(options.maxTokens),
    reasoning_effort: options.effort || undefined,
    tools,
    response_format: schema && { type: "json_schema", json_schema: { name: "answer", schema, strict: true } },
    documents: documents.length ? documents : undefined,
    stream: options.stream || undefined,
    stream_options: options.stream ? { include_usage: true } : undefined,
  });
}

/** @param {Turn} turn */
function message(turn) {
  if (turn.role === "tool") return { role: "tool", tool_call_id: turn.callId, content: turn.text };
  if (turn.role === "assistant") {
    const calls = turn.calls?.map((one) => ({ id: one.id, type: "function", function: { name: one.name, arguments: one.arguments } }));
    return clean({ role: "assistant", content: turn.text || null, reasoning_content: turn.thinking || undefined, tool_calls: calls?.length ? calls : undefined });
  }
  const images = (turn.images ?? []).map((url) => ({ type: "image_url", image_url: { url } }));
  return { role: "user", content: images.length ? [{ type: "text", text: turn.text }, ...images] : turn.text };
}

/** @param {Options} options @param {Turn[]} turns @returns {any} */
export function responsesBody(options, turns) {
  const tools = parsed(options.tools, "Tools");
  const schema = parsed(options.schema, "Schema");
  const documents = lines(options.documents);
  return clean({
    model: options.model,
    instructions: options.system || undefined,
    input: turns.filter((turn) => !turn.error).flatMap(items),
    temperature: number(options.temperature),
    max_output_tokens: number(options.maxTokens),
    reasoning: options.effort ? { effort: options.effort } : undefined,
    tools: Array.isArray(tools) ? tools.map((tool) => (tool.function ? { type: "function", ...tool.function } : tool)) : tools,
    text: schema && { format: { type: "json_schema", name: "answer", schema, strict: true } },
    documents: documents.length ? documents : undefined,
    store: false,
    stream: options.stream || undefined,
  });
}

/** @param {Turn} turn @returns {any[]} */
function items(turn) {
  if (turn.role === "tool") return [{ type: "function_call_output", call_id: turn.callId, output: turn.text }];
  if (turn.items) return turn.items;
  const calls = (turn.calls ?? []).map((one) => ({ type: "function_call", call_id: one.id, name: one.name, arguments: one.arguments }));
  if (turn.role === "assistant") return [...(turn.text ? [{ role: "assistant", content: turn.text }] : []), ...calls];
  const images = (turn.images ?? []).map((url) => ({ type: "input_image", image_url: url }));
  return [{ role: "user", content: images.length ? [{ type: "input_text", text: turn.text }, ...images] : turn.text }];
}

/** @param {string} text */
function number(text) {
  return text.trim() === "" ? undefined : Number(text);
}

/** @param {any} body */
function clean(body) {
  return Object.fromEntries(Object.entries(body).filter(([, value]) => value !== undefined));
}

/** Sends a request: with the session, or with a key that was pasted, and then without the session. @param {string} path @param {any} body @param {string} key @param {AbortSignal} [aborted] */
export async function call(path, body, key, aborted) {
  const response = key
    ? await fetch(path, { method: "POST", headers: { "content-type": "application/json", authorization: `Bearer ${key}` }, body: JSON.stringify(body), signal: aborted, credentials: "omit", cache: "no-store" })
    : await send("POST", path, { body, signal: aborted });
  if (!response.ok) throw await (key ? errorOf : sessionErrorOf)(response);
  return response;
}

/** Reads an answer into a turn, and tells of each piece. @param {"chat" | "responses"} api @param {Response} response @param {boolean} streamed @param {(turn: Turn) => void} onChange @returns {Promise<Turn>} */
export async function readAnswer(api, response, streamed, onChange) {
  /** @type {Turn} */
  const turn = { role: "assistant", text: "", thinking: "", calls: [], citations: [] };
  const read = api === "chat" ? readChat : readResponses;
  if (!streamed) read(turn, await response.json());
  else {
    for await (const event of events(response)) {
      read(turn, event);
      onChange({ ...turn, calls: [...(turn.calls ?? [])] });
    }
  }
  return turn;
}

/** A whole completion, or one chunk. @param {Turn} turn @param {any} part */
export function readChat(turn, part) {
  if (part.error) throw new Error(part.error.message);
  const choice = part.choices?.[0];
  const delta = choice?.message ?? choice?.delta ?? {};
  turn.text += delta.content ?? "";
  turn.thinking = (turn.thinking ?? "") + (delta.reasoning_content ?? "");
  for (const [index, one] of (delta.tool_calls ?? []).entries()) {
    const at = one.index ?? index;
    const calls = /** @type {ToolCall[]} */ (turn.calls);
    calls[at] ??= { id: "", name: "", arguments: "" };
    calls[at] = { id: one.id ?? calls[at].id, name: one.function?.name ?? calls[at].name, arguments: calls[at].arguments + (one.function?.arguments ?? "") };
  }
  for (const one of delta.citations ?? []) {
    const sources = (one.sources ?? []).map((/** @type {any} */ source) => source.document?.title ?? source.document?.text ?? source.id);
    turn.citations?.push({ start: one.start, end: one.end, title: sources.join("\n").slice(0, 400) });
  }
  if (part.usage) turn.facts = usageFacts(part.usage.prompt_tokens, part.usage.completion_tokens, part.usage.cost);
}

/** A whole response, or one event. @param {Turn} turn @param {any} part */
export function readResponses(turn, part) {
  if (part.type === "error" || part.error) throw new Error(part.message ?? part.error.message);
  if (part.type === "response.output_text.delta") turn.text += part.delta;
  else if (/^response\.reasoning(_summary)?_text\.delta$/.test(part.type ?? "")) turn.thinking = (turn.thinking ?? "") + part.delta;
  else if (part.type === "response.output_text.annotation.added") cite(turn, part.annotation);
  else if (part.type === "response.output_item.added" && part.item.type === "function_call") turn.calls?.push({ id: part.item.call_id, name: part.item.name, arguments: part.item.arguments ?? "" });
  else if (part.type === "response.function_call_arguments.delta") {
    const open = turn.calls?.at(-1);
    if (open) turn.calls?.splice(-1, 1, { ...open, arguments: open.arguments + part.delta });
  } else if (part.type === "response.failed") throw new Error(part.response.error?.message ?? "The response failed");
  const whole = part.object === "response" ? part : ["response.completed", "response.incomplete"].includes(part.type) ? part.response : null;
  if (!whole) return;
  turn.items = whole.output;
  turn.text = "";
  turn.calls = [];
  turn.citations = [];
  for (const item of whole.output ?? []) {
    if (item.type === "function_call") turn.calls.push({ id: item.call_id, name: item.name, arguments: item.arguments });
    if (item.type === "reasoning") turn.thinking = [...(item.summary ?? []), ...(item.content ?? [])].map((one) => one.text).join("\n");
    for (const content of item.type === "message" ? item.content : []) {
      turn.text += content.text ?? content.refusal ?? "";
      for (const one of content.annotations ?? []) cite(turn, one);
    }
  }
  if (whole.usage) turn.facts = usageFacts(whole.usage.input_tokens, whole.usage.output_tokens, whole.usage.cost);
}

/** Adds a citation of a response. @param {Turn} turn @param {any} annotation */
function cite(turn, annotation) {
  if (annotation.start_index === undefined) return;
  turn.citations?.push({ start: annotation.start_index, end: annotation.end_index, title: annotation.title ?? annotation.url ?? annotation.filename ?? "" });
}

/** @param {number} input @param {number} output @param {number | undefined} cost */
function usageFacts(input, output, cost) {
  return [`${input} tokens in`, `${output} out`, cost === undefined ? "cost unknown" : `$${cost}`];
}

/** A text in pieces, those with citations apart. @param {string} text @param {Citation[]} citations */
export function cited(text, citations) {
  const characters = Array.from(text);
  /** @type {{text: string, title: string}[]} */
  const pieces = [];
  let at = 0;
  for (const one of [...citations].sort((a, b) => a.start - b.start)) {
    if (one.start < at || one.end > characters.length) continue;
    pieces.push({ text: characters.slice(at, one.start).join(""), title: "" }, { text: characters.slice(one.start, one.end).join(""), title: one.title || "cited" });
    at = one.end;
  }
  pieces.push({ text: characters.slice(at).join(""), title: "" });
  return pieces.filter((piece) => piece.text);
}

/**
 * The same request in several languages. native: what Cohere gets, for Cohere's own SDK.
 * @param {string} api @param {any} body @param {any} [native] @returns {[string, string][]}
 */
export function codes(api, body, native) {
  const json = JSON.stringify(body, null, 2);
  const base = location.origin;
  const method = { chat: "chat.completions.create", responses: "responses.create", embeddings: "embeddings.create" }[api];
  /** @type {[string, string][]} */
  const all = [["curl", `curl ${body.stream ? "-N " : ""}${base}${PATHS[api]} \\\n  -H "Authorization: Bearer $GATEWAY_KEY" \\\n  -H 'Content-Type: application/json' \\\n  -d ${shellQuoted(json)}`]];
  if (method) {
    const { documents, ...known } = body;
    const more = documents ? `, extra_body={"documents": ${pythonOf(documents)}}` : "";
    const request = `client.${method}(**${pythonOf(known)}${more})`;
    const [item, piece] = api === "chat" ? ["chunk", "chunk.choices[0].delta.content"] : ["event", "event.delta"];
    const wanted = api === "chat" ? "chunk.choices and chunk.choices[0].delta.content" : 'event.type == "response.output_text.delta"';
    const read = body.stream ? `for ${item} in ${request}:\n    if ${wanted}:\n        print(${piece}, end="", flush=True)\nprint()` : `answer = ${request}\nprint(${answerOf(api)})`;
    all.push(["Python", `import os\nfrom openai import OpenAI\n\nclient = OpenAI(base_url="${base}/v1", api_key=os.environ["GATEWAY_KEY"])\n${read}`]);
    const readNode = body.stream
      ? `for await (const ${item} of await client.${method}(${json})) {\n  ${api === "chat" ? 'process.stdout.write(chunk.choices[0]?.delta.content ?? "");' : 'if (event.type === "response.output_text.delta") process.stdout.write(event.delta);'}\n}\nconsole.log();`
      : `const answer = await client.${method}(${json});\nconsole.log(${answerOf(api)});`;
    all.push(["Node", `import OpenAI from "openai";\n\nconst client = new OpenAI({ baseURL: "${base}/v1", apiKey: process.env.GATEWAY_KEY });\n${readNode}`]);
  }
  if (native) {
    const { stream, ...fields } = native;
    const name = { embeddings: "embed", rerank: "rerank" }[api] ?? (stream ? "chat_stream" : "chat");
    const request = `client.${name}(**${pythonOf(fields)})`;
    const read = name === "chat_stream" ? `for event in ${request}:\n    if event.type == "content-delta":\n        print(event.delta.message.content.text or "", end="", flush=True)\nprint()` : `print(${request})`;
    all.push(["Cohere SDK", `import os\nimport cohere\n\nclient = cohere.ClientV2(api_key=os.environ["GATEWAY_KEY"], base_url="${base}/cohere")\n${read}`]);
  }
  return all;
}

/** What is worth printing of a whole answer; in both languages it is written alike. @param {string} api */
function answerOf(api) {
  return { chat: "answer.choices[0].message", responses: "answer.output", embeddings: "answer.data[0].embedding" }[api] ?? "answer";
}

/** JSON as Python writes it. @param {any} value @param {string} [indent] @returns {string} */
export function pythonOf(value, indent = "") {
  const inner = indent + "    ";
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return value.length ? `[\n${value.map((one) => inner + pythonOf(one, inner)).join(",\n")},\n${indent}]` : "[]";
  if (typeof value === "object") return `{\n${Object.entries(value).map(([name, one]) => `${inner}${JSON.stringify(name)}: ${pythonOf(one, inner)}`).join(",\n")},\n${indent}}`;
  return JSON.stringify(value);
}
