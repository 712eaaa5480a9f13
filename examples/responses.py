"""The Responses API: a conversation that the gateway stores, and a stream of events."""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "any"),
)
MODEL = "cohere/command-a-03-2025"

first = client.responses.create(model=MODEL, instructions="Answer briefly.", input="What is the capital of France?")
print("first: ", first.output_text)

# The second request sends only its own input: the earlier turns are stored under the id of the first one.
stream = client.responses.create(model=MODEL, input="Count from 1 to 3.", previous_response_id=first.id, stream=True)
print("second:", end=" ")
for event in stream:
    if event.type == "response.output_text.delta":
        print(event.delta, end="", flush=True)
    elif event.type == "response.completed" and event.response.usage:
        print(f"\ntokens: {event.response.usage.input_tokens} in, {event.response.usage.output_tokens} out")

items = client.responses.input_items.list(first.id)
print("stored:", [item.type for item in items])
client.responses.delete(first.id)
