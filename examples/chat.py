"""One question, one answer, and what the gateway reports about them."""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "any"),
)

# OpenAI allows a temperature up to 2, Cohere up to 1: the note in the headers says what was sent instead.
raw = client.chat.completions.with_raw_response.create(
    model="cohere/command-r-plus",
    messages=[{"role": "user", "content": "What is the capital of France?"}],
    temperature=1.4,
)
completion = raw.parse()
print("answer:  ", completion.choices[0].message.content)
print("tokens:  ", completion.usage.total_tokens if completion.usage else "unknown")
print("notes:   ", raw.headers.get("x-gateway-notes", "none"))
print("upstream:", raw.headers.get("x-gateway-upstream", "Cohere"))
