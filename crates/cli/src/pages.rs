//! The texts of the demo: its configuration, and what it prints to try.

use std::net::SocketAddr;

use rpc::{Credential, Fault};

use crate::print::{Out, note};

/// How a configuration begins that the demo wrote. A directory with another one is not the demo's.
pub(crate) const MARK: &str = "# Written by `partywall demo` at each start; changes are lost.\n";

/// Where the demo's answers come from.
#[derive(Clone, Copy)]
pub(crate) struct Providers {
    pub(crate) simulator: SocketAddr,
    /// Real, because OPENAI_API_KEY is set.
    pub(crate) openai: bool,
    /// Real, because ANTHROPIC_API_KEY is set.
    pub(crate) anthropic: bool,
}

/// What runs, and what opens it.
pub(crate) struct Served {
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) acme: Credential,
    pub(crate) globex: Credential,
    /// Known at the first start only.
    pub(crate) operator_key: Option<Credential>,
    pub(crate) data: String,
    pub(crate) providers: Providers,
}

/// The real models that are offered where a key is there: public name, and the provider's.
const OPENAI_MODELS: &[&str] = &["gpt-4o", "gpt-4o-mini", "text-embedding-3-small"];
const ANTHROPIC_MODELS: &[(&str, &str)] = &[
    ("claude-sonnet", "claude-sonnet-4-5"),
    ("claude-haiku", "claude-haiku-4-5"),
];
/// The simulated models. The last is served over the Anthropic wire.
const SIMULATED: &[(&str, &str, &str)] = &[
    ("sim-fast", "simulator", "sim-fast"),
    ("sim-large", "simulator", "sim-large"),
    ("sim-reasoning", "simulator", "sim-reasoning"),
    ("sim-embed", "simulator", "sim-embed"),
    ("sim-anthropic", "simulator-anthropic", "sim-large"),
];

/// `partywall.yaml` of the demo.
pub(crate) fn config(providers: &Providers, (listen, admin): (SocketAddr, SocketAddr)) -> String {
    let simulator = providers.simulator;
    let mut text = format!(
        "{MARK}listen: \"{listen}\"\n\
         admin: {{ listen: \"{admin}\" }}\n\
         providers:\n  \
         - {{ name: simulator, kind: openai, base_url: \"http://{simulator}/v1\", api_key: \"file:simulator.key\" }}\n  \
         - {{ name: simulator-anthropic, kind: anthropic, base_url: \"http://{simulator}\", api_key: \"file:simulator.key\" }}\n"
    );
    if providers.openai {
        text.push_str("  - { name: openai, kind: openai, base_url: \"https://api.openai.com/v1\", api_key: \"env:OPENAI_API_KEY\" }\n");
    }
    if providers.anthropic {
        text.push_str(
            "  - { name: anthropic, kind: anthropic, base_url: \"https://api.anthropic.com\", api_key: \"env:ANTHROPIC_API_KEY\" }\n",
        );
    }
    text.push_str("models:\n");
    let mut model = |name: &str, provider: &str, model: &str| {
        text.push_str(&format!("  - {{ name: {name}, routes: [ {{ provider: {provider}, model: {model}, weight: 1 }} ] }}\n"));
    };
    SIMULATED
        .iter()
        .for_each(|(name, provider, theirs)| model(name, provider, theirs));
    if providers.openai {
        OPENAI_MODELS
            .iter()
            .for_each(|name| model(name, "openai", name));
    }
    if providers.anthropic {
        ANTHROPIC_MODELS
            .iter()
            .for_each(|(name, theirs)| model(name, "anthropic", theirs));
    }
    text.push_str(
        "tiers:\n  \
         demo: { model: sim-fast, tokens_per_day: 5000000, tokens_per_minute: 1000000, cost_per_day_usd: 10 }\n\
         ratecards: [ ratecards/sim.json ]\n",
    );
    text
}

/// Prints what runs and what to try. A demo whose standard output is closed serves all the same.
pub(crate) fn greet(served: &Served, json: bool) {
    if let Err(fault) = print(served, json) {
        note(&fault.message);
    }
}

fn print(served: &Served, json: bool) -> Result<(), Fault> {
    let mut out = Out::new();
    if json {
        out.json(&serde_json::json!({
            "listen": served.public.to_string(),
            "admin_listen": served.admin.to_string(),
            "data": served.data,
            "operator_key": served.operator_key,
            "tokens": { "acme": served.acme, "globex": served.globex },
            "simulated": true,
        }))?;
    } else {
        out.text(&greeting(served))?;
    }
    out.flush()
}

fn greeting(served: &Served) -> String {
    let Served {
        public,
        admin,
        data,
        ..
    } = served;
    let (acme, globex) = (served.acme.expose(), served.globex.expose());
    let real = real_line(&served.providers);
    let operator = match &served.operator_key {
        Some(key) => format!("operator key  {}   (shown this once)", key.expose()),
        None => "operator key  as printed at the first start".to_owned(),
    };
    format!(
        r#"
Partywall demo. Answers are SIMULATED and prices FICTITIOUS. {real}

  tenant acme    {acme}
  tenant globex  {globex}
  {operator}

  API    http://{public}/v1
  admin  http://{admin}/admin/v1/tenants

OpenAI dialect, streamed:
  curl -N http://{public}/v1/chat/completions \
    -H "Authorization: Bearer {acme}" -H "Content-Type: application/json" \
    -d '{{"model":"sim-fast","stream":true,"messages":[{{"role":"user","content":"What is a party wall?"}}]}}'

Anthropic dialect, streamed:
  curl -N http://{public}/v1/messages \
    -H "x-api-key: {globex}" -H "anthropic-version: 2023-06-01" -H "Content-Type: application/json" \
    -d '{{"model":"sim-anthropic","max_tokens":200,"stream":true,"messages":[{{"role":"user","content":"Hello"}}]}}'

Python, with the official packages:
  import openai; client = openai.OpenAI(base_url="http://{public}/v1", api_key="{acme}")
  print(client.chat.completions.create(model="sim-fast", messages=[{{"role": "user", "content": "Hi"}}]).choices[0].message.content)

  import anthropic; client = anthropic.Anthropic(base_url="http://{public}", api_key="{globex}")
  print(client.messages.create(model="sim-anthropic", max_tokens=200, messages=[{{"role": "user", "content": "Hi"}}]).content[0].text)

Then, in another terminal:
  partywall billing report --detail --data {data}
  partywall audit tail --tenant acme --data {data}
  partywall tenants show globex --data {data}

Ctrl-C ends the demo. Delete {data} to forget it.
"#
    )
}

fn real_line(providers: &Providers) -> String {
    let real = match (providers.openai, providers.anthropic) {
        (false, false) => {
            return "Set OPENAI_API_KEY or ANTHROPIC_API_KEY to add real models.".to_owned();
        }
        (true, false) => OPENAI_MODELS.join(", "),
        (false, true) => ANTHROPIC_MODELS
            .iter()
            .map(|(name, _)| *name)
            .collect::<Vec<_>>()
            .join(", "),
        (true, true) => OPENAI_MODELS
            .iter()
            .copied()
            .chain(ANTHROPIC_MODELS.iter().map(|(name, _)| *name))
            .collect::<Vec<_>>()
            .join(", "),
    };
    format!("REAL and billed by their providers: {real}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(operator_key: Option<Credential>) -> Served {
        let addr = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Served {
            public: addr(8080),
            admin: addr(8081),
            acme: Credential::new("tk_acme_0".to_owned()).unwrap(),
            globex: Credential::new("tk_globex_0".to_owned()).unwrap(),
            operator_key,
            data: "./data-demo".to_owned(),
            providers: Providers {
                simulator: addr(9),
                openai: false,
                anthropic: false,
            },
        }
    }

    #[test]
    fn the_configuration_names_every_simulated_model_and_real_ones_only_with_a_key() {
        let addr = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let providers = Providers {
            simulator: addr(9),
            openai: false,
            anthropic: false,
        };
        let bare = config(&providers, (addr(1), addr(2)));
        assert!(bare.starts_with(MARK));
        let card: serde_json::Value = serde_json::from_str(simulator::PRICE_CARD).unwrap();
        for name in card
            .as_object()
            .unwrap()
            .keys()
            .filter(|name| name.starts_with("sim-"))
        {
            assert!(
                bare.contains(&format!("model: {name},")),
                "{name} is not offered"
            );
        }
        for (_, _, theirs) in SIMULATED {
            assert!(card.get(theirs).is_some(), "{theirs} has no price");
        }
        assert!(!bare.contains("OPENAI_API_KEY") && !bare.contains("ANTHROPIC_API_KEY"));
        let both = config(
            &Providers {
                openai: true,
                anthropic: true,
                ..providers
            },
            (addr(1), addr(2)),
        );
        assert!(both.contains("env:OPENAI_API_KEY") && both.contains("env:ANTHROPIC_API_KEY"));
        assert!(both.contains("name: gpt-4o-mini") && both.contains("name: claude-sonnet"));
    }

    #[test]
    fn the_greeting_is_plain_about_what_is_simulated() {
        let text = greeting(&served(None));
        for needed in [
            "SIMULATED",
            "FICTITIOUS",
            "tk_acme_0",
            "tk_globex_0",
            "/v1/messages",
            "billing report",
            "audit tail",
        ] {
            assert!(text.contains(needed), "{needed}");
        }
        assert!(text.contains("as printed at the first start"));
        let first = greeting(&served(Some(Credential::new("pk_0".to_owned()).unwrap())));
        assert!(first.contains("pk_0"));
    }
}
