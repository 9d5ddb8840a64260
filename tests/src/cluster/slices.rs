//! EndpointSlices.

use super::service::{Port, Service};
use crate::lab::{Addresses, FAMILIES, Node, Pod};

/// The state of an endpoint, as its conditions say it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Condition {
    /// Ready and serving.
    Ready,
    /// Neither ready nor serving.
    NotReady,
    /// Terminating but still serving.
    Draining,
    /// Terminating and no longer serving.
    Terminated,
    /// Serving though not ready, and not terminating.
    Serving,
}

/// Who an endpoint is meant for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hints {
    /// `hints.forNodes`.
    pub nodes: Vec<String>,
    /// `hints.forZones`.
    pub zones: Vec<String>,
}

/// A pod, or a process of a node, that serves.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Name of the pod.
    pub name: String,
    /// Addresses.
    pub addresses: Addresses,
    /// Its node.
    pub node: String,
    /// Its state.
    pub condition: Condition,
    /// Who it is meant for.
    pub hints: Hints,
}

impl Endpoint {
    /// A ready pod.
    pub fn pod(pod: &Pod) -> Self {
        Self {
            name: pod.name().to_owned(),
            addresses: pod.addresses,
            node: pod.node.clone(),
            condition: Condition::Ready,
            hints: Hints::default(),
        }
    }

    /// A ready pod of the host's network.
    pub fn host(node: &Node) -> Self {
        Self {
            name: node.name().to_owned(),
            addresses: node.addresses,
            node: node.name().to_owned(),
            condition: Condition::Ready,
            hints: Hints::default(),
        }
    }

    /// The same endpoint in another state.
    #[must_use]
    pub fn is(self, condition: Condition) -> Self {
        Self { condition, ..self }
    }

    /// The same endpoint with hints.
    #[must_use]
    pub fn meant_for(self, nodes: &[&str], zones: &[&str]) -> Self {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        Self { hints: Hints { nodes: words(nodes), zones: words(zones) }, ..self }
    }
}

/// The EndpointSlices of a Service: one a family, with every port of the Service.
pub fn slices(service: &Service, endpoints: &[Endpoint]) -> String {
    let Service { namespace, name, ports, .. } = service;
    let mut yaml = String::new();
    for family in FAMILIES {
        yaml += &format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  namespace: {namespace}
  name: {name}-{}
  labels:
    kubernetes.io/service-name: {name}
    endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io
addressType: {family}
ports:
",
            family.to_string().to_lowercase(),
        );
        for Port { name, proto, target, .. } in ports {
            yaml += &format!("  - {{name: \"{name}\", protocol: {proto}, port: {target}}}\n");
        }
        yaml.push_str(if endpoints.is_empty() { "endpoints: []\n" } else { "endpoints:\n" });
        for Endpoint { name, addresses, node, condition, hints } in endpoints {
            let (ready, serving, terminating) = match condition {
                Condition::Ready => (true, true, false),
                Condition::NotReady => (false, false, false),
                Condition::Draining => (false, true, true),
                Condition::Terminated => (false, false, true),
                Condition::Serving => (false, true, false),
            };
            yaml += &format!(
                "  - addresses: [\"{}\"]
    conditions: {{ready: {ready}, serving: {serving}, terminating: {terminating}}}
    nodeName: {node}
    targetRef: {{kind: Pod, namespace: {namespace}, name: {name}}}
",
                addresses.ip(family),
            );
            yaml += &hints.yaml();
        }
    }
    yaml
}

impl Hints {
    fn yaml(&self) -> String {
        if *self == Self::default() {
            return String::new();
        }
        let list = |words: &[String]| -> String {
            let words: Vec<_> = words.iter().map(|word| format!("{{name: {word}}}")).collect();
            words.join(", ")
        };
        let (nodes, zones) = (list(&self.nodes), list(&self.zones));
        format!("    hints: {{forNodes: [{nodes}], forZones: [{zones}]}}\n")
    }
}

/// A Node object, as the API server holds it; without a zone it has no label of one.
pub fn node(node: &Node, zone: Option<&str>) -> String {
    let labels = zone.map_or_else(String::new, |zone| {
        format!("  labels: {{topology.kubernetes.io/zone: {zone}}}\n")
    });
    let [v4, v6] = node.addresses.both();
    format!(
        "apiVersion: v1
kind: Node
metadata:
  name: {}
{labels}status:
  addresses:
    - {{type: InternalIP, address: {v4}}}
    - {{type: InternalIP, address: \"{v6}\"}}
",
        node.name()
    )
}
