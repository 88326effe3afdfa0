"""TLS in front of the gateway: a certificate authority of the tests, and a gateway whose listeners speak it."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import httpx
from deployment import Gateway, Simulator, default_config

PATIENCE = 60


def lacking(*programs: str) -> list[str]:
    """Those of the programs that are not installed."""
    return [program for program in programs if shutil.which(program) is None]


class Authority:
    """A certificate authority of this test, and one server certificate for `localhost` and 127.0.0.1."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.ca, self.cert, self.key = (directory / name for name in ("ca.pem", "cert.pem", "key.pem"))
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=Partywall test CA",
                      "-keyout", directory / "ca.key", "-out", self.ca)
        self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost",
                      "-keyout", self.key, "-out", directory / "server.csr")
        names = directory / "names"
        names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        self._openssl("x509", "-req", "-in", directory / "server.csr", "-CA", self.ca, "-CAkey", directory / "ca.key",
                      "-CAcreateserial", "-days", "2", "-extfile", names, "-out", self.cert)

    def _openssl(self, *arguments) -> None:
        subprocess.run(["openssl", *map(str, arguments)], cwd=self.directory, check=True, capture_output=True, timeout=PATIENCE)

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)


class TlsGateway(Gateway):
    """A gateway whose listeners speak TLS."""

    def __init__(self, sim: Simulator, authority: Authority):
        self.authority = authority
        config = default_config(sim)
        config["tls"] = {"cert": "file:cert.pem", "key": "file:key.pem"}
        super().__init__(sim, config)
        self.write("cert.pem", authority.cert.read_text())
        self.write("key.pem", authority.key.read_text())

    def _ready(self) -> bool:
        self.url = self.url.replace("http://", "https://")
        self.admin_url = self.admin_url.replace("http://", "https://")
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    @property
    def http(self) -> httpx.Client:
        if self._http is None:
            self._http = httpx.Client(base_url=self.url, timeout=30, trust_env=False, verify=self.authority.trusting())
        return self._http
