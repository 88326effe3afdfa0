//! `partywall chat …`

use std::path::PathBuf;

use base::TenantId;
use clap::Args;

pub(super) const HELP: &str = "\
The token comes from --token-file, else from PARTYWALL_TOKEN, else, where a MESSAGE is given, from standard input.
The reply goes to standard output, everything else to standard error. Ctrl-C cancels what is under way, a second one ends the program.

Examples:
  partywall chat --tenant acme --agent analyst --token-file acme.token
  partywall chat --tenant acme \"What is a party wall?\" --token-file acme.token
  partywall chat --tenant acme --agent analyst \"$(cat question.md)\" --json < acme.token

Exit codes: 0 done, 1 refused or without an answer, 2 wrong usage.";

/// Whom to talk to, and how.
#[derive(Args)]
pub(crate) struct Chat {
    /// The tenant that the token is of
    #[arg(long)]
    pub(crate) tenant: TenantId,
    /// An agent of the tenant
    #[arg(long, value_name = "NAME", conflicts_with_all = ["model", "session"])]
    pub(crate) agent: Option<String>,
    /// A model, without an agent [default: the tenant's own]
    #[arg(long, value_name = "NAME", conflicts_with = "session")]
    pub(crate) model: Option<String>,
    /// Go on with a session
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// A gateway of this machine, such as http://127.0.0.1:8080 [default: the one that runs over the data directory]
    #[arg(long)]
    pub(crate) url: Option<String>,
    /// A file with the token
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// One message; without it, each line of standard input is one
    pub(crate) message: Option<String>,
}
