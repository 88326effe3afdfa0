//! Programs of an agent: in the sandbox, in the tenant's own workspace, as the tenant's own user where the machine has such.

use std::time::Duration;

use kernel::Admission;
use sandbox::{
    Captured, Ceiling, Ceilings, ChangeKind, End, Floor, Grant, Isolation, OsUser, Outcome,
    Program, SandboxError,
};
use serde_json::json;

use super::arguments::Arguments;
use super::{Bench, Caps, Done, Kind};

/// Seconds of a program that asks for none.
const SECONDS: u64 = 60;
/// Bytes that are shown of each of the two outputs.
const SHOWN_BYTES: usize = 12 * 1024;
/// Changed files that are named.
const CHANGES_SHOWN: usize = 50;

/// Runs what the arguments say.
pub(super) async fn run(
    bench: &Bench<'_>,
    admission: &Admission,
    kind: Kind,
    arguments: &Arguments,
    caps: Caps,
) -> Done {
    let asked = arguments
        .number("timeout_seconds")
        .unwrap_or(SECONDS)
        .max(1);
    let seconds = caps.seconds.map_or(asked, |cap| asked.min(cap));
    let grant = match grant(bench, admission, seconds).await {
        Ok(grant) => grant,
        Err(why) => return Done::failed(why),
    };
    let program = match kind {
        Kind::Python => Program::new("python3")
            .args(["-I", "-"])
            .stdin(arguments.text("code").unwrap_or_default()),
        _ => Program::new("sh").args(["-c", arguments.text("command").unwrap_or_default()]),
    };
    match bench.sandbox.run(grant, program).await {
        Ok(outcome) => told(&outcome),
        Err(error) => Done::failed(outside(&error)),
    }
}

async fn grant(bench: &Bench<'_>, admission: &Admission, seconds: u64) -> Result<Grant, String> {
    let tenant = admission.tenant();
    let unusable = |_| "the workspace cannot be used".to_owned();
    let number = bench.kernel.os_number(tenant).await.map_err(unusable)?;
    let user =
        OsUser::numbered(number).ok_or("there are more tenants than users of the machine")?;
    let workspace = tenant.workspace().map_err(unusable)?;
    let descriptor = workspace
        .descriptor()
        .map_err(|_| "the workspace cannot be used".to_owned())?;
    let wall = Duration::from_secs(seconds);
    let ceilings = Ceilings {
        wall,
        cpu: wall,
        ..Ceilings::default()
    };
    let demand = Floor::at(Isolation::Namespaces).raised(None);
    Grant::new(descriptor, user, demand, ceilings).map_err(|error| outside(&error))
}

/// What a tenant is told of a sandbox that did not run: nothing of the machine.
fn outside(error: &SandboxError) -> String {
    match error {
        SandboxError::NotOffered(_) => "code is not executed here: no sandbox is offered",
        SandboxError::Busy => "too many programs run at the moment; try again later",
        SandboxError::Program(_) => {
            "the program cannot be handed over: it is too long, or holds a zero byte"
        }
        SandboxError::Workspace(_) => "the workspace cannot be used",
        SandboxError::Start(_) | SandboxError::System(_) => {
            "the sandbox failed; the program was not run to its end"
        }
    }
    .to_owned()
}

fn told(outcome: &Outcome) -> Done {
    let (end, word) = match outcome.end {
        End::Exited(0) => (json!({ "exit_code": 0 }), "ok"),
        End::Exited(code) => (json!({ "exit_code": code }), "failed"),
        End::Signalled(signal) => (json!({ "signal": signal }), "failed"),
        End::Limited(ceiling) => (json!({ "ended_by_limit": limit(ceiling) }), "limited"),
    };
    let changed: Vec<_> = outcome
        .changes
        .iter()
        .take(CHANGES_SHOWN)
        .map(|change| {
            let kind = match change.kind {
                ChangeKind::Created => "created",
                ChangeKind::Modified => "modified",
                ChangeKind::Removed => "removed",
            };
            json!({ "path": change.path.to_string_lossy(), "change": kind, "bytes": change.bytes })
        })
        .collect();
    let not_shown = outcome.changes.len().saturating_sub(CHANGES_SHOWN) + outcome.changes_cut;
    let mut text = end;
    text["stdout"] = shown(&outcome.stdout).into();
    text["stderr"] = shown(&outcome.stderr).into();
    if !changed.is_empty() {
        text["files"] = changed.into();
    }
    if not_shown > 0 {
        text["files_not_shown"] = not_shown.into();
    }
    let millis = |time: Duration| time.as_millis().to_string();
    let facts = [
        ("end", end_fact(outcome.end)),
        ("cpu_ms", millis(outcome.cpu)),
        ("wall_ms", millis(outcome.wall)),
        (
            "files_changed",
            (outcome.changes.len() + outcome.changes_cut).to_string(),
        ),
    ];
    Done {
        text: text.to_string(),
        outcome: word,
        facts: facts.into(),
    }
}

fn end_fact(end: End) -> String {
    match end {
        End::Exited(code) => format!("exit {code}"),
        End::Signalled(signal) => format!("signal {signal}"),
        End::Limited(ceiling) => format!("limit {}", limit(ceiling)),
    }
}

fn limit(ceiling: Ceiling) -> &'static str {
    match ceiling {
        Ceiling::Wall => "wall_time",
        Ceiling::Cpu => "cpu_time",
        Ceiling::Memory => "memory",
        Ceiling::Disk => "disk",
        Ceiling::Files => "files",
        Ceiling::Output => "output",
    }
}

fn shown(captured: &Captured) -> String {
    let text = String::from_utf8_lossy(&captured.bytes).into_owned();
    let text = super::cut(text, SHOWN_BYTES);
    match captured.cut {
        0 => text,
        cut => format!("{text}\n[{cut} bytes more were not kept]"),
    }
}
