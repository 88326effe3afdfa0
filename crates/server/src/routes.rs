//! The route table: every path that is served, who may call it, and what it refers to.
//!
//! **Invariant:** a request reaches a handler only through a [`Route`], and a `Route` cannot be written without its
//! [`Access`]. Authority is decided on the matched route, never on a path that is read again.

use std::borrow::Cow;

use base::Role;
use http::Method;
use llm::{Dialect, Operation};
use rpc::RouteView;

/// Who may call a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Anybody; the answer tells nothing.
    Public,
    /// A valid token of a tenant with one of these roles.
    Tenant {
        /// Roles that pass, at least one.
        roles: &'static [Role],
    },
    /// The operator key.
    Operator,
}

/// The listener that serves a route; the other one does not know it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Listener {
    /// For tenants.
    Public,
    /// For the operator.
    Admin,
}

/// What answers a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Handler {
    Healthz,
    Readyz,
    Call(Operation),
    Tenant(TenantView),
    /// One message of JSON-RPC.
    Rpc,
    /// The opening of a WebSocket for many.
    RpcSocket,
    Admin(AdminAction),
}

/// What a tenant reads of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TenantView {
    Models,
    Model,
    Usage,
    Quota,
    Config,
    Audit,
    Content,
}

/// What the operator does over HTTP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AdminAction {
    TenantsList,
    TenantsCreate,
    TenantShow,
    TenantDelete,
    TenantSuspend,
    TenantFreeze,
    TenantResume,
    QuotaShow,
    QuotaSet,
    TokenList,
    TokenIssue,
    TokenRevoke,
    TokenRotate,
    Usage,
    RatecardShow,
    RatecardImport,
    Providers,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Route {
    listener: Listener,
    method: Method,
    path: &'static str,
    access: Access,
    objects: &'static [&'static str],
    pub(crate) handler: Handler,
}

impl Route {
    /// The listener that serves it.
    #[must_use]
    pub fn listener(&self) -> Listener {
        self.listener
    }

    /// Its method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Its path; parameters stand in braces.
    #[must_use]
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// Who may call it.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Kinds of objects that its parameters, query or body refer to.
    #[must_use]
    pub fn objects(&self) -> &'static [&'static str] {
        self.objects
    }
}

/// Where JSON-RPC is spoken.
const RPC_PATH: &str = "/rpc";
/// The HTTP method under which the methods of JSON-RPC stand in the printed table: none that HTTP has.
const RPC_METHOD: &str = "RPC";

const CALLERS: &[Role] = &[Role::Admin, Role::Member, Role::App];
const EVERYBODY: &[Role] = &Role::ALL;
const USAGE_READERS: &[Role] = &[Role::Admin, Role::Member, Role::Readonly, Role::Auditor];
const CONFIG_READERS: &[Role] = &[Role::Admin, Role::Readonly];
const AUDIT_READERS: &[Role] = &[Role::Admin, Role::Auditor];

/// Every route, those of the hot path first.
pub static TABLE: &[Route] = &[
    call("/v1/chat/completions", Operation::ChatCompletions),
    call("/v1/messages", Operation::Messages),
    call("/v1/embeddings", Operation::Embeddings),
    view("/v1/models", EVERYBODY, &[], TenantView::Models),
    view(
        "/v1/models/{model}",
        EVERYBODY,
        &["model"],
        TenantView::Model,
    ),
    view("/tenant/v1/usage", USAGE_READERS, &[], TenantView::Usage),
    view("/tenant/v1/quota", EVERYBODY, &[], TenantView::Quota),
    view("/tenant/v1/config", CONFIG_READERS, &[], TenantView::Config),
    view("/tenant/v1/audit", AUDIT_READERS, &[], TenantView::Audit),
    view(
        "/tenant/v1/audit/{seq}/content",
        AUDIT_READERS,
        &["seq"],
        TenantView::Content,
    ),
    rpc(Method::GET, Handler::RpcSocket),
    rpc(Method::POST, Handler::Rpc),
    health(Listener::Public, "/healthz", Handler::Healthz),
    health(Listener::Public, "/readyz", Handler::Readyz),
    health(Listener::Admin, "/healthz", Handler::Healthz),
    health(Listener::Admin, "/readyz", Handler::Readyz),
    admin(
        Method::GET,
        "/admin/v1/tenants",
        &[],
        AdminAction::TenantsList,
    ),
    admin(
        Method::POST,
        "/admin/v1/tenants",
        &[],
        AdminAction::TenantsCreate,
    ),
    admin(
        Method::GET,
        "/admin/v1/tenants/{tenant}",
        &["tenant"],
        AdminAction::TenantShow,
    ),
    admin(
        Method::DELETE,
        "/admin/v1/tenants/{tenant}",
        &["tenant"],
        AdminAction::TenantDelete,
    ),
    admin(
        Method::POST,
        "/admin/v1/tenants/{tenant}/suspend",
        &["tenant"],
        AdminAction::TenantSuspend,
    ),
    admin(
        Method::POST,
        "/admin/v1/tenants/{tenant}/freeze",
        &["tenant"],
        AdminAction::TenantFreeze,
    ),
    admin(
        Method::POST,
        "/admin/v1/tenants/{tenant}/resume",
        &["tenant"],
        AdminAction::TenantResume,
    ),
    admin(
        Method::GET,
        "/admin/v1/tenants/{tenant}/quota",
        &["tenant"],
        AdminAction::QuotaShow,
    ),
    admin(
        Method::PATCH,
        "/admin/v1/tenants/{tenant}/quota",
        &["tenant", "token"],
        AdminAction::QuotaSet,
    ),
    admin(
        Method::GET,
        "/admin/v1/tenants/{tenant}/tokens",
        &["tenant"],
        AdminAction::TokenList,
    ),
    admin(
        Method::POST,
        "/admin/v1/tenants/{tenant}/tokens",
        &["tenant"],
        AdminAction::TokenIssue,
    ),
    admin(
        Method::DELETE,
        "/admin/v1/tenants/{tenant}/tokens/{token}",
        &["tenant", "token"],
        AdminAction::TokenRevoke,
    ),
    admin(
        Method::POST,
        "/admin/v1/tenants/{tenant}/tokens/{token}/rotate",
        &["tenant", "token"],
        AdminAction::TokenRotate,
    ),
    admin(
        Method::GET,
        "/admin/v1/usage",
        &["tenant"],
        AdminAction::Usage,
    ),
    admin(
        Method::GET,
        "/admin/v1/ratecards",
        &[],
        AdminAction::RatecardShow,
    ),
    admin(
        Method::POST,
        "/admin/v1/ratecards",
        &[],
        AdminAction::RatecardImport,
    ),
    admin(
        Method::GET,
        "/admin/v1/providers",
        &[],
        AdminAction::Providers,
    ),
];

const fn call(path: &'static str, operation: Operation) -> Route {
    Route {
        listener: Listener::Public,
        method: Method::POST,
        path,
        access: Access::Tenant { roles: CALLERS },
        objects: &["model"],
        handler: Handler::Call(operation),
    }
}

const fn view(
    path: &'static str,
    roles: &'static [Role],
    objects: &'static [&'static str],
    what: TenantView,
) -> Route {
    Route {
        listener: Listener::Public,
        method: Method::GET,
        path,
        access: Access::Tenant { roles },
        objects,
        handler: Handler::Tenant(what),
    }
}

/// Every role gets to the door; each method has its own roles, which stand in its own line of the printed table.
const fn rpc(method: Method, handler: Handler) -> Route {
    Route {
        listener: Listener::Public,
        method,
        path: RPC_PATH,
        access: Access::Tenant {
            roles: crate::jsonrpc::CALLERS,
        },
        objects: &[],
        handler,
    }
}

const fn health(listener: Listener, path: &'static str, handler: Handler) -> Route {
    Route {
        listener,
        method: Method::GET,
        path,
        access: Access::Public,
        objects: &[],
        handler,
    }
}

const fn admin(
    method: Method,
    path: &'static str,
    objects: &'static [&'static str],
    action: AdminAction,
) -> Route {
    Route {
        listener: Listener::Admin,
        method,
        path,
        access: Access::Operator,
        objects,
        handler: Handler::Admin(action),
    }
}

/// What the table says about a request line.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    Route(&'static Route, Params<'a>),
    /// The path exists with these methods only, written as in the `allow` header.
    OtherMethod(&'static str),
    Nothing,
}

/// Values of a path's parameters, percent-decoded, in the order of the path.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Params<'a>([Option<Cow<'a, str>>; 2]);

impl<'a> Params<'a> {
    /// The parameter at that place, from 0; empty where the route has none.
    pub(crate) fn at(&self, place: usize) -> &str {
        self.0
            .get(place)
            .and_then(Option::as_deref)
            .unwrap_or_default()
    }

    fn push(&mut self, value: Cow<'a, str>) -> Option<()> {
        let free = self.0.iter_mut().find(|slot| slot.is_none())?;
        *free = Some(value);
        Some(())
    }
}

/// Finds the route of a request.
pub(crate) fn find<'a>(listener: Listener, method: &Method, path: &'a str) -> Found<'a> {
    let mut others: [&str; 2] = [""; 2];
    for route in TABLE.iter().filter(|route| route.listener == listener) {
        let Some(params) = matches(route.path, path) else {
            continue;
        };
        if route.method == *method {
            return Found::Route(route, params);
        }
        others = if others[0].is_empty() {
            [route.method.as_str(), ""]
        } else {
            [others[0], route.method.as_str()]
        };
    }
    match others {
        ["", _] => Found::Nothing,
        ["GET", ""] => Found::OtherMethod("GET"),
        ["POST", ""] => Found::OtherMethod("POST"),
        ["DELETE", ""] => Found::OtherMethod("DELETE"),
        ["GET", "POST"] => Found::OtherMethod("GET, POST"),
        ["GET", "DELETE"] => Found::OtherMethod("GET, DELETE"),
        ["GET", "PATCH"] => Found::OtherMethod("GET, PATCH"),
        // A test walks the table: no path has another set of methods.
        _ => Found::OtherMethod(""),
    }
}

fn matches<'a>(pattern: &str, path: &'a str) -> Option<Params<'a>> {
    if pattern == path {
        // A path that spells the braces out is not a parameter.
        return (!pattern.contains('{')).then(Params::default);
    }
    let mut params = Params::default();
    let (mut pattern, mut path) = (pattern.strip_prefix('/')?, path.strip_prefix('/')?);
    loop {
        let (want, pattern_rest) = head(pattern);
        let is_param = want.starts_with('{');
        // Names of models may hold slashes, which not every client encodes.
        let (given, path_rest) = if want == "{model}" {
            (path, None)
        } else {
            head(path)
        };
        if is_param {
            params.push(decoded(given)?)?;
        } else if want != given {
            return None;
        }
        match (pattern_rest, path_rest) {
            (None, None) => return Some(params),
            (Some(next_pattern), Some(next_path)) => (pattern, path) = (next_pattern, next_path),
            _ => return None,
        }
    }
}

fn head(path: &str) -> (&str, Option<&str>) {
    path.split_once('/')
        .map_or((path, None), |(first, rest)| (first, Some(rest)))
}

fn decoded(segment: &str) -> Option<Cow<'_, str>> {
    let text = crate::query::percent_decoded(segment, false)?;
    (!text.is_empty()).then_some(text)
}

/// The dialect in which a path's errors are written, known or not.
pub(crate) fn dialect_of(path: &str) -> Dialect {
    match path.strip_prefix("/v1/messages") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => Dialect::Anthropic,
        _ => Dialect::OpenAi,
    }
}

/// The table as programs read it: the routes, and a line for each method of JSON-RPC.
pub(crate) fn views() -> Vec<RouteView> {
    let methods = rpc::method::METHODS.iter().map(|row| RouteView {
        method: RPC_METHOD.to_owned(),
        path: format!("{RPC_PATH}#{}", row.name),
        access: access_text(Access::Tenant { roles: row.access }),
        objects: row.objects.iter().map(|&name| name.to_owned()).collect(),
        listener: "public".to_owned(),
    });
    TABLE
        .iter()
        .map(|route| RouteView {
            method: route.method.to_string(),
            path: route.path.to_owned(),
            access: access_text(route.access),
            objects: route.objects.iter().map(|&name| name.to_owned()).collect(),
            listener: match route.listener {
                Listener::Public => "public".to_owned(),
                Listener::Admin => "admin".to_owned(),
            },
        })
        .chain(methods)
        .collect()
}

fn access_text(access: Access) -> String {
    match access {
        Access::Public => "public".to_owned(),
        Access::Operator => "operator".to_owned(),
        Access::Tenant { roles } => {
            let names: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
            format!("tenant:{}", names.join(","))
        }
    }
}

#[cfg(test)]
mod tests;
