//! The table itself, and how a path finds its line.

use std::collections::HashSet;

use super::*;
use crate::tests::example;

#[test]
fn every_line_is_complete_and_unique() {
    let mut seen = HashSet::new();
    for route in TABLE {
        assert!(
            seen.insert((route.listener, route.method.clone(), route.path)),
            "{} twice",
            route.path
        );
        assert!(
            route.path.starts_with('/') && !route.path.ends_with('/'),
            "{}",
            route.path
        );
        match (route.access, route.handler, route.listener) {
            (Access::Public, Handler::Healthz | Handler::Readyz, _) => {}
            (
                Access::Tenant { roles },
                Handler::Call(_) | Handler::Tenant(_) | Handler::Rpc | Handler::RpcSocket,
                Listener::Public,
            ) => {
                assert!(!roles.is_empty(), "{} admits nobody", route.path);
            }
            (Access::Operator, Handler::Admin(_), Listener::Admin) => {}
            other => panic!("{}: {other:?}", route.path),
        }
        for name in route
            .path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        {
            assert!(
                route.objects.contains(&name),
                "{} does not list {name}",
                route.path
            );
        }
    }
}

#[test]
fn access_is_printed_for_programs() {
    let views = views();
    assert_eq!(views.len(), TABLE.len() + rpc::method::METHODS.len());
    let access = |path: &str| {
        views
            .iter()
            .find(|view| view.path == path)
            .unwrap()
            .access
            .clone()
    };
    assert_eq!(access("/healthz"), "public");
    assert_eq!(access("/v1/chat/completions"), "tenant:admin,member,app");
    assert_eq!(access("/admin/v1/tenants"), "operator");
    assert_eq!(access("/rpc#secrets.set"), "tenant:admin");
}

#[test]
fn each_line_finds_itself() {
    for route in TABLE {
        let path = example(route.path);
        match find(route.listener, &route.method, &path) {
            Found::Route(found, _) => {
                assert_eq!((found.path, &found.method), (route.path, &route.method))
            }
            other => panic!("{path}: {other:?}"),
        }
    }
}

#[test]
fn parameters_are_decoded_and_bounded() {
    let Found::Route(_, params) = find(
        Listener::Admin,
        &Method::DELETE,
        "/admin/v1/tenants/acme/tokens/c%69",
    ) else {
        panic!("no route");
    };
    assert_eq!(
        (params.at(0), params.at(1), params.at(2)),
        ("acme", "ci", "")
    );
    let Found::Route(_, params) = find(Listener::Public, &Method::GET, "/v1/models/meta/llama%203")
    else {
        panic!("no route");
    };
    assert_eq!(params.at(0), "meta/llama 3");
}

#[test]
fn what_is_not_in_the_table_is_not_found() {
    for path in [
        "/",
        "",
        "*",
        "/v1",
        "/v1/",
        "/v1/models/",
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/V1/models",
        "/v1/%6dodels",
        "/v1/models/%ff",
        "/v1/models/%2",
        "/admin/v1/tenants",
        "/v1/chat/../models",
        "/v1/models;x=1",
    ] {
        assert!(
            matches!(find(Listener::Public, &Method::GET, path), Found::Nothing),
            "{path}"
        );
    }
    for path in [
        "/v1/models",
        "/tenant/v1/usage",
        "/admin/v1/tenants/",
        "/admin/v1/tenants//tokens",
        "/admin/v1/tenants/a/b",
    ] {
        assert!(
            matches!(find(Listener::Admin, &Method::GET, path), Found::Nothing),
            "{path}"
        );
    }
}

#[test]
fn another_method_is_told_what_is_allowed() {
    for route in TABLE {
        let path = example(route.path);
        let Found::OtherMethod(allow) = find(route.listener, &Method::PUT, &path) else {
            panic!("{path}")
        };
        let mut expected: Vec<_> = TABLE
            .iter()
            .filter(|other| (other.listener, other.path) == (route.listener, route.path))
            .map(|other| other.method.as_str())
            .collect();
        expected.sort_by_key(|method| *method != "GET");
        assert_eq!(allow, expected.join(", "), "{path}");
    }
}

#[test]
fn errors_speak_the_dialect_of_the_path() {
    for (path, dialect) in [
        ("/v1/messages", Dialect::Anthropic),
        ("/v1/messages/count_tokens", Dialect::Anthropic),
        ("/v1/messagesx", Dialect::OpenAi),
        ("/v1/models", Dialect::OpenAi),
        ("/", Dialect::OpenAi),
    ] {
        assert_eq!(dialect_of(path), dialect, "{path}");
    }
}
