//! What stands under which path of the two servers: the health of the node for load balancers and
//! probes, and everything else for this node's own eyes.

use std::sync::Arc;

use super::{
    Answer, Moment, Telemetry, exposition,
    http::{Handler, Response},
};

/// What `/proxyMode` answers. Tools that ask do so to find out whether iptables or IPVS rules are
/// there to be looked at; none are.
pub const PROXY_MODE: &str = "ebpf";

/// `/healthz` and `/livez`.
pub fn health(telemetry: Telemetry) -> Arc<Handler> {
    Arc::new(move |path| match path {
        "/healthz" => answer(&telemetry.healthz(Moment::now())),
        "/livez" => answer(&telemetry.livez(Moment::now())),
        _ => Response::text(404, "see /healthz and /livez\n"),
    })
}

/// `/metrics` and what else kube-proxy serves beside it. `configuration` is the JSON of `/configz`.
pub fn metrics(telemetry: Telemetry, configuration: String) -> Arc<Handler> {
    Arc::new(move |path| match path {
        "/metrics" => exposition_of(&telemetry.metrics().render()),
        "/metrics/slis" => exposition_of(&telemetry.slis()),
        "/healthz" => {
            telemetry.pinged();
            Response::text(200, "ok")
        }
        "/proxyMode" => Response::text(200, PROXY_MODE),
        "/configz" => Response::json(200, configuration.clone()),
        _ if path.starts_with("/debug/") => Response::text(404, "profiling is not offered\n"),
        _ => {
            Response::text(404, "see /metrics, /metrics/slis, /healthz, /proxyMode and /configz\n")
        }
    })
}

fn answer(answer: &Answer) -> Response {
    // Strings and numbers only: this cannot fail.
    let body = serde_json::to_string(answer).unwrap_or_default();
    Response::json(if answer.ok { 200 } else { 503 }, body)
}

fn exposition_of(open_metrics: &str) -> Response {
    Response {
        status: 200,
        kind: exposition::CONTENT_TYPE,
        header: None,
        body: exposition::classic(open_metrics),
    }
}
