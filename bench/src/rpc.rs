//! A client of JSON-RPC over one connection that is kept open.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::load::Connection;

/// Calls with any token, one after the other.
pub(crate) struct Client {
    addr: SocketAddr,
    open: Option<Connection>,
    /// Calls that were refused for their rate and made again.
    pub(crate) held_back: u64,
}

/// What was answered in place of a result.
#[derive(Debug, Deserialize)]
pub(crate) struct Refused {
    message: String,
    data: Option<RefusedData>,
}

#[derive(Debug, Deserialize)]
struct RefusedData {
    code: String,
    retry_after_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Answer {
    result: Option<Value>,
    error: Option<Refused>,
}

/// An answer that takes longer is an error.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// A call that is refused for its rate so often in a row is an error.
const ATTEMPTS_MAX: usize = 20;

impl Client {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            open: None,
            held_back: 0,
        }
    }

    /// The result of one call, as far as `T` asks for it.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &mut self,
        token: &str,
        method: &str,
        params: Value,
    ) -> Result<T> {
        let result = self.call(token, method, params).await?;
        serde_json::from_value(result).with_context(|| format!("the answer to {method}"))
    }

    /// The result of one call; one that is refused for its rate waits as long as it is told to and is made again.
    pub(crate) async fn call(&mut self, token: &str, method: &str, params: Value) -> Result<Value> {
        let body =
            json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let request = format!(
            "POST /rpc HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        for _ in 0..ATTEMPTS_MAX {
            let sent = tokio::time::timeout(ANSWER_MAX, self.send(request.as_bytes())).await;
            // What is left of a broken exchange must not be taken for the next answer.
            if !matches!(sent, Ok(Ok(_))) {
                self.open = None;
            }
            let answer = sent
                .with_context(|| format!("{method}: no answer within {ANSWER_MAX:?}"))?
                .with_context(|| method.to_owned())?;
            let Some(refused) = answer.error else {
                return answer
                    .result
                    .with_context(|| format!("{method}: neither a result nor an error"));
            };
            let Some(wait) = refused.wait() else {
                return Err(refused).with_context(|| method.to_owned());
            };
            self.held_back += 1;
            tokio::time::sleep(wait).await;
        }
        bail!("{method}: refused for its rate {ATTEMPTS_MAX} times");
    }

    async fn send(&mut self, request: &[u8]) -> Result<Answer> {
        let connection = match &mut self.open {
            Some(connection) => connection,
            None => self.open.insert(Connection::open(self.addr).await?),
        };
        let (status, body) = connection.answer(request).await?;
        ensure!(
            status == 200,
            "status {status}: {}",
            String::from_utf8_lossy(&body)
        );
        Ok(serde_json::from_slice(&body)?)
    }
}

impl Refused {
    /// The name that stays.
    pub(crate) fn code(&self) -> &str {
        self.data.as_ref().map_or("", |data| &data.code)
    }

    /// How long to wait before the same call, where it came too soon.
    fn wait(&self) -> Option<Duration> {
        let data = self
            .data
            .as_ref()
            .filter(|data| data.code == "rate_limited")?;
        Some(Duration::from_millis(data.retry_after_ms?))
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({})", self.message, self.code())
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_rate_is_waited_for() {
        let refused = |text| serde_json::from_str::<Answer>(text).unwrap().error.unwrap();
        let soon = refused(
            r#"{"error":{"code":-32029,"message":"too many calls","data":{"code":"rate_limited","request_id":"r","retry_after_ms":20}}}"#,
        );
        assert_eq!(soon.wait(), Some(Duration::from_millis(20)));
        let never = refused(
            r#"{"error":{"code":-32004,"message":"not found","data":{"code":"not_found","retry_after_ms":20}}}"#,
        );
        assert_eq!(never.wait(), None);
        assert_eq!(never.to_string(), "not found (not_found)");
    }
}
