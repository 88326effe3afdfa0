//! The tools that agents may have: one table, from which the model is told of them, what an agent may name is checked, and calls are
//! carried out.

mod arguments;
pub(crate) mod files;
mod programs;

use std::collections::BTreeMap;

use kernel::{Admission, Kernel};
use policy::Act;
use sandbox::Sandbox;
use serde_json::{Value, json};

use crate::limits::RESULT_BYTES_MAX;
use arguments::Arguments;

/// One tool.
#[derive(Debug)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    /// For the model and for people.
    pub(crate) description: &'static str,
    pub(crate) params: &'static [Param],
    pub(crate) kind: Kind,
}

/// A member of a tool's arguments.
#[derive(Debug)]
pub(crate) struct Param {
    pub(crate) name: &'static str,
    pub(crate) required: bool,
    pub(crate) what: What,
    pub(crate) doc: &'static str,
}

/// What may stand there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum What {
    /// Text of at most so many bytes.
    Text(usize),
    /// A number up to so much.
    Number(u64),
    Flag,
}

/// What a tool does, and so what is asked of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    List,
    Search,
    Shell,
    Python,
}

/// A tool as it is shown.
#[derive(Clone, Debug)]
pub struct ToolView {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub description: &'static str,
    /// The JSON schema of its arguments.
    pub parameters: Value,
}

const PATH: Param = Param {
    name: "path",
    required: true,
    what: What::Text(1_024),
    doc: "Path of a file below the workspace, such as report/data.csv.",
};
const BELOW: Param = Param {
    name: "path",
    required: false,
    what: What::Text(1_024),
    doc: "A directory below the workspace; the whole workspace without it.",
};
const SECONDS: Param = Param {
    name: "timeout_seconds",
    required: false,
    what: What::Number(600),
    doc: "Ends the program after so long; 60 without it.",
};

/// Every tool.
pub(crate) static TOOLS: &[Tool] = &[
    Tool {
        name: "file_read",
        description: "Reads a text file of the workspace.",
        params: &[
            PATH,
            Param {
                name: "offset",
                required: false,
                what: What::Number(1 << 40),
                doc: "The byte to begin at.",
            },
            Param {
                name: "limit",
                required: false,
                what: What::Number(RESULT_BYTES_MAX as u64),
                doc: "Bytes to read.",
            },
        ],
        kind: Kind::Read,
    },
    Tool {
        name: "file_write",
        description: "Writes a text file of the workspace, in place of one that is there, or at its end.",
        params: &[
            PATH,
            Param {
                name: "content",
                required: true,
                what: What::Text(192 * 1024),
                doc: "What it is to hold.",
            },
            Param {
                name: "append",
                required: false,
                what: What::Flag,
                doc: "Add to its end.",
            },
        ],
        kind: Kind::Write,
    },
    Tool {
        name: "file_list",
        description: "Lists files of the workspace.",
        params: &[
            BELOW,
            Param {
                name: "depth",
                required: false,
                what: What::Number(32),
                doc: "Directories deep; 2 without it.",
            },
        ],
        kind: Kind::List,
    },
    Tool {
        name: "file_search",
        description: "Finds lines that contain a text in the files of the workspace.",
        params: &[
            Param {
                name: "text",
                required: true,
                what: What::Text(1_024),
                doc: "The text, as it stands there.",
            },
            BELOW,
        ],
        kind: Kind::Search,
    },
    Tool {
        name: "exec",
        description: "Runs a shell command in the workspace, without network. The workspace is /box.",
        params: &[
            Param {
                name: "command",
                required: true,
                what: What::Text(64 * 1024),
                doc: "The command, for sh.",
            },
            SECONDS,
        ],
        kind: Kind::Shell,
    },
    Tool {
        name: "python",
        description: "Runs a Python program in the workspace, without network. Print what is to be known; files stay in the workspace, /box.",
        params: &[
            Param {
                name: "code",
                required: true,
                what: What::Text(192 * 1024),
                doc: "The program.",
            },
            SECONDS,
        ],
        kind: Kind::Python,
    },
];

/// The tool of that name.
pub(crate) fn find(name: &str) -> Option<&'static Tool> {
    TOOLS.iter().find(|tool| tool.name == name)
}

impl Tool {
    /// The tool in the shape of chat completions.
    pub(crate) fn described(&self) -> Value {
        json!({
            "type": "function",
            "function": { "name": self.name, "description": self.description, "parameters": self.schema() },
        })
    }

    pub(crate) fn schema(&self) -> Value {
        let mut properties = serde_json::Map::new();
        for param in self.params {
            let schema = match param.what {
                What::Text(max) => {
                    json!({ "type": "string", "maxLength": max, "description": param.doc })
                }
                What::Number(max) => {
                    json!({ "type": "integer", "minimum": 0, "maximum": max, "description": param.doc })
                }
                What::Flag => json!({ "type": "boolean", "description": param.doc }),
            };
            properties.insert(param.name.to_owned(), schema);
        }
        let required: Vec<_> = self
            .params
            .iter()
            .filter(|param| param.required)
            .map(|param| param.name)
            .collect();
        json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
    }

    pub(crate) fn view(&self) -> ToolView {
        ToolView {
            name: self.name,
            description: self.description,
            parameters: self.schema(),
        }
    }

    /// Whether doing it again does no harm.
    pub(crate) fn only_reads(&self) -> bool {
        matches!(self.kind, Kind::Read | Kind::List | Kind::Search)
    }
}

/// A call that has been read: its arguments are what the tool takes.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) tool: &'static Tool,
    arguments: Arguments,
}

/// Reads a call.
///
/// # Errors
/// What is wrong with it, for the model.
pub(crate) fn prepare(name: &str, arguments: &str) -> Result<Prepared, String> {
    let tool = find(name).ok_or_else(|| NO_TOOL.to_owned())?;
    let arguments = Arguments::read(tool.params, arguments)?;
    Ok(Prepared { tool, arguments })
}

impl Prepared {
    /// What is asked of the rules: each must be allowed.
    pub(crate) fn acts(&self) -> Vec<Act<'_>> {
        let tool = Act::InvokeTool {
            tool: self.tool.name,
        };
        let path = self.arguments.text("path").map_or("", files::plain);
        let touched = match self.tool.kind {
            Kind::Read | Kind::List | Kind::Search => Act::ReadFile { path },
            Kind::Write => Act::WriteFile { path },
            Kind::Shell => Act::RunCode { runtime: "shell" },
            Kind::Python => Act::RunCode { runtime: "python" },
        };
        vec![tool, touched]
    }
}

/// What the rules leave of a call.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Caps {
    /// Seconds of wall time.
    pub(crate) seconds: Option<u64>,
    /// Bytes written or returned.
    pub(crate) bytes: Option<u64>,
}

/// What a call came to.
#[derive(Debug)]
pub(crate) struct Done {
    /// For the model: hostile, capped.
    pub(crate) text: String,
    /// For the audit log.
    pub(crate) outcome: &'static str,
    pub(crate) facts: BTreeMap<&'static str, String>,
}

impl Done {
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            outcome: "failed",
            facts: BTreeMap::new(),
        }
    }
}

/// What tools work with.
pub(crate) struct Bench<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) sandbox: &'a Sandbox,
}

/// What is said of a tool that is not there, and of one that is not the agent's or that a rule hides.
pub(crate) const NO_TOOL: &str = "there is no such tool";

/// Whether a call needs the sandbox.
pub(crate) fn runs_code(prepared: &Prepared) -> bool {
    matches!(prepared.tool.kind, Kind::Shell | Kind::Python)
}

/// Carries a call out that somebody has allowed.
pub(crate) async fn carry_out(
    bench: Option<&Bench<'_>>,
    admission: &Admission,
    prepared: &Prepared,
    caps: Caps,
) -> Done {
    let mut done = match (prepared.tool.kind, bench) {
        (Kind::Shell | Kind::Python, Some(bench)) => {
            programs::run(
                bench,
                admission,
                prepared.tool.kind,
                &prepared.arguments,
                caps,
            )
            .await
        }
        (Kind::Shell | Kind::Python, None) => Done::failed("code is not executed here"),
        (kind, _) => files::touch(admission, kind, &prepared.arguments, caps).await,
    };
    // Of a write the cap bounds what is written, not what is said of it.
    let of_result = caps.bytes.filter(|_| prepared.tool.kind != Kind::Write);
    let max = of_result.map_or(RESULT_BYTES_MAX, |bytes| {
        usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .min(RESULT_BYTES_MAX)
    });
    done.text = cut(done.text, max);
    done
}

/// At most so many bytes: the beginning and the end of a text that is longer.
pub(crate) fn cut(text: String, max: usize) -> String {
    if text.len() <= max {
        return text;
    }
    let half = max / 2;
    let from = (0..=half)
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    let to = (text.len() - half..text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(text.len());
    let left_out = to - from;
    format!(
        "{}\n[{left_out} bytes left out]\n{}",
        &text[..from],
        &text[to..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_result_keeps_its_beginning_and_its_end() {
        let text = format!("ä{}ö", "x".repeat(1_000));
        let short = cut(text.clone(), 101);
        assert!(short.starts_with('ä') && short.ends_with('ö') && short.len() < 140);
        assert_eq!(cut(text.clone(), text.len()), text);
        assert!(cut("ääää".to_owned(), 3).contains("left out"));
    }

    #[test]
    fn what_a_model_writes_is_read_strictly() {
        for (tool, bad) in [
            ("rm", "{}"),
            ("exec", ""),
            ("exec", "null"),
            ("exec", "[]"),
            ("exec", "{}"),
            ("exec", r#"{"command":1}"#),
            ("exec", r#"{"command":"a","user":"root"}"#),
            ("exec", r#"{"command":"a","timeout_seconds":601}"#),
            ("exec", r#"{"command":"a","timeout_seconds":-1}"#),
            ("file_write", r#"{"path":"a","content":"b","append":"yes"}"#),
            ("exec", r#"{"command":"a","command":"b"}"#),
        ] {
            assert!(prepare(tool, bad).is_err(), "{tool} {bad}");
        }
        let good = prepare("exec", r#"{"command":"ls","timeout_seconds":null}"#).unwrap();
        assert_eq!(good.acts()[1], Act::RunCode { runtime: "shell" });
    }

    #[test]
    fn rules_see_the_path_that_is_touched() {
        for (written, seen) in [("a/b", "a/b"), ("/box/a/b", "a/b"), ("/box", "")] {
            let text = json!({ "path": written, "content": "" }).to_string();
            let call = prepare("file_write", &text).unwrap();
            assert_eq!(call.acts()[1], Act::WriteFile { path: seen });
        }
    }
}
