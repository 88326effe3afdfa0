//! From flags to commands of the control protocol, and to the few things that are not one.

use std::path::PathBuf;

use base::TenantId;
use clap::CommandFactory;
use rpc::{Command, Fault, FaultCode, Forget, NewTenant, PolicyQuestion};

use crate::backend::{self, Addresses, Place};
use crate::call::{self, Call};
use crate::export::Export;
use crate::flags::{
    Ask, Audit, Billing, Cli, Common, Config, Format, Policy, Quota, Ratecard, Secrets, Serve,
    Tenants, Token,
};
use crate::print::Out;
use crate::show::{self, Printer, Style};
use crate::{chat, client, demo, files};

/// Does what was asked.
pub(crate) fn run(cli: Cli) -> Result<(), Fault> {
    let Cli { common, ask } = cli;
    match ask {
        Ask::Init => init(&common),
        Ask::Serve(addresses) => serve(&common, &addresses),
        Ask::Demo(addresses) => demo::run(
            common.data,
            common.config,
            Addresses::from(&addresses),
            common.json,
        ),
        Ask::Routes => show::routes(&backend::routes(), common.json),
        Ask::Rpc {
            method,
            params,
            params_file,
            token_file,
            to,
        } => call::run(
            &place(&common),
            &Call {
                method,
                params,
                params_file,
                token_file,
                to,
            },
        ),
        Ask::Chat(asked) => chat::run(&place(&common), &asked, common.json),
        Ask::Config(Config::Schema) => print_text(&backend::config_schema()),
        Ask::Completions { shell } => completions(shell),
        ask => ask_gateway(&common, ask),
    }
}

/// The commands that travel: to the running gateway, or into this process.
fn ask_gateway(common: &Common, ask: Ask) -> Result<(), Fault> {
    let style = style(&ask, common.json);
    let export = match &ask {
        Ask::Audit(Audit::Export { to, .. }) => Some(Export::begin(to)?),
        _ => None,
    };
    let command = command(ask)?;
    let mut printer = Printer::new(Out::new(), style, &command);
    let asked = match export {
        None => client::ask(&place(common), &command, &mut printer),
        Some(mut export) => {
            let asked = client::ask(&place(common), &command, &mut export);
            export.end(asked)
        }
    };
    printer.finish(asked)
}

fn style(ask: &Ask, json: bool) -> Style {
    let json = match ask {
        Ask::Billing(Billing::Report {
            format: Some(format),
            ..
        }) => *format == Format::Json,
        _ => json,
    };
    if json { Style::Json } else { Style::Text }
}

fn command(ask: Ask) -> Result<Command, Fault> {
    match ask {
        Ask::Tenants(tenants) => tenants_command(tenants),
        Ask::Secrets(secrets) => secrets_command(secrets),
        Ask::Billing(Billing::Report {
            tenant,
            from,
            to,
            format: _,
            detail,
        }) => Ok(Command::BillingReport {
            tenant,
            from,
            to,
            detail,
        }),
        Ask::Policy(policy) => policy_command(policy),
        Ask::Audit(audit) => audit_command(audit),
        Ask::Ratecard(ratecard) => ratecard_command(ratecard),
        Ask::Config(Config::Check { tenant }) => Ok(Command::ConfigCheck { tenant }),
        Ask::Config(Config::Show { tenant }) => Ok(Command::ConfigShow { tenant }),
        Ask::Doctor => Ok(Command::Doctor),
        Ask::Status => Ok(Command::Status),
        Ask::Init
        | Ask::Serve(_)
        | Ask::Demo(_)
        | Ask::Routes
        | Ask::Rpc { .. }
        | Ask::Chat(_)
        | Ask::Completions { .. }
        | Ask::Config(Config::Schema) => Err(Fault::new(
            FaultCode::Internal,
            "not a command of the control protocol",
        )),
    }
}

fn tenants_command(tenants: Tenants) -> Result<Command, Fault> {
    Ok(match tenants {
        Tenants::Create { id, tier, limits } => Command::TenantsCreate(NewTenant {
            id,
            tier,
            limits: limits.into(),
        }),
        Tenants::List => Command::TenantsList,
        Tenants::Show { id } => Command::TenantsShow { id },
        Tenants::Suspend { id } => Command::TenantsSuspend { id },
        Tenants::Freeze { id } => Command::TenantsFreeze { id },
        Tenants::Resume { id } => Command::TenantsResume { id },
        Tenants::Check { id } => Command::TenantsCheck { id },
        Tenants::Repair {
            id, dry_run, anew, ..
        } => Command::TenantsRepair { id, dry_run, anew },
        Tenants::Delete { id, confirm } => confirmed_delete(id, confirm)?,
        Tenants::Token(Token::Rotate {
            id,
            name,
            grace,
            all,
        }) => Command::TokenRotate {
            id,
            name,
            all,
            grace,
        },
        Tenants::Token(Token::Issue {
            id,
            name,
            role,
            person,
            expires,
        }) => Command::TokenIssue {
            id,
            name,
            role,
            person,
            expires,
        },
        Tenants::Token(Token::List { id }) => Command::TokenList { id },
        Tenants::Token(Token::Revoke { id, name }) => Command::TokenRevoke { id, name },
        Tenants::Quota(Quota::Show { id }) => Command::QuotaShow { id },
        Tenants::Quota(Quota::Set { id, change }) => Command::QuotaSet {
            id,
            change: change.into(),
        },
        Tenants::Clone { .. } => {
            return Err(not_available("tenants clone", "create the tenant anew"));
        }
        Tenants::Backup { .. } => {
            return Err(not_available(
                "tenants backup",
                "stop the gateway and copy the whole data directory",
            ));
        }
        Tenants::Restore { .. } => {
            return Err(not_available(
                "tenants restore",
                "stop the gateway and put the copied data directory back",
            ));
        }
    })
}

fn confirmed_delete(id: TenantId, confirm: TenantId) -> Result<Command, Fault> {
    if id == confirm {
        return Ok(Command::TenantsDelete { id, confirm });
    }
    let text = format!("--confirm says {confirm}, not {id}; nothing was deleted");
    Err(Fault::new(FaultCode::Refused, text))
}

fn secrets_command(secrets: Secrets) -> Result<Command, Fault> {
    Ok(match secrets {
        Secrets::Set {
            tenant,
            name,
            from_file,
        } => Command::SecretsSet {
            tenant,
            name,
            value: files::secret(from_file.as_deref())?,
        },
        Secrets::List { tenant } => Command::SecretsList { tenant },
        Secrets::Rotate { tenant } => Command::SecretsRotate { tenant },
        Secrets::Delete { tenant, name } => Command::SecretsDelete { tenant, name },
    })
}

fn policy_command(policy: Policy) -> Result<Command, Fault> {
    Ok(match policy {
        Policy::Get { tenant, base } => Command::PolicyGet { tenant, base },
        Policy::Set { tenant, file } => Command::PolicySet {
            tenant,
            document: files::policy(&file)?,
        },
        Policy::Test { tenant, file } => Command::PolicyTest {
            tenant,
            document: file.as_deref().map(files::policy).transpose()?,
        },
        Policy::Explain(asked) => Command::PolicyExplain(PolicyQuestion {
            tenant: asked.tenant,
            role: asked.role,
            token: asked.token_name,
            person: asked.person,
            action: asked.action,
            resource: asked.resource,
            operation: asked.operation,
            stream: asked.stream,
            tools: asked.tools,
            port: asked.port,
        }),
    })
}

fn audit_command(audit: Audit) -> Result<Command, Fault> {
    match audit {
        Audit::Tail {
            tenant,
            limit,
            follow,
        } => Ok(Command::AuditTail {
            tenant,
            limit,
            follow,
        }),
        Audit::Verify { tenant, since } => Ok(Command::AuditVerify {
            tenant,
            since: since.as_deref().map(files::checkpoint).transpose()?,
        }),
        Audit::Checkpoint { tenant } => Ok(Command::AuditCheckpoint { tenant }),
        Audit::RotateKey { tenant } => Ok(Command::AuditRotateKey { tenant }),
        Audit::Content { tenant, seq } => Ok(Command::AuditContent { tenant, seq }),
        Audit::Forget {
            tenant,
            person,
            token_name: token,
        } => Ok(Command::AuditForget(Forget {
            tenant,
            person,
            token,
        })),
        Audit::Export { tenant, to: _ } => Ok(Command::AuditExport { tenant }),
    }
}

fn ratecard_command(ratecard: Ratecard) -> Result<Command, Fault> {
    Ok(match ratecard {
        Ratecard::Show => Command::RatecardShow,
        Ratecard::Import { file } => {
            let name = file.file_name().map_or_else(
                || "standard input".to_owned(),
                |name| name.to_string_lossy().into_owned(),
            );
            Command::RatecardImport {
                name,
                card: files::ratecard(&file)?,
            }
        }
        Ratecard::Check { file } => Command::RatecardCheck {
            card: file.as_deref().map(files::ratecard).transpose()?,
        },
    })
}

fn not_available(name: &str, instead: &str) -> Fault {
    let text = format!(
        "{name} is not available in this version ({}); {instead}",
        env!("CARGO_PKG_VERSION")
    );
    Fault::new(FaultCode::NotAvailable, text)
}

fn init(common: &Common) -> Result<(), Fault> {
    let done = backend::init(&place(common))?;
    show::initialised(&done, common.json)
}

fn serve(common: &Common, addresses: &Serve) -> Result<(), Fault> {
    let json = common.json;
    backend::serve(&place(common), addresses.into(), move |public, admin| {
        show::listening(public, admin, json)
    })
}

fn completions(shell: clap_complete::Shell) -> Result<(), Fault> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "partywall", &mut script);
    print_text(&String::from_utf8_lossy(&script))
}

fn print_text(text: &str) -> Result<(), Fault> {
    let mut out = Out::new();
    out.text(text)?;
    if !text.ends_with('\n') {
        out.text("\n")?;
    }
    out.flush()
}

fn place(common: &Common) -> Place {
    let data = common
        .data
        .clone()
        .unwrap_or_else(|| PathBuf::from("./data"));
    Place {
        data,
        config: common.config.clone(),
    }
}

impl From<&Serve> for Addresses {
    fn from(typed: &Serve) -> Self {
        Self {
            listen: typed.listen,
            admin: typed.admin_listen,
        }
    }
}
