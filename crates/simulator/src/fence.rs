//! Fenced blocks in the words of the user, which tools that run code are called with.

use serde_json::json;

use crate::answer::ToolCall;
use crate::call::Call;

/// Tools that run code: name, language of the block, argument that takes it.
const RUNNERS: [(&str, &str, &str); 2] = [("python", "python", "code"), ("exec", "sh", "command")];
/// Blocks of one message that are run.
const BLOCKS_MAX: usize = 8;
/// What opens and closes a block.
const FENCE: &str = "```";

/// A call for each closed block whose language has its tool in the request.
pub(crate) fn calls(call: &Call) -> Vec<ToolCall> {
    blocks(&call.question)
        .into_iter()
        .filter_map(|(language, block)| {
            let (name, _, argument) = RUNNERS.iter().find(|(_, runs, _)| *runs == language)?;
            call.tools.iter().find(|tool| tool.name == *name)?;
            Some(ToolCall {
                name: (*name).to_owned(),
                arguments: json!({*argument: block}).to_string(),
            })
        })
        .take(BLOCKS_MAX)
        .collect()
}

/// Language and content of each closed block, the last line feed left out.
fn blocks(text: &str) -> Vec<(&str, String)> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.trim().strip_prefix(FENCE) else {
            continue;
        };
        let mut inside = Vec::new();
        for line in lines.by_ref() {
            if line.trim() == FENCE {
                blocks.push((language.trim(), inside.join("\n")));
                break;
            }
            inside.push(line);
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_closed_and_have_a_language() {
        let text = "Run\n```python\nif x:\n    y()\n\n```\nand ```sh\n``` sh\r\nls\r\n```\n```\nplain\n```\n```sh\nopen";
        let want = [("python", "if x:\n    y()\n"), ("sh", "ls"), ("", "plain")];
        let found = blocks(text);
        let found: Vec<(&str, &str)> = found.iter().map(|(l, b)| (*l, b.as_str())).collect();
        assert_eq!(found, want);
    }
}
