//! kube-proxy's IPVS mode: a device that holds the addresses, and virtual servers.
//!
//! Only looked at. Which virtual servers are kube-proxy's cannot be told from the kernel's tables for
//! those at addresses of the node, so removing them is left to the commands that are printed.

use std::{fs, net::SocketAddr};

use nix::net::if_::if_nametoindex;

use super::Finding;

/// The device that holds the addresses of Services.
pub(super) const DEVICE: &str = "kube-ipvs0";
/// Of the thread's own network namespace.
const SERVERS: &str = "/proc/thread-self/net/ip_vs";

/// A virtual server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Server {
    /// `TCP`, `UDP` or `SCTP`.
    pub(super) protocol: String,
    /// Where it listens.
    pub(super) at: SocketAddr,
}

/// Looks for traces of IPVS mode.
pub(super) fn detect() -> Option<Finding> {
    // Others use IPVS too: only the device is kube-proxy's for certain.
    has_device().then(|| Finding::Ipvs { device: true, servers: servers().len() })
}

/// Whether kube-proxy's device is there.
pub(super) fn has_device() -> bool {
    if_nametoindex(DEVICE).is_ok()
}

/// All virtual servers, whoever made them.
pub(super) fn servers() -> Vec<Server> {
    // Where the kernel has no IPVS, there is no file.
    fs::read_to_string(SERVERS).map(|text| parse(&text)).unwrap_or_default()
}

/// The commands that remove what lb does not.
pub(super) fn commands() -> Vec<String> {
    let mut commands: Vec<String> = servers()
        .into_iter()
        .filter_map(|Server { protocol, at }| {
            let option = match protocol.as_str() {
                "TCP" => "--tcp-service",
                "UDP" => "--udp-service",
                "SCTP" => "--sctp-service",
                _ => return None,
            };
            Some(format!("ipvsadm --delete-service {option} {at}"))
        })
        .collect();
    commands.push(format!("ip link delete {DEVICE}"));
    commands
        .push("ipset destroy  # each set of `ipset list -name` that begins with KUBE-".to_owned());
    commands
}

/// Reads lines such as `TCP  0A600001:01BB rr` and `UDP  [fd96:…:000A]:0035 rr`.
fn parse(text: &str) -> Vec<Server> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let protocol = words.next()?;
            if !["TCP", "UDP", "SCTP"].contains(&protocol) {
                return None;
            }
            let (address, port) = words.next()?.rsplit_once(':')?;
            let port = u16::from_str_radix(port, 16).ok()?;
            let ip = match address.strip_prefix('[') {
                Some(address) => address.strip_suffix(']')?.parse().ok()?,
                None => u32::from_str_radix(address, 16).ok()?.to_be_bytes().into(),
            };
            Some(Server { protocol: protocol.to_owned(), at: SocketAddr::new(ip, port) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_servers_are_read_and_real_ones_skipped() {
        let text = "IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A600001:01BB rr
  -> 0A000002:1AEB      Masq    1      0          0
UDP  [fd96:0000:0000:0000:0000:0000:0000:000a]:0035 rr
FWM  00000001 rr
";
        let at = |protocol: &str, at: &str| Server {
            protocol: protocol.to_owned(),
            at: at.parse().unwrap(),
        };
        assert_eq!(parse(text), [at("TCP", "10.96.0.1:443"), at("UDP", "[fd96::a]:53")]);
    }
}
