//! The connection to the API server: credentials, timeouts, and requests.
//!
//! Credentials are read anew when the server no longer accepts them. A server that died without a
//! word is noticed by TCP within half a minute, one that hangs by the time that an answer takes.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use http::{Method, Request, StatusCode, Uri, header, uri::InvalidUri};
use http_body_util::BodyExt as _;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt as _},
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use serde::Deserialize;
use tokio::time::timeout;
use tower::{BoxError, ServiceBuilder};

use super::trouble::{Class, Trouble};
use crate::{
    config::ClusterConfig,
    telemetry::{self as api, Telemetry},
};

/// How long a TCP connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// When a silent peer is probed, how often then, and how many probes it may miss.
const PROBE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);
/// How long data may stay unacknowledged.
const UNACKED: Duration = Duration::from_secs(20);
/// After how long without an answer the server counts as slow.
pub(super) const SLOW: Duration = Duration::from_secs(5);
/// How long the beginning of an answer, or its next piece, may take at all.
const ANSWER: Duration = Duration::from_secs(30);
/// Shortest time between two readings of the credentials.
const RENEW: Duration = Duration::from_secs(1);
/// How much of an error message is read.
const MAX_MESSAGE: usize = 16 * 1024;

/// The cluster cannot be addressed.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// The kubeconfig cannot be used: mend it, or name another one.
    #[error("kubeconfig {0}")]
    Kubeconfig(String, #[source] KubeconfigError),
    /// The kubeconfig wants a proxy.
    #[error("kubeconfig {0}: proxy-url is not supported; name an API server that can be reached")]
    Proxy(String),
    /// The address of the API server that was given is none.
    #[error("--master {0}: not a URL like https://192.0.2.1:6443")]
    Server(String, #[source] InvalidUri),
    /// This pod has no usable service account.
    #[error("the service account of this pod cannot be used")]
    InCluster(#[from] kube::config::InClusterError),
    /// The configuration leads to no client, a certificate that cannot be read say.
    #[error("the configuration of the Kubernetes client cannot be used")]
    Client(#[from] kube::Error),
}

/// A connection to one API server, to be shared.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: ClusterConfig,
    server: String,
    client: Mutex<(Client, Instant)>,
    telemetry: Option<Telemetry>,
}

/// An answer whose body is still to come.
pub(super) struct Answer {
    body: Body,
}

impl Connection {
    /// The cluster that a kubeconfig describes, or that of this pod where there is none.
    ///
    /// # Errors
    ///
    /// Why the configuration cannot be used. Whether the API answers shows later.
    pub fn open(cluster: &ClusterConfig) -> Result<Self, KubeError> {
        let (client, server) = client(cluster)?;
        let inner = Inner {
            cluster: cluster.clone(),
            server,
            client: Mutex::new((client, Instant::now())),
            telemetry: None,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The same connection, whose requests are counted.
    pub(super) fn counted(&self, telemetry: Telemetry) -> Self {
        let Inner { cluster, server, .. } = &*self.inner;
        let inner = Inner {
            cluster: cluster.clone(),
            server: server.clone(),
            client: Mutex::new(self.lock().clone()),
            telemetry: Some(telemetry),
        };
        Self { inner: Arc::new(inner) }
    }

    fn count(&self, method: &Method, status: Option<StatusCode>, took: Duration) {
        let Some(telemetry) = &self.inner.telemetry else { return };
        let code = status.map_or_else(|| "<error>".to_owned(), |code| code.as_str().to_owned());
        let host = self.inner.server.split("//").last().unwrap_or_default().to_owned();
        telemetry.api_request(api::Request { code, method: method.to_string(), host }, took);
    }

    /// The address of the API server.
    pub fn server(&self) -> &str {
        &self.inner.server
    }

    /// Reads the credentials anew, if that was not just done. What cannot be read stays as it was.
    pub(super) async fn renew(&self) {
        let due = self.lock().1.elapsed() >= RENEW;
        if !due {
            return;
        }
        let inner = Arc::clone(&self.inner);
        let read = move || client(&inner.cluster);
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok((client, _server))) => *self.lock() = (client, Instant::now()),
            Ok(Err(error)) => tracing::debug!(%error, "credentials cannot be read anew"),
            Err(error) => tracing::debug!(%error, "credentials were not read anew"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Client, Instant)> {
        self.inner.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for `target`, a path with its query. `slow` is called when the answer takes long.
    pub(super) async fn get(
        &self,
        target: &str,
        slow: impl AsyncFnOnce(),
    ) -> Result<Answer, Trouble> {
        self.request(Method::GET, target, Vec::new(), slow).await
    }

    /// Sends one request.
    pub(super) async fn request(
        &self,
        method: Method,
        target: &str,
        body: Vec<u8>,
        slow: impl AsyncFnOnce(),
    ) -> Result<Answer, Trouble> {
        let kind = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let request = Request::builder()
            .method(method.clone())
            .uri(target)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, kind)
            .header(header::USER_AGENT, user_agent())
            .body(Body::from(body))
            .map_err(|error| Trouble::new(Class::Failing, error.to_string()))?;
        let client = self.lock().0.clone();
        let begin = Instant::now();
        let mut sending = std::pin::pin!(client.send(request));
        let sent = match timeout(SLOW, &mut sending).await {
            Ok(sent) => Some(sent),
            Err(_elapsed) => {
                slow().await;
                timeout(ANSWER - SLOW, sending).await.ok()
            }
        };
        let status = sent.as_ref().and_then(|sent| sent.as_ref().ok());
        self.count(&method, status.map(http::Response::status), begin.elapsed());
        let sent = sent.ok_or_else(silent)?;
        let response = sent.map_err(|error| Trouble::of_error(&error))?;
        let (head, body) = response.into_parts();
        if head.status.is_success() {
            return Ok(Answer { body });
        }
        let wait = head.headers.get(header::RETRY_AFTER);
        let wait = wait.and_then(|text| text.to_str().ok()?.parse().ok());
        Err(Trouble { wait: wait.map(Duration::from_secs), ..refusal(head.status, body).await })
    }
}

impl Answer {
    /// The next piece of the body; `None` at its end.
    pub(super) async fn piece(&mut self, patience: Duration) -> Result<Option<Vec<u8>>, Trouble> {
        loop {
            let frame = timeout(patience, self.body.frame()).await.map_err(|_elapsed| silent())?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(Trouble::of_error(&error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data.into()));
                    }
                }
            }
        }
    }

    /// The whole body.
    pub(super) async fn all(mut self) -> Result<Vec<u8>, Trouble> {
        let mut all = Vec::new();
        while let Some(piece) = self.piece(ANSWER).await? {
            all.extend(piece);
        }
        Ok(all)
    }
}

fn silent() -> Trouble {
    Trouble::new(Class::Unreachable, "it does not answer")
}

/// What an answer that is no success says.
async fn refusal(status: StatusCode, body: Body) -> Trouble {
    #[derive(Default, Deserialize)]
    struct Said {
        #[serde(default)]
        message: String,
    }
    let mut answer = Answer { body };
    let mut text = Vec::new();
    while text.len() < MAX_MESSAGE
        && let Ok(Some(piece)) = answer.piece(CONNECT).await
    {
        text.extend(piece);
    }
    let said: Said = serde_json::from_slice(&text).unwrap_or_default();
    Trouble::of_status(status.as_u16(), &said.message)
}

fn client(cluster: &ClusterConfig) -> Result<(Client, String), KubeError> {
    let mut config = config(cluster)?;
    if let Some(server) = &cluster.server {
        config.cluster_url = url(server)?;
    }
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(PROBE.0));
    tcp.set_keepalive_interval(Some(PROBE.1));
    tcp.set_keepalive_retries(Some(PROBE.2));
    tcp.set_tcp_user_timeout(Some(UNACKED));
    let tls = config.rustls_https_connector_with_connector(tcp)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(HttpClient::builder(TokioExecutor::new()).build(tls));
    Ok((Client::new(service, "default"), server))
}

fn url(server: &str) -> Result<Uri, KubeError> {
    let with_scheme =
        if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    with_scheme.parse().map_err(|error| KubeError::Server(server.to_owned(), error))
}

fn config(cluster: &ClusterConfig) -> Result<Config, KubeError> {
    let path = match (&cluster.kubeconfig, &cluster.server) {
        (Some(path), _) => path,
        (None, None) => return Ok(Config::incluster()?),
        // Outside of a pod, an API server that asks for no credentials.
        (None, Some(server)) => {
            return Config::incluster().or_else(|_no_pod| url(server).map(Config::new));
        }
    };
    let name = path.display().to_string();
    let explain = |error| KubeError::Kubeconfig(name.clone(), error);
    let kubeconfig = Kubeconfig::read_from(path).map_err(explain)?;
    let clusters = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
    if clusters.flat_map(|cluster| &cluster.proxy_url).next().is_some() {
        return Err(KubeError::Proxy(name));
    }
    // The future only reads files, with blocking calls: it is ready when polled once.
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .now_or_never()
        .unwrap_or(Err(KubeconfigError::CurrentContextNotSet))
        .map_err(explain)
}

fn user_agent() -> String {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    format!("lb/{} ({os}/{arch})", env!("CARGO_PKG_VERSION"))
}
