#!/usr/bin/env bash
# A recording as text. Cohere does not detect the language.
set -euo pipefail

base=${OPENAI_BASE_URL:-http://127.0.0.1:8080/v1}
key=${OPENAI_API_KEY:-any}
recording=${1:-}

if [ -z "$recording" ]; then # two seconds of silence: 8,000 bytes a second, as a WAV file
    folder=$(mktemp -d)
    trap 'rm -r "$folder"' EXIT
    recording=$folder/silence.wav
    {
        printf 'RIFF\xa4\x3e\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00'
        printf '\x40\x1f\x00\x00\x40\x1f\x00\x00\x01\x00\x08\x00data\x80\x3e\x00\x00'
        head -c 16000 /dev/zero | tr '\0' '\200'
    } > "$recording"
fi

transcribe() { # transcribe [CURL OPTIONS]
    curl --silent --show-error "$base/audio/transcriptions" -H "authorization: Bearer $key" \
        -F model=cohere/cohere-transcribe-03-2026 -F language=en "$@" -F "file=@$recording"
    echo
}

transcribe
transcribe -F response_format=text
