//! A responder for the few fixed paths that the agent serves.
//!
//! HTTP/1.1, one request a connection: all that a scraper or a load balancer's health check needs, and
//! nothing that could fail in more ways.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tracing::debug;

/// Longest request head that is read.
const MAX_HEAD: usize = 8 * 1024;
/// How long a client may take for its request, and for taking the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections that are served at once: more than all load balancers of a cluster open.
const MAX_CONNECTIONS: usize = 256;

/// Most of a request's body that is read, and not looked at, before the connection is closed.
const MAX_IGNORED: usize = 64 * 1024;

/// What is answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Content type.
    pub kind: &'static str,
    /// A header of this response alone.
    pub header: Option<(&'static str, String)>,
    /// Body.
    pub body: String,
}

/// Which requests are answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Methods {
    /// GET and HEAD.
    Reading,
    /// All, to the same effect.
    Any,
}

impl Response {
    /// A few words.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", header: None, body: body.into() }
    }

    /// A JSON document.
    pub fn json(status: u16, body: String) -> Self {
        Self { status, kind: "application/json", header: None, body }
    }
}

/// What answers: a path, without its query, becomes a response.
pub type Handler = dyn Fn(&str) -> Response + Send + Sync;

/// Serves until the task is dropped, and with it every connection.
pub async fn serve(listener: TcpListener, methods: Methods, handler: Arc<Handler>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                // Out of file descriptors, say: breathe, so that a full table is no busy loop.
                debug!(%error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let handler = Arc::clone(&handler);
        let _task = connections.spawn(async move {
            match tokio::time::timeout(PATIENCE, answer(stream, methods, &*handler)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "answering a request"),
                Err(_elapsed) => debug!("a client took too long"),
            }
            drop(permit);
        });
    }
}

async fn answer(mut stream: TcpStream, methods: Methods, handler: &Handler) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let response = respond(&head, methods, handler);
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await?;
    // A connection that is closed with something unread is reset, and the answer may be lost.
    let mut ignored = 0;
    while ignored < MAX_IGNORED {
        head.clear();
        match stream.read_buf(&mut head).await? {
            0 => break,
            more => ignored += more,
        }
    }
    Ok(())
}

fn respond(head: &[u8], methods: Methods, handler: &Handler) -> String {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let http = words.next().is_some_and(|word| word.starts_with("HTTP/"));
    let path = target.split('?').next().unwrap_or_default();
    let response = match (method, methods) {
        ("GET" | "HEAD", Methods::Reading) => handler(path),
        (_, Methods::Any) if http => handler(path),
        (_, Methods::Any) => Response::text(400, "not HTTP\n"),
        (_, Methods::Reading) => Response::text(405, "only GET and HEAD\n"),
    };
    let Response { status, kind, header, body } = response;
    let (reason, length) = (reason(status), body.len());
    let header = header.map_or_else(String::new, |(name, value)| format!("{name}: {value}\r\n"));
    let body = if method == "HEAD" { "" } else { &body };
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nX-Content-Type-Options: nosniff\r\n\
         {header}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        503 => "Service Unavailable",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(request: &str, status: &str, body: &str) {
        let answer = respond(request.as_bytes(), Methods::Reading, &|path: &str| match path {
            "/metrics" => Response::text(200, "lb_up 1\n"),
            _ => Response::text(404, "see /metrics\n"),
        });
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
        assert_eq!(answer.split_once("\r\n\r\n").unwrap().1, body);
    }

    #[test]
    fn a_query_is_not_part_of_the_path() {
        check("GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n", "200 OK", "lb_up 1\n");
    }

    #[test]
    fn head_tells_the_length_of_what_it_leaves_out() {
        check("HEAD /metrics HTTP/1.1\r\n\r\n", "200 OK", "");
        let answer = respond(b"HEAD / HTTP/1.0\r\n\r\n", Methods::Reading, &|_: &str| {
            Response::text(503, "four")
        });
        assert!(answer.contains("\r\nContent-Length: 4\r\n"), "{answer}");
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        check("GET / HTTP/1.1\r\n\r\n", "404 Not Found", "see /metrics\n");
        check("POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed", "only GET and HEAD\n");
        check("nonsense\r\n\r\n", "405 Method Not Allowed", "only GET and HEAD\n");
    }
}
