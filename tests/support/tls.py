"""A certificate authority of the tests' own, which nobody else trusts."""

import ssl
from pathlib import Path

import trustme


class Authority:
    """Issues certificates. `path` is a file with its own, for `SSL_CERT_FILE`."""

    def __init__(self, directory: Path) -> None:
        self._authority = trustme.CA()
        self.path = directory / "authority.pem"
        self._authority.cert_pem.write_to_path(str(self.path))

    def server_context(self, *names: str) -> ssl.SSLContext:
        """Return the settings of a server with a certificate for these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*names).configure_cert(context)
        return context
