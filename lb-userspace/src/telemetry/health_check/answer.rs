//! What a health check port says: pure.

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use crate::{model::ObjectName, telemetry::http::Response};

/// The header in which load balancers find by how much to prefer this node.
const WEIGHT: &str = "X-Load-Balancing-Endpoint-Weight";

/// The body, whose keys are in the order that kube-proxy writes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: Service<'a>,
    local_endpoints: u32,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Service<'a> {
    namespace: &'a str,
    name: &'a str,
}

/// The answer for a Service with so many endpoints on this node.
pub(super) fn answer(service: &ObjectName, local: u32, healthy: bool) -> Response {
    let body = Body {
        service: Service { namespace: &service.namespace, name: &service.name },
        local_endpoints: local,
        service_proxy_healthy: healthy,
    };
    let mut text = Vec::new();
    let mut writer = Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"\t"));
    // Strings, a number and a truth, written to memory: this cannot fail.
    let _written = body.serialize(&mut writer).is_ok();
    let status = if local > 0 && healthy { 200 } else { 503 };
    Response {
        header: Some((WEIGHT, local.to_string())),
        ..Response::json(status, String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(local: u32, healthy: bool) -> Response {
        answer(&ObjectName::new("shop", "vote"), local, healthy)
    }

    /// HC-4: endpoints here and a healthy proxy, both.
    #[test]
    fn a_node_passes_with_local_endpoints_and_a_healthy_proxy_only() {
        assert_eq!(told(1, true).status, 200);
        assert_eq!(told(0, true).status, 503);
        assert_eq!(told(1, false).status, 503);
        assert_eq!(told(0, false).status, 503);
    }

    /// HC-6: the weight is told with either status.
    #[test]
    fn the_weight_is_the_number_of_endpoints_whatever_the_status() {
        for (local, healthy) in [(3, true), (3, false), (0, true)] {
            let response = told(local, healthy);
            let weight = Some(("X-Load-Balancing-Endpoint-Weight", local.to_string()));
            assert_eq!(response.header, weight);
            assert_eq!(response.kind, "application/json");
        }
    }

    /// HC-7.
    #[test]
    fn the_body_is_that_of_kube_proxy() {
        let expected = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"vote\"\n\t},\n\
                        \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
        assert_eq!(told(2, true).body, expected);
    }
}
