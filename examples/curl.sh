#!/usr/bin/env bash
# The same API without an SDK: the models, a whole answer with its headers, a streamed one, a refused one.
set -euo pipefail

base=${OPENAI_BASE_URL:-http://127.0.0.1:8080/v1}
key=${OPENAI_API_KEY:-any}

ask() { # ask BODY [CURL OPTIONS]
    local body=$1
    shift
    curl --silent --show-error "$@" "$base/chat/completions" \
        -H "authorization: Bearer $key" -H 'content-type: application/json' -d "$body"
    echo
}

echo '# one model'
curl --silent --show-error "$base/models/cohere/command-r-plus" -H "authorization: Bearer $key"
echo

echo '# a whole answer; the headers tell what was changed and who answered'
ask '{"model": "cohere/command-r-plus", "temperature": 1.4,
      "messages": [{"role": "user", "content": "What is the capital of France?"}]}' --include

echo '# a streamed answer'
ask '{"model": "cohere/command-r-plus", "stream": true,
      "messages": [{"role": "user", "content": "Count from 1 to 5."}]}' --no-buffer

echo '# strict: refused, where the request above was adjusted'
ask '{"model": "cohere/command-r-plus", "temperature": 1.4,
      "messages": [{"role": "user", "content": "Hello"}]}' -H 'x-gateway-strict: true'
