//! A real Kubernetes on one machine: the control plane, nodes, and a client outside, each in a
//! network namespace, with real kubelets, container runtimes and pods, and no kube-proxy.
//!
//! ```text
//!            etcd, kube-apiserver, …        client: kubectl, requests from outside
//!                   control ──┐                ┌── client
//!                             ├── bridge (lan) ┤
//!   node1: containerd, ───────┘                └─────── node2 …
//!          kubelet, agent, pods
//! ```
//! Everything that a cluster owns is recorded before it is made, and [`down()`] removes what is
//! recorded, so that it needs nothing of the program that made it.

mod addons;
mod certificates;
mod cluster;
mod control;
mod deploy;
mod down;
mod hierarchy;
mod hold;
mod network;
mod node;
mod options;
mod plan;
mod pods;
mod process;
mod record;
mod status;
mod temporary;
mod up;

pub use cluster::Cluster;
pub use down::down;
pub use hold::hold;
pub use node::Node;
pub use options::{AgentMode, DEFAULT_NAME, MOST_NODES, Options};
pub use status::names;
pub use temporary::{Temporary, missing, unique_name};
