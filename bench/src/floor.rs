//! The floor: hyper server, hyper-util's pooled client, one thread, nothing in between.

use std::net::SocketAddr;

use anyhow::Result;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Serves for ever.
pub(crate) async fn serve(listen: SocketAddr, upstream: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).await?;
    crate::announce(listener.local_addr()?)?;
    let client = client();
    let host = HeaderValue::from_str(&upstream.to_string())?;
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        stream.set_nodelay(true)?;
        let client = client.clone();
        let host = host.clone();
        connections.spawn(async move {
            let forward =
                service_fn(move |request| forward(client.clone(), upstream, host.clone(), request));
            // A connection that breaks is seen and counted by the load generator.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), forward)
                .await;
        });
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the floor is not the gateway: it is what the gateway is measured by"
)]
fn client() -> Client<HttpConnector, Incoming> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

async fn forward(
    client: Client<HttpConnector, Incoming>,
    upstream: SocketAddr,
    host: HeaderValue,
    mut request: Request<Incoming>,
) -> Result<Response<Incoming>> {
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    *request.uri_mut() = format!("http://{upstream}{path}").parse::<Uri>()?;
    request.headers_mut().insert(header::HOST, host);
    Ok(client.request(request).await?)
}
