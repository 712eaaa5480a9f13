"""TLS for callers: the certificate, the protocols, and another certificate without a restart.

TLS 1.2 and 1.3; of 1.2 only ciphers with forward secrecy and authenticated encryption. HTTP/2 is offered by ALPN.
"""

import ssl
from pathlib import Path

from gateway.settings.schema import SettingError, TlsSettings

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2. Those of 1.3 are all good."""


class Tls:
    """The context of all connections, which stays the same when the certificate is read again."""

    def __init__(self, settings: TlsSettings) -> None:
        """Raises SettingError for a certificate that cannot be used."""
        self.context = context_of(settings)

    def reload(self, settings: TlsSettings) -> None:
        """Reads the certificate again, for the connections that follow. Raises SettingError; the old one stays then."""
        if not settings.certificate:
            raise SettingError("tls.certificate: to serve without TLS needs a restart")
        context_of(settings)  # a certificate without its key would be half of a new one
        _load(self.context, settings)


def context_of(settings: TlsSettings) -> ssl.SSLContext:
    """Returns a context for a server. Raises SettingError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    # Compression tells secrets by their length. A renegotiation is a handshake that costs us more than the caller.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["h2", "http/1.1"] if settings.http2 else ["http/1.1"])
    _load(context, settings)
    return context


def _load(context: ssl.SSLContext, settings: TlsSettings) -> None:
    # Read first, as `load_cert_chain` does not say which of the two files is missing.
    for name, path in (("tls.certificate", settings.certificate), ("tls.key", settings.key)):
        try:
            if path:
                Path(path).read_bytes()
        except OSError as error:
            raise SettingError(f"{name}: cannot read {path}: {error.strerror}") from error
    try:
        # A password would be asked for on a terminal.
        context.load_cert_chain(settings.certificate, settings.key or None, password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        key = settings.key or settings.certificate
        reason = getattr(error, "reason", None) or error
        raise SettingError(
            f"tls.certificate: {settings.certificate} and the key in {key} cannot be used ({reason}): expected PEM "
            "files of a certificate, with its chain, and of its key without a password"
        ) from error
