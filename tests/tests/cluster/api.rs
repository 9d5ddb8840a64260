//! What the agent asks of the API server, as the API server's audit log has it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use lb_tests::lab::until;

use crate::stage::{SOON, Stage};

const USER: &str = "system:serviceaccount:kube-system:lb";

/// §1.23: an operator finds on the Node when its agent has started.
pub(crate) fn event(stage: &Stage) -> Result<()> {
    let nodes: Vec<&str> = stage.cluster.nodes().iter().map(|node| node.name.as_str()).collect();
    until("an event of each node's agent", SOON, || {
        let words = ["get", "events", "-A", "--field-selector=involvedObject.kind=Node"];
        let events = stage.cluster.json(&words)?;
        let events: Vec<_> = events["items"].as_array().into_iter().flatten().collect();
        let started = |node: &&str| {
            let of_agent = |event: &&&serde_json::Value| {
                let component = event["reportingComponent"].as_str().unwrap_or_default();
                let source = event["source"]["component"].as_str().unwrap_or_default();
                event["involvedObject"]["name"] == **node
                    && event["reason"] == "Starting"
                    && component != "kubelet"
                    && source != "kubelet"
            };
            events.iter().find(of_agent).is_some()
        };
        Ok(nodes.iter().all(started).then_some(()))
    })
}

/// NODE-6, SYNC-11, SYNC-12, SVC-18: lists and watches of what it needs, Events, and nothing else; of
/// Nodes only its own; nothing was forbidden, so the role is no smaller than it must be.
pub(crate) fn requests(stage: &Stage) -> Result<()> {
    let path = stage.cluster.audit_log();
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("reading the audit log {}", path.display()))?;
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        // The last line may be half written.
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        if event["user"]["username"] != USER {
            continue;
        }
        let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let (verb, resource) = (word(&event["verb"]), word(&event["objectRef"]["resource"]));
        let uri = word(&event["requestURI"]);
        let code = event["responseStatus"]["code"].as_u64().unwrap_or_default();
        ensure!(code != 403, "{verb} {uri} was forbidden");
        match (verb.as_str(), resource.as_str()) {
            ("list" | "watch", "services" | "endpointslices" | "servicecidrs") => {}
            ("get" | "list" | "watch", "nodes") => {
                let own = stage.cluster.nodes().iter().any(|node| {
                    uri.contains(&format!("metadata.name%3D{}", node.name))
                        || uri.contains(&format!("metadata.name={}", node.name))
                        || uri.contains(&format!("/nodes/{}", node.name))
                });
                ensure!(own, "{verb} {uri} asks for all nodes");
            }
            ("create" | "patch" | "update", "events") => {}
            // Which version the API server has.
            ("get", "") => {}
            _ => anyhow::bail!("the agent asks for {verb} {uri}"),
        }
        let _ = seen.insert((verb, resource));
    }
    for needed in ["services", "endpointslices", "nodes"] {
        let watch = ("watch".to_owned(), needed.to_owned());
        ensure!(seen.contains(&watch), "no watch of {needed} is in the audit log: {seen:?}");
    }
    Ok(())
}
