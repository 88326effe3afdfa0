//! A process that appends is killed, again and again; what it was told is there must be there.
//!
//! Without the test harness, because the same binary is the victim: `crash victim <directory>`.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "starts itself as the process to be killed; a failure is a panic"
)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use base::TenantUid;
use store::{Journal, JournalOptions, RecordHead, RecordKind, Recovered};
use vault::{Aad, Key, SigningKey};

const KILLS: u64 = 25;
const UID: TenantUid = TenantUid::from_bytes([5; 16]);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("victim") => append_forever(Path::new(&arguments[2])),
        // What test runners ask before they run.
        Some("--list") => {}
        _ => kill_and_look(),
    }
}

fn open(path: &Path) -> (Journal, Recovered) {
    let dir = OwnedFd::from(std::fs::File::open(path).unwrap());
    let options = JournalOptions {
        segment_bytes: 256 * 1024,
    };
    Journal::open(dir, SigningKey::from_seed(&[1; 32]), options).unwrap()
}

fn key() -> Key {
    Key::from_bytes([2; 32])
}

fn aad(seq: u64) -> Aad {
    Aad::new("crash").uid(&UID).number(seq)
}

// Four threads append, sync and say so, until the process is killed.
fn append_forever(path: &Path) {
    let (journal, _) = open(path);
    let key = key();
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let (journal, key) = (&journal, &key);
            scope.spawn(move || {
                for round in 0_usize.. {
                    let head = RecordHead {
                        kind: RecordKind::Event,
                        uid: UID,
                        reference: None,
                    };
                    let seq = journal
                        .append(head, |seq, out| {
                            out.resize((round * 131 + thread) % 1500, 3);
                            key.seal_into(&aad(seq.number()), out);
                        })
                        .unwrap();
                    journal.write_out(seq).unwrap();
                    say("appended", seq.number());
                    if round % 3 == 0 {
                        journal.synced_blocking(seq).unwrap();
                        say("synced", seq.number());
                    }
                }
            });
        }
    });
}

fn say(what: &str, seq: u64) {
    // One write, so that lines of threads do not mix.
    std::io::stdout()
        .write_all(format!("{what} {seq}\n").as_bytes())
        .unwrap();
}

fn kill_and_look() {
    let home = tempfile::tempdir().unwrap();
    let mut told = BTreeSet::new();
    for kill in 0..KILLS {
        // Every fifth dies while it starts, the others at work.
        let at_work = kill % 5 != 0;
        let heard = run_until_killed(home.path(), at_work, Duration::from_millis(kill * 7));
        assert!(
            !(at_work && heard.is_empty()),
            "kill {kill}: the victim did not work"
        );
        told.extend(heard);
        let (journal, left) = open(home.path());
        assert_eq!(left.damaged, [], "kill {kill}");
        let found: BTreeSet<u64> = left
            .records
            .iter()
            .map(|record| record.seq.number())
            .collect();
        assert_eq!(
            found.len(),
            left.records.len(),
            "kill {kill}: numbers repeat"
        );
        let missing: Vec<_> = told.difference(&found).collect();
        assert!(missing.is_empty(), "kill {kill}: {missing:?}");
        for record in &left.records {
            let sealed = journal.read(record).unwrap();
            assert!(
                key().open(&aad(record.seq.number()), &sealed).is_ok(),
                "kill {kill}"
            );
        }
        // Half of them move elsewhere, so that segments come and go.
        if kill % 4 == 3 {
            journal.folded(
                &left
                    .records
                    .iter()
                    .map(|record| record.seq)
                    .collect::<Vec<_>>(),
            );
            told.clear();
        }
    }
}

fn run_until_killed(path: &Path, at_work: bool, after: Duration) -> Vec<u64> {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .arg("victim")
        .arg(path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap());
    let mut first = String::new();
    if at_work {
        lines.read_line(&mut first).unwrap();
    }
    let reader = std::thread::Builder::new()
        .spawn(move || {
            let whole = |line: std::io::Result<String>| {
                let line = line.unwrap();
                line.split_once(' ')
                    .map(|(_, seq)| seq.trim().parse::<u64>().unwrap())
            };
            std::iter::once(Ok(first))
                .chain(lines.lines())
                .filter_map(whole)
                .collect::<Vec<_>>()
        })
        .unwrap();
    std::thread::sleep(after);
    victim.kill().unwrap();
    victim.wait().unwrap();
    reader.join().unwrap()
}
