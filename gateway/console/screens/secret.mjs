/** The secret of a key, shown once, with what to do with it. */
import { html } from "../scripts/html.mjs";
import { Dialog } from "../scripts/drawer.mjs";
import { Code, CodeTabs } from "../scripts/parts.mjs";
import { shellQuoted } from "../scripts/format.mjs";

const MODEL = "cohere/command-a-03-2025";

/** The first call in several languages. @param {string} key @returns {[string, string][]} */
export function firstCalls(key) {
  const base = `${location.origin}/v1`;
  const text = "Say hello.";
  return [
    ["curl", `curl ${base}/chat/completions \\\n  -H ${shellQuoted(`Authorization: Bearer ${key}`)} \\\n  -H 'Content-Type: application/json' \\\n  -d '${JSON.stringify({ model: MODEL, messages: [{ role: "user", content: text }] })}'`],
    ["Python", `from openai import OpenAI\n\nclient = OpenAI(base_url="${base}", api_key="${key}")\nanswer = client.chat.completions.create(\n    model="${MODEL}",\n    messages=[{"role": "user", "content": "${text}"}],\n)\nprint(answer.choices[0].message.content)`],
    ["Node", `import OpenAI from "openai";\n\nconst client = new OpenAI({ baseURL: "${base}", apiKey: "${key}" });\nconst answer = await client.chat.completions.create({\n  model: "${MODEL}",\n  messages: [{ role: "user", content: "${text}" }],\n});\nconsole.log(answer.choices[0].message.content);`],
    ["Cohere SDK", `import cohere\n\nclient = cohere.ClientV2(api_key="${key}", base_url="${location.origin}/cohere")\nanswer = client.chat(\n    model="command-a-03-2025",\n    messages=[{"role": "user", "content": "${text}"}],\n)\nprint(answer.message.content[0].text)`],
  ];
}

/** @param {{secret: string, alias: string, rotated?: boolean, grace?: string, onClose: () => void}} props */
export function Secret({ secret, alias, rotated, grace, onClose }) {
  return html`<${Dialog} title=${rotated ? `The new secret of ${alias}` : `The key ${alias}`} class="wide" keeps onClose=${onClose}>
    <p>This is the only time that it is shown: only its digest is stored.${rotated && (grace ? ` The old one works for ${grace} more.` : " The old one does not work any more.")}</p>
    <${Code} code=${secret} label="Copy the key" />
    <${CodeTabs} codes=${firstCalls(secret)} />
    <div class="buttons end"><button class="primary" onClick=${onClose}>I have it</button></div>
  <//>`;
}
