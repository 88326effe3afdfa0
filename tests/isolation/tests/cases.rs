//! The compiler's part of the isolation suite: no case in `fail/` compiles, and each fails for the reason that it is there for; its
//! twin in `pass/` compiles, so that no case fails for a slip of the pen.
//!
//! Cases are compiled against the library that this test is linked to, in about a second: nothing is built a second time. `NAME.stderr`
//! holds what the compiler says, one line per error. The text depends on the toolchain, which is pinned; when it moves, a failing
//! test names the file that holds the new text, to be read and copied.

#![expect(
    clippy::disallowed_methods,
    reason = "a test lists and reads its own cases and starts the compiler"
)]

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// Each case with the errors that it must give and no others, in order of their lines.
const CASES: [(&str, &[&str]); 13] = [
    ("forge", &["error[E0451]"]),
    ("from_id", &["error[E0277]", "error[E0277]"]),
    ("ambient", &["error[E0433]"; 4]),
    ("id_not_key", &["error[E0308]", "error[E0308]"]),
    ("skip_policy", &["error[E0308]", "error[E0308]"]),
    ("re_pair", &["error[E0616]", "error[E0308]"]),
    ("forge_permit", &["error[E0451]"]),
    ("double_settle", &["error[E0382]"]),
    (
        "lost_hold",
        &["error: unused boxed `Hold` that must be used"],
    ),
    ("operator_reads", &["error[E0599]", "error[E0599]"]),
    ("leak", &["error[E0277]"; 3]),
    // Two: neither the borrow of the transaction nor the transaction itself outlives the closure.
    ("tx_escape", &["error[E0521]"; 2]),
    // Two, because the brand is invariant: neither becomes the other.
    (
        "two_tenants",
        &["error: lifetime may not live long enough"; 2],
    ),
];

/// Lines in which a case may differ from its twin, on either side: more would be another program.
const DIFFERENT_LINES_MAX: usize = 8;

type Outcome = Result<(), Box<dyn Error>>;

#[test]
fn every_case_has_its_text_and_its_twin() -> Outcome {
    let named = |extension: &str| -> BTreeSet<String> {
        CASES
            .iter()
            .map(|(name, _)| format!("{name}.{extension}"))
            .collect()
    };
    let refused: BTreeSet<_> = named("rs").union(&named("stderr")).cloned().collect();
    assert_eq!(names_in("fail")?, refused);
    assert_eq!(names_in("pass")?, named("rs"));
    Ok(())
}

#[test]
fn a_twin_is_the_same_program_but_for_one_point() -> Outcome {
    for (name, _) in CASES {
        let case = code(&here("fail").join(name).with_extension("rs"))?;
        let twin = code(&here("pass").join(name).with_extension("rs"))?;
        let different = |from: &[String], other: &[String]| {
            from.iter().filter(|line| !other.contains(line)).count()
        };
        let (added, removed) = (different(&case, &twin), different(&twin, &case));
        assert!(added > 0, "{name}: the twin holds the whole case");
        assert!(
            added.max(removed) <= DIFFERENT_LINES_MAX,
            "{name}: {added} lines of the case and {removed} of its twin differ"
        );
    }
    Ok(())
}

#[test]
fn every_twin_compiles() -> Outcome {
    let compiler = Compiler::find()?;
    for (name, _) in CASES {
        let said = compiler.check(&format!("pass/{name}.rs"))?;
        assert!(
            said.compiled && said.text.is_empty(),
            "pass/{name}.rs must compile without a warning:\n{}",
            said.text
        );
    }
    Ok(())
}

#[test]
fn every_case_is_refused_for_its_reason() -> Outcome {
    let compiler = Compiler::find()?;
    let mut wrong = Vec::new();
    for (name, reasons) in CASES {
        let said = compiler.check(&format!("fail/{name}.rs"))?;
        let lines: Vec<&str> = said.text.lines().collect();
        let for_its_reasons = lines.len() == reasons.len()
            && lines
                .iter()
                .zip(reasons)
                .all(|(line, reason)| line.contains(reason));
        let expected = fs::read_to_string(here("fail").join(format!("{name}.stderr")));
        if said.compiled || !for_its_reasons || expected.ok().as_deref() != Some(&said.text) {
            let found = compiler.out.join(format!("{name}.stderr"));
            fs::write(&found, &said.text)?;
            wrong.push(format!(
                "fail/{name}.rs: must give {reasons:?} and the text of fail/{name}.stderr; gave (also in {}):\n{}",
                found.display(),
                said.text
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The compiler of this build, with the library `isolation` as this build made it.
struct Compiler {
    rustc: PathBuf,
    library: PathBuf,
    dependencies: PathBuf,
    out: PathBuf,
}

struct Said {
    compiled: bool,
    /// One line per error or warning, paths from this directory on.
    text: String,
}

impl Compiler {
    fn find() -> Result<Self, Box<dyn Error>> {
        // The compiler lies beside cargo; where it does not, the one on the path is tried, and a library of another one fails.
        let beside = Path::new(env!("CARGO")).with_file_name("rustc");
        let rustc = if beside.exists() {
            beside
        } else {
            PathBuf::from("rustc")
        };
        let program = std::env::current_exe()?;
        let dependencies = program.parent().ok_or("a program lies in a directory")?;
        let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("isolation");
        fs::create_dir_all(&out)?;
        Ok(Self {
            rustc,
            library: newest_library(dependencies)?,
            dependencies: dependencies.to_owned(),
            out,
        })
    }

    /// Compiles one file up to and without machine code. It may name this crate and what this crate hands on, nothing else.
    fn check(&self, file: &str) -> Result<Said, Box<dyn Error>> {
        let library = format!("isolation={}", self.library.display());
        let dependencies = format!("dependency={}", self.dependencies.display());
        let output = Command::new(&self.rustc)
            .current_dir(here(""))
            .args(["--edition=2024", "--crate-type=lib", "--emit=metadata"])
            .args(["--error-format=short", "--color=never", "--crate-name=case"])
            .args(["--extern", &library, "-L", &dependencies])
            .arg("--out-dir")
            .arg(self.out.join(file.replace('/', "-")))
            .arg(file)
            .output()?;
        let said = String::from_utf8(output.stderr)?;
        let mut lines: Vec<&str> = said
            .lines()
            .filter(|line| !line.starts_with("error: aborting due to"))
            .collect();
        // In the order of the file, whichever function the compiler takes up first.
        lines.sort_by_key(|line| line_number(line));
        let text = lines
            .iter()
            .map(|line| format!("{}\n", last_names(line)))
            .collect();
        Ok(Said {
            compiled: output.status.success(),
            text,
        })
    }
}

/// The message with this library's types by their last names. How much of a path the compiler prints depends on what else it has
/// loaded, not on the case.
fn last_names(message: &str) -> String {
    let mut parts = message.split("isolation::");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_path = |char: char| char.is_alphanumeric() || char == '_' || char == ':';
        let end = part.find(|char| !is_path(char)).unwrap_or(part.len());
        let (path, rest) = part.split_at(end);
        // A colon that ends a message part is not of the path.
        let name = path.trim_end_matches(':');
        text.push_str(name.rsplit("::").next().unwrap_or(name));
        text.push_str(&path[name.len()..]);
        text.push_str(rest);
    }
    text
}

#[test]
fn paths_are_read_by_their_last_names() {
    let said = "the trait bound `isolation::kernel::Tenant: From<isolation::base::TenantId>` of isolation::a::B: x";
    assert_eq!(
        last_names(said),
        "the trait bound `Tenant: From<TenantId>` of B: x"
    );
    assert_eq!(last_names("`Tenant` as it is"), "`Tenant` as it is");
}

/// The line that a message is about; 0 for a message about no line.
fn line_number(message: &str) -> u32 {
    let number = message.split(':').nth(1);
    number.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Cargo has brought the library up to date before it started this test, and every later build of it had the same sources: the
/// newest is as good as the one that was linked, also where features differ.
fn newest_library(dir: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let mut newest: Option<(SystemTime, PathBuf)> = None;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("libisolation-") || !name.ends_with(".rlib") {
            continue;
        }
        let built = entry.metadata()?.modified()?;
        if newest.as_ref().is_none_or(|(other, _)| built > *other) {
            newest = Some((built, entry.path()));
        }
    }
    let (_, path) = newest.ok_or("the library of this crate is not beside its test")?;
    Ok(path)
}

fn here(dir: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)
}

fn names_in(dir: &str) -> Result<BTreeSet<String>, Box<dyn Error>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(here(dir))? {
        names.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// The lines of a program without its comments, indentation and imports.
fn code(path: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let text = fs::read_to_string(path)?;
    Ok(text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("//") && !line.starts_with("use "))
        .map(str::to_owned)
        .collect())
}
