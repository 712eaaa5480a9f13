"""Embeddings: which of these texts answers the question? Documents and questions have types of their own."""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "any"),
)

texts = [
    "The Eiffel tower is 330 metres tall.",
    "Bread is baked of flour, water and salt.",
    "The Seine flows through Paris.",
]
question = "How tall is the Eiffel tower?"


def embed(inputs: list[str], input_type: str) -> list[list[float]]:
    answer = client.embeddings.create(
        model="cohere/embed-v4.0", input=inputs, dimensions=512, extra_body={"input_type": input_type}
    )
    return [one.embedding for one in answer.data]


documents = embed(texts, "search_document")
(query,) = embed([question], "search_query")
nearness = [sum(a * b for a, b in zip(query, document, strict=True)) for document in documents]
for near, text in sorted(zip(nearness, texts, strict=True), reverse=True):
    print(f"{near:.2f}  {text}")
