// Programs as users of the official OpenAI SDK for Node write them, run one after the other against
// OPENAI_BASE_URL. Each prints one line of JSON: {"scenario", "found"}, or {"scenario", "threw"} if it failed.
// What must be found is in tests/test_node_sdk.py; nothing is judged here.

import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const A = "command-a-03-2025";
const VISION = "command-a-vision-07-2025";
const PLUS = "command-a-plus-05-2026";
const REASONING = "command-a-reasoning-08-2025";

const client = new OpenAI({ maxRetries: 0, timeout: 30_000 });
const chat = client.chat.completions;

const asked = (content, more = {}) => ({ model: A, messages: [{ role: "user", content }], ...more });
const CAPITAL = "What is the capital of France?";
const COUNT = "Count to 10.";
const WEATHER = "What is the weather in Toronto?";
const WEATHERS = "What is the weather in Toronto and in Paris?";
const ADA = "Ada Lovelace died at the age of 36.";

const getWeather = {
  name: "get_weather",
  description: "The weather in a city",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};
const TOOLS = [{ type: "function", function: getWeather }];

// A tool for runTools, and the cities for which it was called.
function runnableWeather() {
  const cities = [];
  const run = ({ city }) => {
    cities.push(city);
    return { city, weather: `11 degrees in ${city}` };
  };
  return { cities, tools: [{ type: "function", function: { ...getWeather, parse: JSON.parse, function: run } }] };
}

const Person = z.object({ name: z.string(), age: z.number().int() });

// One pixel.
const PNG =
  "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=";

async function all(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}

const text = (chunks, index = 0) => joined(chunks, index, (delta) => delta.content);
const thoughts = (chunks, index = 0) => joined(chunks, index, (delta) => delta.reasoning_content);

function joined(chunks, index, piece) {
  const choices = chunks.flatMap((chunk) => chunk.choices).filter((choice) => choice.index === index);
  return choices.map((choice) => piece(choice.delta) ?? "").join("");
}

// What these events are told with, and their names in the order of their first appearance.
function record(stream, names) {
  const events = Object.fromEntries(names.map((name) => [name, []]));
  const order = [];
  for (const name of names) {
    stream.on(name, (...values) => {
      if (!order.includes(name)) order.push(name);
      events[name].push(structuredClone(values));
    });
  }
  return { events, order };
}

// What a promise fails with, as a program sees it that asks `instanceof`.
async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return told(error);
  }
  return { kinds: [] };
}

function told(error) {
  const kinds = Object.keys(OpenAI).filter((name) => name.endsWith("Error") && error instanceof OpenAI[name]);
  const { message, status, code, param, type, requestID } = error;
  return { kinds, message, status, code, param, type, requestID };
}

// A client that counts the requests it sends.
function counting(options) {
  const sent = [];
  const counted = (url, init) => {
    sent.push(String(url));
    return fetch(url, init);
  };
  return { sent, client: new OpenAI({ timeout: 30_000, ...options, fetch: counted }) };
}

const SCENARIOS = {
  async whole() {
    return await chat.create(asked(CAPITAL));
  },

  async stream() {
    const stream = await chat.create(asked(COUNT, { stream: true, stream_options: { include_usage: true } }));
    const chunks = await all(stream);
    return { chunks, text: text(chunks) };
  },

  // Cohere falls silent in the middle, for ever: what it has said must have come by then.
  async a_stream_left_early() {
    const stream = await chat.create(asked(COUNT, { model: `${A}@stall_stream`, stream: true }));
    let seen = "";
    for await (const chunk of stream) {
      seen += chunk.choices[0].delta.content ?? "";
      if (seen.endsWith("3")) break;
    }
    const after = await chat.create(asked(CAPITAL));
    return { seen, aborted: stream.controller.signal.aborted, after: after.choices[0].message.content };
  },

  async stream_helper() {
    const stream = chat.stream(asked(COUNT, { logprobs: true, stream_options: { include_usage: true } }));
    const { events, order } = record(stream, [
      ...["connect", "chunk", "content.delta", "content.done", "logprobs.content.done"],
      ...["finalContent", "finalChatCompletion", "end", "error"],
    ]);
    const completion = await stream.finalChatCompletion();
    return {
      completion,
      order,
      pieces: events["content.delta"].map(([{ delta }]) => delta),
      done: events["content.done"].map(([{ content }]) => content),
      logprobs: events["logprobs.content.done"].map(([{ content }]) => content.map(({ token }) => token)),
      content: await stream.finalContent(),
      usage: await stream.totalUsage(),
    };
  },

  async stream_helper_with_tools() {
    const stream = chat.stream(asked(WEATHERS, { tools: TOOLS }));
    const { events } = record(stream, [
      "tool_calls.function.arguments.delta",
      "tool_calls.function.arguments.done",
    ]);
    const completion = await stream.finalChatCompletion();
    return {
      choice: completion.choices[0],
      deltas: events["tool_calls.function.arguments.delta"].map(([delta]) => delta),
      done: events["tool_calls.function.arguments.done"].map(([call]) => call),
    };
  },

  async parallel_calls() {
    const completion = await chat.create(asked(WEATHERS, { tools: TOOLS }));
    const single = await chat.create(asked(WEATHERS, { tools: TOOLS, parallel_tool_calls: false }));
    return { choice: completion.choices[0], single: single.choices[0] };
  },

  async run_tools() {
    return await ranTools(asked(WEATHER));
  },

  async run_tools_streamed() {
    return await ranTools(asked(WEATHER, { stream: true }));
  },

  async run_tools_in_parallel() {
    return await ranTools(asked(WEATHERS));
  },

  async run_tools_in_parallel_streamed() {
    return await ranTools(asked(WEATHERS, { stream: true }));
  },

  async run_tools_of_a_reasoning_model() {
    return await ranTools(asked(WEATHERS, { model: REASONING, stream: true }));
  },

  async run_one_named_tool() {
    return await ranTools(asked(WEATHER, { tool_choice: { type: "function", function: { name: "get_weather" } } }));
  },

  async parse() {
    const completion = await chat.parse(asked(ADA, { response_format: zodResponseFormat(Person, "person") }));
    return completion.choices[0].message;
  },

  async parse_streamed() {
    const stream = chat.stream(asked(ADA, { response_format: zodResponseFormat(Person, "person") }));
    const completion = await stream.finalChatCompletion();
    return completion.choices[0].message;
  },

  async parse_a_call() {
    const tool = zodFunction({
      name: "get_weather",
      description: "The weather in a city",
      parameters: z.object({ city: z.string() }),
    });
    const completion = await chat.parse(asked(WEATHER, { tools: [tool] }));
    return completion.choices[0].message.tool_calls;
  },

  async image() {
    const content = [
      { type: "text", text: "What is in this picture?" },
      { type: "image_url", image_url: { url: PNG, detail: "low" } },
    ];
    const completion = await chat.create(asked(content, { model: VISION }));
    const chunks = await all(await chat.create(asked(content, { model: VISION, stream: true })));
    const refused = await failure(chat.create(asked(content)));
    return { whole: completion.choices[0].message.content, streamed: text(chunks), refused };
  },

  async reasoning() {
    const question = asked("What is 12 * 12?", { model: PLUS, reasoning_effort: "low" });
    const completion = await chat.create(question);
    const chunks = await all(await chat.create({ ...question, stream: true }));
    const none = await chat.create({ ...question, reasoning_effort: "none" });
    return {
      message: completion.choices[0].message,
      usage: completion.usage,
      streamed: { content: text(chunks), reasoning_content: thoughts(chunks) },
      none: none.choices[0].message,
    };
  },

  async several_choices() {
    const completion = await chat.create(asked(CAPITAL, { n: 2 }));
    const chunks = await all(await chat.create(asked(COUNT, { n: 2, stream: true })));
    return {
      choices: completion.choices,
      streamed: [0, 1].map((index) => text(chunks, index)),
      finished: chunks.flatMap(({ choices }) => choices).filter((choice) => choice.finish_reason),
    };
  },

  async unknown_model() {
    const unknown = asked(CAPITAL, { model: "no-such-model" });
    return {
      whole: await failure(chat.create(unknown)),
      streamed: await failure(chat.create({ ...unknown, stream: true })),
      helper: await failure(chat.stream(unknown).finalChatCompletion()),
    };
  },

  async bad_role() {
    return await failure(chat.create({ model: A, messages: [{ role: "wizard", content: "Hello" }] }));
  },

  async rate_limit() {
    const limited = asked(CAPITAL, { model: `${A}@rate_minute` });
    return {
      whole: await failure(chat.create(limited)),
      streamed: await failure(chat.create({ ...limited, stream: true })),
      helper: await failure(chat.stream(limited).finalChatCompletion()),
    };
  },

  async a_failure_that_passes() {
    const { sent, client } = counting({ maxRetries: 1 });
    const completion = await client.chat.completions.create(asked(CAPITAL, { model: `${A}@flaky=1` }));
    return { requests: sent.length, content: completion.choices[0].message.content };
  },

  async a_failure_that_stays() {
    const { sent, client } = counting({ maxRetries: 5 });
    const strict = { headers: { "x-gateway-strict": "true" } };
    const refused = await failure(client.chat.completions.create(asked(CAPITAL, { temperature: 1.4 }), strict));
    return { requests: sent.length, refused };
  },

  async a_timeout() {
    return await failure(chat.create(asked(CAPITAL, { model: `${A}@stall` }), { timeout: 200 }));
  },

  async a_cut_answer() {
    return await failure(chat.create(asked(COUNT, { model: `${A}@cut` })));
  },

  async a_cut_stream() {
    const chunks = [];
    const reading = async () => {
      const stream = await chat.create(asked(COUNT, { model: `${A}@cut`, stream: true }));
      for await (const chunk of stream) chunks.push(chunk);
    };
    const raised = await failure(reading());
    const helper = chat.stream(asked(COUNT, { model: `${A}@cut` }));
    const { events, order } = record(helper, ["content.delta", "content.done", "finalChatCompletion", "end"]);
    const emitted = [];
    helper.on("error", (error) => emitted.push(told(error)));
    return {
      raised,
      text: text(chunks),
      finished: chunks.some((chunk) => chunk.choices.some((choice) => choice.finish_reason)),
      helper: await failure(helper.finalChatCompletion()),
      emitted,
      order,
      pieces: events["content.delta"].map(([{ delta }]) => delta),
    };
  },

  // A field of Cohere's own, and what only the gateway's answers have.
  async documents() {
    const data = { text: "The Eiffel tower is 330 metres tall.", url: "https://tower.example/" };
    const question = asked("How tall is the Eiffel tower?", { documents: [{ id: "tower", data }] });
    const completion = await chat.create(question);
    const chunks = await all(await chat.create({ ...question, stream: true }));
    const deltas = chunks.flatMap((chunk) => chunk.choices).map((choice) => choice.delta);
    return {
      message: completion.choices[0].message,
      streamed: {
        content: text(chunks),
        citations: deltas.flatMap((delta) => delta.citations ?? []),
        annotations: deltas.flatMap((delta) => delta.annotations ?? []),
      },
    };
  },

  async models() {
    const ids = (await all(client.models.list())).map(({ id }) => id);
    const plain = await client.models.retrieve(A);
    const prefixed = await client.models.retrieve(`cohere/${A}`); // the SDK writes the slash as %2F
    return { ids, plain, prefixed, unknown: await failure(client.models.retrieve("no-such-model")) };
  },

  async headers() {
    const adjusted = asked(CAPITAL, { temperature: 1.4, logit_bias: { 50256: -100 } });
    const { data, response, request_id } = await chat.create(adjusted).withResponse();
    const own = { headers: { "x-request-id": "node-1" } };
    const streamed = await chat.create({ ...adjusted, stream: true }, own).withResponse();
    await all(streamed.data);
    return {
      whole: { headers: Object.fromEntries(response.headers), request_id, of_completion: data._request_id },
      streamed: { headers: Object.fromEntries(streamed.response.headers), request_id: streamed.request_id },
    };
  },
};

// A conversation with the weather tool to its end: what was called, what was said, and how it was told.
async function ranTools(question) {
  const { cities, tools } = runnableWeather();
  const runner = chat.runTools({ ...question, tools });
  const { events, order } = record(runner, [
    ...["functionToolCall", "functionToolCallResult", "chatCompletion", "finalChatCompletion"],
    ...["finalContent", "end", "error"],
  ]);
  const completion = await runner.finalChatCompletion();
  return {
    cities: cities.sort(),
    roles: runner.messages.map(({ role }) => role),
    calls: events.functionToolCall.map(([call]) => call),
    results: events.functionToolCallResult.map(([result]) => JSON.parse(result)),
    rounds: events.chatCompletion.map(([{ choices }]) => choices[0].finish_reason),
    order,
    message: completion.choices[0].message,
  };
}

for (const [scenario, run] of Object.entries(SCENARIOS)) {
  const line = { scenario };
  try {
    line.found = await run();
  } catch (error) {
    line.threw = { ...told(error), stack: error.stack };
  }
  console.log(JSON.stringify(line));
}
