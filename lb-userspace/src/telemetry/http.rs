//! A responder for the few fixed paths that the agent serves: `/metrics` and `/healthz`.
//!
//! HTTP/1.1, GET only, one request a connection: all that a scraper needs, and nothing that could
//! fail in more ways.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tracing::{debug, info, warn};

/// Longest request head that is read.
const MAX_HEAD: usize = 8 * 1024;
/// How long a client may take for its request, and for taking the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections that are served at once.
const MAX_CONNECTIONS: usize = 16;

/// What is served: the body of `/metrics`, rendered for each request.
pub type Render = dyn Fn() -> String + Send + Sync;

/// Serves until the task is dropped. An address that is taken is logged and given up: several
/// agents may share a network namespace.
pub async fn serve(at: SocketAddr, render: Arc<Render>) {
    let listener = match TcpListener::bind(at).await {
        Ok(listener) => listener,
        Err(error) => {
            warn!(%at, %error, "no metrics: the address cannot be used (--metrics-bind-address)");
            return;
        }
    };
    info!(%at, "serving /metrics");
    serve_on(listener, render).await;
}

async fn serve_on(listener: TcpListener, render: Arc<Render>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                // Out of file descriptors, say: breathe, so that a full table is no busy loop.
                debug!(%error, "accepting a metrics connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let render = Arc::clone(&render);
        let _task = tokio::spawn(async move {
            match tokio::time::timeout(PATIENCE, answer(stream, &*render)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "answering a metrics request"),
                Err(_elapsed) => debug!("a metrics client took too long"),
            }
            drop(permit);
        });
    }
}

async fn answer(mut stream: TcpStream, render: &Render) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let response = respond(&head, render);
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

fn respond(head: &[u8], render: &Render) -> String {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let (status, kind, body) = match (method, path) {
        ("GET", "/metrics") => ("200 OK", openmetrics, render()),
        ("GET", "/healthz" | "/livez") => ("200 OK", "text/plain", "ok\n".to_owned()),
        ("GET", _) => ("404 Not Found", "text/plain", "see /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "text/plain", "only GET\n".to_owned()),
    };
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let server = tokio::spawn(serve_on(listener, Arc::new(|| "lb_up 1\n".to_owned())));
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _read = stream.read_to_string(&mut answer).await.unwrap();
        server.abort();
        answer
    }

    #[tokio::test]
    async fn metrics_are_rendered_for_each_request() {
        let answer = ask("GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(
            answer.ends_with("content-length: 8\r\nconnection: close\r\n\r\nlb_up 1\n"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn other_paths_and_methods_are_refused() {
        assert!(ask("GET / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        assert!(ask("POST /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405"));
        assert!(ask("nonsense\r\n\r\n").await.starts_with("HTTP/1.1 405"));
        assert!(ask("GET /healthz HTTP/1.0\r\n\r\n").await.ends_with("ok\n"));
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_given_up() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        serve(taken.local_addr().unwrap(), Arc::new(String::new)).await;
    }
}
