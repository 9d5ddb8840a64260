//! The objects that cases create.

/// A Deployment of pods that serve HTTP at port 80, are asked whether they are ready, and go on
/// serving for a while after they were told to end, as pods must that want to lose nothing.
pub(crate) fn deployment(name: &str, replicas: u8) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 2}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 60
      containers:
      - name: {name}
        image: schoolofdevops/vote:v1
        imagePullPolicy: Never
        ports: [{{containerPort: 80}}]
        readinessProbe: {{httpGet: {{path: /ready, port: 80}}, periodSeconds: 1, timeoutSeconds: 10}}
        lifecycle: {{preStop: {{sleep: {{seconds: 10}}}}}}
---"
    )
}

/// A pod to run workers in.
pub(crate) fn pod(name: &str, node: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - name: {name}
    image: schoolofdevops/vote:v1
    imagePullPolicy: Never
---"
    )
}

/// A dual-stack Service of TCP port 80, with a node port unless that is 0.
pub(crate) fn service(name: &str, selector: &str, node_port: u16) -> String {
    let kind = if node_port == 0 { "ClusterIP" } else { "NodePort" };
    let node_port = if node_port == 0 { String::new() } else { format!(", nodePort: {node_port}") };
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  type: {kind}
  ipFamilyPolicy: RequireDualStack
  selector: {selector}
  ports: [{{name: http, port: 80, targetPort: 80{node_port}}}]
---"
    )
}
