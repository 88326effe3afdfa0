use super::*;
use crate::upstream::Reach;

pub(crate) fn spec(name: &str, kind: ProviderKind, base_url: &str) -> ProviderSpec {
    ProviderSpec {
        name: name.to_owned(),
        kind,
        base_url: base_url.to_owned(),
        allow_private: false,
        timeouts: Timeouts::default(),
        hang_up: HangUp::default(),
        region: None,
        max_output_field: None,
        ca: None,
        line: crate::fair::LineSpec::default(),
    }
}

pub(crate) fn provider(name: &str) -> Arc<Provider> {
    Arc::new(
        Provider::new(spec(
            name,
            ProviderKind::OpenAi,
            "https://api.example.com/v1",
        ))
        .unwrap(),
    )
}

pub(crate) fn name(text: &str) -> ModelName {
    text.parse().unwrap()
}

pub(crate) fn model(model: &str, routes: &[(&str, u32)], fallback: &[&str]) -> Model {
    Model {
        name: name(model),
        routes: routes
            .iter()
            .map(|(at, weight)| Route {
                provider: provider(at),
                model: model.into(),
                weight: *weight,
            })
            .collect(),
        fallback: fallback.iter().map(|to| name(to)).collect(),
    }
}

#[test]
fn base_urls() {
    use ProviderKind::{Anthropic, OpenAi};
    for (kind, url, origin, path) in [
        (
            OpenAi,
            "https://api.openai.com/v1",
            "https://api.openai.com",
            "/v1",
        ),
        (
            OpenAi,
            "https://API.OpenAI.com:443/v1/",
            "https://api.openai.com",
            "/v1",
        ),
        (
            OpenAi,
            "https://api.groq.com/openai/v1",
            "https://api.groq.com",
            "/openai/v1",
        ),
        (
            OpenAi,
            "http://127.0.0.1:11434/v1",
            "http://127.0.0.1:11434",
            "/v1",
        ),
        (OpenAi, "http://localhost:80/v1", "http://localhost", "/v1"),
        (OpenAi, "http://[::1]:8000/v1", "http://[::1]:8000", "/v1"),
        (
            Anthropic,
            "https://api.anthropic.com",
            "https://api.anthropic.com",
            "",
        ),
        (
            Anthropic,
            "https://api.anthropic.com/",
            "https://api.anthropic.com",
            "",
        ),
    ] {
        let provider = Provider::new(spec("p", kind, url)).unwrap();
        assert_eq!(
            (provider.origin().to_string().as_str(), provider.base_path()),
            (origin, path),
            "{url}"
        );
    }
}

#[test]
fn base_urls_that_are_not_plainly_right_are_refused() {
    use ProviderKind::{Anthropic, OpenAi};
    for (kind, url) in [
        (OpenAi, "https://api.openai.com"),
        (OpenAi, "https://api.openai.com/v2"),
        (OpenAi, "http://api.openai.com/v1"),
        (OpenAi, "ftp://api.openai.com/v1"),
        (OpenAi, "HTTPS://api.openai.com/v1"),
        (OpenAi, "https://user:pass@api.openai.com/v1"),
        (OpenAi, "https://api.openai.com/v1?key=1"),
        (OpenAi, "https://api.openai.com?/v1"),
        (OpenAi, "https://api.openai.com/v1#x"),
        (OpenAi, "https://api.openai.com/../v1"),
        (OpenAi, "https://api.openai.com//v1"),
        (OpenAi, "https://api.openai.com/%2e/v1"),
        (OpenAi, "https:///v1"),
        (OpenAi, "https://a b/v1"),
        (OpenAi, "https://exa%6dple.com/v1"),
        (OpenAi, "https://a..b/v1"),
        (OpenAi, "https://a:0/v1"),
        (OpenAi, "https://a:99999/v1"),
        (OpenAi, "https://a:+1/v1"),
        (OpenAi, "https://[::1/v1"),
        (OpenAi, "https://[fe80::1%25eth0]/v1"),
        (OpenAi, "https://a\\@b/v1"),
        (OpenAi, "https://ä.example/v1"),
        (Anthropic, "https://api.anthropic.com/v1"),
    ] {
        assert!(Provider::new(spec("p", kind, url)).is_err(), "{url}");
    }
}

#[test]
fn reach_follows_host_and_permission() {
    let reach = |url: &str, allow_private| {
        Provider::new(ProviderSpec {
            allow_private,
            ..spec("p", ProviderKind::OpenAi, url)
        })
        .map(|p| p.reach())
    };
    assert_eq!(
        reach("https://api.example.com/v1", false),
        Ok(Reach::Public)
    );
    assert_eq!(reach("http://localhost:1/v1", false), Ok(Reach::Loopback));
    assert_eq!(
        reach("http://vllm.internal:8000/v1", true),
        Ok(Reach::Private)
    );
    assert!(reach("http://10.0.0.7:8000/v1", false).is_err());
}

#[test]
fn references_hold_or_the_catalog_is_refused() {
    let build = |models: Vec<Model>, tasks: &[(&str, &str)]| {
        let tasks = tasks
            .iter()
            .map(|(task, to)| ((*task).to_owned(), name(to)))
            .collect();
        Catalog::new(vec![provider("a")], models, tasks)
    };
    let catalog = build(
        vec![
            model("m", &[("a", 1)], &["n"]),
            model("n", &[("a", 1)], &[]),
        ],
        &[("draft", "n")],
    )
    .unwrap();
    let none = BTreeMap::new();
    assert_eq!(
        catalog.resolve("m", &none).map(|m| m.name.as_str()),
        Some("m")
    );
    assert_eq!(
        catalog.resolve("draft", &none).map(|m| m.name.as_str()),
        Some("n")
    );
    let own = BTreeMap::from([("draft".to_owned(), "m".to_owned())]);
    assert_eq!(
        catalog.resolve("draft", &own).map(|m| m.name.as_str()),
        Some("m")
    );
    assert!(catalog.resolve("x", &none).is_none());
    let seen: Vec<_> = catalog
        .visible(|name| name == "n")
        .map(|m| m.name.as_str())
        .collect();
    assert_eq!(seen, ["n"]);
    assert_eq!(catalog.visible(|_| true).count(), 2);

    assert!(build(vec![model("m", &[("a", 1)], &["n"])], &[]).is_err());
    assert!(build(vec![model("m", &[("a", 0)], &[])], &[]).is_err());
    assert!(build(vec![model("m", &[], &[])], &[]).is_err());
    assert!(
        build(
            vec![model("m", &[("a", 1)], &[]), model("m", &[("a", 1)], &[])],
            &[]
        )
        .is_err()
    );
    assert!(build(vec![model("m", &[("a", 1)], &[])], &[("t", "n")]).is_err());
    assert!(Catalog::new(vec![provider("a"), provider("a")], vec![], BTreeMap::new()).is_err());
}
