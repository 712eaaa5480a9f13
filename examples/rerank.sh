#!/usr/bin/env bash
# Which documents answer a question: texts, and objects whose relevant fields are named.
set -euo pipefail

base=${OPENAI_BASE_URL:-http://127.0.0.1:8080/v1}
key=${OPENAI_API_KEY:-any}

rerank() { # rerank BODY
    curl --silent --show-error "$base/rerank" \
        -H "authorization: Bearer $key" -H 'content-type: application/json' -d "$1"
    echo
}

echo '# texts: the best one first, by its place in the list'
rerank '{"model": "cohere/rerank-v3.5", "query": "What is the capital of France?", "top_n": 1,
         "documents": ["Rome is the capital of Italy.", "Paris is the capital of France."]}'

echo '# objects: ranked by these fields, and returned whole'
rerank '{"model": "cohere/rerank-v3.5", "query": "Who wrote about engines?", "top_n": 1,
         "documents": [{"id": 7, "author": "Ada Lovelace", "about": "Engines that calculate"},
                       {"id": 8, "author": "Jane Austen", "about": "Pride, and prejudice"}],
         "rank_fields": ["author", "about"], "return_documents": true}'
