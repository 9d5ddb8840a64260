//! Services.

use crate::{lab::Addresses, worker::Proto};

/// How a Service is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ServiceType {
    /// By its cluster addresses.
    ClusterIp,
    /// Also by a port of every node.
    NodePort,
}

/// A port of a Service.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its name, by which slices refer to it; empty for a single nameless port.
    pub name: String,
    /// Protocol.
    pub proto: Proto,
    /// Port of the cluster addresses.
    pub port: u16,
    /// Port of every node, if any.
    pub node_port: Option<u16>,
    /// Port of the pods.
    pub target: u16,
}

/// A Service with an address of each family.
#[derive(Clone, Debug)]
pub struct Service {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// How it is reached.
    pub kind: ServiceType,
    /// Cluster addresses.
    pub addresses: Addresses,
    /// Ports.
    pub ports: Vec<Port>,
    /// Value of the `app` label that selects its pods.
    pub selector: String,
}

impl Service {
    /// A Service of type ClusterIP without ports; `number` makes its addresses: `10.96.0.N` and
    /// `fd96::N` (in decimal digits).
    pub fn new(name: &str, number: u8) -> Self {
        let digits = u16::from_str_radix(&number.to_string(), 16).unwrap_or(0);
        Self {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            kind: ServiceType::ClusterIp,
            addresses: Addresses {
                v4: [10, 96, 0, number].into(),
                v6: [0xfd96, 0, 0, 0, 0, 0, 0, digits].into(),
            },
            ports: Vec::new(),
            selector: name.to_owned(),
        }
    }

    /// Adds a port; one with a node port makes the Service of type NodePort.
    #[must_use]
    pub fn port(
        mut self,
        name: &str,
        proto: Proto,
        port: u16,
        target: u16,
        node_port: Option<u16>,
    ) -> Self {
        if node_port.is_some() {
            self.kind = ServiceType::NodePort;
        }
        self.ports.push(Port { name: name.to_owned(), proto, port, node_port, target });
        self
    }

    /// The manifest.
    pub fn yaml(&self) -> String {
        let Self { namespace, name, kind, addresses, ports, selector } = self;
        let kind = match kind {
            ServiceType::ClusterIp => "ClusterIP",
            ServiceType::NodePort => "NodePort",
        };
        let Addresses { v4, v6 } = addresses;
        let mut yaml = format!(
            "apiVersion: v1
kind: Service
metadata:
  namespace: {namespace}
  name: {name}
spec:
  type: {kind}
  selector:
    app: {selector}
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  clusterIP: {v4}
  clusterIPs: [{v4}, \"{v6}\"]
  ports:
"
        );
        for Port { name, proto, port, node_port, target } in ports {
            yaml += &format!(
                "    - name: \"{name}\"
      protocol: {proto}
      port: {port}
      targetPort: {target}
"
            );
            if let Some(node_port) = node_port {
                yaml += &format!("      nodePort: {node_port}\n");
            }
        }
        yaml
    }
}
