//! Getting the addresses that are served: patiently, or as a matter of life and death.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpListener, sync::mpsc};
use tracing::{debug, info, warn};

use super::http::{self, Handler, Methods};

/// Pause before an address that is taken is tried again.
pub const RETRY: Duration = Duration::from_secs(5);
/// Connections that the kernel accepts ahead of us.
const BACKLOG: i32 = 128;

/// One address, and what is served there.
pub struct Server {
    /// What it is, for logs.
    pub what: &'static str,
    /// The reason of the event when it cannot be served and this is fatal.
    pub event: &'static str,
    /// The setting that says where.
    pub setting: &'static str,
    /// Where. A wildcard address stands for both families.
    pub at: SocketAddr,
    /// What answers.
    pub handler: Arc<Handler>,
}

/// An address that must be served, and cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be served at {at} ({setting}), and bindAddressHardFail makes that fatal")]
pub struct BindFailure {
    /// What should be served.
    pub what: &'static str,
    /// The reason of the event on the Node.
    pub event: &'static str,
    /// The setting that says where.
    pub setting: &'static str,
    /// Where.
    pub at: SocketAddr,
    /// What the kernel says.
    #[source]
    pub error: io::Error,
}

impl Server {
    /// Serves until the task is dropped; an address that is taken is tried again after each `pause`.
    /// With `fatal`, it is reported there instead, once.
    pub async fn run(self, pause: Duration, fatal: Option<mpsc::Sender<BindFailure>>) {
        let Self { what, event, setting, at, handler } = self;
        let mut warned = false;
        let listener = loop {
            match bind(at) {
                Ok(listener) => break listener,
                Err(error) => {
                    if let Some(fatal) = fatal {
                        let failure = BindFailure { what, event, setting, at, error };
                        // Nobody listens while the agent stops.
                        let _told = fatal.send(failure).await.is_ok();
                        return;
                    }
                    if warned {
                        debug!(%at, %error, what, "still not served");
                    } else {
                        warn!(%at, %error, setting, "{what} cannot be served, trying again");
                    }
                    warned = true;
                    tokio::time::sleep(pause).await;
                }
            }
        };
        info!(%at, "serving {what}");
        http::serve(listener, Methods::Reading, handler).await;
    }
}

/// Listens at an address; at both wildcard addresses for either of them, where there is IPv6.
fn bind(at: SocketAddr) -> io::Result<TcpListener> {
    if !at.ip().is_unspecified() {
        return listen(at);
    }
    match listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, at.port()))) {
        Err(error) if at.is_ipv4() && no_ipv6(&error) => listen(at),
        result => result,
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    socket(at, !at.ip().is_unspecified())
}

/// Listens at an address of one family; at a wildcard address for that family alone.
pub(super) fn listen_one_family(at: SocketAddr) -> io::Result<TcpListener> {
    socket(at, true)
}

fn socket(at: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    if at.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
