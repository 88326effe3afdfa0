//! The flags: what users type, parsed once into values of the domain. Help texts are part of the product.

use std::net::SocketAddr;
use std::path::PathBuf;

use base::{PersonName, Role, TenantId, TokenName, UtcDay};
use clap::{Args, Parser, Subcommand, ValueEnum};
use rpc::{SecretName, Until};

use crate::limit_flags::{OwnLimits, QuotaChange};

pub(crate) use chat::Chat;

mod chat;

const EXAMPLES: &str = "\
Examples:
  partywall demo                                a gateway with simulated answers, in one command
  partywall init --data ./data                  a data directory; prints the operator key once
  partywall serve --data ./data                 the gateway
  partywall tenants create acme --tier pro      a tenant; prints its token once
  partywall secrets set acme openai < key.txt   the tenant's own provider key, sealed
  partywall billing report --from 2026-11-01    what to invoice

Commands reach a running gateway through DATA/control.sock; where none runs they open the data directory themselves.
Exit codes: 0 done, 1 refused (one line on standard error says why), 2 wrong usage.";

/// A multi-tenant AI gateway: every tenant a structurally isolated workspace.
#[derive(Parser)]
#[command(name = "partywall", version, about, after_help = EXAMPLES, max_term_width = 110)]
#[command(
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) ask: Ask,
}

/// Options of every command.
#[derive(Args)]
pub(crate) struct Common {
    /// Print JSON
    #[arg(long, global = true, help_heading = "Every command")]
    pub(crate) json: bool,
    /// Data directory [default: ./data; demo: ./data-demo]
    #[arg(
        long,
        global = true,
        help_heading = "Every command",
        value_name = "DIR",
        env = "PARTYWALL_DATA",
        hide_env_values = true
    )]
    pub(crate) data: Option<PathBuf>,
    /// Configuration file [default: DATA/partywall.yaml]
    #[arg(
        long,
        global = true,
        help_heading = "Every command",
        help_heading = "Every command",
        value_name = "FILE"
    )]
    pub(crate) config: Option<PathBuf>,
}

/// The commands.
#[derive(Subcommand)]
pub(crate) enum Ask {
    /// Create a data directory: configuration, master key; prints the operator key once
    Init,
    /// Run the gateway until SIGTERM or Ctrl-C, then drain open streams
    Serve(Serve),
    /// Run a gateway with simulated answers and the tenants acme and globex, and print what to try
    Demo(Serve),
    /// Create and manage tenants, their tokens and limits
    #[command(subcommand)]
    Tenants(Tenants),
    /// Seal a tenant's own keys; values come from standard input or a file, never from an argument
    #[command(subcommand)]
    Secrets(Secrets),
    /// Usage and cost
    #[command(subcommand)]
    Billing(Billing),
    /// A tenant's rules: who may do what
    #[command(subcommand)]
    Policy(Policy),
    /// A tenant's audit log
    #[command(subcommand)]
    Audit(Audit),
    /// Prices of models
    #[command(subcommand)]
    Ratecard(Ratecard),
    /// The configuration
    #[command(subcommand)]
    Config(Config),
    /// Every HTTP route and every method of JSON-RPC, with who may call it
    Routes,
    /// Ask one method of a tenant's own API, with a token from standard input or a file
    #[command(
        after_help = "Example: partywall rpc tenant.usage '{\"from\": \"2026-11-01\"}' --token-file acme.token"
    )]
    Rpc {
        /// A method, as `partywall routes` lists them
        method: String,
        /// Its params, a JSON object
        #[arg(conflicts_with = "params_file")]
        params: Option<String>,
        /// A file with its params
        #[arg(long, value_name = "FILE")]
        params_file: Option<PathBuf>,
        /// A file with the token [default: standard input]
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// A public listener of this machine [default: that of the running gateway]
        #[arg(long, value_name = "ADDR")]
        to: Option<SocketAddr>,
    },
    /// Talk to an agent or a model of a tenant, with its tools shown as they work
    #[command(after_help = chat::HELP)]
    Chat(Chat),
    /// Check keys, disk, clock and configuration; exit 1 when a check fails
    Doctor,
    /// Whether a gateway runs, and where it listens
    Status,
    /// Shell completions: partywall completions bash > /etc/bash_completion.d/partywall
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// Addresses that stand in for those of the configuration.
#[derive(Args)]
pub(crate) struct Serve {
    /// Public address [default: that of the configuration, 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// Admin address [default: that of the configuration, 127.0.0.1:8081]
    #[arg(long, value_name = "ADDR")]
    pub(crate) admin_listen: Option<SocketAddr>,
}

/// `partywall tenants …`
#[derive(Subcommand)]
pub(crate) enum Tenants {
    /// Create a tenant; prints its token once
    #[command(
        after_help = "Example: partywall tenants create acme --tier pro --cost-per-month-usd 20"
    )]
    Create {
        /// 1 to 32 characters: lowercase letters, digits, inner hyphens, starting with a letter
        id: TenantId,
        /// A tier of the configuration
        #[arg(long)]
        tier: Option<String>,
        #[command(flatten)]
        limits: OwnLimits,
    },
    /// List all tenants
    List,
    /// Show one tenant: status, tokens, limits, audit key, database
    Show {
        /// The tenant
        id: TenantId,
    },
    /// Refuse every call of a tenant and end its streams, until it is resumed
    Suspend {
        /// The tenant
        id: TenantId,
    },
    /// Refuse a tenant's calls and changes and end its streams, but let it read, until it is resumed
    Freeze {
        /// The tenant
        id: TenantId,
    },
    /// Let a suspended or frozen tenant work again
    Resume {
        /// The tenant
        id: TenantId,
    },
    /// Read all of a tenant, verify its audit log, and renew its last good copy
    Check {
        /// The tenant
        id: TenantId,
    },
    /// Rebuild a quarantined tenant's database from what can be read of it, its last good copy and the journal
    #[command(
        after_help = "Examples:\n  partywall tenants repair acme --dry-run\n  partywall tenants repair acme --yes"
    )]
    Repair {
        /// The tenant
        id: TenantId,
        /// Say what would be kept and lost, and change nothing
        #[arg(long, required_unless_present = "yes", conflicts_with_all = ["yes", "anew"])]
        dry_run: bool,
        /// Put the rebuilt database in place
        #[arg(long)]
        yes: bool,
        /// Begin with the journal alone where nothing else can be read
        #[arg(long, requires = "yes")]
        anew: bool,
    },
    /// Copy a tenant under another id (not available in this version)
    Clone {
        /// The tenant
        id: TenantId,
        /// The new tenant's id
        #[arg(long = "as", value_name = "ID")]
        to: TenantId,
    },
    /// Destroy a tenant's keys and data, for good
    #[command(after_help = "Example: partywall tenants delete acme --confirm acme")]
    Delete {
        /// The tenant
        id: TenantId,
        /// The tenant's id again
        #[arg(long, value_name = "ID")]
        confirm: TenantId,
    },
    /// Issue, rotate, list and revoke tokens
    #[command(subcommand)]
    Token(Token),
    /// Show and change limits
    #[command(subcommand)]
    Quota(Quota),
    /// Back a tenant up (not available in this version)
    Backup {
        /// The tenant
        id: TenantId,
        /// file://, s3://, gs:// or az://
        #[arg(long, value_name = "URL")]
        to: String,
    },
    /// Restore a tenant from a backup (not available in this version)
    Restore {
        /// file://, s3://, gs:// or az://
        #[arg(long, value_name = "URL")]
        from: String,
        /// Restore under another id
        #[arg(long = "as", value_name = "ID")]
        to: Option<TenantId>,
        /// Replace a living tenant
        #[arg(long)]
        force: bool,
    },
}

/// `partywall tenants token …`
#[derive(Subcommand)]
pub(crate) enum Token {
    /// Replace a token's secret; the old one ends at once, or after --grace
    #[command(
        after_help = "Examples:\n  partywall tenants token rotate acme\n  partywall tenants token rotate acme --all --grace 10m"
    )]
    Rotate {
        /// The tenant
        id: TenantId,
        /// Which token [default: the one made with the tenant]
        #[arg(long, conflicts_with = "all")]
        name: Option<TokenName>,
        /// How long the old secret still works: 2s, 10m, 30d, or RFC 3339
        #[arg(long, value_name = "DURATION")]
        grace: Option<Until>,
        /// Rotate every token
        #[arg(long)]
        all: bool,
    },
    /// Issue one more token; prints it once
    #[command(
        after_help = "Example: partywall tenants token issue acme --name ci --role app --expires 30d"
    )]
    Issue {
        /// The tenant
        id: TenantId,
        /// Its name: unique among the tenant's living tokens
        #[arg(long)]
        name: TokenName,
        /// admin, member, app, readonly or auditor
        #[arg(long, value_parser = ROLE)]
        role: Role,
        /// The natural person that it stands for: whose limits it counts against, and whom reports name
        #[arg(long, value_name = "PERSON")]
        person: Option<PersonName>,
        /// When it ends by itself: 2s, 10m, 30d, or RFC 3339 [default: never]
        #[arg(long, value_name = "WHEN")]
        expires: Option<Until>,
    },
    /// List a tenant's tokens, without their secrets
    List {
        /// The tenant
        id: TenantId,
    },
    /// End a token at once, its open streams included
    Revoke {
        /// The tenant
        id: TenantId,
        /// Which token
        name: TokenName,
    },
}

/// `partywall tenants quota …`
#[derive(Subcommand)]
pub(crate) enum Quota {
    /// Show each limit, who set it, what of it is used, held and left, and when it resets
    Show {
        /// The tenant
        id: TenantId,
    },
    /// Change limits; "none" goes back to the tier's
    #[command(
        override_usage = "partywall tenants quota set [OPTIONS] <ID> --<LIMIT> <N|none>...",
        after_help = "Examples:\n  partywall tenants quota set acme --tokens-per-day 100000 --cost-per-day-usd none\n  partywall tenants quota set acme --scope token:ci --requests-per-minute 60\n  partywall tenants quota set acme --cost-per-month-usd 500 --until 2026-12-01"
    )]
    Set {
        /// The tenant
        id: TenantId,
        #[command(flatten)]
        change: QuotaChange,
    },
}

/// `partywall policy …`
#[derive(Subcommand)]
pub(crate) enum Policy {
    /// Show the tenant's own document
    Get {
        /// The tenant
        #[arg(long)]
        tenant: TenantId,
        /// Show the operator's rules instead, which alone permit
        #[arg(long)]
        base: bool,
    },
    /// Put a document in force; one whose own tests fail is refused
    #[command(
        after_help = "A document is YAML: 'policy' holds rules in Cedar that forbid, 'tests' what they must decide.\n\nExamples:\n  partywall policy set --tenant acme rules.yaml\n  partywall policy get --tenant acme | partywall policy set --tenant globex -"
    )]
    Set {
        /// The tenant
        #[arg(long)]
        tenant: TenantId,
        /// The document; '-' reads standard input
        file: PathBuf,
    },
    /// Put a document's own tests to it and change nothing
    Test {
        /// The tenant
        #[arg(long)]
        tenant: TenantId,
        /// The document; without it, the one that is set
        file: Option<PathBuf>,
    },
    /// Say what would be decided, and by which rules
    #[command(
        after_help = "Example:\n  partywall policy explain --tenant acme --role app --token ci call_model gpt-4o"
    )]
    Explain(Explain),
}

/// `partywall policy explain …`
#[derive(Args)]
pub(crate) struct Explain {
    /// The tenant
    #[arg(long)]
    pub(crate) tenant: TenantId,
    /// The role of who would act
    #[arg(long)]
    pub(crate) role: Role,
    /// The name of its token
    #[arg(long = "token", value_name = "NAME")]
    pub(crate) token_name: TokenName,
    /// The person
    #[arg(long)]
    pub(crate) person: Option<PersonName>,
    /// call_model, retrieve, invoke_tool, run_code, read_file, write_file, egress, open_terminal, read_audit or change_config
    pub(crate) action: String,
    /// The name of what is acted on: a model, a tool, a path, a host, ...
    pub(crate) resource: String,
    /// Of a call of a model: chat.completions, messages, embeddings
    #[arg(long)]
    pub(crate) operation: Option<String>,
    /// Of a call of a model: its answer comes in pieces
    #[arg(long)]
    pub(crate) stream: bool,
    /// Of a call of a model: it names tools
    #[arg(long)]
    pub(crate) tools: bool,
    /// Of a connection [default: 443]
    #[arg(long)]
    pub(crate) port: Option<u16>,
}

/// `partywall secrets …`
#[derive(Subcommand)]
pub(crate) enum Secrets {
    /// Seal a value, replacing one of that name; a provider's name makes it the tenant's own key there
    #[command(
        after_help = "Examples:\n  partywall secrets set acme openai < key.txt\n  partywall secrets set acme openai --from-file key.txt"
    )]
    Set {
        /// The tenant
        tenant: TenantId,
        /// Its name: openai, slack.signing_secret, ...
        name: SecretName,
        /// Read the value from a file in place of standard input
        #[arg(long, value_name = "FILE")]
        from_file: Option<PathBuf>,
    },
    /// List names, never values
    List {
        /// The tenant
        tenant: TenantId,
    },
    /// Seal every value again under a fresh key
    Rotate {
        /// The tenant
        tenant: TenantId,
    },
    /// Remove a value
    Delete {
        /// The tenant
        tenant: TenantId,
        /// Which value
        name: SecretName,
    },
}

/// `partywall billing …`
#[derive(Subcommand)]
pub(crate) enum Billing {
    /// One line per day, tenant and model: date,tenant,model,tokens_in,tokens_out,cost_usd
    #[command(
        after_help = "Example: partywall billing report --from 2026-11-01 --to 2026-11-30 > november.csv"
    )]
    Report {
        /// One tenant [default: all]
        #[arg(long, value_name = "ID")]
        tenant: Option<TenantId>,
        /// First day, YYYY-MM-DD in UTC [default: the beginning]
        #[arg(long, value_name = "DATE", value_parser = day)]
        from: Option<UtcDay>,
        /// Last day, included [default: today]
        #[arg(long, value_name = "DATE", value_parser = day)]
        to: Option<UtcDay>,
        /// [default: csv; json with --json]
        #[arg(long)]
        format: Option<Format>,
        /// One line per upstream attempt with every token bucket and the rate-card version
        #[arg(long)]
        detail: bool,
    },
}

/// How a report is written.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Comma-separated, safe to open in a spreadsheet
    Csv,
    /// An array of objects
    Json,
}

/// `partywall audit …`
#[derive(Subcommand)]
pub(crate) enum Audit {
    /// Print the latest entries, oldest first, one canonical JSON object per line (--json: one array)
    Tail {
        /// The tenant
        #[arg(long, value_name = "ID")]
        tenant: TenantId,
        /// How many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// Go on with each new entry until interrupted
        #[arg(long, short)]
        follow: bool,
    },
    /// Verify a log from its first entry to its latest checkpoint
    Verify {
        /// The tenant
        #[arg(long, value_name = "ID")]
        tenant: TenantId,
        /// A checkpoint that was kept elsewhere: proves that the log only grew since
        #[arg(long, value_name = "FILE")]
        since: Option<PathBuf>,
    },
    /// Print the latest checkpoint, to be kept where the operator cannot reach it
    Checkpoint {
        /// The tenant
        #[arg(long, value_name = "ID")]
        tenant: TenantId,
    },
    /// Give a log a fresh signing key, by an entry that the old and the new key sign
    RotateKey {
        /// The tenant
        #[arg(long, value_name = "ID")]
        tenant: TenantId,
    },
    /// Print what is kept of a call, at the logging level full
    Content {
        /// The tenant
        #[arg(long, value_name = "ID")]
        tenant: TenantId,
        /// The place of the call's entry in the log
        #[arg(long, value_name = "N")]
        seq: u64,
    },
    /// Destroy the key that what a person said is sealed under; entries and proofs stay
    #[command(
        after_help = "Example: partywall audit forget --tenant acme --person ann",
        override_usage = "partywall audit forget [OPTIONS] --tenant <ID> <--person <NAME>|--token <NAME>>"
    )]
    Forget {
        /// The tenant
        #[arg(long, value_name = "ID")]
        tenant: TenantId,
        /// The person
        #[arg(
            long,
            value_name = "NAME",
            required_unless_present = "token_name",
            conflicts_with = "token_name"
        )]
        person: Option<String>,
        /// The name of a token that stands for no person
        #[arg(long = "token", value_name = "NAME")]
        token_name: Option<TokenName>,
    },
    /// Verify a log and export it for an auditor, as files that public tools verify
    Export {
        /// The tenant
        #[arg(long, value_name = "ID")]
        tenant: TenantId,
        /// A new directory
        #[arg(long, value_name = "PATH")]
        to: PathBuf,
    },
}

/// `partywall ratecard …`
#[derive(Subcommand)]
pub(crate) enum Ratecard {
    /// Show the prices in force
    Show,
    /// Put a price file in force for new calls; a bad one changes nothing
    Import {
        /// The usual per-token price file (JSON); - reads standard input
        file: PathBuf,
    },
    /// Check that every configured model has a price; exit 1 when one has none
    Check {
        /// Check this file as if it were imported
        file: Option<PathBuf>,
    },
}

/// `partywall config …`
#[derive(Subcommand)]
pub(crate) enum Config {
    /// Check the configuration on disk; exit 1 naming the key and line
    Check {
        /// And this tenant's overlay
        #[arg(long, value_name = "ID")]
        tenant: Option<TenantId>,
    },
    /// Print the JSON Schema of partywall.yaml
    Schema,
    /// Print the configuration as it works: defaults filled in, secrets as references
    Show {
        /// As this tenant's overlay makes it
        #[arg(long, value_name = "ID")]
        tenant: Option<TenantId>,
    },
}

const ROLE: fn(&str) -> Result<Role, base::NameError> = |text| text.parse();

fn day(text: &str) -> Result<UtcDay, &'static str> {
    UtcDay::parse(text).ok_or("not a date: YYYY-MM-DD, in UTC")
}

#[cfg(test)]
mod tests;
