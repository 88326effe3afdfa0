//! What rules decide, what is refused as a rule, and that nothing a tenant writes widens what it was given.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

use base::{Role, Timestamp};
use policy::{
    Act, BASE, Cap, Document, Layers, ModelList, Origin, Outcome, Principal, Request, Rules,
};
use proptest::prelude::*;
use std::sync::{Arc, LazyLock};

const NOW: Timestamp = Timestamp::from_unix_ms(1_790_000_000_000);

fn base() -> Arc<Rules> {
    Arc::new(Rules::read(Origin::Base, BASE).unwrap())
}

fn tenant(text: &str) -> Arc<Rules> {
    Arc::new(Rules::read(Origin::Tenant, text).unwrap())
}

fn refused(text: &str) -> String {
    Rules::read(Origin::Tenant, text).unwrap_err().to_string()
}

fn under(own: &str) -> Layers {
    Layers::new(vec![base(), tenant(own)])
}

fn by(role: Role) -> Principal<'static> {
    Principal {
        role,
        token: Some("ci"),
        person: Some("alice"),
    }
}

static EUROPE: LazyLock<Vec<String>> = LazyLock::new(|| vec!["eu".to_owned()]);
static AMERICA: LazyLock<Vec<String>> = LazyLock::new(|| vec!["us".to_owned()]);

fn call(model: &str) -> Act<'_> {
    Act::CallModel {
        model,
        providers: &[],
        regions: &EUROPE,
        operation: "chat.completions",
        stream: false,
        tools: false,
    }
}

fn decide(layers: &Layers, role: Role, act: Act<'_>) -> (Outcome, String) {
    let request = Request {
        principal: by(role),
        act,
    };
    let decision = layers.decide(&request, NOW);
    assert_eq!(*decision, layers.decide_anew(&request, NOW));
    (decision.outcome.clone(), decision.rules.to_string())
}

fn allowed() -> Outcome {
    Outcome::Allowed(policy::Obligations::default())
}

/// Which role may do what where nobody has written a rule: the whole matrix.
#[test]
fn the_base_rules_give_each_role_its_own_work() {
    let layers = Layers::new(vec![base()]);
    let acts = [
        (call("m"), "admin member app"),
        (Act::Retrieve { collection: "c" }, "admin member app"),
        (Act::InvokeTool { tool: "t" }, "admin member app"),
        (Act::RunCode { runtime: "python" }, "admin member app"),
        (Act::ReadFile { path: "f" }, "admin member app"),
        (Act::WriteFile { path: "f" }, "admin member app"),
        (
            Act::Egress {
                host: "h",
                port: 443,
            },
            "admin member app",
        ),
        (Act::OpenTerminal { kind: "shell" }, "admin member"),
        (Act::ReadAudit { log: "audit" }, "admin auditor"),
        (Act::ChangeConfig { setting: "policy" }, "admin"),
    ];
    for (act, roles) in acts {
        for role in Role::ALL {
            let (outcome, rules) = decide(&layers, role, act);
            match roles.split(' ').any(|name| name == role.as_str()) {
                true => assert_eq!((outcome, rules.contains("base.")), (allowed(), true)),
                false => assert_eq!((outcome, rules.as_str()), (Outcome::NotPermitted, "")),
            }
        }
    }
}

#[test]
fn what_no_layer_permits_is_denied() {
    let layers = Layers::new(Vec::new());
    assert_eq!(
        decide(&layers, Role::Admin, call("m")).0,
        Outcome::NotPermitted
    );
    let closed = Layers::closed("the stored rules cannot be read");
    assert_eq!(decide(&closed, Role::Admin, call("m")).0, Outcome::Broken);
}

#[test]
fn a_tenant_forbids_by_role_person_token_resource_and_circumstance() {
    let layers = under(
        r#"
        @id("no-code-for-apps") forbid (principal in Role::"app", action == Action::"run_code", resource);
        @id("not-alice") forbid (principal in Person::"alice", action, resource == Tool::"wire");
        @id("not-this-key") forbid (principal == Token::"ci", action == Action::"open_terminal", resource);
        @id("europe-only") forbid (principal, action == Action::"call_model", resource)
        unless { resource.regions.containsAny(["eu"]) };
        @id("no-secrets") forbid (principal, action in [Action::"read_file", Action::"write_file"], resource)
        when { resource.path like "secrets/*" };
        "#,
    );
    let code = Act::RunCode { runtime: "python" };
    let said = |role, act| decide(&layers, role, act);
    let forbidden = |rule: &str| (Outcome::Forbidden, rule.to_owned());
    assert_eq!(said(Role::App, code), forbidden("tenant.no-code-for-apps"));
    assert_eq!(said(Role::Member, code).0, allowed());
    let tool = |tool| Act::InvokeTool { tool };
    assert_eq!(
        said(Role::Admin, tool("wire")),
        forbidden("tenant.not-alice")
    );
    assert_eq!(said(Role::Admin, tool("wires")).0, allowed());
    let terminal = Act::OpenTerminal { kind: "shell" };
    assert_eq!(
        said(Role::Admin, terminal),
        forbidden("tenant.not-this-key")
    );
    let elsewhere = Act::CallModel {
        model: "m",
        providers: &[],
        regions: &AMERICA,
        operation: "chat.completions",
        stream: true,
        tools: true,
    };
    assert_eq!(said(Role::App, elsewhere), forbidden("tenant.europe-only"));
    assert_eq!(said(Role::App, call("m")).0, allowed());
    let path = |path| Act::WriteFile { path };
    assert_eq!(
        said(Role::App, path("secrets/key")),
        forbidden("tenant.no-secrets")
    );
    assert_eq!(said(Role::App, path("notes/secrets/key")).0, allowed());
}

#[test]
fn what_a_list_hides_looks_absent_to_whoever_may_call() {
    let list = ModelList::from(vec!["small".to_owned(), "qu\"ote \\ \u{1F600}".to_owned()]);
    let own = tenant(
        "forbid (principal, action == Action::\"call_model\", resource == Model::\"small\");",
    );
    let layers = Layers::new(vec![base(), list.rules().unwrap(), own]);
    assert_eq!(
        decide(&layers, Role::App, call("large")),
        (Outcome::Absent, "models.visible".to_owned())
    );
    assert_eq!(
        decide(&layers, Role::App, call("qu\"ote \\ \u{1F600}")).0,
        allowed()
    );
    assert_eq!(
        decide(&layers, Role::App, call("small")).0,
        Outcome::Forbidden
    );
    // Whoever may call nothing learns nothing from what it is told.
    for model in ["small", "large"] {
        assert_eq!(
            decide(&layers, Role::Auditor, call(model)).0,
            Outcome::NotPermitted
        );
    }
    let nothing = Layers::new(vec![base(), ModelList::from(Vec::new()).rules().unwrap()]);
    assert_eq!(
        decide(&nothing, Role::Admin, call("small")).0,
        Outcome::Absent
    );
}

#[test]
fn a_list_of_a_thousand_models_is_a_rule() {
    let names: Vec<String> = (0..1_000).map(|n| format!("provider/model-{n}")).collect();
    let list = ModelList::from(names);
    let layers = Layers::new(vec![base(), list.rules().unwrap()]);
    assert_eq!(
        decide(&layers, Role::App, call("provider/model-999")).0,
        allowed()
    );
    assert_eq!(
        decide(&layers, Role::App, call("provider/model-1000")).0,
        Outcome::Absent
    );
}

#[test]
fn obligations_lift_and_the_strictest_holds() {
    let layers = under(
        r#"
        @id("ask") @require_approval("admin, member") forbid (principal, action == Action::"run_code", resource);
        @id("ask-admins") @require_approval forbid (principal, action == Action::"run_code", resource == Runtime::"shell");
        @id("minute") @cap("seconds=60") forbid (principal, action == Action::"run_code", resource);
        @id("half") @cap("seconds=30") forbid (principal in Role::"app", action == Action::"run_code", resource);
        @id("short") @cap("max_tokens=100") forbid (principal, action == Action::"call_model", resource);
        @id("auditors") @require_approval("auditor") forbid (principal, action == Action::"egress", resource);
        @id("members") @require_approval("member") forbid (principal, action == Action::"egress", resource);
        "#,
    );
    let (Outcome::Allowed(python), rules) =
        decide(&layers, Role::App, Act::RunCode { runtime: "python" })
    else {
        panic!("not allowed");
    };
    assert_eq!(python.approvers(), Some(&[Role::Admin, Role::Member][..]));
    assert_eq!(
        (python.cap(Cap::Seconds), python.cap(Cap::MaxTokens)),
        (Some(30), None)
    );
    assert_eq!(
        rules,
        "base.callers-work tenant.ask tenant.minute tenant.half"
    );
    let (Outcome::Allowed(shell), _) =
        decide(&layers, Role::Member, Act::RunCode { runtime: "shell" })
    else {
        panic!("not allowed");
    };
    assert_eq!(
        (shell.approvers(), shell.cap(Cap::Seconds)),
        (Some(&[Role::Admin][..]), Some(60))
    );
    let (Outcome::Allowed(short), _) = decide(&layers, Role::Member, call("m")) else {
        panic!("not allowed");
    };
    assert_eq!(
        (short.approvers(), short.cap(Cap::MaxTokens)),
        (None, Some(100))
    );
    // Nobody could approve for both.
    assert_eq!(
        decide(&layers, Role::Member, Act::Egress { host: "h", port: 1 }).0,
        Outcome::Forbidden
    );
}

#[test]
fn a_rule_that_cannot_be_evaluated_denies() {
    // Ports are small numbers: this overflows for every one of them above 1.
    let layers = under(
        "@id(\"sum\") forbid (principal, action == Action::\"egress\", resource) when { resource.port * 9223372036854775807 > 0 };",
    );
    let egress = |port| Act::Egress { host: "h", port };
    assert_eq!(
        decide(&layers, Role::Admin, egress(443)),
        (Outcome::Broken, "tenant.sum".to_owned())
    );
    assert_eq!(decide(&layers, Role::Admin, egress(0)).0, allowed());
}

#[test]
fn rules_hold_from_and_until_their_moments() {
    let layers = under(
        r#"@id("freeze") @from("2026-12-24T00:00:00Z") @until("2027-01-02T00:00:00Z")
        forbid (principal, action == Action::"change_config", resource);"#,
    );
    let request = Request {
        principal: by(Role::Admin),
        act: Act::ChangeConfig { setting: "policy" },
    };
    let at = |text: &str| {
        let decision = layers.decide(&request, Timestamp::parse(text).unwrap());
        decision.outcome == allowed()
    };
    assert!(at("2026-12-23T23:59:59.999Z"));
    assert!(!at("2026-12-24T00:00:00Z"));
    assert!(!at("2027-01-01T23:59:59.999Z"));
    assert!(at("2027-01-02T00:00:00Z"));
    // A clock that goes back finds what held then.
    assert!(at("2026-12-01T00:00:00Z"));
}

/// Rules that are none, and a part of what is said of each.
const WRONG: &[(&str, &str)] = &[
    (
        "forbid (principal == Person::\"bob\", action, resource);",
        "line 1: ",
    ),
    (
        "@cap(\"max_tokens=0\") forbid (principal, action == Action::\"call_model\", resource);",
        "a cap of 0 allows nothing",
    ),
    (
        "permit (principal, action, resource);",
        "line 1: only the operator's base rules permit",
    ),
    (
        "\n\nforbid (principal, action == Action::\"fly\", resource);",
        "line 3: ",
    ),
    (
        "forbid (principal in Rol::\"app\", action, resource);",
        "line 1: ",
    ),
    (
        "forbid (principal, action == Action::\"run_code\", resource) when { resource.path == \"\" };",
        "line 1: ",
    ),
    (
        "forbid (principal, action == Action::\"run_code\", resource == File::\"a\");",
        "line 1: ",
    ),
    (
        "@ids(\"x\") forbid (principal, action, resource);",
        "line 1: @ids is unknown; use id, description",
    ),
    (
        "@id(\"a b\") forbid (principal, action, resource);",
        "line 1: @id: must be 1 to 64",
    ),
    (
        "@cap(\"max_tokens=5\") forbid (principal, action, resource);",
        "@cap: retrieve has no max_tokens",
    ),
    (
        "@cap(\"max_tokens=-5\") forbid (principal, action == Action::\"call_model\", resource);",
        "@cap: must be",
    ),
    (
        "@require_approval(\"boss\") forbid (principal, action, resource);",
        "\"boss\" is no role",
    ),
    (
        "@from(\"tomorrow\") forbid (principal, action, resource);",
        "\"tomorrow\" is no moment",
    ),
    (
        "@id(\"a\") forbid (principal, action, resource);\n@id(\"a\") forbid (principal, action, resource);",
        "line 2: two rules have the id \"a\"",
    ),
    (
        "forbid (principal == ?principal, action, resource);",
        "line 1: ",
    ),
    (
        "forbid (principal, action, resource) when { false };",
        "line 1: ",
    ),
    (
        "@answer(\"absent\") @cap(\"seconds=1\") forbid (principal, action == Action::\"run_code\", resource);",
        "what is hidden cannot be lifted",
    ),
];

#[test]
fn what_is_wrong_with_a_rule_is_said_by_line() {
    for (text, expected) in WRONG {
        let said = refused(text);
        assert!(said.contains(expected), "{text}\n{said}");
        assert!(!said.contains("policy `"), "{said}");
    }
    let wrong = Rules::read(
        Origin::Base,
        "@cap(\"seconds=1\") permit (principal, action, resource);",
    );
    assert!(
        wrong
            .unwrap_err()
            .to_string()
            .contains("@cap belongs on a forbid rule")
    );
}

/// Texts that are made to take a parser or a checker down.
#[test]
fn hostile_texts_are_refused_or_read_and_harm_nothing() {
    let in_rule =
        |condition: &str| format!("forbid (principal, action, resource) when {{ {condition} }};");
    let texts = [
        "(".repeat(60_000),
        "forbid".repeat(10_000),
        in_rule(&"!".repeat(3_000)),
        in_rule(&format!("{}true", "-".repeat(3_000))),
        in_rule(&format!("{}true", "if true then true else ".repeat(170))),
        in_rule(&vec!["true"; 600].join(" && ")),
        in_rule(&vec!["1"; 1_500].join("+")),
        in_rule(&format!("principal{}", ".a".repeat(1_800))),
        in_rule(&format!("context{}", "[\"a\"]".repeat(700))),
        in_rule(&format!(
            "\"{}\" like \"{}b\"",
            "a".repeat(1_500),
            "a*".repeat(900)
        )),
        in_rule(&format!("[{}].contains(1)", "1,".repeat(1_900))),
        "\"".to_owned(),
        "\u{0}\u{1}\u{fffe};".to_owned(),
        "@a(\"".repeat(500),
        in_rule("\"\u{202e}\" == \"x\""),
    ];
    for text in texts {
        let Ok(rules) = Rules::read(Origin::Tenant, &text) else {
            continue;
        };
        let layers = Layers::new(vec![base(), Arc::new(rules)]);
        // On a thread like those that serve: it denies, or it decides.
        let (outcome, _) = decide(&layers, Role::Admin, call("m"));
        assert!(matches!(
            outcome,
            Outcome::Forbidden | Outcome::Broken | Outcome::Allowed(_)
        ));
    }
}

#[test]
fn the_version_follows_the_text_and_nothing_else() {
    let version = |own: &str| under(own).version().to_string();
    let a = "forbid (principal, action == Action::\"run_code\", resource);";
    assert_eq!(version(a), version(a));
    assert_ne!(version(a), version(""));
    assert_ne!(version(a), version(&a.replace("run_code", "egress")));
    let as_base = Layers::new(vec![
        base(),
        Arc::new(Rules::read(Origin::Base, a).unwrap()),
    ]);
    assert_ne!(version(a), as_base.version().to_string());
    assert_eq!(version(a).len(), 16);
}

#[test]
fn a_document_is_tested_with_its_own_examples() {
    let document = Document::read(
        r#"
policy: |
  @id("no-code") forbid (principal in Role::"app", action == Action::"run_code", resource);
  @id("ask") @require_approval("admin") forbid (principal, action == Action::"write_file", resource)
  when { resource.path like "published/*" };
tests:
  - { name: apps run nothing, as: { role: app, token: ci }, action: run_code, resource: python, expect: deny, rule: tenant.no-code }
  - { name: members run, as: { role: member, token: t, person: alice }, action: run_code, resource: python, expect: allow }
  - { name: publishing asks, as: { role: member, token: ci }, action: write_file, resource: published/a, expect: require_approval }
  - { name: wrong on purpose, as: { role: app, token: ci }, action: run_code, resource: python, expect: allow }
  - { name: wrong rule, as: { role: app, token: ci }, action: run_code, resource: python, expect: deny, rule: tenant.other }
  - { name: no such action, as: { role: app, token: ci }, action: fly, resource: moon, expect: deny }
"#,
    )
    .unwrap();
    let failed = policy::run_examples(&under(&document.policy), &document.tests, NOW);
    let said: Vec<(&str, &str)> = failed
        .iter()
        .map(|failed| (failed.name.as_str(), failed.message.as_str()))
        .collect();
    assert_eq!(said.len(), 3, "{said:?}");
    assert_eq!(
        said[0],
        (
            "wrong on purpose",
            "expected allow, got deny by tenant.no-code"
        )
    );
    assert_eq!(said[1].0, "wrong rule");
    assert!(said[2].1.contains("\"fly\" is none of call_model"));
}

#[test]
fn a_document_that_is_not_one_is_refused_by_line() {
    assert_eq!(Document::read("# nothing\n").unwrap(), Document::default());
    for (text, expected) in [
        ("rules: x", "rules"),
        ("policy: a\npolicy: b", "policy"),
        ("policy: &a x\ntests: *a", ""),
        (
            "tests:\n  - { name: a, as: { role: boss, token: x }, action: a, resource: b, expect: deny }",
            "as.role",
        ),
        (
            "tests:\n  - { name: a, as: { role: app }, action: a, resource: b, expect: deny }",
            "token",
        ),
        (
            "tests:\n  - { name: a, as: { role: app, token: x }, action: a, resource: b, expect: maybe }",
            "maybe",
        ),
        (
            "tests:\n  - { name: a, as: { role: app, token: x }, action: a, resource: b, expect: deny, at: noon }",
            "noon",
        ),
    ] {
        let said = Document::read(text).unwrap_err().to_string();
        assert!(said.contains(expected), "{text}: {said}");
    }
    assert!(
        Document::read(&"#".repeat(300_000))
            .unwrap_err()
            .to_string()
            .contains("262144")
    );
}

fn rule() -> impl Strategy<Value = String> {
    let principal = prop_oneof![
        Just("principal".to_owned()),
        prop_oneof![Just("admin"), Just("app"), Just("auditor")]
            .prop_map(|role| format!("principal in Role::\"{role}\"")),
        Just("principal == Token::\"ci\"".to_owned()),
    ];
    let action = prop_oneof![
        Just("action".to_owned()),
        Just("action == Action::\"call_model\"".to_owned()),
        Just("action in [Action::\"run_code\", Action::\"read_audit\"]".to_owned()),
    ];
    let annotation = prop_oneof![
        Just(""),
        Just("@require_approval(\"admin\")"),
        Just("@answer(\"absent\")"),
        Just("@until(\"2026-01-01T00:00:00Z\")"),
    ];
    let effect = prop_oneof![9 => Just("forbid"), 1 => Just("permit")];
    (principal, action, annotation, effect).prop_map(|(principal, action, annotation, effect)| {
        format!("{annotation} {effect} ({principal}, {action}, resource);\n")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a tenant writes, nothing becomes allowed that was not.
    #[test]
    fn a_tenants_rules_only_narrow(rules in proptest::collection::vec(rule(), 0..6)) {
        let text: String = rules.concat();
        let before = Layers::new(vec![base()]);
        let Ok(own) = Rules::read(Origin::Tenant, &text) else {
            prop_assert!(text.contains("permit "), "{text}");
            return Ok(());
        };
        let after = Layers::new(vec![base(), Arc::new(own)]);
        for role in Role::ALL {
            for act in [call("m"), Act::RunCode { runtime: "python" }, Act::ReadAudit { log: "audit" }, Act::ChangeConfig { setting: "policy" }] {
                let (was, _) = decide(&before, role, act);
                let (is, _) = decide(&after, role, act);
                if let Outcome::Allowed(_) = is {
                    prop_assert_eq!(was, allowed());
                }
            }
        }
    }

    #[test]
    fn reading_never_panics(text in "\\PC{0,300}") {
        drop(Rules::read(Origin::Tenant, &text));
        drop(Document::read(&text));
    }
}
