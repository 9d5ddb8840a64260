//! Services.

use std::net::IpAddr;

use crate::{
    lab::{Addresses, external_address, load_balancer_address},
    worker::Proto,
};

/// How a Service is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ServiceType {
    /// By its cluster addresses.
    ClusterIp,
    /// Also by a port of every node.
    NodePort,
    /// Also by addresses that a load balancer gave it.
    LoadBalancer,
}

impl ServiceType {
    const fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// An entry of `status.loadBalancer.ingress`.
#[derive(Clone, Debug)]
pub struct Ingress {
    /// The address.
    pub ip: IpAddr,
    /// `VIP` or `Proxy`; what the API server makes of no mode is VIP.
    pub mode: Option<&'static str>,
}

/// `Cluster` or `Local`.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Policy {
    /// Endpoints of the whole cluster.
    #[default]
    Cluster,
    /// Endpoints of one node.
    Local,
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
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress`.
    pub ingress: Vec<Ingress>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<String>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: Policy,
    /// `spec.externalTrafficPolicy`; written only where it may be.
    pub external_policy: Policy,
    /// Seconds of `sessionAffinity: ClientIP`; none for `None`.
    pub affinity: Option<u32>,
    /// `spec.healthCheckNodePort`.
    pub health_check_node_port: Option<u16>,
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
            external_ips: Vec::new(),
            ingress: Vec::new(),
            source_ranges: Vec::new(),
            internal_policy: Policy::Cluster,
            external_policy: Policy::Cluster,
            affinity: None,
            health_check_node_port: None,
        }
    }

    /// Adds external IPs.
    #[must_use]
    pub fn external(mut self, addresses: Addresses) -> Self {
        self.external_ips.extend(addresses.both());
        self
    }

    /// Makes the Service of type LoadBalancer, with these addresses and no mode.
    #[must_use]
    pub fn load_balancer(mut self, addresses: Addresses) -> Self {
        self.kind = ServiceType::LoadBalancer;
        self.ingress.extend(addresses.both().map(|ip| Ingress { ip, mode: None }));
        self
    }

    /// Adds an external IP and a load balancer's address of each family, made of `number` as the cluster
    /// addresses are: [`external_address`], [`load_balancer_address`].
    #[must_use]
    pub fn exposed(self, number: u8) -> Self {
        self.external(external_address(number)).load_balancer(load_balancer_address(number))
    }

    /// Sets both traffic policies.
    #[must_use]
    pub fn policies(mut self, internal: Policy, external: Policy) -> Self {
        (self.internal_policy, self.external_policy) = (internal, external);
        self
    }

    /// Sets session affinity by client address.
    #[must_use]
    pub fn affinity(mut self, seconds: u32) -> Self {
        self.affinity = Some(seconds);
        self
    }

    /// Adds source ranges.
    #[must_use]
    pub fn from_ranges(mut self, ranges: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.source_ranges.extend(ranges.into_iter().map(Into::into));
        self
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
        if node_port.is_some() && self.kind == ServiceType::ClusterIp {
            self.kind = ServiceType::NodePort;
        }
        self.ports.push(Port { name: name.to_owned(), proto, port, node_port, target });
        self
    }

    /// The manifest.
    pub fn yaml(&self) -> String {
        let Self { namespace, name, kind, addresses, ports, selector, .. } = self;
        let Addresses { v4, v6 } = addresses;
        let mut yaml = format!(
            "apiVersion: v1
kind: Service
metadata:
  namespace: {namespace}
  name: {name}
spec:
  type: {}
  selector:
    app: {selector}
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  clusterIP: {v4}
  clusterIPs: [{v4}, \"{v6}\"]
  internalTrafficPolicy: {:?}
",
            kind.name(),
            self.internal_policy,
        );
        yaml += &self.reach();
        yaml += "  ports:\n";
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
        yaml + &self.status()
    }

    /// The fields that say who may reach it, and how.
    fn reach(&self) -> String {
        let mut yaml = String::new();
        if self.kind != ServiceType::ClusterIp || !self.external_ips.is_empty() {
            yaml += &format!("  externalTrafficPolicy: {:?}\n", self.external_policy);
        }
        for (field, values) in [
            ("externalIPs", self.external_ips.iter().map(ToString::to_string).collect()),
            ("loadBalancerSourceRanges", self.source_ranges.clone()),
        ] {
            // A JSON list of strings is a YAML list.
            if !values.is_empty() {
                yaml += &format!("  {field}: {values:?}\n");
            }
        }
        if let Some(seconds) = self.affinity {
            yaml += &format!(
                "  sessionAffinity: ClientIP
  sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}
"
            );
        }
        if let Some(port) = self.health_check_node_port {
            yaml += &format!("  healthCheckNodePort: {port}\n");
        }
        yaml
    }

    fn status(&self) -> String {
        if self.ingress.is_empty() {
            return String::new();
        }
        let mut yaml = "status:\n  loadBalancer:\n    ingress:\n".to_owned();
        for Ingress { ip, mode } in &self.ingress {
            yaml += &format!("      - ip: \"{ip}\"\n");
            if let Some(mode) = mode {
                yaml += &format!("        ipMode: {mode}\n");
            }
        }
        yaml
    }
}
