"""A tool call and its result: the model asks for the weather, this program looks it up, the model answers."""

import json
import os

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "any"),
)
MODEL = "cohere/command-a-03-2025"
TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def get_weather(city: str) -> str:
    return f"11 degrees and rain in {city}"


messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather in Toronto?"}]
for _ in range(5):
    message = client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL]).choices[0].message
    if not message.tool_calls:
        break
    messages.append(message.to_dict())  # type: ignore[arg-type]  # the plan before the calls goes back, too
    for call in message.tool_calls:
        assert call.type == "function"
        print("called:", call.function.name, call.function.arguments)
        result = get_weather(**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
print("answer:", message.content)
