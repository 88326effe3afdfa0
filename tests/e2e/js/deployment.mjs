// A gateway and a simulated provider for one test file, on free loopback ports.

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";

const PARTYWALL = resolve(process.env.PARTYWALL_BIN ?? "../../../target/debug/partywall");
const SIMULATOR = resolve(process.env.SIMULATOR_BIN ?? join(dirname(PARTYWALL), "simulator"));

// The packages read these; a real key or a proxy of the machine must not reach the tests.
for (const name of Object.keys(process.env)) {
  if (/^(OPENAI|ANTHROPIC|PARTYWALL)_/.test(name) && name !== "PARTYWALL_BIN") delete process.env[name];
}

async function started(program, args) {
  const child = spawn(program, args, { stdio: ["pipe", "pipe", "pipe"] });
  let errors = "";
  child.stderr.on("data", (text) => (errors += text));
  const lines = createInterface({ input: child.stdout });
  const first = await Promise.race([once(lines, "line"), once(child, "exit").then(() => null)]);
  if (first === null) throw new Error(`${program} did not start: ${errors}`);
  return { child, facts: JSON.parse(first[0]) };
}

function privateFile(path, text) {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  writeFileSync(path, text, { mode: 0o600 });
  chmodSync(path, 0o600);
}

async function ended(child) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.stdin.end();
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), 10_000);
  await once(child, "exit");
  clearTimeout(timer);
}

export async function deployment() {
  const directory = mkdtempSync(join(tmpdir(), "partywall-js-"));
  const data = join(directory, "data");
  const cli = (...args) => execFileSync(PARTYWALL, [...args, "--data", data, "--json"], { encoding: "utf8" });
  const simulator = await started(SIMULATOR, ["--until-eof"]);
  cli("init");
  privateFile(join(data, "provider.key"), "sk-e2e-provider\n");
  privateFile(join(data, "ratecards/sim.json"), execFileSync(SIMULATOR, ["--prices"], { encoding: "utf8" }));
  const base = { api_key: "file:provider.key" };
  const route = (name, provider, model) => ({ name, routes: [{ provider, model, weight: 1 }] });
  const config = {
    providers: [
      { name: "sim-openai", kind: "openai", base_url: simulator.facts.openai, ...base },
      { name: "sim-anthropic", kind: "anthropic", base_url: simulator.facts.anthropic, ...base },
    ],
    models: [route("gpt", "sim-openai", "sim-fast"), route("claude", "sim-anthropic", "sim-fast")],
    tiers: { standard: { model: "gpt" } },
    ratecards: ["ratecards/sim.json"],
  };
  privateFile(join(data, "partywall.yaml"), JSON.stringify(config));
  const listen = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
  const gateway = await started(PARTYWALL, ["serve", "--data", data, "--json", ...listen]);
  const { token } = JSON.parse(cli("tenants", "create", "acme", "--tier", "standard"));
  return {
    url: `http://${gateway.facts.listen}`,
    token,
    rows: () => JSON.parse(cli("billing", "report", "--detail", "--tenant", "acme")),
    log: () => readFileSync(join(data, "gateway.log"), "utf8"),
    async close() {
      await ended(gateway.child);
      await ended(simulator.child);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

export const WEATHER = "What is the weather in Paris and in Rome?";
export const SCHEMA = {
  type: "object",
  properties: { location: { type: "string" } },
  required: ["location"],
};
