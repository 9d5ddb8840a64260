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
}

impl Endpoint {
    /// A ready pod.
    pub fn pod(pod: &Pod) -> Self {
        Self {
            name: pod.name().to_owned(),
            addresses: pod.addresses,
            node: pod.node.clone(),
            condition: Condition::Ready,
        }
    }

    /// A ready pod of the host's network.
    pub fn host(node: &Node) -> Self {
        Self {
            name: node.name().to_owned(),
            addresses: node.addresses,
            node: node.name().to_owned(),
            condition: Condition::Ready,
        }
    }

    /// The same endpoint in another state.
    #[must_use]
    pub fn is(self, condition: Condition) -> Self {
        Self { condition, ..self }
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
        for Endpoint { name, addresses, node, condition } in endpoints {
            let (ready, serving, terminating) = match condition {
                Condition::Ready => (true, true, false),
                Condition::NotReady => (false, false, false),
                Condition::Draining => (false, true, true),
                Condition::Terminated => (false, false, true),
            };
            yaml += &format!(
                "  - addresses: [\"{}\"]
    conditions: {{ready: {ready}, serving: {serving}, terminating: {terminating}}}
    nodeName: {node}
    targetRef: {{kind: Pod, namespace: {namespace}, name: {name}}}
",
                addresses.ip(family),
            );
        }
    }
    yaml
}
