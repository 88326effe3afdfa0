use super::*;
use proptest::prelude::*;

fn plan(dialect: Dialect) -> StreamPlan {
    StreamPlan {
        provider: dialect,
        client: dialect,
        model_shown: None,
        include_usage: false,
        created_s: 0,
    }
}

/// Everything a stream does, however its bytes were cut.
#[derive(PartialEq, Debug)]
struct Outcome {
    pass: String,
    held: String,
    error: Option<ReplyError>,
    usage: Option<Usage>,
    produced: u64,
    finish: Option<String>,
}

fn run<'c>(plan: &StreamPlan, pieces: impl Iterator<Item = &'c [u8]>) -> Outcome {
    let mut stream = ReplyStream::new(plan.clone());
    let (mut pass, mut held, mut error) = (Vec::new(), Vec::new(), None);
    for piece in pieces {
        match stream.feed(Bytes::copy_from_slice(piece)) {
            Ok(fed) => {
                assert!(
                    held.is_empty() || fed.pass.is_empty(),
                    "nothing passes after the end"
                );
                pass.extend_from_slice(&fed.pass);
                held.extend_from_slice(&fed.held);
            }
            Err(fault) => error = Some(fault),
        }
    }
    match stream.finish() {
        Ok(rest) => held.extend_from_slice(&rest),
        Err(fault) => error = error.or(Some(fault)),
    }
    Outcome {
        pass: String::from_utf8(pass).unwrap(),
        held: String::from_utf8(held).unwrap(),
        error,
        usage: stream.usage(),
        produced: stream.produced_bytes(),
        finish: stream.finish_reason().map(str::to_owned),
    }
}

fn whole(plan: &StreamPlan, text: &str) -> Outcome {
    run(plan, [text.as_bytes()].into_iter())
}

const FIRST: &str = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"gpt-4o-2024\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}],\"usage\":null}\n\n";
const TEXT: &str = "data: {\"id\":\"c\",\"model\":\"gpt-4o-2024\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"h\\u00e9\"},\"finish_reason\":null}]}\n\n";
const STOP: &str = "data: {\"id\":\"c\",\"model\":\"gpt-4o-2024\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str = "data: {\"id\":\"c\",\"model\":\"gpt-4o-2024\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2,\"total_tokens\":7}}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const TWO: Usage = Usage {
    input: 5,
    output: 2,
    cache_read: 0,
    cache_write: 0,
    cache_write_1h: 0,
    audio_in: 0,
    image_in: 0,
    reasoning: 0,
    audio_out: 0,
    server_tool_calls: 0,
};

const CLAUDE: [&str; 8] = [
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-x\",\"content\":[],\"stop_reason\":null,\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":3,\"output_tokens\":1}}}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
    "event: ping\ndata: {\"type\":\"ping\"}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"hello\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"AAAA\"}}\n\n",
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":9}}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
];

#[test]
fn the_end_is_held_and_unasked_usage_is_dropped() {
    let text = [FIRST, TEXT, STOP, USAGE, DONE].concat();
    let outcome = whole(&plan(Dialect::OpenAi), &text);
    assert_eq!(outcome.pass, [FIRST, TEXT].concat());
    assert_eq!(outcome.held, [STOP, DONE].concat());
    assert_eq!(
        (outcome.error, outcome.usage, outcome.produced),
        (None, Some(TWO), 3)
    );
    assert_eq!(outcome.finish.as_deref(), Some("stop"));

    let asked = StreamPlan {
        include_usage: true,
        ..plan(Dialect::OpenAi)
    };
    assert_eq!(whole(&asked, &text).held, [STOP, USAGE, DONE].concat());
}

#[test]
fn anthropic_ends_with_its_stop_reason() {
    let outcome = whole(&plan(Dialect::Anthropic), &CLAUDE.concat());
    assert_eq!(outcome.pass, CLAUDE[..6].concat());
    assert_eq!(outcome.held, CLAUDE[6..].concat());
    let expect = Usage {
        input: 5,
        cache_read: 3,
        output: 9,
        ..Usage::default()
    };
    assert_eq!(
        (outcome.error, outcome.usage, outcome.produced),
        (None, Some(expect), 5)
    );
}

#[test]
fn what_needs_no_change_is_not_copied() {
    let mut stream = ReplyStream::new(plan(Dialect::OpenAi));
    for text in [FIRST, TEXT, &[TEXT, ": keep-alive\n\n", TEXT].concat()] {
        let chunk = Bytes::copy_from_slice(text.as_bytes());
        let fed = stream.feed(chunk.clone()).unwrap();
        assert_eq!(fed.pass, chunk);
        assert_eq!(fed.pass.as_ptr(), chunk.as_ptr());
        assert!(fed.held.is_empty());
    }
    let chunk = Bytes::from([TEXT, STOP, DONE].concat());
    let fed = stream.feed(chunk.clone()).unwrap();
    assert_eq!(fed.pass.as_ptr(), chunk.as_ptr());
    assert_eq!(fed.held.as_ptr(), chunk[TEXT.len()..].as_ptr());
    assert!(stream.ended());
    assert_eq!(stream.finish(), Ok(Bytes::new()));
}

#[test]
fn only_the_model_is_stamped() {
    let stamp = |dialect| StreamPlan {
        model_shown: Some("my \"m\"".to_owned()),
        ..plan(dialect)
    };
    let text = [FIRST, TEXT, STOP, DONE].concat();
    let outcome = whole(&stamp(Dialect::OpenAi), &text);
    assert_eq!(
        outcome.pass + &outcome.held,
        text.replace("gpt-4o-2024", r#"my \"m\""#)
    );
    let outcome = whole(&stamp(Dialect::Anthropic), &CLAUDE.concat());
    assert_eq!(
        outcome.pass + &outcome.held,
        CLAUDE.concat().replace("claude-x", r#"my \"m\""#)
    );

    let split = "id: 1\ndata: {\"model\":\ndata: \"a\",\"choices\":[{}]}\n\n";
    let outcome = whole(&stamp(Dialect::OpenAi), &[split, DONE].concat());
    assert_eq!(
        outcome.pass,
        "id: 1\ndata: {\"model\":\ndata: \"my \\\"m\\\"\",\"choices\":[{}]}\n\n"
    );
}

#[test]
fn usage_is_the_last_one_that_is_not_null() {
    let on_choice = "data: {\"choices\":[{\"index\":0,\"delta\":{}}],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}\n\n";
    let early = "data: {\"choices\":[{\"index\":0,\"delta\":{}}],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":1}}\n\n";
    for events in [
        &[FIRST, STOP, on_choice, DONE][..],
        &[early, STOP, USAGE, DONE],
        &[early, on_choice, FIRST, STOP, DONE],
        &[STOP, USAGE, "data: {\"choices\":[],\"usage\":{}}\n\n", DONE],
    ] {
        let outcome = whole(&plan(Dialect::OpenAi), &events.concat());
        assert_eq!(
            (outcome.error, outcome.usage),
            (None, Some(TWO)),
            "{events:?}"
        );
    }
    let outcome = whole(&plan(Dialect::OpenAi), &[FIRST, STOP, DONE].concat());
    assert_eq!((outcome.error, outcome.usage), (None, None));
    let zero = USAGE
        .replace(":5", ":0")
        .replace(":2", ":0")
        .replace(":7", ":0");
    let outcome = whole(&plan(Dialect::OpenAi), &[STOP, &zero, DONE].concat());
    assert_eq!(outcome.usage, Some(Usage::default()));
    let odd = USAGE.replace(":5", ":-5");
    let outcome = whole(&plan(Dialect::OpenAi), &[STOP, &odd, DONE].concat());
    assert_eq!(outcome.error, Some(ReplyError::Malformed("usage")));
}

#[test]
fn faults_have_their_names() {
    let error = |dialect, events: &[&str]| whole(&plan(dialect), &events.concat()).error;
    use Dialect::{Anthropic, OpenAi};
    assert_eq!(error(OpenAi, &[FIRST, STOP]), Some(ReplyError::Truncated));
    assert_eq!(error(OpenAi, &[]), Some(ReplyError::Truncated));
    assert_eq!(
        error(OpenAi, &[FIRST, "data: {\"cho"]),
        Some(ReplyError::Truncated)
    );
    assert_eq!(error(Anthropic, &CLAUDE[..7]), Some(ReplyError::Truncated));
    assert_eq!(
        error(OpenAi, &[FIRST, "data: nope\n\n"]),
        Some(ReplyError::Malformed("JSON"))
    );
    assert_eq!(
        error(
            OpenAi,
            &[FIRST, "data: {\"error\":{\"message\":\"m\"}}\n\n"]
        ),
        Some(ReplyError::Upstream)
    );
    assert_eq!(
        error(OpenAi, &[FIRST, "event: error\ndata: oh\n\n"]),
        Some(ReplyError::Upstream)
    );
    let anthropic =
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n";
    assert_eq!(
        error(Anthropic, &[CLAUDE[0], anthropic]),
        Some(ReplyError::Upstream)
    );
    assert_eq!(
        error(Anthropic, &[CLAUDE[0], &anthropic[13..]]),
        Some(ReplyError::Upstream)
    );
    let passed = whole(&plan(OpenAi), &[FIRST, "data: nope\n\n", TEXT].concat());
    assert_eq!(
        passed.pass, FIRST,
        "what came before the fault passes, nothing after it"
    );
    let mut stream = ReplyStream::new(plan(OpenAi));
    let both = Bytes::from([FIRST, "data: nope\n\n"].concat());
    assert_eq!(
        stream.feed(both).map(|fed| fed.pass),
        Ok(Bytes::from(FIRST))
    );
    assert_eq!(stream.broken(), Some(ReplyError::Malformed("JSON")));
    assert_eq!(
        stream.feed(Bytes::from(TEXT)),
        Err(ReplyError::Malformed("JSON"))
    );
}

#[test]
fn sizes_are_bounded() {
    let endless = "data: ".to_owned() + &"x".repeat(SSE_EVENT_BYTES_MAX);
    let mut stream = ReplyStream::new(plan(Dialect::OpenAi));
    assert_eq!(
        stream.feed(Bytes::from(endless.clone())),
        Err(ReplyError::TooLarge)
    );
    let outcome = whole(&plan(Dialect::OpenAi), &(endless + "\n\n"));
    assert_eq!(outcome.error, Some(ReplyError::TooLarge));
    let filler = format!(": {}\n\n", "x".repeat(SSE_EVENT_BYTES_MAX - 8));
    let mut stream = ReplyStream::new(plan(Dialect::OpenAi));
    assert!(stream.feed(Bytes::from(STOP)).is_ok());
    let fed: Vec<_> = (0..6)
        .map(|_| stream.feed(Bytes::from(filler.clone())).map(|_| ()))
        .collect();
    assert_eq!(fed.last(), Some(&Err(ReplyError::TooLarge)));
}

#[test]
fn a_missing_last_blank_line_is_forgiven() {
    for end in ["data: [DONE]", "data: [DONE]\n", "data: [DONE]\r\n\r"] {
        let outcome = whole(&plan(Dialect::OpenAi), &[FIRST, STOP, end].concat());
        assert_eq!(outcome.error, None, "{end:?}");
        assert!(outcome.held.ends_with("\n\n"), "{end:?}");
    }
}

#[test]
fn chunks_without_choices_do_not_reach_who_did_not_ask() {
    let azure = "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n";
    let outcome = whole(&plan(Dialect::OpenAi), &[azure, FIRST, STOP, DONE].concat());
    assert_eq!(outcome.pass, FIRST);
    let extra = "data: {\"ping\":1}\n\n";
    assert_eq!(
        whole(&plan(Dialect::OpenAi), &[extra, STOP, DONE].concat()).pass,
        extra
    );
}

fn events() -> impl Strategy<Value = (Dialect, String)> {
    let noise = prop_oneof![
        Just(": keep-alive\n\n".to_owned()),
        Just("\n".to_owned()),
        Just("id: 3\nretry: 5\n\n".to_owned()),
        Just("data: {\"model\":\ndata: \"b\"}\n\n".to_owned()),
        Just("data: {\"error\":{}}\n\n".to_owned()),
        Just("data: junk\n\n".to_owned()),
        "[a-z:{}\" \n]{0,20}",
    ];
    let openai = prop::sample::select(vec![FIRST, TEXT, TEXT, TEXT, STOP, USAGE, DONE])
        .prop_map(str::to_owned);
    let claude = prop::sample::select(CLAUDE.to_vec()).prop_map(str::to_owned);
    let mix = |real: BoxedStrategy<String>, dialect| {
        let event = prop_oneof![6 => real, 1 => noise.clone()];
        prop::collection::vec(event, 0..12).prop_map(move |events| (dialect, events.concat()))
    };
    let stream = prop_oneof![
        mix(openai.boxed(), Dialect::OpenAi),
        mix(claude.boxed(), Dialect::Anthropic)
    ];
    (stream, 0..3_u8, any::<bool>()).prop_map(|((dialect, text), ends, mark)| {
        let text = match ends {
            0 => text,
            1 => text.replace('\n', "\r\n"),
            _ => text.replace('\n', "\r"),
        };
        (
            dialect,
            if mark {
                "\u{feff}".to_owned() + &text
            } else {
                text
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_outcome_does_not_depend_on_the_pieces(
        (dialect, text) in events(),
        shown in prop::option::of("[a-z\"]{1,4}"),
        include_usage in any::<bool>(),
        cross in any::<bool>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let client = match (cross, dialect) {
            (true, Dialect::OpenAi) => Dialect::Anthropic,
            (true, Dialect::Anthropic) => Dialect::OpenAi,
            (false, same) => same,
        };
        let plan = StreamPlan { model_shown: shown, include_usage, client, ..plan(dialect) };
        let bytes = text.as_bytes();
        let one = run(&plan, [bytes].into_iter());
        prop_assert_eq!(&run(&plan, bytes.chunks(1)), &one);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        prop_assert_eq!(&run(&plan, cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]])), &one);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), anthropic in any::<bool>()) {
        let dialect = if anthropic { Dialect::Anthropic } else { Dialect::OpenAi };
        let mut stream = ReplyStream::new(plan(dialect));
        for piece in bytes.chunks(7) {
            if stream.feed(Bytes::copy_from_slice(piece)).is_err() {
                break;
            }
        }
        prop_assert!(stream.finish().is_err());
    }
}

/// A provider that was told to stop after ten tokens and sends a thousand.
fn endless(dialect: Dialect) -> String {
    let mut text = match dialect {
        Dialect::OpenAi => FIRST.to_owned(),
        Dialect::Anthropic => "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":7,\"output_tokens\":1}}}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n".to_owned(),
    };
    for n in 0..1_000 {
        text.push_str(&match dialect {
            Dialect::OpenAi => format!("data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":5,\"model\":\"gpt-4o-2024\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" w{n:04}\"}},\"finish_reason\":null}}]}}\n\n"),
            Dialect::Anthropic => format!("event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\" w{n:04}\"}}}}\n\n"),
        });
    }
    text
}

const BOUGHT: Backstop = Backstop {
    output: 10,
    choices: 1,
    input: 30,
};

fn carried(provider: Dialect, client: Dialect, step: usize) -> (String, ReplyStream) {
    let plan = StreamPlan {
        client,
        model_shown: (provider != client).then(|| "m".to_owned()),
        include_usage: true,
        ..plan(provider)
    };
    let mut stream = ReplyStream::new(plan).with_backstop(BOUGHT);
    let mut out = Vec::new();
    let text = endless(provider);
    for piece in text.as_bytes().chunks(step) {
        let fed = stream.feed(Bytes::copy_from_slice(piece)).unwrap();
        out.extend_from_slice(&fed.pass);
        out.extend_from_slice(&fed.held);
        if stream.ended() {
            break;
        }
    }
    out.extend_from_slice(&stream.finish().unwrap());
    (String::from_utf8(out).unwrap(), stream)
}

#[test]
fn a_provider_that_passes_what_was_bought_is_cut_with_a_whole_end() {
    for (provider, client) in [
        (Dialect::OpenAi, Dialect::OpenAi),
        (Dialect::Anthropic, Dialect::Anthropic),
        (Dialect::OpenAi, Dialect::Anthropic),
        (Dialect::Anthropic, Dialect::OpenAi),
    ] {
        let (text, stream) = carried(provider, client, 700);
        assert!(stream.was_cut() && stream.ended(), "{provider:?}");
        assert!(
            text.contains(" w0083") && !text.contains(" w0200"),
            "{text}"
        );
        let usage = stream.usage().unwrap();
        let input = if provider == Dialect::OpenAi { 30 } else { 7 };
        assert_eq!((usage.tokens_in(), usage.tokens_out()), (input, 10));
        match client {
            Dialect::OpenAi => {
                assert_eq!(text.matches("\"finish_reason\":\"length\"").count(), 1);
                assert!(text.contains("\"completion_tokens\":10"), "{text}");
                assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
            }
            Dialect::Anthropic => {
                assert_eq!(text.matches("\"stop_reason\":\"max_tokens\"").count(), 1);
                assert_eq!(text.matches("\"type\":\"content_block_stop\"").count(), 1);
                assert!(text.contains("\"output_tokens\":10"), "{text}");
                assert!(
                    text.ends_with("data: {\"type\":\"message_stop\"}\n\n"),
                    "{text}"
                );
            }
        }
        // However the bytes were cut.
        assert_eq!(carried(provider, client, 64).0, text);
        assert_eq!(carried(provider, client, 1_000_000).0, text);
    }
    // The chunk that ends it belongs to the same answer.
    let (text, _) = carried(Dialect::OpenAi, Dialect::OpenAi, 700);
    let end = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":5,\"model\":\"gpt-4o-2024\",\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"length\"}]}\n\n";
    assert!(text.contains(end), "{text}");
}

#[test]
fn an_answer_within_what_was_bought_is_left_alone() {
    // One token may be a run of 128 blanks, and a relay may send single characters.
    let delta = |text: &str| {
        format!(
            "data: {{\"id\":\"c\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":null}}]}}\n\n"
        )
    };
    let runs = delta(&" ".repeat(128)).repeat(10);
    let letters = delta("a").repeat(60);
    let huge = delta(&"x".repeat(7_000)).repeat(10);
    for text in [runs, letters, huge] {
        let text = format!(
            "{FIRST}{text}{}",
            "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n"
        );
        let mut stream = ReplyStream::new(plan(Dialect::OpenAi)).with_backstop(BOUGHT);
        let fed = stream.feed(Bytes::from(text.clone())).unwrap();
        assert!(stream.ended() && !stream.was_cut());
        assert_eq!([fed.pass, fed.held].concat(), text.as_bytes());
    }
}
