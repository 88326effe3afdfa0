//! Both listeners over real sockets.

use super::*;
use crate::routes::{Access, Listener, TABLE};

/// The body without what may differ between two refusals: the request id, which Anthropic's shape repeats.
fn bare(wire: &Wire) -> String {
    let id = wire.header("x-request-id").unwrap_or_default();
    wire.body.replace(id, "ID")
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_one_side_open_nothing_on_the_other() {
    let house = House::open().await;
    let token = house.tenant("acme").await.token.expose().to_owned();
    let strangers = [
        "authorization: Bearer nothing".to_owned(),
        format!("authorization: Bearer tk_acme_{}", "0".repeat(32)),
        format!("x-api-key: tk_nobody_{}", "0".repeat(32)),
        format!("authorization: Bearer pk_{}", "0".repeat(32)),
    ];
    for route in TABLE
        .iter()
        .filter(|route| route.access() != Access::Public)
    {
        let (at, wrong) = match route.listener() {
            Listener::Public => (house.public(), &house.operator_key),
            Listener::Admin => (house.admin(), &token),
        };
        let line = format!("{} {}", route.method(), example(route.path()));
        let absent = call(at, &line, &[], "").await;
        assert_eq!(absent.status, 401, "{line}: {}", absent.body);
        let mut credentials = vec![
            format!("authorization: Bearer {wrong}"),
            format!("x-api-key: {wrong}"),
        ];
        credentials.extend(strangers.iter().cloned());
        for credential in credentials {
            let refused = call(at, &line, &[&credential], "").await;
            assert_eq!(
                (refused.status, bare(&refused)),
                (401, bare(&absent)),
                "{line} with {credential}"
            );
            assert_ne!(
                refused.header("x-request-id"),
                absent.header("x-request-id")
            );
        }
    }
    let mut house = house;
    house.stopped().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_those_of_the_table() {
    let house = House::open().await;
    house.tenant("acme").await;
    for role in base::Role::ALL {
        let issue = Command::TokenIssue {
            id: "acme".parse().unwrap(),
            name: format!("as-{role}").parse().unwrap(),
            role,
            person: None,
            expires: None,
        };
        let (_, Ok(Answer::Issued(issued))) = house.ask(issue).await else {
            panic!("{role}")
        };
        let credential = format!("authorization: Bearer {}", issued.token.expose());
        for route in TABLE
            .iter()
            .filter(|route| route.listener() == Listener::Public)
        {
            let Access::Tenant { roles } = route.access() else {
                continue;
            };
            let line = format!("{} {}", route.method(), example(route.path()));
            let call_of_any_kind = r#"{"model":"sim-fast","messages":[{"role":"user","content":"x"}],"max_tokens":5,"input":"x"}"#;
            let body = if route.method() == http::Method::POST {
                call_of_any_kind
            } else {
                ""
            };
            let answer = call(
                house.public(),
                &line,
                &[&credential, "content-type: application/json"],
                body,
            )
            .await;
            assert_eq!(
                answer.status != 403,
                roles.contains(&role),
                "{line} as {role}: {} {}",
                answer.status,
                answer.body
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_a_request_id_and_only_known_headers() {
    let house = House::open().await;
    let (public, admin) = (house.public(), house.admin());
    let known = [
        "content-type",
        "cache-control",
        "x-request-id",
        "content-length",
        "date",
        "allow",
        "connection",
        "x-should-retry",
        "www-authenticate",
        "retry-after",
    ];
    for (at, line, status) in [
        (public, "GET /healthz", 200),
        (public, "GET /readyz", 200),
        (admin, "GET /healthz", 200),
        (public, "GET /nothing", 404),
        (public, "GET /admin/v1/tenants", 404),
        (admin, "GET /v1/models", 404),
        (public, "POST /v1/messages/count_tokens", 404),
        (public, "DELETE /v1/models", 405),
        (admin, "PUT /admin/v1/tenants", 405),
        (public, "GET /v1/models", 401),
        (public, "GET http://localhost/v1/models", 400),
    ] {
        let answer = call(at, line, &[], "").await;
        assert_eq!(answer.status, status, "{line}: {}", answer.body);
        assert!(
            answer
                .header("x-request-id")
                .is_some_and(|id| id.starts_with("req_") && id.len() == 36),
            "{line}"
        );
        for header in answer.head.lines().skip(1) {
            let name = header.split(':').next().unwrap();
            assert!(known.contains(&name), "{line}: {header}");
        }
    }
    let wrong_method = call(admin, "PUT /admin/v1/tenants", &[], "").await;
    assert_eq!(wrong_method.header("allow"), Some("GET, POST"));
    let anthropic = call(public, "GET /v1/messages/x", &[], "").await;
    assert_eq!(json(&anthropic)["type"], "error");
    assert!(json(&call(public, "GET /x", &[], "").await)["error"]["message"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_and_targets_that_could_be_read_twice_are_refused() {
    let house = House::open().await;
    for request in [
        "GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nhost: x/?#\r\nconnection: close\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    ] {
        assert_eq!(raw(house.public(), request).await.status, 400, "{request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_its_models_settings_usage_and_log() {
    let house = House::open().await;
    let acme = house.tenant("acme").await;
    let key = format!("authorization: Bearer {}", acme.token.expose());
    let get = async |path: &str, extra: &str| {
        call(house.public(), &format!("GET {path}"), &[&key, extra], "").await
    };

    let models = json(&get("/v1/models", "accept: */*").await);
    let names: Vec<_> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|model| model["id"].as_str())
        .collect();
    assert_eq!(
        (models["object"].as_str(), names),
        (Some("list"), vec!["sim-fast"])
    );
    let models = json(&get("/v1/models?limit=1", "anthropic-version: 2023-06-01").await);
    assert_eq!(
        (&models["first_id"], &models["has_more"]),
        (&"sim-fast".into(), &false.into())
    );
    assert_eq!(
        json(&get("/v1/models/sim-fast", "accept: */*").await)["object"],
        "model"
    );
    let hidden = get("/v1/models/meta/hidden", "accept: */*").await;
    let absent = get("/v1/models/meta/absent", "accept: */*").await;
    assert_eq!(
        (hidden.status, json(&hidden)["error"]["code"].as_str()),
        (404, Some("model_not_found"))
    );
    assert_eq!(hidden.body, absent.body.replace("absent", "hidden"));

    let body = r#"{"model":"sim-fast","messages":[{"role":"user","content":"hello"}]}"#;
    let headers = [key.as_str(), "content-type: application/json"];
    let reply = call(house.public(), "POST /v1/chat/completions", &headers, body).await;
    assert_eq!(reply.status, 200, "{}", reply.body);

    let usage = json(&get("/tenant/v1/usage?detail=1", "accept: */*").await);
    assert_eq!(
        usage[0]["request_id"].as_str(),
        reply.header("x-request-id")
    );
    let csv = get("/tenant/v1/usage?format=csv", "accept: */*").await;
    assert_eq!(csv.body.lines().count(), 2, "{}", csv.body);
    assert!(
        csv.body
            .starts_with("date,tenant,model,tokens_in,tokens_out,cost_usd\n"),
        "{}",
        csv.body
    );
    assert_eq!(
        get("/tenant/v1/usage?tenant=globex", "accept: */*")
            .await
            .status,
        400
    );
    assert_eq!(
        get("/tenant/v1/usage?from=yesterday", "accept: */*")
            .await
            .status,
        400
    );

    let config = json(&get("/tenant/v1/config", "accept: */*").await);
    assert_eq!(
        (config["tenant"].as_str(), &config["max_tokens_cap"]),
        (Some("acme"), &2000.into())
    );
    let log = json(&get("/tenant/v1/audit?limit=1", "accept: */*").await);
    assert_eq!(
        (&log["entries"][0]["tenant"], &log["next"]),
        (&"acme".into(), &1.into())
    );
}

impl House {
    async fn admin_call(&self, line: &str, body: &str) -> Wire {
        let key = format!("x-api-key: {}", self.operator_key);
        call(
            self.admin(),
            line,
            &[&key, "content-type: application/json"],
            body,
        )
        .await
    }

    async fn status_of_models(&self, token: &str) -> u16 {
        let key = format!("api-key: {token}");
        call(self.public(), "GET /v1/models", &[&key], "")
            .await
            .status
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_creates_reads_and_deletes_tenants() {
    let house = House::open().await;
    let full = r#"{"id":"acme","tier":"pro","limits":{"tokens_per_day":5}}"#;
    for (line, body, status) in [
        ("POST /admin/v1/tenants", full, 201),
        ("POST /admin/v1/tenants", r#"{"id":"acme"}"#, 409),
        ("POST /admin/v1/tenants", r#"{"id":"../x"}"#, 400),
        ("POST /admin/v1/tenants", r#"{"id":"b","role":"root"}"#, 400),
        ("POST /admin/v1/tenants", r#"{"id":"b","tier":"none"}"#, 404),
        ("GET /admin/v1/tenants/nobody", "", 404),
        ("GET /admin/v1/usage?tenant=nobody", "", 404),
        ("DELETE /admin/v1/tenants/acme", "", 400),
        ("DELETE /admin/v1/tenants/acme?confirm=other", "", 409),
    ] {
        let answer = house.admin_call(line, body).await;
        assert_eq!(answer.status, status, "{line} {body}: {}", answer.body);
    }
    assert_eq!(
        json(&house.admin_call("GET /admin/v1/tenants", "").await)[0]["id"],
        "acme"
    );
    let shown = json(&house.admin_call("GET /admin/v1/tenants/acme", "").await);
    assert_eq!(
        (&shown["tier"], &shown["limits"]["tokens_per_day"]),
        (&"pro".into(), &5.into())
    );
    let usage = house.admin_call("GET /admin/v1/usage?format=csv", "").await;
    assert_eq!(
        usage.body,
        "date,tenant,model,tokens_in,tokens_out,cost_usd\n"
    );
    let providers = house.admin_call("GET /admin/v1/providers", "").await;
    assert!(json(&providers)[0]["name"] == "sim" && !providers.body.contains("sk-sim"));
    let deleted = house
        .admin_call("DELETE /admin/v1/tenants/acme?confirm=acme", "")
        .await;
    assert_eq!(deleted.status, 200, "{}", deleted.body);
    assert_eq!(
        house
            .admin_call("GET /admin/v1/tenants/acme", "")
            .await
            .status,
        404
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_runs_tokens_and_status_and_both_bite_at_once() {
    let house = House::open().await;
    let first = house.tenant("acme").await.token.expose().to_owned();
    let token = |wire: &Wire| json(wire)["token"].as_str().unwrap().to_owned();
    let issue = r#"{"name":"ci","role":"app","expires":"30d"}"#;
    let issued = house
        .admin_call("POST /admin/v1/tenants/acme/tokens", issue)
        .await;
    assert_eq!(issued.status, 201, "{}", issued.body);
    let listed = json(
        &house
            .admin_call("GET /admin/v1/tenants/acme/tokens", "")
            .await,
    );
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let rotated = house
        .admin_call("POST /admin/v1/tenants/acme/tokens/default/rotate", "")
        .await;
    let (ci, new) = (token(&issued), token(&rotated));
    for (token, status) in [(&first, 401), (&ci, 200), (&new, 200)] {
        assert_eq!(house.status_of_models(token).await, status);
    }
    assert_eq!(
        house
            .admin_call("DELETE /admin/v1/tenants/acme/tokens/ci", "")
            .await
            .status,
        200
    );
    assert_eq!(house.status_of_models(&ci).await, 401);
    let suspended = house
        .admin_call("POST /admin/v1/tenants/acme/suspend", "")
        .await;
    assert_eq!(json(&suspended)["status"], "suspended");
    assert_eq!(house.status_of_models(&new).await, 403);
    let resumed = house
        .admin_call("POST /admin/v1/tenants/acme/resume", "")
        .await;
    assert_eq!(json(&resumed)["status"], "active");
    assert_eq!(house.status_of_models(&new).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_limits_that_would_not_do_what_it_says_is_refused_by_name() {
    let house = House::open().await;
    house.tenant("acme").await;
    let set = async |body: &str| {
        house
            .admin_call("PATCH /admin/v1/tenants/acme/quota", body)
            .await
    };
    let fine = r#"{"scope":"token:default","tokens_per_day":7,"until":"2h"}"#;
    assert_eq!(set(fine).await.status, 200);
    let before = house
        .admin_call("GET /admin/v1/tenants/acme/quota", "")
        .await
        .body;
    for (body, status, named) in [
        ("{}", 400, "tier"),
        (r#"{"until":"2h"}"#, 400, "tokens_per_day"),
        (
            r#"{"tokens_per_day":null,"until":"2h"}"#,
            400,
            "tokens_per_day",
        ),
        (r#"{"tier":"pro","until":"2h"}"#, 400, "until"),
        (r#"{"tier":"pro","scope":"each-token"}"#, 400, "scope"),
        (
            r#"{"tokens_per_day":1,"until":"99999999999d"}"#,
            400,
            "year 9999",
        ),
        (r#"{"tokens_per_day":1,"until":"2922000d"}"#, 400, "until"),
        (
            r#"{"scope":"token:nosuch","tokens_per_day":1}"#,
            404,
            "nosuch",
        ),
        (
            r#"{"scope":"token:nosuch","tokens_per_day":null}"#,
            404,
            "nosuch",
        ),
    ] {
        let answer = set(body).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.body);
        assert!(answer.body.contains(named), "{body}: {}", answer.body);
    }
    let after = house
        .admin_call("GET /admin/v1/tenants/acme/quota", "")
        .await
        .body;
    assert_eq!(after, before);
    // A person is known by its first call only.
    let person = r#"{"scope":"person:ann","tokens_per_day":1}"#;
    assert_eq!(set(person).await.status, 200);
    for (line, body) in [
        (
            "POST /admin/v1/tenants/acme/tokens",
            r#"{"name":"ci","role":"app","expires":"2922000d"}"#,
        ),
        (
            "POST /admin/v1/tenants/acme/tokens/default/rotate",
            r#"{"grace":"2922000d"}"#,
        ),
    ] {
        let answer = house.admin_call(line, body).await;
        assert_eq!(answer.status, 400, "{line}: {}", answer.body);
    }
}
