//! What is asked: who would do what to which thing.

use base::Role;

use crate::error::PolicyError;

/// Who would act.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Principal<'a> {
    /// What its credential may do.
    pub role: Role,
    /// The credential's name; without one it is a person who acts.
    pub token: Option<&'a str>,
    /// The natural person.
    pub person: Option<&'a str>,
}

/// What would be done, and to what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act<'a> {
    /// A call of a model.
    CallModel {
        /// Its public name.
        model: &'a str,
        /// Providers that may serve it.
        providers: &'a [String],
        /// Regions in which it may be served.
        regions: &'a [String],
        /// `chat.completions`, `messages`, `embeddings`, …
        operation: &'a str,
        /// The answer comes in pieces.
        stream: bool,
        /// The call names tools.
        tools: bool,
    },
    /// A search of documents.
    Retrieve {
        /// The collection.
        collection: &'a str,
    },
    /// A call of a tool.
    InvokeTool {
        /// The tool.
        tool: &'a str,
    },
    /// A program in the sandbox.
    RunCode {
        /// `shell`, `python`, …
        runtime: &'a str,
    },
    /// A look into a file of the workspace.
    ReadFile {
        /// Path below the workspace.
        path: &'a str,
    },
    /// A change of a file of the workspace.
    WriteFile {
        /// Path below the workspace.
        path: &'a str,
    },
    /// A connection to the outside.
    Egress {
        /// The host's name or address.
        host: &'a str,
        /// Its port.
        port: u16,
    },
    /// A terminal.
    OpenTerminal {
        /// Which kind.
        kind: &'a str,
    },
    /// A look into a log.
    ReadAudit {
        /// Which log.
        log: &'a str,
    },
    /// A change of settings.
    ChangeConfig {
        /// Which part: `policy`, `secrets`, `tokens`, …
        setting: &'a str,
    },
}

/// The kinds of [`Act`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Action {
    CallModel,
    Retrieve,
    InvokeTool,
    RunCode,
    ReadFile,
    WriteFile,
    Egress,
    OpenTerminal,
    ReadAudit,
    ChangeConfig,
}

impl Action {
    pub(crate) const ALL: [Self; 10] = [
        Self::CallModel,
        Self::Retrieve,
        Self::InvokeTool,
        Self::RunCode,
        Self::ReadFile,
        Self::WriteFile,
        Self::Egress,
        Self::OpenTerminal,
        Self::ReadAudit,
        Self::ChangeConfig,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::CallModel => "call_model",
            Self::Retrieve => "retrieve",
            Self::InvokeTool => "invoke_tool",
            Self::RunCode => "run_code",
            Self::ReadFile => "read_file",
            Self::WriteFile => "write_file",
            Self::Egress => "egress",
            Self::OpenTerminal => "open_terminal",
            Self::ReadAudit => "read_audit",
            Self::ChangeConfig => "change_config",
        }
    }
}

impl Action {
    /// The type of what it is done to, as the schema has it.
    pub(crate) fn resource_type(self) -> &'static str {
        match self {
            Self::CallModel => "Model",
            Self::Retrieve => "Collection",
            Self::InvokeTool => "Tool",
            Self::RunCode => "Runtime",
            Self::ReadFile | Self::WriteFile => "File",
            Self::Egress => "Host",
            Self::OpenTerminal => "Terminal",
            Self::ReadAudit => "Log",
            Self::ChangeConfig => "Setting",
        }
    }
}

impl Act<'_> {
    pub(crate) fn action(&self) -> Action {
        match self {
            Self::CallModel { .. } => Action::CallModel,
            Self::Retrieve { .. } => Action::Retrieve,
            Self::InvokeTool { .. } => Action::InvokeTool,
            Self::RunCode { .. } => Action::RunCode,
            Self::ReadFile { .. } => Action::ReadFile,
            Self::WriteFile { .. } => Action::WriteFile,
            Self::Egress { .. } => Action::Egress,
            Self::OpenTerminal { .. } => Action::OpenTerminal,
            Self::ReadAudit { .. } => Action::ReadAudit,
            Self::ChangeConfig { .. } => Action::ChangeConfig,
        }
    }

    /// The action's name, as rules and audit entries have it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.action().as_str()
    }

    /// What identifies the thing that is acted on, beside its type.
    pub(crate) fn resource(&self) -> &str {
        match *self {
            Self::CallModel { model, .. } => model,
            Self::Retrieve { collection } => collection,
            Self::InvokeTool { tool } => tool,
            Self::RunCode { runtime } => runtime,
            Self::ReadFile { path } | Self::WriteFile { path } => path,
            Self::Egress { host, .. } => host,
            Self::OpenTerminal { kind } => kind,
            Self::ReadAudit { log } => log,
            Self::ChangeConfig { setting } => setting,
        }
    }
}

/// One question to the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request<'a> {
    /// Who.
    pub principal: Principal<'a>,
    /// What.
    pub act: Act<'a>,
}

/// What a question says of its circumstances when it is asked in words; everything absent is empty or false.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Context {
    /// Of a call of a model: `chat.completions` where nothing is said.
    pub operation: Option<String>,
    /// Of a call of a model.
    pub stream: bool,
    /// Of a call of a model.
    pub tools: bool,
    /// Of a call of a model: who may serve it.
    pub providers: Vec<String>,
    /// Of a call of a model: where it may be served.
    pub regions: Vec<String>,
    /// Of a connection; 443 without it.
    pub port: Option<u16>,
}

/// A question in words, as tests and people ask it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// The role of the credential.
    pub role: Role,
    /// The credential's name.
    pub token: Option<String>,
    /// The natural person.
    pub person: Option<String>,
    /// One of the schema's actions.
    pub action: String,
    /// The name of what is acted on.
    pub resource: String,
    /// Its circumstances.
    pub context: Context,
}

impl Asked {
    /// Puts the question to `answer`.
    ///
    /// # Errors
    /// When the schema has no such action.
    pub fn put<T>(&self, answer: impl FnOnce(&Request<'_>) -> T) -> Result<T, PolicyError> {
        let known = Action::ALL
            .into_iter()
            .find(|action| action.as_str() == self.action);
        let Some(action) = known else {
            let names: Vec<&str> = Action::ALL.iter().map(|action| action.as_str()).collect();
            return Err(PolicyError::new(format!(
                "action: {:?} is none of {}",
                self.action,
                names.join(", ")
            )));
        };
        let name = self.resource.as_str();
        let act = match action {
            Action::CallModel => Act::CallModel {
                model: name,
                providers: &self.context.providers,
                regions: &self.context.regions,
                operation: self
                    .context
                    .operation
                    .as_deref()
                    .unwrap_or("chat.completions"),
                stream: self.context.stream,
                tools: self.context.tools,
            },
            Action::Retrieve => Act::Retrieve { collection: name },
            Action::InvokeTool => Act::InvokeTool { tool: name },
            Action::RunCode => Act::RunCode { runtime: name },
            Action::ReadFile => Act::ReadFile { path: name },
            Action::WriteFile => Act::WriteFile { path: name },
            Action::Egress => Act::Egress {
                host: name,
                port: self.context.port.unwrap_or(443),
            },
            Action::OpenTerminal => Act::OpenTerminal { kind: name },
            Action::ReadAudit => Act::ReadAudit { log: name },
            Action::ChangeConfig => Act::ChangeConfig { setting: name },
        };
        let principal = Principal {
            role: self.role,
            token: self.token.as_deref(),
            person: self.person.as_deref(),
        };
        Ok(answer(&Request { principal, act }))
    }
}
