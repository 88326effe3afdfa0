//! A provider: where it is, what it speaks, how long it may take.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base::limits;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};
use kernel::egress::OriginError;
use llm::{Dialect, Operation, OutputCapField};

pub use kernel::egress::Origin;

use crate::fair::{Line, LineSpec};
use crate::upstream::{CaBundle, Reach};

/// Which wire a provider speaks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ProviderKind {
    /// `OpenAI` and every server compatible with it.
    OpenAi,
    /// Anthropic.
    Anthropic,
}

impl ProviderKind {
    /// The dialect of its requests and answers.
    #[must_use]
    pub fn dialect(self) -> Dialect {
        match self {
            Self::OpenAi => Dialect::OpenAi,
            Self::Anthropic => Dialect::Anthropic,
        }
    }

    /// The name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
        }
    }
}

/// What happens to the upstream when the client hangs up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum HangUp {
    /// The connection is closed at once; what was produced until then is settled.
    #[default]
    Abort,
    /// The answer is read to its end in the background: for providers that bill it whole anyway.
    Drain,
}

/// Deadlines of one upstream exchange.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Timeouts {
    /// Resolve, connect and TLS handshake together.
    pub connect: Duration,
    /// From the first byte sent to the head of the answer.
    pub first_byte: Duration,
    /// Silence inside the answer.
    pub idle: Duration,
    /// The whole exchange.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: limits::UPSTREAM_CONNECT,
            first_byte: limits::UPSTREAM_FIRST_BYTE,
            idle: limits::UPSTREAM_IDLE,
            total: limits::UPSTREAM_TOTAL,
        }
    }
}

/// Why a base URL was refused. The text names the rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BaseUrlError(pub &'static str);

impl fmt::Display for BaseUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for BaseUrlError {}

/// What an operator says about a provider; [`Provider::new`] gives it meaning.
#[derive(Clone, Debug)]
pub struct ProviderSpec {
    /// Name in the configuration, in reports and in rate cards.
    pub name: String,
    /// Which wire it speaks.
    pub kind: ProviderKind,
    /// `https://api.openai.com/v1`, `https://api.anthropic.com`.
    pub base_url: String,
    /// Lets the provider's host have a private address.
    pub allow_private: bool,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// What a hang-up of the client does.
    pub hang_up: HangUp,
    /// Where the provider processes data; free text of the operator.
    pub region: Option<String>,
    /// The member that caps output; where absent, the newer name for `api.openai.com` and `max_tokens`
    /// for every other server, which may ignore what it does not know.
    pub max_output_field: Option<OutputCapField>,
    /// Roots to trust instead of the system's.
    pub ca: Option<CaBundle>,
    /// Calls at the same time, and how many wait how long for a slot.
    pub line: LineSpec,
}

/// One provider, ready to be called. Cheap to share, never changed.
pub struct Provider {
    name: Box<str>,
    kind: ProviderKind,
    endpoint: Arc<Endpoint>,
    host_header: HeaderValue,
    chat: Uri,
    embeddings: Option<Uri>,
    base_path: Box<str>,
    timeouts: Timeouts,
    hang_up: HangUp,
    region: Option<Box<str>>,
    max_output_field: OutputCapField,
    line_spec: LineSpec,
    /// Made at the first use, or taken over from the configuration before.
    line: OnceLock<Arc<Line>>,
}

/// Where connections go and under which rules: the key of a connection pool.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Endpoint {
    pub(crate) origin: Origin,
    pub(crate) reach: Reach,
    pub(crate) ca: Option<CaBundle>,
}

impl Provider {
    /// A provider from what the operator wrote.
    ///
    /// # Errors
    /// When the base URL breaks a rule: https (or http where the host is loopback or private ones
    /// are allowed), a plain host, no credentials, no query, and a path that ends in `/v1` for
    /// `openai` and is empty for `anthropic`.
    pub fn new(spec: ProviderSpec) -> Result<Self, BaseUrlError> {
        let (origin, base_path) = parse_base(&spec.base_url)?;
        match spec.kind {
            ProviderKind::OpenAi if !base_path.ends_with("/v1") => {
                return Err(BaseUrlError("the path of an openai base_url ends in /v1"));
            }
            ProviderKind::Anthropic if !base_path.is_empty() => {
                return Err(BaseUrlError("an anthropic base_url has no path"));
            }
            _ => {}
        }
        let reach = origin.reach(spec.allow_private);
        if !origin.tls && reach == Reach::Public {
            return Err(BaseUrlError(
                "plain http is allowed on loopback, or with allow_private: true; use https",
            ));
        }
        let uri = |path: &str| {
            PathAndQuery::from_maybe_shared(Bytes::from(format!("{base_path}{path}")))
                .map(Uri::from)
                .map_err(|_| BaseUrlError("not a URL"))
        };
        let (chat, embeddings) = match spec.kind {
            ProviderKind::OpenAi => (uri("/chat/completions")?, Some(uri("/embeddings")?)),
            ProviderKind::Anthropic => (uri("/v1/messages")?, None),
        };
        let host_header =
            HeaderValue::from_str(&origin.authority()).map_err(|_| BaseUrlError("not a URL"))?;
        let max_output_field = spec.max_output_field.unwrap_or(match spec.kind {
            ProviderKind::OpenAi if &*origin.host == "api.openai.com" => {
                OutputCapField::MaxCompletionTokens
            }
            _ => OutputCapField::MaxTokens,
        });
        Ok(Self {
            name: spec.name.into(),
            kind: spec.kind,
            endpoint: Arc::new(Endpoint {
                origin,
                reach,
                ca: spec.ca,
            }),
            host_header,
            chat,
            embeddings,
            base_path: base_path.into(),
            timeouts: spec.timeouts,
            hang_up: spec.hang_up,
            region: spec.region.map(Into::into),
            max_output_field,
            line_spec: spec.line,
            line: OnceLock::new(),
        })
    }

    /// The name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which wire it speaks.
    #[must_use]
    pub fn kind(&self) -> ProviderKind {
        self.kind
    }

    /// The dialect of its requests and answers.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.kind.dialect()
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.endpoint.origin
    }

    /// The path under which its API starts: `/v1`, or nothing.
    #[must_use]
    pub fn base_path(&self) -> &str {
        &self.base_path
    }

    /// How far connections may reach.
    #[must_use]
    pub fn reach(&self) -> Reach {
        self.endpoint.reach
    }

    /// Deadlines.
    #[must_use]
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// What a hang-up of the client does.
    #[must_use]
    pub fn hang_up(&self) -> HangUp {
        self.hang_up
    }

    /// Where the provider processes data, as the operator wrote it.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// The member that caps output.
    #[must_use]
    pub fn max_output_field(&self) -> OutputCapField {
        self.max_output_field
    }

    /// The size of the line in front of it.
    #[must_use]
    pub fn line_spec(&self) -> LineSpec {
        self.line_spec
    }

    /// The line in front of it.
    #[must_use]
    pub fn line(&self) -> &Arc<Line> {
        self.line.get_or_init(|| Line::new(self.line_spec))
    }

    /// Goes on with the line of the same provider in the configuration before: calls that are under way there keep their slots.
    pub(crate) fn take_over_line(&self, before: &Self) {
        let line = self.line.get_or_init(|| Arc::clone(before.line()));
        line.resize(self.line_spec);
    }

    /// Whether a call of `operation` can be answered here: chat everywhere (translated where the
    /// dialects differ), embeddings only by `OpenAI`'s wire.
    #[must_use]
    pub fn answers(&self, operation: Operation) -> bool {
        self.target(operation).is_some()
    }

    pub(crate) fn target(&self, operation: Operation) -> Option<&Uri> {
        match operation {
            Operation::ChatCompletions | Operation::Messages => Some(&self.chat),
            Operation::Embeddings => self.embeddings.as_ref(),
        }
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    pub(crate) fn host_header(&self) -> &HeaderValue {
        &self.host_header
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Provider({} {}{})",
            self.name, self.endpoint.origin, self.base_path
        )
    }
}

/// The one reading of a base URL: what is not plainly right is refused, nothing is repaired but
/// letter case and one trailing slash.
fn parse_base(text: &str) -> Result<(Origin, &str), BaseUrlError> {
    let (origin, path) = Origin::split(text).map_err(|error| {
        BaseUrlError(match error {
            OriginError::Scheme => "a base_url starts with https:// or http://",
            OriginError::Credentials => "credentials do not belong in a URL; use api_key: env:NAME",
            OriginError::Host => {
                "a base_url has a plain host name or address, and an optional port"
            }
        })
    })?;
    if path.contains(['?', '#']) {
        return Err(BaseUrlError("a base_url has no query and no fragment"));
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    let segment = |s: &str| {
        !matches!(s, "" | "." | "..")
            && s.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'))
    };
    if !path.is_empty() && !path[1..].split('/').all(segment) {
        return Err(BaseUrlError(
            "the path of a base_url has plain segments only",
        ));
    }
    Ok((origin, path))
}
