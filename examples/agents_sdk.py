"""An agent of OpenAI's Agents SDK (the package openai-agents), with a tool, on a model of Cohere's."""

import os

from agents import Agent, OpenAIProvider, RunConfig, Runner, function_tool

provider = OpenAIProvider(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "any"),
)


@function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    print("called:", city)
    return f"11 degrees and rain in {city}"


agent = Agent(name="Weather", model="cohere/command-a-03-2025", tools=[get_weather])
# Traces would go to OpenAI. With a provider of its own the SDK also leaves the prefix `cohere/` as it is.
config = RunConfig(model_provider=provider, tracing_disabled=True)
print("answer:", Runner.run_sync(agent, "What is the weather in Toronto?", run_config=config).final_output)
