//! `partywall chat` against a gateway of canned answers: what it sends, what it shows, how it ends.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that runs the program"
)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_partywall");
const AT: &str = "2026-11-23T10:00:00.000Z";

/// What has been asked so far, method and params.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// A gateway whose only run ends in that state, and that breaks off the first time a message is sent. Its URL.
fn gateway(state: &'static str) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Asked::default();
    let seen = Arc::clone(&asked);
    std::thread::Builder::new()
        .spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), &seen, state);
            }
        })
        .unwrap();
    (url, asked)
}

fn answer(mut stream: TcpStream, asked: &Asked, state: &str) {
    let mut text = String::new();
    let ask: Value = loop {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).unwrap();
        text.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        if let Some(ask) = text
            .split_once("\r\n\r\n")
            .and_then(|(_, body)| serde_json::from_str(body).ok())
        {
            break ask;
        }
    };
    assert!(
        text.contains("authorization: Bearer tk_acme_0\r\n"),
        "{text}"
    );
    let method = ask["method"].as_str().unwrap().to_owned();
    let first = {
        let mut asked = asked.lock().unwrap();
        asked.push((method.clone(), ask["params"].clone()));
        asked.iter().filter(|(name, _)| *name == method).count() == 1
    };
    if first && method == "sessions.send" {
        return;
    }
    let result = result(&method, state);
    let body = json!({ "jsonrpc": "2.0", "id": ask["id"], "result": result }).to_string();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).unwrap();
}

fn result(method: &str, state: &str) -> Value {
    let call = json!({ "id": "call_1", "tool": "exec", "arguments": "{\"command\":\"ls\"}", "state": "ended", "approvers": [],
        "decided_by": null, "until": null, "begun_at": AT, "ended_at": AT });
    let said =
        |seq: u64, body: Value| json!({ "seq": seq, "run": "run_1", "at": AT, "message": body });
    match method {
        "tenant.get" => {
            json!({ "id": "acme", "status": "active", "tier": "demo", "created_at": AT, "audit_vkey": "k",
            "caller": { "token": "default", "role": "admin", "person": null } })
        }
        "sessions.create" => {
            json!({ "id": "ses_1", "owner": "token:default", "agent": "analyst", "model": null, "channel": "rpc",
            "title": null, "created_at": AT, "used_at": AT })
        }
        "sessions.send" => json!({ "run": "run_1", "repeated": true }),
        "runs.get" => {
            json!({ "id": "run_1", "session": "ses_1", "agent": "analyst", "agent_version": 1, "token": "default",
            "state": state, "why": (state == "failed").then_some("time_exceeded"), "steps": 2, "cost_usd": "0.001",
            "created_at": AT, "started_at": AT, "ended_at": AT, "calls": [call] })
        }
        "chat.history" => json!({ "messages": [
            said(1, json!({ "role": "user", "content": "hi" })),
            said(2, json!({ "role": "tool", "content": "{\"exit_code\":0,\"stdout\":\"a\\u001b[2Jb\",\"stderr\":\"\"}" })),
            said(3, json!({ "role": "assistant", "content": "done\u{1b}]0;t\u{7}\nhere" })),
        ] }),
        other => panic!("{other} is not asked"),
    }
}

fn chat(url: &str, arguments: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(BINARY)
        .args(["chat", "--url", url, "--agent", "analyst"])
        .args(arguments)
        .env_remove("PARTYWALL_TOKEN")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that has refused reads nothing.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn a_message_is_sent_under_one_key_and_its_run_is_shown_clean() {
    let (url, asked) = gateway("finished");
    let output = chat(&url, &["--tenant", "acme", "hi"], "tk_acme_0\n");
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert_eq!(
        (output.status.code(), out.as_str()),
        (Some(0), "done\nhere\n"),
        "{err}"
    );
    let shown = ["--session", "exec: ls\n", "exec: exit 0; ab\n"];
    assert!(shown.iter().all(|text| err.contains(text)), "{err}");
    let asked = asked.lock().unwrap();
    let sent: Vec<_> = asked
        .iter()
        .filter(|(name, _)| name == "sessions.send")
        .collect();
    assert_eq!((sent.len(), &sent[0].1), (2, &sent[1].1));
    assert!(
        sent[0].1["idempotency_key"]
            .as_str()
            .unwrap()
            .starts_with("chat-")
    );
}

#[test]
fn events_are_an_object_each() {
    let (url, _) = gateway("finished");
    let output = chat(&url, &["--tenant", "acme", "--json", "hi"], "tk_acme_0\n");
    let text = String::from_utf8(output.stdout).unwrap();
    let kinds: Vec<String> = text
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["type"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let expected = [
        "session",
        "run.queued",
        "tool.started",
        "tool.ended",
        "message",
        "run.ended",
    ];
    assert_eq!(kinds, expected);
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn a_run_without_an_answer_is_exit_1_and_a_foreign_token_says_nothing() {
    let (url, _) = gateway("failed");
    let output = chat(&url, &["--tenant", "acme", "hi"], "tk_acme_0\n");
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err.ends_with("error: there is no answer: the run is failed: time_exceeded\n"),
        "{err}"
    );
    let (url, asked) = gateway("finished");
    let output = chat(&url, &["--tenant", "globex", "hi"], "tk_acme_0\n");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(asked.lock().unwrap().len(), 1);
    let output = chat(&url, &["--tenant", "acme"], "hi\n");
    assert_eq!(output.status.code(), Some(2));
}
