//! The registry of methods. One row says what a method is called, who may call it, what it takes and gives, and whether it
//! changes anything; dispatch, checks, the document of `rpc.discover` and the client are made of the rows.
//!
//! To add a method: one row in the table below, params and answer in [`crate::params`] with their descriptions, and a
//! [`Handle`] of it in `server`, without which that crate does not compile. The two-tenant suite then asks for a fixture.

use std::future::Future;

use base::Role;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};

use crate::agent;
use crate::field::{self, Described, Field};
use crate::jsonrpc::Failure;
use crate::policy::{SetPolicy, TestPolicy};
use crate::{
    AuditCheckpoint, PolicyChecked, PolicyView, QuotaView, RotatedTokens, file, params, run,
    session,
};

/// The subprotocol of the WebSocket.
pub const SUBPROTOCOL: &str = "partywall.rpc.v1";
/// What a browser's ticket begins with, as a second subprotocol.
pub const TICKET_PROTOCOL: &str = "partywall.ticket.";
/// The notification of `audit.subscribe`.
pub const AUDIT_EVENT: &str = "audit.entry";
/// The notification of `sessions.subscribe`.
pub const SESSION_EVENT: &str = "sessions.event";

/// Whether a method changes anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// It reads; a frozen tenant may.
    Reads,
    /// It changes the tenant's state.
    Changes,
    /// It works with what is the caller's own: conversations and runs, each step of which the rules decide by itself.
    Works,
    /// It changes state, and its answer shows what is shown once: without an id to answer to it is not carried out.
    ShowsOnce,
}

/// One line of the registry.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The method's name.
    pub name: &'static str,
    /// One sentence.
    pub doc: &'static str,
    /// What the audit log calls it.
    pub action: &'static str,
    /// Whether it changes anything.
    pub effect: Effect,
    /// The roles that pass, at least one. The tenant is the credential's own, always.
    pub access: &'static [Role],
    /// Kinds of objects that its params name.
    pub objects: &'static [&'static str],
    /// Its params.
    pub params: &'static [Field],
    /// Its answer.
    pub answer: &'static [Field],
}

/// A method as a type: the params and the answer that belong to its name.
pub trait Method {
    /// Its line.
    const ROW: Row;
    /// What it takes.
    type Params: Described + Serialize + DeserializeOwned + Send;
    /// What it gives.
    type Answer: Described + Serialize + DeserializeOwned;
}

/// Carries a method out.
pub trait Handle<M: Method> {
    /// Does it.
    ///
    /// # Errors
    /// Why it was not done.
    fn handle(&self, params: M::Params) -> impl Future<Output = Result<M::Answer, Failure>> + Send;
}

const EVERYBODY: &[Role] = &Role::ALL;
const ADMIN: &[Role] = &[Role::Admin];
const USAGE_READERS: &[Role] = &[Role::Admin, Role::Member, Role::Readonly, Role::Auditor];
const CONFIG_READERS: &[Role] = &[Role::Admin, Role::Readonly];
const WORKERS: &[Role] = &[Role::Admin, Role::Member, Role::App];
const AUDIT_READERS: &[Role] = &[Role::Admin, Role::Auditor];

macro_rules! methods {
    ($(
        #[doc = $doc:literal]
        $method:ident = $name:literal, $action:literal, $effect:ident, $access:ident, $objects:expr,
            $params:ty => $answer:ty;
    )+) => {
        $(
            #[doc = $doc]
            #[derive(Clone, Copy, Debug)]
            pub struct $method;

            impl Method for $method {
                const ROW: Row = Row {
                    name: $name,
                    doc: $doc,
                    action: $action,
                    effect: Effect::$effect,
                    access: $access,
                    objects: &$objects,
                    params: <$params as Described>::FIELDS,
                    answer: <$answer as Described>::FIELDS,
                };
                type Params = $params;
                type Answer = $answer;
            }
        )+

        /// Every method.
        pub static METHODS: &[Row] = &[$($method::ROW),+];

        /// Reads the params of the method of that row and has it carried out.
        ///
        /// # Errors
        /// Params that are not the method's, or why it was not done.
        pub async fn dispatch<H>(
            row: &Row,
            params: Option<&RawValue>,
            handler: &H,
        ) -> Result<Box<RawValue>, Failure>
        where
            H: Sync $(+ Handle<$method>)+
        {
            match row.name {
                $($name => {
                    let params = field::read::<$params>(params)?;
                    let answer = Handle::<$method>::handle(handler, params).await?;
                    to_raw_value(&answer).map_err(|_| Failure::internal())
                })+
                _ => Err(Failure::method_not_found()),
            }
        }
    };
}

methods! {
    /// Whether the tenant is served.
    Health = "health", "read_health", Reads, EVERYBODY, [], params::Nothing => params::Health;
    /// The document of all methods (OpenRPC 1.3).
    Discover = "rpc.discover", "read_methods", Reads, EVERYBODY, [], params::Nothing => params::Document;
    /// The tenant, and the credential that asks.
    TenantGet = "tenant.get", "read_tenant", Reads, EVERYBODY, [], params::Nothing => params::OwnTenant;
    /// Usage by day and model: all of the tenant's, or a member's own.
    TenantUsage = "tenant.usage", "read_usage", Reads, USAGE_READERS, [], params::UsagePeriod => params::UsagePage;
    /// Limits, and what is used of them.
    TenantQuota = "tenant.quota", "read_quota", Reads, EVERYBODY, [], params::Nothing => QuotaView;
    /// New text for the calling token, or for all of them.
    TenantRotate = "tenant.rotate", "token.rotate", ShowsOnce, ADMIN, [], params::Rotate => RotatedTokens;
    /// The settings in force.
    ConfigGet = "config.get", "read_config", Reads, CONFIG_READERS, [], params::Nothing => params::Document;
    /// The JSON Schema of the tenant's own configuration file.
    ConfigSchema = "config.schema", "read_config", Reads, CONFIG_READERS, [], params::Nothing => params::Document;
    /// Seals a value, in place of one of that name.
    SecretsSet = "secrets.set", "secret.set", Changes, ADMIN, [], params::SetSecret => params::Done;
    /// Names and ages of the sealed values.
    SecretsList = "secrets.list", "read_secrets", Reads, ADMIN, [], params::Nothing => params::SecretList;
    /// Removes a sealed value.
    SecretsDelete = "secrets.delete", "secret.delete", Changes, ADMIN, ["secret"], params::NamedSecret => params::Done;
    /// The tenant's own rules.
    PolicyGet = "policy.get", "read_policy", Reads, CONFIG_READERS, [], params::Nothing => PolicyView;
    /// Puts rules in force, if their own tests hold.
    PolicySet = "policy.set", "policy.set", Changes, ADMIN, [], SetPolicy => PolicyChecked;
    /// Puts the tests of rules to them and changes nothing.
    PolicyTest = "policy.test", "read_policy", Reads, ADMIN, [], TestPolicy => PolicyChecked;
    /// Entries of the audit log, oldest first.
    AuditQuery = "audit.query", "read_audit", Reads, AUDIT_READERS, [], params::AuditQuery => params::AuditPage;
    /// The signed checkpoint over everything that has happened so far.
    AuditCheckpointGet = "audit.checkpoint", "read_audit", Reads, AUDIT_READERS, [], params::Nothing => AuditCheckpoint;
    /// Sends each new entry of the audit log as it comes; on a WebSocket only.
    AuditSubscribe = "audit.subscribe", "read_audit", Reads, AUDIT_READERS, [], params::Subscribe => params::Subscribed;
    /// Ends a subscription of this WebSocket.
    AuditUnsubscribe = "audit.unsubscribe", "read_audit", Reads, AUDIT_READERS, [], params::NamedSubscription => params::Done;
    /// The agents of the tenant.
    AgentsList = "agents.list", "read_agents", Reads, WORKERS, [], params::Nothing => agent::AgentList;
    /// One agent.
    AgentsGet = "agents.get", "read_agents", Reads, WORKERS, ["agent"], agent::NamedAgent => agent::AgentView;
    /// Puts a version of an agent in force.
    AgentsSet = "agents.set", "agent.set", Changes, ADMIN, [], agent::SetAgent => agent::AgentView;
    /// The tools that agents may have.
    ToolsList = "tools.list", "read_tools", Reads, WORKERS, [], params::Nothing => agent::ToolList;
    /// Begins a conversation with an agent or a model.
    SessionsCreate = "sessions.create", "session.create", Works, WORKERS, [], session::NewSession => session::SessionView;
    /// The caller's conversations; for an admin, all of the tenant's.
    SessionsList = "sessions.list", "read_sessions", Reads, WORKERS, [], session::SessionsWish => session::SessionList;
    /// One conversation.
    SessionsGet = "sessions.get", "read_session", Reads, WORKERS, ["session"], session::NamedSession => session::SessionView;
    /// Takes a message in; the run that answers it begins when its turn comes.
    SessionsSend = "sessions.send", "session.send", Works, WORKERS, ["session"], session::SendMessage => session::SentMessage;
    /// Cancels what is under way in a conversation.
    SessionsAbort = "sessions.abort", "session.abort", Works, WORKERS, ["session"], session::NamedSession => session::Aborted;
    /// Forgets what was said so far: what comes next begins anew.
    SessionsReset = "sessions.reset", "session.reset", Works, WORKERS, ["session"], session::NamedSession => params::Done;
    /// Has the conversation so far summed up, for later prompts; what was said stays.
    SessionsCompact = "sessions.compact", "session.compact", Works, WORKERS, ["session"], session::NamedSession => params::Done;
    /// Deletes a conversation with all that was said in it.
    SessionsDelete = "sessions.delete", "session.delete", Works, WORKERS, ["session"], session::NamedSession => params::Done;
    /// Sends each event of a conversation as it comes; on a WebSocket only.
    SessionsSubscribe = "sessions.subscribe", "read_session", Reads, WORKERS, ["session"], session::Watch => params::Subscribed;
    /// Ends a subscription of this WebSocket.
    SessionsUnsubscribe = "sessions.unsubscribe", "read_session", Reads, WORKERS, [], params::NamedSubscription => params::Done;
    /// The same as sessions.send.
    ChatSend = "chat.send", "session.send", Works, WORKERS, ["session"], session::SendMessage => session::SentMessage;
    /// What was said in a conversation, oldest first.
    ChatHistory = "chat.history", "read_session", Reads, WORKERS, ["session"], session::HistoryWish => session::History;
    /// The same as sessions.abort.
    ChatAbort = "chat.abort", "session.abort", Works, WORKERS, ["session"], session::NamedSession => session::Aborted;
    /// Runs of the caller's conversations; for an admin, all of the tenant's.
    RunsList = "runs.list", "read_runs", Reads, WORKERS, [], run::RunsWish => run::RunList;
    /// One run with its calls of tools.
    RunsGet = "runs.get", "read_run", Reads, WORKERS, ["run"], run::NamedRun => run::RunView;
    /// Ends a run; what it has done stays done.
    RunsCancel = "runs.cancel", "run.cancel", Works, WORKERS, ["run"], run::NamedRun => params::Done;
    /// Approves a call of a tool, by somebody whose role a rule names.
    RunsApprove = "runs.approve", "run.approve", Works, EVERYBODY, ["run"], run::NamedCall => params::Done;
    /// Denies a call of a tool that waits for an approval.
    RunsDeny = "runs.deny", "run.deny", Works, EVERYBODY, ["run"], run::NamedCall => params::Done;
    /// What is in a directory of the workspace.
    FilesList = "files.list", "read_files", Works, WORKERS, [], file::FilesWish => file::FileList;
    /// A piece of a file of the workspace.
    FilesRead = "files.read", "read_file", Works, WORKERS, ["file"], file::ReadFile => file::FileContent;
    /// Writes a file of the workspace.
    FilesWrite = "files.write", "write_file", Works, WORKERS, [], file::WriteFile => file::FileWritten;
    /// Removes a file of the workspace.
    FilesDelete = "files.delete", "remove_file", Works, WORKERS, ["file"], file::NamedFile => params::Done;
    /// A ticket with which a web page opens one WebSocket.
    TicketIssue = "ticket.issue", "ticket.issue", Reads, EVERYBODY, [], params::TicketWish => params::Ticket;
}

/// The row of a method's name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Row> {
    METHODS.iter().find(|row| row.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::field::Kind;

    #[test]
    fn every_row_is_complete_and_unique() {
        let names: BTreeSet<_> = METHODS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), METHODS.len());
        for row in METHODS {
            assert!(!row.access.is_empty(), "{} admits nobody", row.name);
            let plain = |c: char| c.is_ascii_lowercase() || c == '.';
            assert!(row.name.chars().all(plain), "{}", row.name);
            assert!(row.doc.trim().ends_with('.') && !row.action.is_empty());
            for field in row.params {
                let is_input = !matches!(field.kind, Kind::List | Kind::Object);
                assert!(is_input, "{}: {} cannot be checked", row.name, field.name);
            }
        }
    }

    #[test]
    fn no_param_names_a_tenant_or_an_authority() {
        for row in METHODS {
            for field in row.params {
                let authority = ["tenant", "tenant_id", "role", "roles", "scope", "scopes"];
                assert!(
                    !authority.contains(&field.name),
                    "{}: {}",
                    row.name,
                    field.name
                );
            }
        }
    }

    #[test]
    fn who_only_reads_changes_nothing() {
        for row in METHODS {
            match row.effect {
                Effect::Reads => {}
                Effect::Changes | Effect::ShowsOnce => {
                    assert_eq!(row.access, ADMIN, "{}", row.name)
                }
                // Who decides a call that waits is named by a rule.
                Effect::Works => assert!(
                    row.access == WORKERS || row.objects == ["run"],
                    "{}",
                    row.name
                ),
            }
        }
    }

    #[test]
    fn only_the_name_itself_finds_a_row() {
        assert!(
            METHODS
                .iter()
                .all(|row| find(row.name).is_some_and(|found| found.name == row.name))
        );
        for name in [
            "",
            "Health",
            "health ",
            "rpc.",
            "rpc.x",
            "tenant",
            "tenants.delete",
            "sessions.create ",
        ] {
            assert!(find(name).is_none(), "{name}");
        }
    }
}
