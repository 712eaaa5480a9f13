"""Files that Cohere reads before the request that holds them can be translated.

The translation says which files it lacks (`UnparsedFiles`), they are sent to `/v2/parse`, and it is made again with
their texts. A conversation sends its files again with each turn: texts are cached, for the caller who sent the file.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from gateway import cohere_methods
from gateway.observability.record import RequestRecord
from gateway.pipeline.admission import AdmissionController
from gateway.pipeline.fan_out import post_all
from gateway.upstream.client import UpstreamClient
from translators.core.contracts import Workload
from translators.core.notes import Notes
from translators.operations import file_parsing

PATH = "/v2/parse"

MAX_CACHED_CHARACTERS = 16_000_000
"""Of all cached texts of a process."""


class FileParser:
    """Reads files through Cohere, for all requests of a process."""

    def __init__(self, upstream: UpstreamClient, admission: AdmissionController) -> None:
        self._upstream, self._admission = upstream, admission
        self._method = cohere_methods.find("POST", PATH)
        self._texts: OrderedDict[bytes, str] = OrderedDict()
        self._characters = 0

    async def parse(self, record: RequestRecord, model: str, uris: Sequence[str]) -> Mapping[str, str]:
        """Returns the texts of files by their URIs. model: the setting `files.parse_model`. Raises GatewayError."""
        keys = {uri: _key(record.principal.owner, model, uri) for uri in uris}
        texts = {uri: self._texts[key] for uri, key in keys.items() if key in self._texts}
        missing = [uri for uri in uris if uri not in texts]
        if missing:
            workload = Workload(model)
            with await self._admission.admit(record, self._method, workload, Notes()) as admission:
                bodies = [file_parsing.request(uri, model) for uri in missing]
                answers = await post_all(self._upstream, PATH, admission, bodies)
            for uri, answer in zip(missing, answers, strict=True):
                parsed = file_parsing.parsed_file(answer)
                record.add_usage(parsed.usage)
                texts[uri] = parsed.text
        for uri, text in texts.items():
            self._cache(keys[uri], text)
        return texts

    def _cache(self, key: bytes, text: str) -> None:
        self._characters += len(text) - len(self._texts.pop(key, ""))
        self._texts[key] = text
        while self._characters > MAX_CACHED_CHARACTERS:
            self._characters -= len(self._texts.popitem(last=False)[1])


def _key(owner: str, model: str, uri: str) -> bytes:
    digest = hashlib.sha256(f"{owner}\0{model}\0".encode())
    digest.update(uri.encode())
    return digest.digest()
