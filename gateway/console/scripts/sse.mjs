/** Server-sent events of a response, as they come. */

/** Yields the data of each event, but for the last one, `[DONE]`. Throws where a stream ends without it. @param {Response} response @returns {AsyncGenerator<any>} */
export async function* events(response) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  let waiting = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      waiting += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const parts = waiting.split("\n\n");
      waiting = /** @type {string} */ (parts.pop());
      for (const part of parts) {
        const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
      if (done) throw new Error("The answer broke off");
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
