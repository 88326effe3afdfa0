//! Properties of translation: how a stream was cut does not matter, and nothing makes it panic.

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "the cases are files of the repository"
)]
mod translation {
    use std::path::Path;

    use bytes::Bytes;
    use llm::{Dialect, Edits, Operation, ReplyError, ReplyStream, Request, StreamPlan, translate};
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    const WAYS: [(Dialect, Dialect); 2] = [
        (Dialect::OpenAi, Dialect::Anthropic),
        (Dialect::Anthropic, Dialect::OpenAi),
    ];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn cuts_do_not_matter(case in select(streams()), include_usage: bool, cuts in prop::collection::vec(any::<Index>(), 0..24)) {
            let (from, stream) = case;
            let whole = carry(from, include_usage, [stream.as_slice()]);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]);
            prop_assert_eq!(carry(from, include_usage, pieces), whole);
        }

        #[test]
        fn damaged_streams_do_not_panic(case in select(streams()), hits in prop::collection::vec((any::<Index>(), damage()), 1..6)) {
            let (from, mut stream) = case;
            for (at, damage) in hits {
                let at = at.index(stream.len());
                stream.splice(at..at + 1, damage);
            }
            // Whatever leaves is whole frames, even behind the damage.
            let (out, _) = carry(from, true, [stream.as_slice()]);
            prop_assert!(out.is_empty() || out.ends_with(b"\n\n"));
        }

        #[test]
        fn damaged_replies_do_not_panic(case in select(files("reply.", "json")), hits in prop::collection::vec((any::<Index>(), damage()), 0..4), cut: Index) {
            let (_, mut body) = case;
            for (at, damage) in hits {
                let at = at.index(body.len());
                body.splice(at..at + 1, damage);
            }
            for (from, to) in WAYS {
                let _outcome = translate::reply(from, to, "m", 0, &body);
                let _outcome = translate::reply(from, to, "m", 0, &body[..cut.index(body.len() + 1)]);
            }
        }

        #[test]
        fn damaged_requests_do_not_panic(case in select(files("request.", "json")), hits in prop::collection::vec((any::<Index>(), damage()), 0..4)) {
            let (client, mut body) = case;
            for (at, damage) in hits {
                let at = at.index(body.len());
                body.splice(at..at + 1, damage);
            }
            let (operation, provider) = match client {
                Dialect::OpenAi => (Operation::ChatCompletions, Dialect::Anthropic),
                Dialect::Anthropic => (Operation::Messages, Dialect::OpenAi),
            };
            let outbound = Request::parse(operation, Bytes::from(body))
                .and_then(|request| translate::request(&request, provider, &Edits::default()));
            if let Err(error) = outbound {
                prop_assert!(error.message.len() < 1_000);
            }
        }

        #[test]
        fn any_bytes_do_not_panic(name in ".{0,12}", data in prop::collection::vec(any::<u8>(), 0..200)) {
            for (from, to) in WAYS {
                let mut translator = translate::StreamTranslator::new(from, to, "m", 0, true);
                let mut out = Vec::new();
                let _outcome = translator.event(&name, &data, &mut out);
                let _outcome = translator.finish(&mut out);
                let _outcome = translate::reply(from, to, "m", 0, &data);
            }
        }
    }

    /// Held bytes follow what passes, so one run of bytes tells all; then how it ended.
    fn carry<'a>(
        from: Dialect,
        include_usage: bool,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<u8>, Option<ReplyError>) {
        let (provider, client) = if from == Dialect::OpenAi {
            WAYS[0]
        } else {
            WAYS[1]
        };
        let model_shown = Some("m".to_owned());
        let mut stream = ReplyStream::new(StreamPlan {
            provider,
            client,
            model_shown,
            include_usage,
            created_s: 1,
        });
        let (mut pass, mut held) = (Vec::new(), Vec::new());
        for piece in pieces {
            match stream.feed(Bytes::copy_from_slice(piece)) {
                Ok(fed) => {
                    pass.extend_from_slice(&fed.pass);
                    held.extend_from_slice(&fed.held);
                }
                Err(error) => return (pass, Some(error)),
            }
        }
        match stream.finish() {
            Ok(tail) => {
                held.extend_from_slice(&tail);
                pass.extend_from_slice(&held);
                (pass, None)
            }
            Err(error) => (pass, Some(error)),
        }
    }

    fn damage() -> impl Strategy<Value = Vec<u8>> {
        let tokens = [
            "", "null", "[", "]", "{", "}", "\"", ":", ",", "-1", "1e999", "\\u0000", "\\ud800",
            "\n\n", "true", "[]", "{}",
        ];
        prop_oneof![
            select(tokens.to_vec()).prop_map(|token| token.as_bytes().to_vec()),
            any::<u8>().prop_map(|byte| vec![byte]),
        ]
    }

    fn streams() -> Vec<(Dialect, Vec<u8>)> {
        files("reply.", "sse")
    }

    fn files(prefix: &str, suffix: &str) -> Vec<(Dialect, Vec<u8>)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let mut found = Vec::new();
        for case in std::fs::read_dir(root).unwrap() {
            for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
                let path = case
                    .as_ref()
                    .unwrap()
                    .path()
                    .join(format!("{prefix}{}.{suffix}", dialect.as_str()));
                if path.exists() {
                    found.push((dialect, std::fs::read(path).unwrap()));
                }
            }
        }
        assert!(found.len() > 10, "{}", found.len());
        found
    }
}
