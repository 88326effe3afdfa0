"""TLS on both sides, HTTP/2, and the end of the process: the parts of a connection that plain HTTP/1.1 does not show."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import threading
import time

import httpx
import pytest
from deployment import Gateway, default_config, eventually
from route_fixtures import message
from tls import PATIENCE, Authority, TlsGateway, lacking
from websockets.sync.client import connect as websocket


@pytest.fixture(scope="module")
def authority(tmp_path_factory, missing):
    if absent := lacking("openssl", "curl"):
        missing(f"{', '.join(absent)}: not installed")
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secure(sim, authority):
    gateway = TlsGateway(sim, authority)
    try:
        yield gateway.start()
    finally:
        gateway.close()


@pytest.fixture(scope="module")
def tenant(secure):
    return secure.tenant("acme")


def curl(secure: TlsGateway, tenant, *arguments: str) -> subprocess.CompletedProcess:
    command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "30", "--cacert", secure.authority.ca,
               "-H", f"authorization: Bearer {tenant.token}", "-H", "content-type: application/json", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE)


def question(**members) -> str:
    return json.dumps({"model": "sim-fast", "messages": [{"role": "user", "content": "Hello"}], **members})


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_a_call_and_a_stream_over_each_version_of_http(secure, tenant, version):
    url = f"{secure.url}/v1/chat/completions"
    said = curl(secure, tenant, version, "-w", "\n%{http_version} %{http_code}", "-d", question(), url)
    body, _, told = said.stdout.rpartition("\n")
    assert told == ("2 200" if version == "--http2" else "1.1 200"), said
    assert json.loads(body)["choices"][0]["message"]["content"]
    streamed = curl(secure, tenant, version, "-N", "-d", question(stream=True), url)
    assert streamed.returncode == 0 and streamed.stdout.rstrip().endswith("data: [DONE]"), streamed
    assert all(row["outcome"] == "finished" for row in tenant.rows())


def test_a_stream_that_breaks_does_not_end_cleanly_over_http2(secure, tenant):
    body = json.dumps({
        "model": "sim-fast",
        "stream": True,
        "messages": [{"role": "user", "content": "[[sim:fault=cut_after:3]] Hello"}],
    })
    broken = curl(secure, tenant, "--http2", "-N", "-d", body, f"{secure.url}/v1/chat/completions")
    assert "[DONE]" not in broken.stdout
    assert '"error"' in broken.stdout or broken.returncode != 0, broken
    assert broken.returncode != 0, broken


def test_a_websocket_is_opened_over_tls_and_not_over_http2(secure, tenant):
    url = f"wss://localhost:{secure.port}/rpc"
    head = {"authorization": f"Bearer {tenant.token}"}
    with websocket(url, additional_headers=head, ssl=secure.authority.trusting(), proxy=None, compression=None) as ws:
        ws.send(json.dumps(message("tenant.get")))
        assert json.loads(ws.recv(5))["result"]["id"] == tenant.id
        ws.send(json.dumps(message("tenant.rotate", {"grace": "1h"})))
        assert json.loads(ws.recv(5))["result"]["tokens"][0]["name"] == "default"
    for version, status in (("--http1.1", "200"), ("--http2", "200")):
        said = curl(secure, tenant, version, "-w", "\n%{http_code}", "-d", json.dumps(message("health")), f"{secure.url}/rpc")
        assert said.stdout.rpartition("\n")[2] == status and '"ok"' in said.stdout, said
    opening = ("-H", "upgrade: websocket", "-H", "sec-websocket-version: 13", "-H", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==")
    said = curl(secure, tenant, "--http2", "-w", "\n%{http_code}", *opening, f"{secure.url}/rpc")
    assert said.stdout.rpartition("\n")[2] == "400", said


def test_many_calls_share_one_http2_connection(secure, tenant):
    urls = [f"{secure.url}/v1/models"] * 20
    said = curl(secure, tenant, "--http2", "--parallel", "-o", "/dev/null", "-w", "%{http_code} %{num_connects}\n", *urls[:1],
                *[part for url in urls[1:] for part in ("-o", "/dev/null", url)])
    lines = said.stdout.split("\n")[:-1]
    assert len(lines) == 20 and all(line.startswith("200 ") for line in lines), said
    assert sum(int(line.split()[1]) for line in lines) <= 2, lines


def test_the_official_package_over_tls(secure, tenant):
    client = tenant.openai(http_client=httpx.Client(verify=secure.authority.trusting(), trust_env=False))
    chunks = list(client.chat.completions.create(model="sim-fast", messages=[{"role": "user", "content": "Hi"}], stream=True))
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_who_does_not_trust_the_certificate_and_who_speaks_plain_text_get_nothing(secure):
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{secure.url}/readyz", timeout=10, trust_env=False)
    with socket.create_connection((secure.host, secure.port), timeout=10) as plain:
        plain.sendall(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"200" not in plain.recv(4096)
    assert secure.http.get("/readyz").status_code == 200


class Terminator:
    """Takes TLS off in front of a plain server: how a provider looks from outside."""

    def __init__(self, authority: Authority, port: int):
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(authority.cert, authority.key)
        self.upstream = ("127.0.0.1", port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            secured = self.context.wrap_socket(client, server_side=True)
            upstream = socket.create_connection(self.upstream)
        except OSError:
            client.close()
            return
        threading.Thread(target=self._copy, args=(secured, upstream), daemon=True).start()
        self._copy(upstream, secured)

    @staticmethod
    def _copy(source, sink) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                end.close()


@pytest.mark.parametrize("host, trusted, reached", [("127.0.0.1", True, True), ("localhost", True, True), ("127.0.0.1", False, False)])
def test_a_provider_behind_tls_is_reached_when_its_certificate_is_good(sim, authority, host, trusted, reached):
    terminator = Terminator(authority, sim.port)
    config = default_config(sim)
    for provider in config["providers"]:
        if provider["kind"] == "openai":
            provider["base_url"] = f"https://{host}:{terminator.port}/v1"
    gateway = Gateway(sim, config)
    if trusted:
        gateway.environment["SSL_CERT_FILE"] = str(authority.ca)
    try:
        acme = gateway.start().tenant("acme")
        mark = sim.mark()
        answers = [acme.chat() for _ in range(3)]
        if reached:
            assert [answer.status_code for answer in answers] == [200] * 3, answers[0].text
            assert len(sim.since(mark)) == 3 and len(acme.rows()) == 3
        else:
            assert {answer.status_code for answer in answers} == {502}
            assert sim.since(mark) == [] and acme.rows() == []
    finally:
        gateway.close()
        terminator.listener.close()


def test_a_second_signal_ends_at_once_what_the_first_lets_finish(sim):
    gateway = Gateway(sim)
    try:
        acme = gateway.start().tenant("acme")
        body = {"model": "sim-fast", "stream": True, "messages": [{"role": "user", "content": "[[sim:chunks=40 gap=200ms]] Tell me much"}]}
        with acme.gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=acme.bearer) as answer:
            lines = answer.iter_lines()
            next(lines)
            gateway.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert gateway.process.poll() is None, "the first signal waits for the stream"
            begun = time.monotonic()
            gateway.process.send_signal(signal.SIGTERM)
            gateway.process.wait(5)
            assert time.monotonic() - begun < 3
        gateway._forget()
        rows = gateway.start().rows("acme")
        assert len(rows) == 1, rows
    finally:
        gateway.close()


def test_the_first_signal_lets_a_stream_finish(sim):
    gateway = Gateway(sim)
    try:
        acme = gateway.start().tenant("acme")
        body = {"model": "sim-fast", "stream": True, "messages": [{"role": "user", "content": "[[sim:chunks=10 gap=100ms]] Hello"}]}
        with acme.gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=acme.bearer) as answer:
            lines = answer.iter_lines()
            next(lines)
            gateway.process.send_signal(signal.SIGTERM)
            assert "data: [DONE]" in list(lines)
        assert eventually(lambda: gateway.process.poll() is not None, 20, "the end of the process")
        assert gateway.process.returncode == 0
        gateway._forget()
        rows = gateway.start().rows("acme")
        assert [row["outcome"] for row in rows] == ["finished"], rows
    finally:
        gateway.close()
