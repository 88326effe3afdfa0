//! Rules of a tenant, as people read them.

use rpc::{PolicyChecked, PolicyExplained, PolicyView};

use crate::table::{Align, Table};

const RULES: &[(&str, Align)] = &[
    ("RULE", Align::Left),
    ("LINE", Align::Right),
    ("EFFECT", Align::Left),
];

/// The document as it was set, so that it can be kept as a file and set again.
pub(crate) fn policy_text(policy: &PolicyView) -> String {
    if policy.document.is_empty() {
        return format!(
            "# {0} has no rules of its own; what its operator permits: partywall policy get --tenant {0} --base\n",
            policy.tenant
        );
    }
    match policy.document.ends_with('\n') {
        true => policy.document.clone(),
        false => format!("{}\n", policy.document),
    }
}

pub(crate) fn policy_checked_text(checked: &PolicyChecked) -> String {
    let end = match checked.in_force {
        true => "in force",
        false => "nothing was changed",
    };
    format!(
        "ok: {} rules of {}, {} tests hold; {end}\nversion {}\n",
        checked.rules, checked.tenant, checked.tests, checked.version
    )
}

pub(crate) fn policy_explained_text(why: &PolicyExplained) -> String {
    let mut text = match why.decided_by.as_str() {
        "" => format!("{}: no rule permits it\n", why.decision),
        rules => format!("{}: {rules}\n", why.decision),
    };
    if !why.approvers.is_empty() {
        text.push_str(&format!("approval by: {}\n", why.approvers.join(", ")));
    }
    if !why.caps.is_empty() {
        text.push_str(&format!("at most: {}\n", why.caps.join(", ")));
    }
    if !why.rules.is_empty() {
        text.push('\n');
        let mut table = Table::new(RULES);
        for rule in &why.rules {
            let cells = vec![
                rule.rule.clone(),
                rule.line.to_string(),
                rule.effect.clone(),
            ];
            table.row(cells, &mut text);
        }
        table.finish(&mut text);
    }
    text.push_str(&format!("rules in force: {}\n", why.in_force));
    text
}
