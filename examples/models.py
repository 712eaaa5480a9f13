"""The models that can chat, and what stands behind a name that Cohere no longer serves."""

import os

from openai import NotFoundError, OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "any"),
)

# Beside OpenAI's fields, a model has endpoints, features and a context length, as Cohere reports them.
for model in client.models.list():
    details = model.model_extra or {}
    if "chat" in details["endpoints"]:
        print(f"{model.id:40} {details.get('context_length', ''):>8} {', '.join(details.get('features', []))}")

successor = client.models.retrieve("cohere/command-r-plus")
print("command-r-plus is served by", (successor.model_extra or {}).get("alias_of"))
try:
    client.models.retrieve("cohere/no-such-model")
except NotFoundError as error:
    print("no-such-model:", error.code)
