"""A streamed answer with its reasoning: pieces as they arrive, the token counts at the end."""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "any"),
)

pieces = client.chat.completions.create(
    model="cohere/command-a-reasoning-08-2025",
    messages=[{"role": "user", "content": "Count from 1 to 10."}],
    reasoning_effort="low",
    stream=True,
    stream_options={"include_usage": True},
)
thinking = answering = False
for piece in pieces:
    if piece.usage:
        print(f"\ntokens:   {piece.usage.prompt_tokens} in, {piece.usage.completion_tokens} out")
    for choice in piece.choices:
        # OpenAI's own API has no field for reasoning; `reasoning_content` is the one in wide use.
        thought = getattr(choice.delta, "reasoning_content", None)
        if thought:
            print(thought if thinking else f"thinking: {thought}", end="", flush=True)
            thinking = True
        if choice.delta.content:
            print(choice.delta.content if answering else f"\nanswer:   {choice.delta.content}", end="", flush=True)
            answering = True
