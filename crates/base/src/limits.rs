//! Every bound of the system in one place: one line and one reason each.

use std::time::Duration;

/// Request body in bytes: vision requests of several images pass, a bomb does not. Configurable.
pub const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// JSON nesting: deeper bodies are attacks on recursive parsers.
pub const JSON_DEPTH_MAX: usize = 128;
/// Request headers: more than any SDK sends.
pub const HEADERS_MAX: usize = 100;
/// Bytes of all request headers together.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;
/// A client that has not sent its headers by then is cut.
pub const HEADER_TIME_MAX: Duration = Duration::from_secs(20);
/// A client that has not sent its body by then is cut.
pub const BODY_TIME_MAX: Duration = Duration::from_secs(50);
/// Connections one address may hold open: a shared egress of a customer holds many.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 1_200;
/// Connections over all addresses.
pub const CONNECTIONS_MAX: usize = 20_000;
/// A non-streamed upstream answer in bytes.
pub const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// One event of an upstream stream: a line longer than this is a fault of the upstream.
pub const SSE_EVENT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes held back between the end event of a stream and its settlement.
pub const STREAM_TAIL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Upstream attempts of one call, all routes and fallbacks together.
pub const ATTEMPTS_MAX: u32 = 4;
/// Open tenant databases: 205 KiB and three descriptors each.
pub const OPEN_DATABASES_MAX: usize = 512;
/// A tenant database that nobody uses for so long is closed.
pub const DATABASE_IDLE_MAX: Duration = Duration::from_secs(60);
/// Settlements of one tenant that wait for their fold.
pub const FOLD_RECORDS: usize = 256;
/// A settlement waits for its fold no longer than this.
pub const FOLD_AGE_MAX: Duration = Duration::from_secs(60);
/// Bytes of a tenant's overlay file.
pub const OVERLAY_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a document of rules, its tests included.
pub const POLICY_BYTES_MAX: usize = 256 * 1024;
/// How often a tenant's overlay file is looked at while the tenant is active.
pub const OVERLAY_POLL: Duration = Duration::from_secs(1);
/// Bytes of a rate-card file: the field's price file is under 2 MiB.
pub const RATECARD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// One sealed value (a provider key, a channel secret).
pub const SECRET_BYTES_MAX: usize = 64 * 1024;
/// Named tokens of one tenant.
pub const TOKENS_PER_TENANT_MAX: usize = 1_000;
/// Tools of one request.
pub const TOOLS_MAX: usize = 1_024;
/// Connect to an upstream.
pub const UPSTREAM_CONNECT: Duration = Duration::from_secs(5);
/// First byte of an upstream's answer.
pub const UPSTREAM_FIRST_BYTE: Duration = Duration::from_secs(60);
/// Silence between two bytes of an upstream's answer.
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(60);
/// A whole upstream exchange.
pub const UPSTREAM_TOTAL: Duration = Duration::from_secs(600);
/// Messages of one outbox that wait: more is a fault of whoever sends them.
pub const OUTBOX_MAX: i64 = 1_000;
/// A webhook that has not answered by then has failed.
pub const WEBHOOK_TOTAL: Duration = Duration::from_secs(20);
/// Audit entries are kept so long where nothing else is said: 13 months.
pub const AUDIT_RETENTION: Duration = Duration::from_secs(396 * 86_400);
/// No setting keeps audit entries for less: 183 days.
pub const AUDIT_RETENTION_MIN: Duration = Duration::from_secs(183 * 86_400);
/// Content of one side of a call that is kept at the logging level `full`: longer is cut. Two of them, an entry and a row fit a
/// record of the journal.
pub const CONTENT_PART_BYTES_MAX: usize = 96 * 1024;
/// Sealed content of one tenant that waits for its fold.
pub const FOLD_CONTENT_BYTES: usize = 4 * 1024 * 1024;
/// Sealed content of all tenants that waits for its fold: past it each folds what it has, and a further call to be kept waits for
/// that.
pub const CONTENT_WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Tenants of one process.
pub const TENANTS_MAX: usize = 1_000_000;
/// Open streams end within this time after SIGTERM.
pub const DRAIN: Duration = Duration::from_secs(30);
/// One JSON-RPC message, over HTTP or as a WebSocket message: a sealed value of the largest size fits, all of it escaped.
pub const RPC_MESSAGE_BYTES_MAX: usize = 512 * 1024;
/// The params of one call; the rest of a message is names and ids.
pub const RPC_PARAMS_BYTES_MAX: usize = 448 * 1024;
/// Calls of one batch: more than a page of a console asks for at once.
pub const RPC_BATCH_MAX: usize = 50;
/// Bytes of an id, which is sent back as it came.
pub const RPC_ID_BYTES_MAX: usize = 128;
/// All answers of one batch together: calls beyond are not carried out.
pub const RPC_ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of rows or entries in one answer; where it goes on stands in the answer.
pub const RPC_PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Calls per second of one socket, or over HTTP of one token.
pub const RPC_CALLS_PER_SECOND: u32 = 50;
/// Calls at once before that rate counts.
pub const RPC_CALLS_BURST: u32 = 100;
/// Frames per second of one socket, pings and notifications included: whoever sends more is cut.
pub const RPC_FRAMES_PER_SECOND: u32 = 200;
/// Frames at once before that rate counts.
pub const RPC_FRAMES_BURST: u32 = 400;
/// Open sockets of one token.
pub const RPC_SOCKETS_PER_TOKEN: usize = 16;
/// Open sockets of one tenant.
pub const RPC_SOCKETS_PER_TENANT: usize = 200;
/// Subscriptions of one socket.
pub const RPC_SUBSCRIPTIONS_MAX: usize = 4;
/// Frames that wait for the client of one socket.
pub const RPC_WAITING_FRAMES_MAX: usize = 64;
/// Bytes that wait for the client of one socket: an answer of the largest size fits.
pub const RPC_WAITING_BYTES_MAX: usize = RPC_ANSWER_BYTES_MAX + 64 * 1024;
/// A client that leaves no room for the next frame for so long is cut.
pub const RPC_SLOW_MAX: Duration = Duration::from_secs(5);
/// Between two pings to a client.
pub const RPC_PING_EVERY: Duration = Duration::from_secs(20);
/// A client that sends nothing for so long, no pong either, is gone.
pub const RPC_SILENCE_MAX: Duration = Duration::from_secs(60);
/// A browser's ticket is to be redeemed within this time: fetched and used at once.
pub const TICKET_LIFE: Duration = Duration::from_secs(30);
/// Tickets of one token that are not redeemed yet; a further one takes the place of the oldest.
pub const TICKETS_PER_TOKEN: usize = 16;
/// Tickets of all tenants that are not redeemed yet.
pub const TICKETS_MAX: usize = 10_000;
/// Origins of web pages that a deployment lets in.
pub const ORIGINS_MAX: usize = 100;
