//! The golden matrix: case × client dialect × provider dialect, streamed and not.
//!
//! A case is a folder of `golden/`. What it gives: `request.<client>.json`, `reply.<provider>.json`,
//! `reply.<provider>.sse`, `edits.json`, each optional. What it expects, all of it and nothing else:
//! `outbound.<client>-to-<provider>.json` (and `.stream.json` for the same request with
//! `stream: true`), `client.<provider>-to-<client>.json` and `.sse`. A line that starts with `!!`
//! says how the translation failed; in streams a comment marks where the held end begins.
//!
//! `UPDATE_GOLDEN=1 cargo test -p llm --test golden` writes what is expected anew. Then read it.

#[cfg(test)]
mod assembled;

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "the cases are files of the repository"
)]
mod golden {
    use std::collections::BTreeMap;
    use std::fmt::Write as _;
    use std::fs;
    use std::path::{Path, PathBuf};

    use base::{Markup, Money, Usage};
    use bytes::Bytes;
    use llm::{
        Dialect, Edits, Operation, OutputCapField, RateCard, ReplyError, ReplyStream, Request,
        StreamPlan, reply, translate,
    };
    use serde_json::Value;

    use crate::assembled::{Assembled, anthropic_json, anthropic_sse, openai_json, openai_sse};

    const DIALECTS: [Dialect; 2] = [Dialect::OpenAi, Dialect::Anthropic];
    const MODEL: &str = "asked-model";
    const CREATED: i64 = 1_790_000_000;

    #[test]
    fn every_case_translates_as_written() {
        let update = std::env::var_os("UPDATE_GOLDEN").is_some();
        let mut wrong = String::new();
        for case in cases() {
            let expected = case.expectations();
            let mut found: BTreeMap<String, Vec<u8>> = case.files.clone();
            found.retain(|name, _| name.starts_with("outbound.") || name.starts_with("client."));
            if update {
                for name in found.keys().filter(|name| !expected.contains_key(*name)) {
                    fs::remove_file(case.folder.join(name)).unwrap();
                }
                for (name, bytes) in &expected {
                    fs::write(case.folder.join(name), bytes).unwrap();
                }
                continue;
            }
            let names = expected
                .keys()
                .chain(found.keys())
                .collect::<std::collections::BTreeSet<_>>();
            for name in names {
                let problem = match (expected.get(name), found.get(name)) {
                    (Some(now), Some(then)) if now == then => continue,
                    (Some(now), Some(_)) => {
                        format!("differs; it is now\n{}", String::from_utf8_lossy(now))
                    }
                    (Some(_), None) => "is missing".to_owned(),
                    (None, _) => "is expected of nothing".to_owned(),
                };
                writeln!(wrong, "{}/{name} {problem}", case.name()).unwrap();
            }
        }
        assert!(
            wrong.is_empty(),
            "\n{wrong}\nUPDATE_GOLDEN=1 writes the expectations anew"
        );
    }

    #[test]
    fn no_folder_holds_files_of_unknown_names() {
        let known = [
            "request.openai.json",
            "request.anthropic.json",
            "reply.openai.json",
            "reply.anthropic.json",
        ];
        let known = [
            &known[..],
            &["reply.openai.sse", "reply.anthropic.sse", "edits.json"],
        ]
        .concat();
        for case in cases() {
            for name in case.files.keys() {
                let given = known.contains(&name.as_str());
                assert!(
                    given || name.starts_with("outbound.") || name.starts_with("client."),
                    "{}/{name}",
                    case.name()
                );
            }
        }
    }

    /// The same reply streamed and not, from either provider, is the same message to a client.
    #[test]
    fn twins_say_the_same() {
        let mut compared = 0;
        for case in cases()
            .into_iter()
            .filter(|case| !case.name().starts_with("errors"))
        {
            let mut by_client: BTreeMap<&str, Vec<Assembled>> = BTreeMap::new();
            for from in DIALECTS {
                for to in DIALECTS {
                    let (Some(whole), Some(stream)) =
                        (case.reply(from, "json"), case.reply(from, "sse"))
                    else {
                        continue;
                    };
                    let whole = assemble(to, &client_json(from, to, whole).unwrap());
                    let (streamed, error, _) = client_sse(from, to, stream);
                    assert_eq!(error, None, "{}", case.name());
                    let streamed = assemble_stream(to, &String::from_utf8(streamed).unwrap());
                    assert_eq!(whole, streamed, "{}: {from:?} to {to:?}", case.name());
                    assert_eq!(whole.model, MODEL);
                    by_client
                        .entry(to.as_str())
                        .or_default()
                        .push(whole.meaning());
                    compared += 1;
                }
            }
            let all: Vec<&Assembled> = by_client.values().flatten().collect();
            for pair in all.windows(2) {
                assert_eq!(pair[0], pair[1], "{}", case.name());
            }
        }
        assert!(compared >= 50, "{compared}");
    }

    /// What is billed does not depend on streaming, nor on the dialect of the provider's counts.
    #[test]
    fn twins_use_the_same() {
        let mut compared = 0;
        let card = RateCard::parse(CARD).unwrap();
        let prices = card.lookup("openai", "provider-model", MODEL).unwrap();
        let cost = |usage: &Usage| prices.cost(usage, Markup::NONE).unwrap();
        for case in cases()
            .into_iter()
            .filter(|case| !case.name().starts_with("errors"))
        {
            let mut usages: Vec<Usage> = Vec::new();
            for from in DIALECTS {
                if let Some(body) = case.reply(from, "json") {
                    usages.extend(reply::facts(from, operation(from), body).unwrap().usage);
                }
                if let Some(stream) = case.reply(from, "sse") {
                    let usage_of = |to| client_sse(from, to, stream).2;
                    assert_eq!(
                        usage_of(Dialect::OpenAi),
                        usage_of(Dialect::Anthropic),
                        "{}",
                        case.name()
                    );
                    usages.extend(usage_of(from));
                }
            }
            for pair in usages.windows(2) {
                assert_eq!(pair[0], pair[1], "{}", case.name());
                assert_eq!(cost(&pair[0]), cost(&pair[1]), "{}", case.name());
                assert!(cost(&pair[0]) > Money::ZERO, "{}", case.name());
                compared += 1;
            }
        }
        assert!(compared >= 30, "{compared}");
    }

    /// Every bucket at its own price; reasoning costs as output.
    const CARD: &str = r#"{"provider-model": {"litellm_provider": "openai", "mode": "chat",
        "input_cost_per_token": 3e-06, "output_cost_per_token": 1.5e-05,
        "cache_read_input_token_cost": 3e-07, "cache_creation_input_token_cost": 3.75e-06}}"#;

    struct Case {
        folder: PathBuf,
        files: BTreeMap<String, Vec<u8>>,
    }

    impl Case {
        fn name(&self) -> String {
            self.folder
                .file_name()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        }

        fn reply(&self, from: Dialect, form: &str) -> Option<&[u8]> {
            self.files
                .get(&format!("reply.{}.{form}", from.as_str()))
                .map(Vec::as_slice)
        }

        fn expectations(&self) -> BTreeMap<String, Vec<u8>> {
            let mut expected = BTreeMap::new();
            for client in DIALECTS {
                for provider in DIALECTS {
                    let way = format!("{}-to-{}", client.as_str(), provider.as_str());
                    if let Some(request) =
                        self.files.get(&format!("request.{}.json", client.as_str()))
                    {
                        expected.insert(
                            format!("outbound.{way}.json"),
                            self.outbound(client, provider, request),
                        );
                        let streamed = streamed(client, request);
                        expected.insert(
                            format!("outbound.{way}.stream.json"),
                            self.outbound(client, provider, &streamed),
                        );
                    }
                    let back = format!("{}-to-{}", provider.as_str(), client.as_str());
                    if let Some(body) = self.reply(provider, "json") {
                        let text = match client_json(provider, client, body) {
                            Ok(body) => body.to_vec(),
                            Err(error) => format!("!! {error:?}\n").into_bytes(),
                        };
                        expected.insert(format!("client.{back}.json"), text);
                    }
                    if let Some(stream) = self.reply(provider, "sse") {
                        let (mut text, error, _) = client_sse(provider, client, stream);
                        if let Some(error) = error {
                            text.extend_from_slice(format!("!! {error:?}\n").as_bytes());
                        }
                        expected.insert(format!("client.{back}.sse"), text);
                    }
                }
            }
            expected
        }

        fn outbound(&self, client: Dialect, provider: Dialect, request: &[u8]) -> Vec<u8> {
            let given = self
                .files
                .get("edits.json")
                .map(|text| serde_json::from_slice::<Value>(text).unwrap());
            let given = given.unwrap_or_default();
            let edits = Edits {
                model: Some("provider-model"),
                max_output: given["max_output"].as_u64(),
                max_output_field: match given["max_output_field"].as_str() {
                    Some("max_tokens") => OutputCapField::MaxTokens,
                    _ => OutputCapField::MaxCompletionTokens,
                },
                include_usage: true,
                temperature: given["temperature"].as_str(),
                system_prompt: given["system_prompt"].as_str(),
                user_tag: given["user_tag"].as_str(),
            };
            let outbound = Request::parse(operation(client), Bytes::copy_from_slice(request))
                .and_then(|request| translate::request(&request, provider, &edits));
            match outbound {
                Ok(body) => body.to_vec(),
                Err(error) => {
                    format!("!! {}: {error}\n", error.param.as_deref().unwrap_or("-")).into_bytes()
                }
            }
        }
    }

    fn cases() -> Vec<Case> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let mut folders: Vec<PathBuf> = fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        folders.sort();
        assert!(folders.len() >= 16, "{folders:?}");
        let read = |folder: PathBuf| {
            let files = fs::read_dir(&folder).unwrap().map(|entry| {
                let path = entry.unwrap().path();
                (
                    path.file_name().unwrap().to_string_lossy().into_owned(),
                    fs::read(path).unwrap(),
                )
            });
            Case {
                files: files.collect(),
                folder,
            }
        };
        folders.into_iter().map(read).collect()
    }

    fn streamed(client: Dialect, request: &[u8]) -> Vec<u8> {
        let rest = request.strip_prefix(b"{").unwrap();
        let asks = match client {
            Dialect::OpenAi => r#"{"stream":true,"stream_options":{"include_usage":true},"#,
            Dialect::Anthropic => r#"{"stream":true,"#,
        };
        [asks.as_bytes(), rest].concat()
    }

    fn client_json(from: Dialect, to: Dialect, body: &[u8]) -> Result<Bytes, ReplyError> {
        if from != to {
            return translate::reply(from, to, MODEL, CREATED, body);
        }
        let facts = reply::facts(from, operation(from), body)?;
        Ok(reply::restamp(Bytes::copy_from_slice(body), &facts, MODEL))
    }

    /// What the client gets, with a comment where the held end begins, and how it ended.
    fn client_sse(
        from: Dialect,
        to: Dialect,
        stream: &[u8],
    ) -> (Vec<u8>, Option<ReplyError>, Option<Usage>) {
        let plan = StreamPlan {
            provider: from,
            client: to,
            model_shown: Some(MODEL.to_owned()),
            include_usage: true,
            created_s: CREATED,
        };
        let mut carried = ReplyStream::new(plan);
        let mut text = Vec::new();
        let mut held = Vec::new();
        let mut error = None;
        // Event by event, so that what came before an error is seen.
        let cuts = stream
            .windows(2)
            .enumerate()
            .filter(|(_, pair)| pair == b"\n\n")
            .map(|(at, _)| at + 2);
        let mut start = 0;
        for cut in cuts {
            match carried.feed(Bytes::copy_from_slice(&stream[start..cut])) {
                Ok(fed) => {
                    assert!(
                        held.is_empty() || fed.pass.is_empty(),
                        "nothing passes what is held"
                    );
                    text.extend_from_slice(&fed.pass);
                    held.extend_from_slice(&fed.held);
                }
                Err(failed) => {
                    error = Some(failed);
                    break;
                }
            }
            start = cut;
        }
        if error.is_none() {
            match carried.finish() {
                Ok(tail) => held.extend_from_slice(&tail),
                Err(failed) => error = Some(failed),
            }
        }
        if !held.is_empty() {
            text.extend_from_slice(b": held until settled\n\n");
            text.extend_from_slice(&held);
        }
        (text, error, carried.usage())
    }

    fn assemble(dialect: Dialect, body: &[u8]) -> Assembled {
        match dialect {
            Dialect::OpenAi => openai_json(body),
            Dialect::Anthropic => anthropic_json(body),
        }
    }

    fn assemble_stream(dialect: Dialect, stream: &str) -> Assembled {
        match dialect {
            Dialect::OpenAi => openai_sse(stream),
            Dialect::Anthropic => anthropic_sse(stream),
        }
    }

    fn operation(dialect: Dialect) -> Operation {
        match dialect {
            Dialect::OpenAi => Operation::ChatCompletions,
            Dialect::Anthropic => Operation::Messages,
        }
    }
}
