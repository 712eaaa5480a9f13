"""Files that Cohere reads before the request that holds them can be translated.

The translation says which files it lacks (`unparsed_files`). Once the request is admitted, they are sent to `/v2/parse`
and the translation is made again with their texts. A conversation sends its files again with each turn: texts are
cached, for the caller who sent the file.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from gateway import cohere_methods
from gateway.pipeline.admission import Admission
from gateway.pipeline.fan_out import gather_or_first_error
from gateway.upstream.attempts import CallOptions
from gateway.upstream.calls import UpstreamCalls
from translators.core.contracts import Workload
from translators.operations import file_parsing

PATH = "/v2/parse"

MAX_CACHED_CHARACTERS = 16_000_000
"""Of all cached texts of a process."""


class FileParser:
    """Reads files through Cohere, for all requests of a process."""

    def __init__(self, upstream: UpstreamCalls) -> None:
        self._upstream = upstream
        self._method = cohere_methods.find("POST", PATH)
        self._texts: OrderedDict[bytes, str] = OrderedDict()
        self._characters = 0

    async def parse(self, admission: Admission, model: str, uris: Sequence[str]) -> Mapping[str, str]:
        """Returns the texts of files by their URIs. Their pages belong to the admitted request, which needs them.

        model: the setting `files.parse_model`. Raises GatewayError, TranslationError.
        """
        owner = admission.principal.owner
        keys = {uri: _key(owner, model, uri) for uri in uris}
        texts = {uri: self._texts[key] for uri, key in keys.items() if key in self._texts}
        missing = [uri for uri in uris if uri not in texts]
        if missing:
            await admission.extend(self._method, Workload(model, calls=len(missing)))
            parsed = await gather_or_first_error([self._parse(admission, model, uri) for uri in missing])
            texts.update(zip(missing, parsed, strict=True))
        # Those that were there already, too: they are now the ones that were used last.
        for uri, text in texts.items():
            self._cache(keys[uri], text)
        return texts

    async def _parse(self, admission: Admission, model: str, uri: str) -> str:
        options, body = CallOptions.of(admission.record, model), file_parsing.request(uri, model)
        async with self._upstream.post(PATH, admission.principal, body, False, options) as response:
            answer = await (await admission.accept(response)).read_body()
        # At once: its pages are billed, whatever becomes of the other files.
        admission.bill(model, answer, self._method)
        return file_parsing.file_text(answer)

    def _cache(self, key: bytes, text: str) -> None:
        self._characters += len(text) - len(self._texts.pop(key, ""))
        self._texts[key] = text
        while self._characters > MAX_CACHED_CHARACTERS:
            self._characters -= len(self._texts.popitem(last=False)[1])


def _key(owner: str, model: str, uri: str) -> bytes:
    digest = hashlib.sha256(f"{owner}\0{model}\0".encode())
    digest.update(uri.encode())
    return digest.digest()
