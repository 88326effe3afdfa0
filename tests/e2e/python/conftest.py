"""One simulated provider and one gateway for each test file; a failure shows the gateway's own words."""

from __future__ import annotations

import os

import pytest

# The packages under test read these; a proxy or a real key of the machine must not reach the tests.
for name in [name for name in os.environ if name.startswith(("OPENAI_", "ANTHROPIC_"))]:
    del os.environ[name]
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"

from deployment import PARTYWALL, SIMULATOR, Gateway, Simulator, Tenant  # noqa: E402
from slowness import SlowClients  # noqa: E402


def pytest_configure(config):
    for program in (PARTYWALL, SIMULATOR):
        if not program.exists():
            raise pytest.UsageError(f"{program} is missing; build it, or run `cargo xtask test`")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            value = getattr(value, "gateway", value)
            if isinstance(value, Gateway):
                report.sections.append(("gateway stderr", value.output()))
                report.sections.append(("gateway.log", value.log_text()[-6_000:]))


@pytest.fixture(scope="module")
def sim():
    simulator = Simulator()
    yield simulator
    simulator.stop()


@pytest.fixture(scope="module")
def gw(sim):
    gateway = Gateway(sim)
    try:
        yield gateway.start()
    finally:
        gateway.close()


@pytest.fixture(scope="module")
def acme(gw) -> Tenant:
    return gw.tenant("acme")


@pytest.fixture(scope="module")
def globex(gw) -> Tenant:
    return gw.tenant("globex")


@pytest.fixture(scope="session", autouse=True)
def slow_clients(request):
    """Begins with the first test and is asked near the end: what takes a minute takes it beside the others."""
    if not any("slow_clients" in item.path.name for item in request.session.items):
        yield None
        return
    clients = SlowClients()
    yield clients
    clients.close()


@pytest.fixture(scope="session")
def missing():
    """What to do where the machine lacks a program: a skip at home, a failure where CI=true."""

    def decide(reason: str):
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(reason)
        pytest.skip(reason)

    return decide
