"""LangChain (the package langchain-openai): a chat model, an answer in the shape of a schema, and embeddings."""

import os

from langchain_openai import ChatOpenAI, OpenAIEmbeddings

address = {
    "base_url": os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    "api_key": os.environ.get("OPENAI_API_KEY", "any"),
}
model = ChatOpenAI(model="cohere/command-a-03-2025", **address)
print("answer:", model.invoke("What is the capital of France?").content)

person = {
    "title": "person",
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
shaped = model.with_structured_output(person).invoke("Ada Lovelace died at the age of 36.")
print("shaped:", sorted(shaped))

# Otherwise LangChain would download OpenAI's vocabulary to split texts, which Cohere truncates itself.
embeddings = OpenAIEmbeddings(model="cohere/embed-v4.0", check_embedding_ctx_length=False, **address)
print("vector:", len(embeddings.embed_query("The Eiffel tower is 330 metres tall.")), "numbers")
