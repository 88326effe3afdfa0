//! Who may depend on whom: the one table, and the rule that reads it.

use toml::{Table, Value};

use crate::tidy::Finding;
use crate::tree::Tree;

/// Every package of the workspace with the workspace packages it may depend on. Dependencies run strictly down: a row
/// names only rows above it. A package that is not listed fails, so that a new crate is a decision and not an accident.
const LAYERS: &[(&str, &[&str])] = &[
    ("base", &[]),
    // The only one with unsafe code.
    ("sys", &[]),
    ("vault", &["base"]),
    ("llm", &["base"]),
    ("simulator", &["base", "llm"]),
    ("rpc", &["base"]),
    ("store", &["base", "vault"]),
    ("policy", &["base", "vault"]),
    ("kernel", &["base", "vault", "store", "policy"]),
    ("sandbox", &["base", "sys"]),
    ("gateway", &["base", "llm", "policy", "kernel"]),
    (
        "agent",
        &["base", "llm", "policy", "kernel", "sandbox", "gateway"],
    ),
    ("edge", &["base", "kernel", "agent"]),
    (
        "server",
        &[
            "base", "rpc", "llm", "policy", "kernel", "gateway", "sandbox", "agent", "edge",
        ],
    ),
    ("partywall", &["base", "rpc", "server", "simulator"]),
    ("testkit", &["base", "llm", "kernel"]),
    // Must never gain `store`: one of its cases proves that a crate without that line cannot open a database.
    ("isolation", &["base", "llm", "policy", "kernel", "gateway"]),
    ("simulation", &["base", "llm", "kernel", "gateway"]),
    // Nothing of ours: it stands for an auditor.
    ("tlog_auditor", &[]),
    ("bench", &[]),
    ("xtask", &[]),
];

/// What any package may use in its tests, beyond its row.
const IN_TESTS: &[&str] = &["testkit", "simulator"];

/// Packages that only tests may depend on.
const ONLY_IN_TESTS: &[&str] = &["testkit"];

/// External crates that give a power, with the packages that may hold it. Everything else is judged in review.
const POWERS: &[(&str, &[&str])] = &[
    // The database engine: whoever names it can open a file.
    ("rusqlite", &["store"]),
    // Cryptography is done in one place.
    ("aws-lc-rs", &["vault"]),
    ("subtle", &["vault"]),
    // Directory handles.
    ("cap-std", &["kernel"]),
    // What the system offers without types; and the filter of a sandbox's system calls.
    ("libc", &["sys", "sandbox"]),
    ("seccompiler", &["sandbox"]),
    // Sockets: providers are called by `gateway`, everything else outside goes through `kernel`, only `server` listens.
    // `simulator` and `bench` are servers and clients of their own.
    (
        "hyper",
        &["kernel", "gateway", "server", "simulator", "bench"],
    ),
    (
        "hyper-util",
        &["kernel", "gateway", "server", "simulator", "bench"],
    ),
    // Framing of WebSockets over connections that `server` has accepted; it opens none.
    ("tokio-tungstenite", &["server"]),
    ("rustls", &["kernel", "server"]),
    ("tokio-rustls", &["kernel", "server"]),
    ("rustls-native-certs", &["kernel"]),
    ("webpki-roots", &["kernel"]),
    // An executor; `base`, `vault`, `llm` and `rpc` stay plain functions. `store` takes only its channels.
    (
        "tokio",
        &[
            "store",
            "kernel",
            "sandbox",
            "gateway",
            "agent",
            "server",
            "simulator",
            "partywall",
            "testkit",
            "bench",
        ],
    ),
    // Errors without a type are for programs that only print them.
    ("anyhow", &["partywall", "tlog_auditor", "bench", "xtask"]),
    // Configuration is read where its types stand.
    ("serde-saphyr", &["policy", "kernel", "server"]),
    // One engine decides.
    ("cedar-policy", &["policy"]),
];

/// Checks each manifest of the tree against the tables above.
pub(crate) fn findings(tree: &Tree) -> Vec<Finding> {
    let mut found = table_runs_down(LAYERS);
    for (path, text) in manifests(tree) {
        match text.parse::<Table>() {
            Ok(manifest) => manifest_findings(path, &manifest, &mut found),
            Err(error) => found.push(Finding::new(path, format!("is not TOML: {error}"))),
        }
    }
    found
}

/// The packages of the workspace as `(path of the manifest, its text)`.
pub(crate) fn manifests(tree: &Tree) -> impl Iterator<Item = (&str, &str)> {
    tree.with_extension("toml").filter(|(path, text)| {
        path.ends_with("/Cargo.toml") && text.lines().any(|line| line.trim() == "[package]")
    })
}

fn table_runs_down(table: &[(&str, &[&str])]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (row, (package, below)) in table.iter().enumerate() {
        for name in *below {
            if !table.iter().take(row).any(|(above, _)| above == name) {
                let message =
                    format!("the row of `{package}` names `{name}`, which does not stand above it");
                found.push(Finding::new("xtask/src/layers.rs", message));
            }
        }
    }
    found
}

fn manifest_findings(path: &str, manifest: &Table, found: &mut Vec<Finding>) {
    let Some(package) = manifest
        .get("package")
        .and_then(|table| table.get("name"))
        .and_then(Value::as_str)
    else {
        found.push(Finding::new(path, "names no package"));
        return;
    };
    let Some((_, below)) = LAYERS.iter().find(|(name, _)| *name == package) else {
        let message = format!("`{package}` has no row in the table of xtask/src/layers.rs");
        found.push(Finding::new(path, message));
        return;
    };
    for Dependency {
        name,
        in_tests,
        spec,
    } in dependencies(manifest)
    {
        if spec.get("workspace").and_then(Value::as_bool) != Some(true) {
            let message =
                format!("`{name}` sets its own version or path; write `{name}.workspace = true`");
            found.push(Finding::new(path, message));
        }
        if LAYERS.iter().any(|(member, _)| *member == name) {
            let allowed = if in_tests {
                below.contains(&name) || IN_TESTS.contains(&name)
            } else {
                below.contains(&name) && !ONLY_IN_TESTS.contains(&name)
            };
            if !allowed {
                found.push(Finding::new(
                    path,
                    format!("`{package}` may not depend on `{name}`"),
                ));
            }
            if spec.get("features").is_some() && !in_tests && package != "testkit" {
                let message = format!(
                    "`{package}` switches features of `{name}` on; only testkit and tests may"
                );
                found.push(Finding::new(path, message));
            }
        }
        if let Some((_, holders)) = POWERS.iter().find(|(power, _)| *power == name)
            && !in_tests
            && !holders.contains(&package)
        {
            let message = format!(
                "`{package}` may not use `{name}`; only {} may",
                holders.join(", ")
            );
            found.push(Finding::new(path, message));
        }
    }
}

struct Dependency<'a> {
    name: &'a str,
    in_tests: bool,
    spec: &'a Value,
}

/// All dependencies of a manifest: of the library, its tests, its build script, and of one platform only.
fn dependencies(manifest: &Table) -> Vec<Dependency<'_>> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let platforms = targets
        .into_iter()
        .flat_map(|targets| targets.values())
        .filter_map(Value::as_table);
    let mut all = Vec::new();
    for table in std::iter::once(manifest).chain(platforms) {
        for (section, in_tests) in [
            ("dependencies", false),
            ("build-dependencies", false),
            ("dev-dependencies", true),
        ] {
            for (key, spec) in table
                .get(section)
                .and_then(Value::as_table)
                .into_iter()
                .flatten()
            {
                // A renamed dependency is judged by the crate that it is.
                let name = spec.get("package").and_then(Value::as_str).unwrap_or(key);
                all.push(Dependency {
                    name,
                    in_tests,
                    spec,
                });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(package: &str, sections: &str) -> Vec<String> {
        let manifest = format!("[package]\nname = \"{package}\"\n{sections}");
        let path = format!("crates/{package}/Cargo.toml");
        findings(&Tree::of(&[(&path, &manifest)]))
            .into_iter()
            .map(|found| found.message)
            .collect()
    }

    #[test]
    fn an_edge_of_the_table_passes() {
        assert!(
            said(
                "kernel",
                "[dependencies]\nstore.workspace = true\nbase.workspace = true"
            )
            .is_empty()
        );
        assert!(said("gateway", "[dev-dependencies]\ntestkit.workspace = true").is_empty());
    }

    #[test]
    fn only_kernel_imports_store() {
        for package in LAYERS
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| *name != "kernel" && *name != "store")
        {
            for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
                let said = said(package, &format!("[{section}]\nstore.workspace = true"));
                assert_eq!(said, [format!("`{package}` may not depend on `store`")]);
            }
        }
    }

    #[test]
    fn an_upward_edge_fails_on_one_platform_too() {
        let said = said(
            "base",
            "[target.'cfg(unix)'.dependencies]\nkernel.workspace = true",
        );
        assert_eq!(said, ["`base` may not depend on `kernel`"]);
    }

    #[test]
    fn an_unknown_package_fails() {
        assert_eq!(
            said("shortcut", ""),
            ["`shortcut` has no row in the table of xtask/src/layers.rs"]
        );
    }

    #[test]
    fn a_power_stays_with_its_holder_under_another_name_too() {
        assert_eq!(
            said(
                "agent",
                "[dependencies]\ndb = { workspace = true, package = \"rusqlite\" }"
            ),
            ["`agent` may not use `rusqlite`; only store may"]
        );
    }

    #[test]
    fn testkit_is_for_tests_only() {
        assert_eq!(
            said("server", "[dependencies]\ntestkit.workspace = true"),
            ["`server` may not depend on `testkit`"]
        );
    }

    #[test]
    fn test_features_of_a_crate_stay_out_of_the_product() {
        let said = said(
            "gateway",
            "[dependencies]\nkernel = { workspace = true, features = [\"testing\"] }",
        );
        assert_eq!(
            said,
            ["`gateway` switches features of `kernel` on; only testkit and tests may"]
        );
    }

    #[test]
    fn versions_stand_in_the_root_manifest() {
        let said = said("base", "[dependencies]\nhex = \"0.4\"");
        assert_eq!(
            said,
            ["`hex` sets its own version or path; write `hex.workspace = true`"]
        );
    }

    #[test]
    fn a_table_that_runs_in_a_circle_fails() {
        assert!(table_runs_down(LAYERS).is_empty());
        assert_eq!(table_runs_down(&[("a", &["b"]), ("b", &["a"])]).len(), 1);
    }
}
