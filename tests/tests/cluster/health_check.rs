//! Health check ports of Services, as an API server hands them out.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use lb_tests::{
    lab::{FAMILIES, Family, until},
    worker::Proto,
};

use crate::{
    manifests,
    stage::{PATIENCE, SOON, Stage},
};

const PORT: u16 = 30_930;

fn service() -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: {PORT}
  ipFamilyPolicy: RequireDualStack
  selector: {{app: web}}
  ports: [{{name: http, port: 80}}]
---"
    )
}

/// HC-1, HC-10: a port that somebody else has is an event on the Service, and served when it is free.
pub(crate) fn taken(stage: &Stage) -> Result<()> {
    let space = stage.namespace("health-check")?;
    let occupied = stage.node_port(0, Family::V4, PORT)?;
    stage.hosts[0].serve(Proto::Tcp, occupied)?;
    space.apply(&(manifests::pod("web", "node1") + &service()))?;
    let _ = space.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=180s"])?;
    let event = until("an event on the Service", PATIENCE, || {
        let reason = "--field-selector=reason=FailedToStartServiceHealthcheck";
        let events = space.json(&["get", "events", reason])?;
        Ok(events["items"].as_array().and_then(|events| events.first().cloned()))
    })?;
    for (field, is) in [
        (&event["involvedObject"]["kind"], "Service"),
        (&event["involvedObject"]["name"], "web"),
        (&event["type"], "Warning"),
        (&event["action"], "Listen"),
    ] {
        ensure!(field == is, "{field} is not {is:?} in {event}");
    }
    let text = event["message"].as_str().unwrap_or_default();
    ensure!(text.contains(&PORT.to_string()) && text.contains("in use"), "{event}");
    stage.hosts[0].stop(Proto::Tcp, occupied)?;
    for (node, expected) in [(0, 200), (1, 503)] {
        for family in FAMILIES {
            status(stage, stage.node_port(node, family, PORT)?, expected)?;
        }
    }
    Ok(())
}

/// Waits until a port answers so.
fn status(stage: &Stage, at: SocketAddr, expected: u16) -> Result<()> {
    until(&format!("{expected} from {at}"), SOON, || {
        let asked = stage.curl(stage.cluster.client(), &format!("http://{at}/"));
        Ok(asked.ok().filter(|(status, _)| *status == expected).map(drop))
    })
}
