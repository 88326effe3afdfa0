//! The binary as users meet it: exit codes, the one error line, what is printed, what is left on disk.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that runs the program and looks at the disk"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_partywall");

fn partywall(data: &Path, arguments: &[&str]) -> Output {
    fed(data, arguments, b"")
}

fn fed(data: &Path, arguments: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(BINARY)
        .args(arguments)
        .env("PARTYWALL_DATA", data)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads nothing closes its end first; that is no failure.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The refusal's one line, after checking that it is one.
fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(
        text.starts_with("error: ") && text.ends_with('\n') && text.lines().count() == 1,
        "{text:?}"
    );
    assert!(output.stdout.is_empty(), "{}", stdout(output));
    text
}

fn initialised() -> TempDir {
    let temp = tempfile::tempdir().unwrap();
    assert!(
        partywall(&temp.path().join("data"), &["init"])
            .status
            .success()
    );
    temp
}

/// A gateway that takes one command and answers with these lines.
fn gateway(data: &Path, lines: Vec<String>) -> JoinHandle<String> {
    let listener = UnixListener::bind(data.join("control.sock")).unwrap();
    std::thread::Builder::new()
        .spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            for line in lines {
                if (&stream).write_all(format!("{line}\n").as_bytes()).is_err() {
                    break;
                }
            }
            request
        })
        .unwrap()
}

fn usage_line(model: &str) -> String {
    let row = serde_json::json!({ "date": "2026-11-22", "tenant": "acme", "model": model, "tokens_in": 3, "tokens_out": 4,
        "cost_usd": "0.000001", "attempts": 1, "unknown_attempts": 0 });
    serde_json::json!({ "row": { "usage": row } }).to_string()
}

const END: &str = r#"{"answer":{"end":{"rows":0}}}"#;

#[test]
fn usage_errors_exit_2_and_help_0() {
    let temp = tempfile::tempdir().unwrap();
    for wrong in [
        &[][..],
        &["nuke"],
        &["tenants", "create"],
        &["secrets", "set", "acme", "openai", "sk-1"],
        &["audit", "tail"],
    ] {
        assert_eq!(
            partywall(temp.path(), wrong).status.code(),
            Some(2),
            "{wrong:?}"
        );
    }
    for fine in [
        &["--help"][..],
        &["--version"],
        &["tenants", "create", "--help"],
        &["help", "billing"],
    ] {
        let output = partywall(temp.path(), fine);
        assert_eq!(output.status.code(), Some(0), "{fine:?}");
        assert!(stdout(&output).contains("partywall") || stdout(&output).contains("Usage"));
    }
}

#[test]
fn hostile_ids_create_nothing() {
    let temp = initialised();
    let data = temp.path().join("data");
    let long = "a".repeat(33);
    let before = listing(temp.path());
    for id in [
        "../evil", "/etc", ".", "..", "A", "a_b", "a.b", "a b", "-a", "a-", "", "root", "tenants",
        "é", "a\n", "a/../b", "%2e", &long,
    ] {
        for command in [
            &["tenants", "create", id][..],
            &["tenants", "create", "--", id],
            &["tenants", "show", id],
            &["secrets", "set", id, "openai"],
        ] {
            let output = fed(&data, command, b"value");
            assert!(matches!(output.status.code(), Some(1 | 2)), "{command:?}");
            assert!(!output.stderr.is_empty());
        }
    }
    assert_eq!(listing(temp.path()), before);
}

fn listing(path: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        names.push(entry.path().display().to_string());
        if entry.file_type().unwrap().is_dir() {
            names.extend(listing(&entry.path()));
        }
    }
    names.retain(|name| {
        !name.ends_with("/lock") && !name.ends_with("-wal") && !name.ends_with("-shm")
    });
    names.sort();
    names
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    let temp = tempfile::tempdir().unwrap();
    for (line, name) in [
        ("tenants clone acme --as acme-2", "tenants clone"),
        ("tenants backup acme --to file:///tmp/x", "tenants backup"),
        ("tenants restore --from file:///tmp/x", "tenants restore"),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let said = refusal(&partywall(temp.path(), &words));
        assert!(
            said.contains(name) && said.contains("not available in this version"),
            "{said}"
        );
    }
    assert!(listing(temp.path()).is_empty());
}

#[test]
fn without_a_data_directory_the_error_says_init() {
    let temp = tempfile::tempdir().unwrap();
    let said = refusal(&partywall(
        &temp.path().join("absent"),
        &["tenants", "list"],
    ));
    assert!(said.contains("partywall init"), "{said}");
    assert!(!temp.path().join("absent").exists());
}

#[test]
fn init_prints_the_operator_key_once() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let done = json(&partywall(&data, &["init", "--json"]));
    let key = done["operator_key"].as_str().unwrap();
    assert!(
        key.len() == 35
            && key.starts_with("pk_")
            && key[3..]
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    );
    assert!(done["data"].is_string() && done["config"].is_string());
    let again = partywall(&data, &["init"]);
    assert!(!refusal(&again).contains("pk_"));
}

#[test]
fn create_and_list_without_a_gateway() {
    let temp = initialised();
    let data = temp.path().join("data");
    // What a crashed gateway leaves behind is no obstacle.
    drop(UnixListener::bind(data.join("control.sock")).unwrap());
    let made = json(&partywall(&data, &["tenants", "create", "acme", "--json"]));
    assert_eq!(
        (&made["id"], &made["status"]),
        (&"acme".into(), &"active".into())
    );
    assert!(made["token"].as_str().unwrap().starts_with("tk_acme_") && made["tier"].is_string());
    let listed = json(&partywall(&data, &["tenants", "list", "--json"]));
    assert_eq!(listed.as_array().unwrap().len(), 1);
    refusal(&partywall(&data, &["tenants", "create", "acme"]));
    refusal(&partywall(
        &data,
        &["tenants", "delete", "acme", "--confirm", "globex"],
    ));
    let table = stdout(&partywall(&data, &["tenants", "list"]));
    assert!(
        table.starts_with("TENANT") && table.contains("\nacme"),
        "{table}"
    );
}

#[test]
fn secrets_come_from_input_and_are_never_empty() {
    let temp = initialised();
    let data = temp.path().join("data");
    assert!(
        partywall(&data, &["tenants", "create", "acme"])
            .status
            .success()
    );
    for empty in [&b""[..], b"\n"] {
        assert!(
            refusal(&fed(&data, &["secrets", "set", "acme", "openai"], empty)).contains("empty")
        );
    }
    let large = vec![b'a'; base::limits::SECRET_BYTES_MAX + 1];
    assert!(refusal(&fed(&data, &["secrets", "set", "acme", "openai"], &large)).contains("larger"));
    let done = fed(
        &data,
        &["secrets", "set", "acme", "openai"],
        b"sk-canary-1\n",
    );
    assert!(done.status.success() && !stdout(&done).contains("sk-canary-1"));
}

#[test]
fn a_secret_travels_in_the_request_without_its_newline() {
    let temp = tempfile::tempdir().unwrap();
    let served = gateway(
        temp.path(),
        vec![r#"{"answer":{"done":{"message":"sealed"}}}"#.to_owned()],
    );
    std::fs::write(temp.path().join("key.txt"), "sk-1\n").unwrap();
    let file = temp.path().join("key.txt");
    let done = partywall(
        temp.path(),
        &[
            "secrets",
            "set",
            "acme",
            "openai",
            "--from-file",
            file.to_str().unwrap(),
        ],
    );
    assert_eq!(stdout(&done), "sealed\n");
    let request: serde_json::Value = serde_json::from_str(&served.join().unwrap()).unwrap();
    assert_eq!(request["value"], "sk-1");
}

#[test]
fn billing_is_csv_that_no_spreadsheet_evaluates() {
    let temp = tempfile::tempdir().unwrap();
    let rows = ["gpt-4o", "=1+1", "+1", "-1", "@x", "\tx", "a,b\"c"].map(usage_line);
    let served = gateway(
        temp.path(),
        rows.into_iter().chain([END.to_owned()]).collect(),
    );
    let printed = partywall(temp.path(), &["billing", "report", "--tenant", "acme"]);
    let expected = "date,tenant,model,tokens_in,tokens_out,cost_usd
2026-11-22,acme,gpt-4o,3,4,0.000001
2026-11-22,acme,'=1+1,3,4,0.000001
2026-11-22,acme,'+1,3,4,0.000001
2026-11-22,acme,'-1,3,4,0.000001
2026-11-22,acme,'@x,3,4,0.000001
2026-11-22,acme,'\tx,3,4,0.000001
2026-11-22,acme,\"a,b\"\"c\",3,4,0.000001
";
    assert_eq!(stdout(&printed), expected);
    assert!(served.join().unwrap().contains("\"billing.report\""));
}

#[test]
fn billing_as_json_is_one_array() {
    for flags in [&["--json"][..], &["--format", "json"]] {
        let temp = tempfile::tempdir().unwrap();
        let served = gateway(
            temp.path(),
            vec![usage_line("a"), usage_line("b"), END.to_owned()],
        );
        let printed = json(&partywall(
            temp.path(),
            &[&["billing", "report"], flags].concat(),
        ));
        assert_eq!(printed[1]["model"], "b");
        assert_eq!(printed[0]["cost_usd"], "0.000001");
        served.join().unwrap();
    }
}

#[test]
fn audit_entries_keep_their_bytes() {
    let entry = r#"{"a":1.0,"tenant":"acme"}"#;
    let lines = || vec![format!(r#"{{"row":{{"audit":{entry}}}}}"#), END.to_owned()];
    let temp = tempfile::tempdir().unwrap();
    let served = gateway(temp.path(), lines());
    assert_eq!(
        stdout(&partywall(
            temp.path(),
            &["audit", "tail", "--tenant", "acme"]
        )),
        format!("{entry}\n")
    );
    served.join().unwrap();
    std::fs::remove_file(temp.path().join("control.sock")).unwrap();
    let served = gateway(temp.path(), lines());
    assert_eq!(
        stdout(&partywall(
            temp.path(),
            &["audit", "tail", "--tenant", "acme", "--json"]
        )),
        format!("[\n{entry}\n]\n")
    );
    served.join().unwrap();
}

#[test]
fn one_rotated_token_is_an_object_and_all_are_a_list() {
    let token = r#"{"tenant":"acme","name":"default","role":"admin","token":"tk_acme_1","expires_at":null,"old_valid_until":null}"#;
    let answer = vec![format!(
        r#"{{"answer":{{"rotated":{{"tokens":[{token}]}}}}}}"#
    )];
    for (flags, pointer) in [
        (&["rotate", "acme"][..], "/token"),
        (&["rotate", "acme", "--all"], "/tokens/0/token"),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let served = gateway(temp.path(), answer.clone());
        let printed = json(&partywall(
            temp.path(),
            &[&["tenants", "token", "--json"], flags].concat(),
        ));
        assert_eq!(printed.pointer(pointer).unwrap(), "tk_acme_1");
        served.join().unwrap();
    }
}

#[test]
fn a_gateway_that_breaks_off_is_an_error() {
    for lines in [
        vec![],
        vec!["what".to_owned()],
        vec![r#"{"fault":{"code":"internal","message":"two\nlines \u001b[2J"}}"#.to_owned()],
    ] {
        let temp = tempfile::tempdir().unwrap();
        let served = gateway(temp.path(), lines);
        assert!(!refusal(&partywall(temp.path(), &["tenants", "list"])).contains('\u{1b}'));
        served.join().unwrap();
    }
}

#[test]
fn failed_checks_are_shown_and_exit_1() {
    let temp = tempfile::tempdir().unwrap();
    let checks = r#"[{"name":"clock","state":"ok","found":"in step","advice":null},{"name":"disk","state":"fail","found":"full","advice":"free some space"}]"#;
    let served = gateway(
        temp.path(),
        vec![format!(
            r#"{{"answer":{{"doctor":{{"checks":{checks}}}}}}}"#
        )],
    );
    let output = partywall(temp.path(), &["doctor"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stdout(&output).contains("fail   disk   full -> free some space"),
        "{}",
        stdout(&output)
    );
    served.join().unwrap();
}

#[test]
fn a_reader_that_goes_away_ends_a_report_quietly() {
    let temp = tempfile::tempdir().unwrap();
    let served = gateway(
        temp.path(),
        std::iter::repeat_with(|| usage_line("m"))
            .take(50_000)
            .chain([END.to_owned()])
            .collect(),
    );
    let mut child = Command::new(BINARY)
        .args(["billing", "report"])
        .env("PARTYWALL_DATA", temp.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    served.join().unwrap();
}

#[test]
fn completions_name_the_commands() {
    let temp = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = partywall(temp.path(), &["completions", shell]);
        assert!(
            output.status.success() && stdout(&output).contains("ratecard"),
            "{shell}"
        );
    }
}

#[test]
fn routes_are_an_array_of_objects() {
    let temp = tempfile::tempdir().unwrap();
    let routes = json(&partywall(temp.path(), &["routes", "--json"]));
    let routes = routes.as_array().unwrap();
    assert!(!routes.is_empty());
    for route in routes {
        for key in ["method", "path", "access"] {
            assert!(route[key].is_string(), "{route}");
        }
        assert!(route["objects"].is_array(), "{route}");
    }
    assert!(
        routes.iter().any(|route| route["path"] == "/healthz"
            && route["access"].as_str().unwrap().contains("public"))
    );
}

#[test]
fn the_demo_keeps_away_from_real_data() {
    let temp = initialised();
    let data = temp.path().join("data");
    let before = std::fs::read(data.join("partywall.yaml")).unwrap();
    assert!(refusal(&partywall(&data, &["demo"])).contains("not a directory of the demo"));
    assert_eq!(std::fs::read(data.join("partywall.yaml")).unwrap(), before);
}
