//! Flipped bits: over databases, their write-ahead logs, the registry and the journal, one per trial, each on a copy of a data
//! directory. What is read afterwards is the truth, or its tenant is quarantined, and nobody else notices.
//!
//! `CRASH_COUNT` flips (default 40) with the seed `CRASH_SEED` (default 1); both are printed.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may fail loudly, and copies its own directories"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::{Money, Usage, UsageSource};
use kernel::audit::verify::AuditError;
use kernel::quota::Demand;
use kernel::repair::{Extent, Kept};
use kernel::{
    Admission, Caller, Kernel, KernelError, Operator, Outcome, Refused, Secret, Settlement, Tenant,
};
use tempfile::TempDir;
use testkit::{FakeClock, TempKernel, facts, open_at};

const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
/// Calls of each tenant before the last run, in it and folded, and in it and in the journal alone.
const CALLS: [usize; 3] = [500, 60, 30];

fn variable(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    text.parse().unwrap_or(default)
}

/// SplitMix64.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }
}

/// A data directory as it lies on disk, and what is true of it.
struct Deployment {
    dir: TempDir,
    tokens: BTreeMap<&'static str, String>,
    truth: BTreeMap<&'static str, Everything>,
}

/// All that can be read of one tenant.
#[derive(PartialEq, Clone, Debug)]
struct Everything {
    rows: Vec<String>,
    entries: Vec<String>,
    days: String,
    secrets: String,
}

/// Why a tenant's data could not be read.
#[derive(Debug)]
enum Unread {
    Quarantined(String),
    Other(String),
}

fn kind(error: KernelError) -> Unread {
    match error {
        KernelError::Quarantined(why) => Unread::Quarantined(why),
        other => Unread::Other(other.to_string()),
    }
}

async fn calls(home: &TempKernel, admission: &Admission, count: usize) {
    let usd = |usd| Money::parse_usd(usd).unwrap();
    for number in 0..count {
        let trail = home.kernel.open_trail(None).unwrap();
        let demand = Demand {
            requests: 1,
            tokens: 100,
            cost: usd("0.01"),
        };
        let model = ["sim-fast", "sim-large"][usize::from(number % 3 != 0)];
        let facts = facts(*trail.request_id(), model);
        let reserved = admission.tenant().reserve(demand).unwrap();
        let unwritten = reserved.open_attempt(admission, facts).unwrap();
        let settlement = Settlement {
            outcome: Outcome::Finished,
            usage: Some(Usage {
                input: 7 + u64::try_from(number).unwrap(),
                output: 5,
                ..Usage::default()
            }),
            usage_source: UsageSource::Provider,
            cost: Some(usd("0.004")),
            ..Settlement::unknown()
        };
        let settling = unwritten
            .written()
            .await
            .unwrap()
            .settle(&settlement)
            .unwrap();
        // Together, at the end: a sync for each would take the time of the test.
        if number + 1 == count {
            settling.durable().await.unwrap();
        } else {
            settling.written().unwrap();
        }
    }
}

async fn admit(kernel: &Kernel, token: &str) -> Result<Admission, Refused> {
    kernel.admit(Caller::from_token(token)).await
}

/// Two runs of a deployment, the second one killed.
async fn deployment() -> Deployment {
    let home = TempKernel::open().await.unwrap();
    let mut tokens = BTreeMap::new();
    for name in TENANTS {
        let (_, token) = home.tenant(name).await.unwrap();
        tokens.insert(name, token.text.expose_str().unwrap().to_owned());
    }
    for name in TENANTS {
        let admission = admit(&home.kernel, &tokens[name]).await.unwrap();
        calls(&home, &admission, CALLS[0]).await;
    }
    home.kernel.close(Duration::from_secs(20)).await;
    let home = home.crash_and_reopen().await.unwrap();
    for name in TENANTS {
        let tenant = home.known(name).unwrap();
        let value = Secret::from_text(format!("sk-{name}")).unwrap();
        home.kernel
            .set_secret(&home.operator, &tenant, "openai", value)
            .await
            .unwrap();
        let admission = admit(&home.kernel, &tokens[name]).await.unwrap();
        calls(&home, &admission, CALLS[1]).await;
        tenant.audit_length().await.unwrap();
        calls(&home, &admission, CALLS[2]).await;
    }
    let dir = tempfile::tempdir().unwrap();
    copy_tree(&home.path(), &dir.path().join("data"));
    drop(home);
    let mut made = Deployment {
        dir,
        tokens,
        truth: BTreeMap::new(),
    };
    let (copy, kernel, operator) = made.opened(|_| {}).await.unwrap();
    for name in TENANTS {
        let all = everything(&kernel, &operator, name).await.unwrap();
        assert_eq!(all.rows.len(), CALLS.iter().sum::<usize>());
        made.truth.insert(name, all);
    }
    drop((kernel, operator, copy));
    made
}

impl Deployment {
    /// Opens a copy that something was done to.
    async fn opened(
        &self,
        done: impl FnOnce(&Path),
    ) -> Result<(TempDir, Kernel, Operator), KernelError> {
        let copy = tempfile::tempdir().unwrap();
        let path = copy.path().join("data");
        copy_tree(&self.dir.path().join("data"), &path);
        done(&path);
        let (kernel, operator) = reopened(&path).await?;
        Ok((copy, kernel, operator))
    }
}

async fn reopened(path: &Path) -> Result<(Kernel, Operator), KernelError> {
    let clock = FakeClock::at("2026-11-22T12:00:00Z");
    open_at(path, &clock).await
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else if let Err(error) = std::fs::copy(entry.path(), &target) {
            // A segment that waits for its number has got it meanwhile.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        }
    }
    let mode = from.metadata().unwrap().permissions();
    std::fs::set_permissions(to, mode).unwrap();
}

fn operator_view(kernel: &Kernel, operator: &Operator, name: &str) -> Tenant {
    kernel.tenant(operator, &name.parse().unwrap()).unwrap()
}

/// Reads a tenant through, and verifies its log.
async fn everything(
    kernel: &Kernel,
    operator: &Operator,
    name: &str,
) -> Result<Everything, Unread> {
    let tenant = operator_view(kernel, operator, name);
    let mut all = Everything {
        rows: Vec::new(),
        entries: Vec::new(),
        days: String::new(),
        secrets: String::new(),
    };
    let mut after = None;
    loop {
        let page = tenant.ledger_page(None, None, after).await.map_err(kind)?;
        let Some(last) = page.last() else { break };
        after = Some(last.place);
        all.rows.extend(page.iter().map(|row| format!("{row:?}")));
    }
    all.days = format!("{:?}", tenant.daily_usage(None, None).await.map_err(kind)?);
    for secret in kernel.list_secrets(operator, &tenant).await.map_err(kind)? {
        let value = tenant.secret(&secret.name);
        let value = value.map(|value| value.expose_str().map(str::to_owned));
        write!(all.secrets, "{secret:?} {value:?};").unwrap();
    }
    let log = |error: AuditError| match error {
        AuditError::Kernel(error) => kind(error),
        AuditError::Log(fault) => {
            kernel.quarantine_for_log(operator, &tenant, &fault);
            Unread::Quarantined(fault.to_string())
        }
    };
    let mut walk = tenant.audit_walk(None).await.map_err(log)?;
    while let Some(bundle) = walk.next().await.map_err(log)? {
        all.entries.extend(bundle.entries);
    }
    Ok(all)
}

/// Where a bit may be flipped: a file, and how much of it is in use.
fn targets(data: &Path) -> Vec<(PathBuf, u64)> {
    let mut files = Vec::new();
    for name in ["registry.db", "registry.db-wal"] {
        files.push(PathBuf::from(name));
    }
    for tenant in TENANTS {
        for name in ["tenant.db", "tenant.db-wal"] {
            files.push(Path::new("tenants").join(tenant).join(name));
        }
    }
    let mut segments: Vec<_> = std::fs::read_dir(data.join("journal"))
        .unwrap()
        .map(|entry| Path::new("journal").join(entry.unwrap().file_name()))
        .collect();
    segments.sort();
    // As often as the databases.
    files.extend(segments.iter().cycle().take(segments.len() * 2).cloned());
    let used = |file: &PathBuf| {
        let bytes = std::fs::read(data.join(file)).unwrap_or_default();
        let end = bytes.iter().rposition(|byte| *byte != 0)?;
        Some((file.clone(), u64::try_from(end).unwrap() + 1))
    };
    files.iter().filter_map(used).collect()
}

fn flip(file: &Path, bit: u64) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
    std::fs::write(file, bytes).unwrap();
}

/// How one flip was found.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug, Clone)]
enum Found {
    /// Everything read is the truth.
    Nothing,
    /// The registry does not open.
    NoStart,
    /// One tenant is quarantined.
    Quarantined(String),
}

/// Repairs what a flip left, and compares what is there afterwards with the truth and with what the repair says.
async fn repaired(
    made: &Deployment,
    data: &Path,
    kernel: &Kernel,
    operator: &Operator,
    name: &str,
) -> Kept {
    let tenant = operator_view(kernel, operator, name);
    let before = std::fs::read(data.join("tenants").join(name).join("tenant.db")).unwrap();
    let tried = kernel
        .repair_tenant(operator, &tenant, Extent::Try)
        .await
        .unwrap();
    assert!(!tried.in_place && tenant.quarantine().is_some());
    let now = std::fs::read(data.join("tenants").join(name).join("tenant.db")).unwrap();
    assert!(before == now, "a try changed the database");
    let kept = match kernel
        .repair_tenant(operator, &tenant, Extent::Repair)
        .await
    {
        Err(KernelError::Refused(why)) => {
            assert!(why.contains("nothing of") && tried.sources == 0, "{why}");
            let anew = kernel.repair_tenant(operator, &tenant, Extent::BeginAnew);
            anew.await.unwrap()
        }
        other => other.unwrap(),
    };
    let (all, truth) = (
        everything(kernel, operator, name).await.unwrap(),
        &made.truth[name],
    );
    said_what_is_lost(&all, truth, &kept);
    let admission = admit(kernel, &made.tokens[name]).await.unwrap();
    let reserved = admission.tenant().reserve(Demand::default());
    assert!(reserved.is_ok());
    kept
}

fn said_what_is_lost(all: &Everything, truth: &Everything, kept: &Kept) {
    assert!(
        all.rows.iter().all(|row| truth.rows.contains(row)),
        "a row that never was"
    );
    let lost = truth.rows.len() - all.rows.len();
    if kept.sources > 0 {
        assert_eq!(kept.rows_lost, u64::try_from(lost).unwrap(), "{kept:?}");
    }
    if lost == 0 {
        assert_eq!(all.days, truth.days);
    }
    let (gone, replaced) = (kept.lost_entries(), kept.replaced_entries());
    assert_eq!(all.entries.len(), truth.entries.len() + 1, "{kept:?}");
    assert!(all.entries[truth.entries.len()].contains("tenant.repair"));
    for (place, (now, then)) in all.entries.iter().zip(&truth.entries).enumerate() {
        match now.as_str() {
            "" => assert!(named(&gone, place), "{place} is lost and not named: {gone}"),
            now if now == then => {}
            now => assert!(
                now.contains("audit.lost") && named(&replaced, place),
                "{place}: {now}"
            ),
        }
    }
    if all.secrets != truth.secrets {
        assert!(
            kept.damaged_tables().contains(&"secrets") || kept.sources == 0,
            "{kept:?}"
        );
    }
}

fn named(ranges: &str, place: usize) -> bool {
    ranges.split(' ').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first
            .parse()
            .is_ok_and(|first: usize| (first..=last.parse().unwrap()).contains(&place))
    })
}

async fn trial(made: &Deployment, file: &Path, bit: u64) -> Found {
    let opened = made.opened(|path| flip(&path.join(file), bit)).await;
    let (copy, kernel, operator) = match opened {
        Ok(opened) => opened,
        Err(KernelError::Root(why)) => {
            let registry = file.to_string_lossy().contains("registry");
            assert!(why.contains("registry") && registry, "{why}");
            return Found::NoStart;
        }
        Err(other) => panic!("{other}"),
    };
    kernel.open_recovered().await;
    let mut out = None;
    for name in TENANTS {
        let read = everything_served(made, &kernel, &operator, name).await;
        match read {
            Ok(all) => assert!(all == made.truth[name], "{name} reads what is not true"),
            Err(Unread::Other(why)) => panic!("{name}: {why}"),
            Err(Unread::Quarantined(why)) => {
                assert_eq!(out, None, "{name} too: {why}");
                out = Some((name, why));
            }
        }
    }
    let Some((name, why)) = out else {
        return Found::Nothing;
    };
    if file.starts_with("tenants") {
        assert!(
            file.starts_with(Path::new("tenants").join(name)),
            "{name}: {why}"
        );
    }
    let refused = admit(&kernel, &made.tokens[name]).await;
    assert!(matches!(refused, Err(Refused::Quarantined(_))));
    let found = operator_view(&kernel, &operator, name)
        .quarantine()
        .unwrap();
    kernel.close(Duration::from_secs(5)).await;
    drop((kernel, operator));
    // A restart does not forget.
    let (kernel, operator) = reopened(&copy.path().join("data")).await.unwrap();
    let again = operator_view(&kernel, &operator, name).quarantine();
    assert_eq!(again.as_deref(), Some(&*found));
    mended(
        made,
        (kernel, operator),
        &copy.path().join("data"),
        name,
        &why,
    )
    .await
}

/// Repairs the tenant, and looks that everybody reads the same after a restart.
async fn mended(
    made: &Deployment,
    (kernel, operator): (Kernel, Operator),
    data: &Path,
    name: &str,
    why: &str,
) -> Found {
    let kept = repaired(made, data, &kernel, &operator, name).await;
    let all = everything(&kernel, &operator, name).await.unwrap();
    kernel.close(Duration::from_secs(5)).await;
    drop((kernel, operator));
    let (kernel, operator) = reopened(data).await.unwrap();
    kernel.open_recovered().await;
    for other in TENANTS {
        let now = everything_served(made, &kernel, &operator, other)
            .await
            .unwrap();
        assert!(
            now == if other == name {
                all.clone()
            } else {
                made.truth[other].clone()
            },
            "{other}"
        );
    }
    Found::Quarantined(match kept.is_whole() {
        true => format!("nothing lost: {why}"),
        false => format!("something lost: {why}"),
    })
}

/// Reads as the tenant's own caller would, first, and then all of it.
async fn everything_served(
    made: &Deployment,
    kernel: &Kernel,
    operator: &Operator,
    name: &str,
) -> Result<Everything, Unread> {
    match admit(kernel, &made.tokens[name]).await {
        Ok(_) => {}
        Err(Refused::Quarantined(why)) => return Err(Unread::Quarantined(why)),
        Err(other) => return Err(Unread::Other(format!("{other:?}"))),
    }
    let all = everything(kernel, operator, name).await?;
    match operator_view(kernel, operator, name).quarantine() {
        None => Ok(all),
        Some(found) => Err(Unread::Quarantined(found.why.clone())),
    }
}

#[tokio::test]
async fn a_flipped_bit_is_found_or_harmless_and_concerns_one_tenant() {
    let (count, seed) = (variable("CRASH_COUNT", 40), variable("CRASH_SEED", 1));
    println!("{count} flips, seed {seed}");
    let made = deployment().await;
    let targets = targets(&made.dir.path().join("data"));
    let mut draw = Draw(seed);
    let mut tally: BTreeMap<(String, Found), u64> = BTreeMap::new();
    for number in 0..count {
        let place = draw.below(u64::try_from(targets.len()).unwrap());
        let (file, used) = &targets[usize::try_from(place).unwrap()];
        let bit = draw.below(used * 8);
        println!("flip {number}: bit {bit} of {}", file.display());
        let found = trial(&made, file, bit).await;
        println!("flip {number}: {found:?}");
        let what = file.file_name().unwrap().to_string_lossy();
        let what = if what.contains(".db") {
            &*what
        } else {
            "journal"
        };
        let found = match found {
            Found::Quarantined(how) => {
                let end = how.find(':').unwrap_or(how.len());
                Found::Quarantined(how[..end].to_owned())
            }
            other => other,
        };
        *tally.entry((what.to_owned(), found)).or_default() += 1;
    }
    for ((what, found), count) in tally {
        println!("{what}: {found:?} {count}");
    }
}

/// The files of a tenant's database.
fn files_of(data: &Path, name: &str) -> Vec<Option<Vec<u8>>> {
    let folder = data.join("tenants").join(name);
    ["tenant.db", "tenant.db-wal"]
        .map(|file| std::fs::read(folder.join(file)).ok())
        .into()
}

#[tokio::test]
async fn a_quarantined_database_stays_as_it_is_and_the_operator_reads_on() {
    let made = deployment().await;
    let folder = Path::new("tenants/acme");
    // A page in the middle of the file, which opening does not read.
    let hit = |path: &Path| flip(&path.join(folder).join("tenant.db"), 8 * 4096 * 60 + 77);
    let (copy, kernel, operator) = made.opened(hit).await.unwrap();
    let data = copy.path().join("data");
    let Err(Unread::Quarantined(_)) = everything(&kernel, &operator, "acme").await else {
        panic!("the damage was not found");
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = files_of(&data, "acme");
    let acme = operator_view(&kernel, &operator, "acme");
    let value = Secret::from_text("sk-other".to_owned()).unwrap();
    let set = kernel.set_secret(&operator, &acme, "openai", value).await;
    assert!(matches!(set, Err(KernelError::Quarantined(_))));
    assert!(acme.write(|_tx| Ok(())).await.is_err());
    // The latest entries are on other pages.
    let latest = made.truth["acme"].entries.len() - 40;
    let page = acme
        .audit_page(u64::try_from(latest).unwrap())
        .await
        .unwrap();
    assert!(!page.is_empty());
    for (row, true_entry) in page.iter().zip(&made.truth["acme"].entries[latest..]) {
        assert_eq!(&row.entry, true_entry);
    }
    for name in ["globex", "initech"] {
        let all = everything(&kernel, &operator, name).await.unwrap();
        assert!(all == made.truth[name]);
        assert!(admit(&kernel, &made.tokens[name]).await.is_ok());
    }
    kernel.close(Duration::from_secs(5)).await;
    drop((acme, kernel, operator));
    assert!(before == files_of(&data, "acme"), "evidence was changed");
}

/// Opens the deployment, checks one tenant, and closes again: it has a copy then.
async fn copied(made: &Deployment, name: &str) -> PathBuf {
    let (copy, kernel, operator) = made.opened(|_| {}).await.unwrap();
    let tenant = operator_view(&kernel, &operator, name);
    kernel.check_tenant(&operator, &tenant).await.unwrap();
    // What came after the copy is in the journal alone.
    kernel.check_tenant(&operator, &tenant).await.unwrap();
    kernel.close(Duration::from_secs(5)).await;
    drop((tenant, kernel, operator));
    let path = copy.keep().join("data");
    assert!(
        path.join("tenants")
            .join(name)
            .join("tenant.db.copy")
            .exists()
    );
    path
}

#[tokio::test]
async fn with_a_copy_nothing_is_lost() {
    let made = deployment().await;
    // The first bytes make that nothing of the file opens.
    for bit in [3, 8 * 4096 * 40 + 99, 8 * 4096 * 100 + 99] {
        let path = copied(&made, "acme").await;
        flip(&path.join("tenants/acme/tenant.db"), bit);
        let (kernel, operator) = reopened(&path).await.unwrap();
        let acme = operator_view(&kernel, &operator, "acme");
        let checked = kernel.check_tenant(&operator, &acme).await;
        assert!(matches!(checked, Err(KernelError::Quarantined(_))), "{bit}");
        assert!(acme.quarantine().is_some());
        let kept = repaired(&made, &path, &kernel, &operator, "acme").await;
        assert!(kept.is_whole(), "{bit}: {kept:?}");
        drop((acme, kernel, operator));
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
