//! The cost of a call, put into the usage of its answer for clients that ask for it: `usage.cost`, USD in plain digits.

use crate::json::{Cursor, Kind};
use crate::sse::{self, Event, Scan};
use bytes::Bytes;

/// A whole answer of either dialect with the cost in its usage; the same bytes where it has no usage.
#[must_use]
pub fn in_answer(body: Bytes, cost: &str) -> Bytes {
    let changed = std::str::from_utf8(&body)
        .ok()
        .and_then(|text| in_json(text, cost));
    changed.map_or(body, Bytes::from)
}

/// The held end of a stream with the cost in each event that has usage; the same bytes where none has.
#[must_use]
pub fn in_events(events: Bytes, cost: &str) -> Bytes {
    let (mut scan, mut from) = (Scan::default(), 0);
    let mut out: Option<Vec<u8>> = None;
    while let Some(end) = scan.event_end(&events, true) {
        let frame = &events[from..end];
        let event = Event::read(frame);
        let changed = event
            .data
            .as_deref()
            .and_then(|data| in_json(std::str::from_utf8(data).ok()?, cost));
        match changed {
            Some(data) => {
                let out = out.get_or_insert_with(|| events[..from].to_vec());
                sse::write_with_data(out, frame, data.as_bytes());
            }
            None => {
                if let Some(out) = &mut out {
                    out.extend_from_slice(frame);
                }
            }
        }
        from = end;
    }
    match out {
        Some(mut out) => {
            out.extend_from_slice(&events[from..]);
            out.into()
        }
        None => events,
    }
}

/// Puts the cost at the end of the `usage` of an object; `None` where there is none, or it is not an object.
fn in_json(text: &str, cost: &str) -> Option<String> {
    let mut cursor = Cursor::lenient(text);
    let mut open = cursor.object().ok()?;
    let mut usage = None;
    while let Some(key) = cursor.key(&mut open).ok()? {
        let is_usage = key.is("usage") && cursor.kind().ok()? == Kind::Object;
        let span = cursor.skip().ok()?;
        if is_usage {
            usage = Some(span);
        }
    }
    let usage = usage?;
    let (head, brace) = (&text[..usage.end - 1], &text[usage.end - 1..]);
    // An empty object takes the member without a comma before it.
    let inner = text[usage.start + 1..usage.end - 1].trim();
    let comma = if inner.is_empty() { "" } else { "," };
    Some(format!("{head}{comma}\"cost\":{cost}{brace}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> String {
        let body = in_answer(Bytes::from(text.to_owned()), "0.000012");
        String::from_utf8(body.into()).unwrap()
    }

    #[test]
    fn the_cost_stands_at_the_end_of_the_usage_and_nothing_else_changes() {
        assert_eq!(
            answer(r#"{"choices":[{"usage":{}}], "usage": {"prompt_tokens":1 } ,"x":1e5}"#),
            r#"{"choices":[{"usage":{}}], "usage": {"prompt_tokens":1 ,"cost":0.000012} ,"x":1e5}"#
        );
        assert_eq!(answer(r#"{"usage":{}}"#), r#"{"usage":{"cost":0.000012}}"#);
        for same in [
            r#"{"usage":null}"#,
            r#"{"id":"usage"}"#,
            "{}",
            "[]",
            "",
            r#"{"usage":3}"#,
        ] {
            assert_eq!(answer(same), same);
        }
    }

    #[test]
    fn the_end_of_a_stream_takes_the_cost_in_its_usage_event() {
        for (events, expect) in [
            (
                "data: {\"choices\":[{\"finish_reason\":\"stop\"}],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{\"total_tokens\":3}}\n\ndata: [DONE]\n\n",
                "data: {\"choices\":[{\"finish_reason\":\"stop\"}],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{\"total_tokens\":3,\"cost\":0.5}}\n\ndata: [DONE]\n\n",
            ),
            (
                ": note\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":3}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
                ": note\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":3,\"cost\":0.5}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            ),
        ] {
            let changed = in_events(Bytes::from(events), "0.5");
            assert_eq!(std::str::from_utf8(&changed).unwrap(), expect);
        }
        let bare = Bytes::from_static(b"data: [DONE]\n\n");
        assert_eq!(in_events(bare.clone(), "0.5").as_ptr(), bare.as_ptr());
    }
}
