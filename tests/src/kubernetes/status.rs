//! What a cluster is made of and whether it works, for people.

use anyhow::Result;
use serde_json::Value;

use super::{
    addons, cluster::Cluster, control, node::Node, options::AgentMode, plan::Plan,
    process::Identity,
};

/// Names of the clusters that are up or were left behind.
pub fn names() -> Vec<String> {
    Plan::names()
}

impl Cluster {
    /// A table of components, nodes and agents; and whether all of them are as they should be.
    pub fn status(&self) -> Result<(String, bool)> {
        let mut table = Table { text: String::new(), well: true };
        table.line("COMPONENT", "PID", "STATE");
        for component in control::COMPONENTS {
            let state = match component {
                "kube-apiserver" => self.api_server_state(),
                _ => String::new(),
            };
            table.process(component, self.process(component), &state);
        }
        for node in self.nodes() {
            for part in ["containerd", "kubelet"] {
                let component = format!("{}-{part}", node.name);
                table.process(&component, self.process(&component), "");
            }
            if self.options().agent == AgentMode::Host {
                let component = addons::agent(node);
                table.process(&component, self.process(&component), "");
            }
        }
        table.text.push('\n');
        let nodes = self.json(&["get", "nodes"]).unwrap_or_default();
        table.line("NODE", "ADDRESSES", "STATE");
        for node in self.nodes() {
            let addresses = format!("{},{}", node.v4, node.v6);
            let (state, well) = node_state(&nodes, &node.name);
            let agent = self.agent_state(node);
            table.well &= well && agent.1;
            table.line(&node.name, &addresses, &format!("{state}, agent {}", agent.0));
        }
        table.text.push_str(&format!("\nlogs: {}\n", self.dir().join("logs").display()));
        Ok((table.text, table.well))
    }

    fn api_server_state(&self) -> String {
        match self.kubectl(&["get", "--raw", "/readyz"]) {
            Ok(_) => {
                let version = self.json(&["version"]).unwrap_or_default();
                let version = version["serverVersion"]["gitVersion"].as_str().unwrap_or_default();
                format!("ready, {version}")
            }
            Err(_) => "not ready".to_owned(),
        }
    }

    /// What the agent of a node says of itself.
    fn agent_state(&self, node: &Node) -> (String, bool) {
        if self.options().agent == AgentMode::None {
            return ("not wanted".to_owned(), true);
        }
        let ask = || -> Result<Value> {
            let mut status = node.place.command(&self.options().lb)?;
            let output = status.args(["status", "-o", "json"]).output()?;
            Ok(serde_json::from_slice(&output.stdout)?)
        };
        match ask() {
            Ok(status) if status["healthy"] == true => ("healthy".to_owned(), true),
            Ok(_) => ("not healthy: look at `lb status` there".to_owned(), false),
            Err(_) => ("absent".to_owned(), false),
        }
    }
}

fn node_state(nodes: &Value, name: &str) -> (String, bool) {
    let empty = Vec::new();
    let items = nodes["items"].as_array().unwrap_or(&empty);
    let Some(node) = items.iter().find(|node| node["metadata"]["name"] == name) else {
        return ("unknown to the API server".to_owned(), false);
    };
    let version = node["status"]["nodeInfo"]["kubeletVersion"].as_str().unwrap_or_default();
    let conditions = node["status"]["conditions"].as_array().unwrap_or(&empty);
    let ready = conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True");
    (format!("{}, {version}", if ready { "Ready" } else { "NotReady" }), ready)
}

struct Table {
    text: String,
    well: bool,
}

impl Table {
    fn line(&mut self, name: &str, what: &str, state: &str) {
        let line = format!("{name:<26} {what:<18} {state}");
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn process(&mut self, component: &str, identity: Option<Identity>, state: &str) {
        match identity.filter(|identity| identity.runs()) {
            Some(Identity { pid, .. }) => {
                self.well &= state != "not ready";
                self.line(
                    component,
                    &pid.to_string(),
                    if state.is_empty() { "runs" } else { state },
                );
            }
            None => {
                self.well = false;
                self.line(component, "-", "has ended");
            }
        }
    }
}
