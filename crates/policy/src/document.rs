//! A set of rules as it is stored and exchanged: the rules, and the examples that they must decide rightly before they are taken.

use base::limits::POLICY_BYTES_MAX;
use base::{Role, Timestamp};
use serde::Deserialize;

use crate::EXAMPLES_MAX;
use crate::error::PolicyError;
use crate::request::{Asked, Context};
use crate::yaml;

/// Rules with their examples.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Document {
    /// The rules, in Cedar.
    pub policy: String,
    /// What they must decide.
    pub tests: Vec<Example>,
}

/// A question, and the decision that it must get.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Example {
    /// Its name in reports.
    pub name: String,
    /// The question.
    pub asked: Asked,
    /// When it is asked; now, where nothing is said.
    pub at: Option<Timestamp>,
    /// What must be decided.
    pub expect: Expect,
    /// A rule that must have decided, as `origin.id`.
    pub rule: Option<String>,
}

/// What a decision must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// Allowed without obligations.
    Allow,
    /// Not allowed, for whatever reason.
    Deny,
    /// Not allowed, and the thing looks as if it did not exist.
    Absent,
    /// Allowed once somebody approves.
    RequireApproval,
    /// Allowed below a cap.
    Cap,
}

impl Expect {
    /// Its name in documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Absent => "absent",
            Self::RequireApproval => "require_approval",
            Self::Cap => "cap",
        }
    }
}

/// Bytes of one text of a question.
const ASKED_BYTES_MAX: usize = 512;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    policy: String,
    #[serde(default)]
    tests: Vec<FileExample>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileExample {
    name: String,
    #[serde(rename = "as")]
    asker: FileAsker,
    action: String,
    resource: String,
    #[serde(default)]
    context: FileContext,
    at: Option<String>,
    expect: Expect,
    rule: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileAsker {
    role: String,
    token: String,
    person: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileContext {
    operation: Option<String>,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    tools: bool,
    #[serde(default)]
    providers: Vec<String>,
    #[serde(default)]
    regions: Vec<String>,
    port: Option<u16>,
}

impl Document {
    /// Reads a document: YAML with the keys `policy` and `tests`. Nothing of the rules is checked yet.
    ///
    /// # Errors
    /// Unknown or doubled keys, anchors, values that are not what they must be, and texts above the limits, by line.
    pub fn read(text: &str) -> Result<Self, PolicyError> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(PolicyError::new(format!(
                "the document has {} bytes; the limit is {POLICY_BYTES_MAX}",
                text.len()
            )));
        }
        if yaml::says_nothing(text) {
            return Ok(Self::default());
        }
        let file: File = yaml::read(text).map_err(|error| PolicyError {
            line: error.location().map(|place| place.line()),
            message: error.to_string(),
        })?;
        if file.tests.len() > EXAMPLES_MAX {
            return Err(PolicyError::new(format!(
                "tests: {} are more than the limit of {EXAMPLES_MAX}",
                file.tests.len()
            )));
        }
        let tests = file.tests.into_iter().map(example);
        Ok(Self {
            policy: file.policy,
            tests: tests.collect::<Result<_, _>>()?,
        })
    }
}

fn example(file: FileExample) -> Result<Example, PolicyError> {
    let refuse = |message: String| PolicyError::new(format!("test {:?}: {message}", file.name));
    let role: Role = file.asker.role.parse().map_err(|_| {
        refuse("as.role: must be admin, member, app, readonly or auditor".to_owned())
    })?;
    let texts = [
        Some(&file.resource),
        Some(&file.asker.token),
        file.asker.person.as_ref(),
        file.context.operation.as_ref(),
    ];
    let lists = file.context.providers.iter().chain(&file.context.regions);
    if texts
        .into_iter()
        .flatten()
        .chain(lists)
        .any(|text| text.len() > ASKED_BYTES_MAX)
    {
        return Err(refuse(format!(
            "no text of a question may have more than {ASKED_BYTES_MAX} bytes"
        )));
    }
    let at = match &file.at {
        None => None,
        Some(text) => Some(Timestamp::parse(text).ok_or_else(|| {
            refuse(format!(
                "at: {text:?} is no moment; write 2026-12-01T00:00:00Z"
            ))
        })?),
    };
    let context = Context {
        operation: file.context.operation,
        stream: file.context.stream,
        tools: file.context.tools,
        providers: file.context.providers,
        regions: file.context.regions,
        port: file.context.port,
    };
    Ok(Example {
        asked: Asked {
            role,
            token: Some(file.asker.token),
            person: file.asker.person,
            action: file.action,
            resource: file.resource,
            context,
        },
        at,
        expect: file.expect,
        rule: file.rule,
        name: file.name,
    })
}
