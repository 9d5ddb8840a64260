//! The control plane's processes and their flags.

use std::{ffi::OsString, fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use super::{
    certificates::{Authority, Identity},
    cluster::Cluster,
    plan::{self, CONTROL, POD_RANGES, Plan, SERVICE_RANGES},
};

/// The control plane's components in the order of starting, by the names of their programs.
pub(super) const COMPONENTS: [&str; 4] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// Issues everybody's certificates and kubeconfigs.
pub(super) fn certify(plan: &Plan, nodes: &[String]) -> Result<()> {
    let authority = Authority::create(&plan.pki(), Plan::api_server())?;
    let own = plan::addresses(CONTROL).both();
    let local = ["127.0.0.1".parse()?, "::1".parse()?];
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ];
    authority.server("apiserver", &names, &[&own[..], &local, &plan::API_SERVICE].concat())?;
    authority.key_pair("service-account")?;
    let masters = "system:masters";
    authority.client("kubelet-client", &Identity { user: "kube-apiserver", group: masters })?;
    let _ = authority.kubeconfig("admin", &Identity { user: "admin", group: masters })?;
    for component in ["kube-controller-manager", "kube-scheduler", "kube-proxy"] {
        let user = format!("system:{component}");
        let _ = authority.kubeconfig(component, &Identity { user: &user, group: "lb-cluster" })?;
    }
    for (number, node) in (1..).zip(nodes) {
        let user = format!("system:node:{node}");
        let _ = authority.kubeconfig(node, &Identity { user: &user, group: "system:nodes" })?;
        let ips = plan::addresses(number).both();
        authority.server(&format!("{node}-serving"), &[node], &ips)?;
    }
    Ok(())
}

/// What the API server writes down: every request of the agent, by its metadata.
const AUDIT: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, users: ['system:serviceaccount:kube-system:lb']}
- {level: None}
";

/// Writes the API server's audit policy.
pub(super) fn audit(plan: &Plan) -> Result<()> {
    let path = audit_policy(plan);
    fs::write(&path, AUDIT).with_context(|| format!("writing {}", path.display()))
}

fn audit_policy(plan: &Plan) -> PathBuf {
    plan.state().join("audit-policy.yaml")
}

/// The command of a component, to be started at the control plane.
pub(super) fn command(cluster: &Cluster, component: &str) -> Result<Command> {
    let mut command = cluster.control().command(cluster.program(component))?;
    let _ = command.args(match component {
        "etcd" => etcd(cluster),
        "kube-apiserver" => api_server(cluster),
        "kube-controller-manager" => controller_manager(cluster),
        _ => scheduler(cluster),
    });
    Ok(command)
}

fn etcd(cluster: &Cluster) -> Vec<OsString> {
    let mut flags = words(&[
        "--name=control",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=control=http://127.0.0.1:2380",
        // The cluster ends with the machine: nothing has to be on the disk.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]);
    flags.push(flag("--data-dir", cluster.plan().data().join("etcd")));
    flags
}

fn api_server(cluster: &Cluster) -> Vec<OsString> {
    let pki = cluster.plan().pki();
    let address = plan::addresses(CONTROL).v4;
    let mut flags = words(&[
        "--bind-address=::",
        "--etcd-servers=http://127.0.0.1:2379",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--kubelet-preferred-address-types=InternalIP",
        "--profiling=false",
        // An outage is to begin at once.
        "--shutdown-delay-duration=0s",
    ]);
    flags.push(format!("--advertise-address={address}").into());
    flags.push(format!("--secure-port={}", plan::API_PORT).into());
    flags.push(flag("--service-cluster-ip-range", SERVICE_RANGES));
    flags.push(flag("--audit-policy-file", audit_policy(cluster.plan())));
    flags.push(flag("--audit-log-path", cluster.audit_log()));
    for (name, file) in [
        ("--client-ca-file", "ca.crt"),
        ("--tls-cert-file", "apiserver.crt"),
        ("--tls-private-key-file", "apiserver.key"),
        ("--kubelet-certificate-authority", "ca.crt"),
        ("--kubelet-client-certificate", "kubelet-client.crt"),
        ("--kubelet-client-key", "kubelet-client.key"),
        ("--service-account-key-file", "service-account.pub"),
        ("--service-account-signing-key-file", "service-account.key"),
    ] {
        flags.push(flag(name, pki.join(file)));
    }
    flags
}

fn controller_manager(cluster: &Cluster) -> Vec<OsString> {
    let pki = cluster.plan().pki();
    let mut flags = words(&[
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--allocate-node-cidrs=true",
        "--node-cidr-mask-size-ipv4=24",
        "--node-cidr-mask-size-ipv6=64",
        "--use-service-account-credentials=true",
        "--kube-api-qps=300",
        "--kube-api-burst=400",
        "--concurrent-service-endpoint-syncs=10",
        "--profiling=false",
    ]);
    flags.push(flag("--cluster-cidr", POD_RANGES));
    flags.push(flag("--service-cluster-ip-range", SERVICE_RANGES));
    flags.push(flag("--kubeconfig", pki.join("kube-controller-manager.conf")));
    flags.push(flag("--root-ca-file", pki.join("ca.crt")));
    flags.push(flag("--service-account-private-key-file", pki.join("service-account.key")));
    flags
}

fn scheduler(cluster: &Cluster) -> Vec<OsString> {
    let mut flags = words(&[
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--kube-api-qps=300",
        "--kube-api-burst=400",
        "--profiling=false",
    ]);
    flags.push(flag("--kubeconfig", cluster.plan().pki().join("kube-scheduler.conf")));
    flags
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn flag(name: &str, value: impl Into<OsString>) -> OsString {
    let mut flag = OsString::from(name);
    flag.push("=");
    flag.push(value.into());
    flag
}
