"""Cohere's own fields: an answer from documents, and which of its words came from which document."""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "any"),
)

documents = [
    {"id": "tower", "data": {"title": "Eiffel tower", "text": "The Eiffel tower is 330 metres tall."}},
    {"id": "river", "data": {"title": "Seine", "text": "The Seine is 777 kilometres long."}},
]
completion = client.chat.completions.create(
    model="cohere/command-a-03-2025",
    messages=[{"role": "user", "content": "How tall is the Eiffel tower?"}],
    extra_body={"documents": documents, "citation_options": {"mode": "ACCURATE"}},
)
message = completion.choices[0].message
print("answer:", message.content)
for citation in (message.model_extra or {}).get("citations", []):
    sources = ", ".join(source["id"] for source in citation["sources"])
    print(f"cited:  {citation['start']}-{citation['end']} '{citation['text']}' from {sources}")
