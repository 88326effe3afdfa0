"""Every command, while the gateway runs and while none does."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time

import pytest

from deployment import PARTYWALL, Gateway, eventually, ratecard


@pytest.fixture(scope="module")
def idle(sim):
    """A data directory that no gateway serves."""
    gateway = Gateway(sim)
    try:
        yield gateway
    finally:
        gateway.close()


@pytest.fixture(scope="module", params=["running", "offline"])
def either(request, gw, idle):
    """The same commands through the control socket and under the lock."""
    return gw if request.param == "running" else idle


def run(*arguments, env=None) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PARTYWALL_")}
    return subprocess.run([PARTYWALL, *arguments], capture_output=True, text=True, env={**clean, **(env or {})}, timeout=30)


def test_every_command_works_and_speaks_json(either):
    gw, name = either, "lifecycle"
    created = gw.json("tenants", "create", name, "--tier", "standard", "--tokens-per-day", "5000", "--cost-per-day-usd", "1.5")
    assert created["token"].startswith(f"tk_{name}_") and created["status"] == "active" and created["tier"] == "standard"
    [line] = [line for line in gw.json("tenants", "list") if line["id"] == name]
    assert (line["status"], line["tokens"]) == ("active", 1)
    shown = gw.json("tenants", "show", name)
    assert shown["id"] == name and shown["limits"]["tokens_per_day"] == 5000 and shown["audit_vkey"]
    assert shown["database"]["state"] == "ok" and shown["audit_vkey"] == created["audit_vkey"]
    assert gw.json("tenants", "suspend", name)["status"] == "suspended"
    assert gw.json("tenants", "resume", name)["status"] == "active"
    assert gw.json("tenants", "freeze", name)["status"] == "frozen"
    assert gw.json("tenants", "resume", name)["status"] == "active"
    issued = gw.json("tenants", "token", "issue", name, "--name", "ci", "--role", "app", "--expires", "30d")
    assert issued["role"] == "app" and issued["expires_at"]
    assert {token["name"] for token in gw.json("tenants", "token", "list", name)} == {"ci", created["token_name"]}
    assert gw.json("tenants", "token", "rotate", name, "--name", "ci", "--grace", "10m")["old_valid_until"]
    gw.json("tenants", "token", "revoke", name, "ci")
    changed = gw.json("tenants", "quota", "set", name, "--tokens-per-minute", "77", "--tokens-per-day", "none")
    limits = {line["name"]: (line["limit"], line["source"]) for line in changed["quotas"]}
    assert limits["tokens_per_minute"] == ("77", "tenant") and limits["tokens_per_day"][1] != "tenant"
    shown = gw.json("tenants", "quota", "show", name)
    assert {line["name"]: (line["limit"], line["source"]) for line in shown["quotas"]} == limits
    assert shown["overrides"] == changed["overrides"]
    gw.json("secrets", "set", name, "sim-openai", stdin="sk-one\n")
    assert [secret["name"] for secret in gw.json("secrets", "list", name)] == ["sim-openai"]
    assert gw.json("secrets", "rotate", name)["done"] is True
    assert [secret["name"] for secret in gw.json("secrets", "list", name)] == ["sim-openai"]
    gw.json("secrets", "delete", name, "sim-openai")
    assert gw.json("secrets", "list", name) == []
    assert gw.json("billing", "report", "--tenant", name) == []
    assert gw.json("billing", "report", "--tenant", name, "--detail") == []
    entries = gw.json("audit", "tail", "--tenant", name)
    assert entries and all(entry["tenant"] == name for entry in entries)
    assert len(gw.json("audit", "tail", "--tenant", name, "--limit", "2")) == 2
    card = gw.json("ratecard", "show")
    assert card["version"] and "sim-fast" in {model["model"] for model in card["models"]}
    assert gw.json("config", "check", "--tenant", name)["files"]
    assert gw.json("config", "show")["providers"][0]["name"] == "sim-openai"
    assert gw.json("config", "show", "--tenant", name)["model"] == "sim-fast"
    status = gw.json("status")
    assert status["running"] is (gw.process is not None) and status["tenants"] >= 1
    assert all(check["state"] in ("ok", "warn", "fail") and check["name"] for check in gw.json("doctor")["checks"])
    gw.json("tenants", "delete", name, "--confirm", name)
    assert name not in {line["id"] for line in gw.json("tenants", "list")}


def test_what_is_printed_for_people_shows_a_token_once(either):
    gw = either
    created = gw.cli("tenants", "create", "for-people", "--tier", "standard", check=True).stdout
    [token] = [word for word in created.split() if word.startswith("tk_")]
    for command in (["tenants", "list"], ["tenants", "show", "for-people"], ["tenants", "token", "list", "for-people"]):
        text = gw.cli(*command, check=True).stdout
        assert "for-people" in text or command[1] == "token"
        assert token not in text
    gw.cli("tenants", "delete", "for-people", "--confirm", "for-people", check=True)


def test_a_refusal_is_one_line_and_exit_1(either):
    gw = either
    for command in (
        ["tenants", "show", "nobody"],
        ["tenants", "suspend", "nobody"],
        ["tenants", "delete", "nobody", "--confirm", "nobody"],
        ["tenants", "token", "list", "nobody"],
        ["tenants", "token", "revoke", "nobody", "x"],
        ["tenants", "quota", "show", "nobody"],
        ["secrets", "list", "nobody"],
        ["billing", "report", "--tenant", "nobody"],
        ["audit", "tail", "--tenant", "nobody"],
        ["config", "check", "--tenant", "nobody"],
        ["ratecard", "import", "/no/such/file.json"],
    ):
        gw.refused(*command)
        done = gw.cli(*command, "--json")
        assert done.returncode == 1 and done.stdout == ""


def test_what_this_version_does_not_have_is_refused_by_name(either):
    for command in (
        ["tenants", "clone", "acme", "--as", "other"],
        ["tenants", "backup", "acme", "--to", "file:///tmp/x"],
        ["tenants", "restore", "--from", "file:///tmp/x"],
    ):
        assert "not available in this version" in either.refused(*command)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["tenants"],
        ["tenants", "create"],
        ["tenants", "create", "Not-An-Id"],
        ["tenants", "create", "acme", "--no-such-flag"],
        ["tenants", "create", "acme", "--tokens-per-day", "-5"],
        ["tenants", "create", "acme", "--cost-per-day-usd", "much"],
        ["tenants", "token", "issue", "acme", "--name", "x", "--role", "king"],
        ["tenants", "token", "issue", "acme", "--name", "x", "--role", "app", "--expires", "soon"],
        ["secrets", "set", "acme", "openai", "sk-in-an-argument"],
        ["billing", "report", "--from", "yesterday"],
        ["billing", "report", "--format", "xml"],
        ["audit", "tail"],
        ["serve", "--listen", "nowhere"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2(idle, arguments):
    done = run(*arguments, env={"PARTYWALL_DATA": str(idle.data)})
    assert done.returncode == 2 and done.stdout == "" and done.stderr


def test_the_data_directory_comes_from_the_environment(idle):
    done = run("tenants", "list", "--json", env={"PARTYWALL_DATA": str(idle.data)})
    assert done.returncode == 0 and isinstance(json.loads(done.stdout), list)


def test_a_data_directory_that_is_none_is_refused_with_what_to_do(tmp_path):
    done = run("tenants", "list", "--data", tmp_path / "absent")
    assert done.returncode == 1 and "partywall init" in done.stderr and len(done.stderr.splitlines()) == 1


def test_init_a_second_time_is_refused_and_changes_nothing(idle):
    key = (idle.data / "master.key").read_bytes()
    config = (idle.data / "partywall.yaml").read_bytes()
    assert "initialised already" in idle.refused("init")
    assert (idle.data / "master.key").read_bytes() == key and (idle.data / "partywall.yaml").read_bytes() == config


def test_init_prints_the_operator_key_once_for_people_too(tmp_path):
    done = run("init", "--data", tmp_path / "data")
    [key] = [word for word in done.stdout.split() if word.startswith("pk_")]
    assert done.returncode == 0 and len(key) == 35
    for path in (tmp_path / "data").rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes()
    served = run("config", "check", "--data", tmp_path / "data")
    assert served.returncode == 0, served.stderr


def test_a_second_gateway_on_the_same_directory_is_refused_clearly(gw):
    started = time.monotonic()
    done = gw.cli("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", timeout=20)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert str(gw.data) in done.stderr or "data directory" in done.stderr
    assert time.monotonic() - started < 15
    assert gw.http.get("/readyz").status_code == 200


def test_an_address_that_is_taken_is_refused_clearly(idle, gw):
    done = idle.cli("serve", "--listen", f"127.0.0.1:{gw.port}", "--admin-listen", "127.0.0.1:0", timeout=20)
    assert done.returncode == 1 and str(gw.port) in done.stderr and len(done.stderr.splitlines()) == 1


def test_routes_list_method_path_access_objects_and_listener(idle):
    routes = idle.json("routes")
    assert all(set(route) == {"method", "path", "access", "objects", "listener"} for route in routes)
    assert {route["listener"] for route in routes if route["path"].startswith("/admin/")} == {"admin"}
    assert {route["listener"] for route in routes if route["path"].startswith("/v1/")} == {"public"}
    table = {(route["method"], route["path"]): route for route in routes}
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/embeddings"):
        assert table["POST", path]["access"] not in ("public", "operator")
    assert table["GET", "/healthz"]["access"] == table["GET", "/readyz"]["access"] == "public"
    assert {route["path"] for route in routes if route["access"] == "public"} == {"/healthz", "/readyz"}
    assert all(route["access"] == "operator" for route in routes if route["path"].startswith("/admin/"))
    assert "model" in table["POST", "/v1/chat/completions"]["objects"]
    assert len(run("routes").stdout.splitlines()) >= len(routes)


def test_the_schema_is_json_schema_and_knows_every_key_of_our_configuration(idle):
    schema = json.loads(run("config", "schema").stdout)
    assert schema["type"] == "object" and "$schema" in schema
    assert set(idle.config) <= set(schema["properties"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"colour": "red"}, "colour"),
        ({"listen": "everywhere"}, "listen"),
        ({"models": [{"name": "x", "routes": [{"provider": "nobody", "model": "y"}]}]}, "nobody"),
        ({"providers": [{"name": "p", "kind": "gemini", "api_key": "env:X"}]}, "gemini"),
        ({"providers": [{"name": "p", "kind": "openai", "base_url": "http://example.com/v1", "api_key": "env:X"}]}, "base_url"),
        ({"providers": [{"name": "p", "kind": "openai", "api_key": "sk-in-the-file"}]}, "api_key"),
        ({"tiers": {"t": {"tokens_per_day": "many"}}}, "tokens_per_day"),
        ({"tiers": {"t": {"cost_per_month_usd": "-1"}}}, "cost_per_month_usd"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_configuration_is_refused_naming_the_key(idle, change, named):
    good = idle.config
    idle.configure({**good, **change})
    try:
        why = idle.refused("config", "check")
        assert named in why and "sk-in-the-file" not in why
        assert idle.cli("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", timeout=20).returncode == 1
    finally:
        idle.configure(good)
    assert idle.cli("config", "check").returncode == 0


def test_a_named_configuration_file_is_used(idle, sim):
    other = idle.data / "other.yaml"
    idle.write("other.yaml", "listen: 127.0.0.1:0\nmodels: 5\n")
    assert "models" in idle.refused("config", "check", "--config", str(other))
    assert idle.cli("config", "check", "--config", str(idle.data / "partywall.yaml")).returncode == 0
    other.unlink()


def test_config_show_fills_defaults_in_and_shows_references_in_place_of_keys(gw):
    shown = gw.json("config", "show")
    provider = next(provider for provider in shown["providers"] if provider["name"] == "sim-openai")
    assert provider["api_key"] == "env:E2E_OPENAI_KEY"
    assert gw.environment["E2E_OPENAI_KEY"] not in json.dumps(shown)
    assert gw.cli("config", "show", check=True).stdout


def test_ratecard_check_fails_for_an_unpriced_route_and_passes_with_a_card_that_prices_it(gw):
    done = gw.cli("ratecard", "check", "--json")
    assert done.returncode == 1 and any("unpriced" in problem for problem in json.loads(done.stdout)["problems"])
    full = {"sim-nobody-prices-this": {"input_cost_per_token": "1e-06", "output_cost_per_token": "1e-06"}}
    gw.write("more.json", ratecard(full))
    assert gw.json("ratecard", "check", str(gw.data / "more.json"))["problems"] == []
    assert gw.cli("ratecard", "check").returncode == 1, "checking a file must not import it"
    (gw.data / "more.json").unlink()


def test_doctor_says_what_is_wrong_and_exits_1(sim):
    gateway = Gateway(sim)
    try:
        assert gateway.cli("doctor").returncode == 0, gateway.cli("doctor").stdout
        (gateway.data / "anthropic.key").unlink()
        done = gateway.cli("doctor", "--json")
        assert done.returncode == 1
        failed = [check for check in json.loads(done.stdout)["checks"] if check["state"] == "fail"]
        assert failed and any("anthropic" in json.dumps(check) for check in failed) and all(c["advice"] for c in failed)
        # What keeps the gateway from its start is said before it.
        gateway.write("anthropic.key", "sk-ant-any")
        gateway.configure({**gateway.config, "alerts": {"webhook": "https://ops.example/hook", "secret": "env:E2E_ALERTS_SECRET"}})
        done = gateway.cli("doctor", "--json")
        failed = [check for check in json.loads(done.stdout)["checks"] if check["state"] == "fail"]
        assert done.returncode == 1 and [check["name"] for check in failed] == ["alerts"], done.stdout
        assert "E2E_ALERTS_SECRET" in failed[0]["found"]
        gateway.config["providers"][0]["api_key"] = "vault:openai"
        del gateway.config["alerts"]
        gateway.configure(gateway.config)
        assert "providers[0].api_key" in gateway.refused("config", "check")
    finally:
        gateway.close()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_are_a_script_of_the_shell(shell):
    done = run("completions", shell)
    assert done.returncode == 0 and "partywall" in done.stdout and "tenants" in done.stdout
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=done.stdout, text=True).returncode == 0


def test_help_and_version_exit_0():
    assert run("--version").stdout.startswith("partywall ")
    for words in (["--help"], ["tenants", "--help"], ["help", "billing"]):
        assert run(*words).returncode == 0


def test_secrets_come_from_standard_input_or_a_file_and_never_empty(gw, tmp_path):
    tenant = gw.tenant()
    assert gw.cli("secrets", "set", tenant.id, "sim-openai", stdin="").returncode == 1
    assert gw.cli("secrets", "set", tenant.id, "sim-openai", stdin="\n").returncode == 1
    file = tmp_path / "key"
    file.write_text("sk-from-a-file\n")
    gw.cli("secrets", "set", tenant.id, "sim-openai", "--from-file", str(file), check=True)
    assert [secret["name"] for secret in gw.json("secrets", "list", tenant.id)] == ["sim-openai"]


def test_audit_tail_follows(gw):
    tenant = gw.tenant()
    process = subprocess.Popen(
        [PARTYWALL, "audit", "tail", "--tenant", tenant.id, "--follow", "--data", gw.data],
        stdout=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")), daemon=True)
    reader.start()
    try:
        eventually(lambda: lines, 5, "the entries that are there")
        request = tenant.chat().headers["x-request-id"]
        eventually(lambda: any(request in line for line in lines), 5, "the new entry")
    finally:
        process.terminate()
        process.wait(5)


def test_a_reader_that_goes_away_ends_the_output_quietly(gw):
    done = subprocess.run(
        ["sh", "-c", f"'{PARTYWALL}' config show --data '{gw.data}' | head -1"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == ""


def test_commands_at_the_same_time_wait_for_each_other(idle):
    done: list[subprocess.CompletedProcess] = []

    def create(n: int):
        done.append(idle.cli("tenants", "create", f"crowd-{n}", "--tier", "standard", "--json"))

    threads = [threading.Thread(target=create, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.returncode for one in done] == [0] * 6, [one.stderr for one in done]
    assert {f"crowd-{n}" for n in range(6)} <= {line["id"] for line in idle.json("tenants", "list")}
