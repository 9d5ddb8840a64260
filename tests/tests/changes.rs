//! Which changes of the objects lead to writes, and to how many.

use std::{collections::BTreeSet, fs, net::IpAddr, time::Instant};

use lb_userspace::{
    agent::Reconciler,
    maps::{Contents, MemoryMaps},
    model::{Coverage, Event, ObjectName},
    plan::{Limits, NodeAddresses},
    source::dir,
};

const SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: {namespace: default, name: web, labels: {a: b}, annotations: {c: d}}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  selector: {app: web}
  ports: [{name: http, protocol: TCP, port: 80, targetPort: 8080, nodePort: 30080}]
"#;

const SLICE: &str = r#"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: default, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, protocol: TCP, port: 8080}]
endpoints:
- addresses: [10.244.1.2]
- addresses: [10.244.1.3]
"#;

/// What a directory with this text tells.
fn read(text: &str) -> Vec<Event> {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("all.yaml"), text).expect("written");
    let events = dir::read(dir.path(), "n1").expect("readable");
    let bad = events.iter().filter(|event| matches!(event, Event::Problems(_, p) if !p.is_empty()));
    assert_eq!(bad.count(), 0, "{events:?}");
    events
}

struct Agent {
    reconciler: Reconciler<MemoryMaps>,
    now: Instant,
}

impl Agent {
    fn new() -> Self {
        let (limits, now) = (Limits::default(), Instant::now());
        let maps = MemoryMaps::new(limits);
        let mut reconciler = Reconciler::adopt(maps, &Contents::default(), limits, now);
        let local: BTreeSet<IpAddr> = [IpAddr::from([192, 0, 2, 1])].into();
        reconciler.node(NodeAddresses {
            local: local.clone(),
            node_port: local.clone(),
            primary: local,
        });
        Self { reconciler, now }
    }

    /// Takes in a batch; returns how many writes it led to.
    fn feed(&mut self, events: impl IntoIterator<Item = Event>) -> u64 {
        self.reconciler.events(events);
        let Some(pass) = self.reconciler.pass(self.now) else { return 0 };
        assert!(pass.error.is_none(), "{:?}", pass.error);
        pass.writes()
    }

    /// Where the Service has its frontends, in the order of their addresses.
    fn frontends(&self) -> Vec<String> {
        let claims = self.reconciler.holders();
        let mut text: Vec<String> = claims.iter().map(|(claim, _)| claim.to_string()).collect();
        text.sort();
        text
    }
}

/// SVC-11, SVC-12, SVC-7: fields of a Service that say nothing about where its traffic goes.
#[test]
fn what_a_service_says_besides_writes_nothing() {
    let changes = [
        ("targetPort: 8080", "targetPort: 9090"),
        ("targetPort: 8080", "targetPort: 8080, appProtocol: kubernetes.io/h2c"),
        ("type: LoadBalancer", "type: LoadBalancer\n  loadBalancerClass: example.org/x"),
        ("type: LoadBalancer", "type: LoadBalancer\n  loadBalancerIP: 198.51.100.9"),
        ("type: LoadBalancer", "type: LoadBalancer\n  allocateLoadBalancerNodePorts: false"),
        ("type: LoadBalancer", "type: LoadBalancer\n  trafficDistribution: PreferClose"),
        ("type: LoadBalancer", "type: LoadBalancer\n  publishNotReadyAddresses: true"),
        ("ipFamilyPolicy: SingleStack", "ipFamilyPolicy: PreferDualStack"),
        ("selector: {app: web}", "selector: {app: other}"),
        ("  selector: {app: web}\n", ""),
        ("labels: {a: b}", "labels: {a: c}"),
        ("annotations: {c: d}", "annotations: {service.kubernetes.io/topology-mode: Auto}"),
        (
            "annotations: {c: d}",
            "annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: 10.0.0.0/8}",
        ),
    ];
    let mut agent = Agent::new();
    assert!(agent.feed(read(&format!("{SERVICE}---{SLICE}"))) > 0);
    for (from, to) in changes {
        assert!(SERVICE.contains(from), "{from}");
        let changed = SERVICE.replace(from, to);
        assert_eq!(agent.feed(read(&format!("{changed}---{SLICE}"))), 0, "{to}");
    }
    // And what does say something, writes.
    let changed = SERVICE.replace("nodePort: 30080", "nodePort: 30081");
    assert!(agent.feed(read(&format!("{changed}---{SLICE}"))) > 0);
}

/// ES-15, ES-13, ES-1: what an endpoint says of its place, and who manages a slice.
#[test]
fn what_an_endpoint_says_besides_writes_nothing() {
    let endpoint = "- addresses: [10.244.1.2]";
    let changes = [
        format!("{endpoint}\n  zone: zone-a"),
        format!("{endpoint}\n  nodeName: n7"),
        format!("{endpoint}\n  hostname: web-0"),
        format!("{endpoint}\n  deprecatedTopology: {{kubernetes.io/hostname: n7}}"),
        format!("{endpoint}\n  targetRef: {{kind: Pod, namespace: default, name: web-0}}"),
        format!("{endpoint}\n  conditions: {{}}"),
        format!("{endpoint}\n  conditions: {{ready: true, serving: true, terminating: false}}"),
        format!("- addresses: [10.244.1.3]\n{endpoint}"),
    ];
    let mut agent = Agent::new();
    assert!(agent.feed(read(&format!("{SERVICE}---{SLICE}"))) > 0);
    for to in changes {
        let changed = SLICE.replace(endpoint, &to);
        assert_eq!(agent.feed(read(&format!("{SERVICE}---{changed}"))), 0, "{to}");
    }
    let managed =
        "labels: {kubernetes.io/service-name: web, endpointslice.kubernetes.io/managed-by: me}";
    let changed = SLICE.replace("labels: {kubernetes.io/service-name: web}", managed);
    assert_eq!(agent.feed(read(&format!("{SERVICE}---{changed}"))), 0);
    let trigger = "name: web-1, annotations: {endpoints.kubernetes.io/last-change-trigger-time: \"2026-01-01T00:00:00Z\"}";
    let changed = SLICE.replace("name: web-1", trigger);
    assert_eq!(agent.feed(read(&format!("{SERVICE}---{changed}"))), 0);
    // And what does say something, writes.
    let changed = SLICE.replace(endpoint, &format!("{endpoint}\n  conditions: {{ready: false}}"));
    assert!(agent.feed(read(&format!("{SERVICE}---{changed}"))) > 0);
}

/// ES-17, SVC-12: a listing that comes again.
#[test]
fn the_same_objects_again_write_nothing() {
    let mut agent = Agent::new();
    let events = read(&format!("{SERVICE}---{SLICE}"));
    assert!(agent.feed(events.clone()) > 0);
    for _ in 0..3 {
        assert_eq!(agent.feed(events.clone()), 0);
        assert_eq!(agent.feed(events.iter().rev().cloned()), 0);
    }
}

/// SVC-13: a Service that is deleted and made again with another address, in one batch.
#[test]
fn a_service_that_is_made_anew_moves_at_once() {
    let mut agent = Agent::new();
    let _writes = agent.feed(read(&format!("{SERVICE}---{SLICE}")));
    assert_eq!(agent.frontends(), ["10.96.0.10:80/TCP", "node port 30080/TCP"]);
    let again = SERVICE.replace("10.96.0.10", "10.96.0.77").replace("30080", "30099");
    let name = ObjectName::new("default", "web");
    let batch = [Event::DeleteService(name)].into_iter().chain(read(&again));
    assert!(agent.feed(batch) > 0);
    assert_eq!(agent.frontends(), ["10.96.0.77:80/TCP", "node port 30099/TCP"]);
}

/// ES-10: an endpoint that moves to another slice within a batch is never away.
#[test]
fn an_endpoint_that_moves_between_slices_writes_nothing() {
    let mut agent = Agent::new();
    let _writes = agent.feed(read(&format!("{SERVICE}---{SLICE}")));
    let slice = ObjectName::new("default", "web-1");
    let moved = SLICE.replace("web-1", "web-2");
    let batch = [Event::DeleteSlice(slice)].into_iter().chain(read(&moved));
    assert_eq!(agent.feed(batch), 0);
}

/// ES-14: more endpoints than Kubernetes supports.
#[test]
fn thousands_of_endpoints_of_one_service_are_programmed() {
    let mut text = SERVICE.to_owned();
    for slice in 0..50 {
        let slice_text = SLICE.replace("web-1", &format!("web-{slice}"));
        let (head, _) = slice_text.split_once("endpoints:").expect("it has some");
        text += &format!("---{head}endpoints:\n");
        for n in 0..100 {
            text += &format!("- addresses: [10.244.{slice}.{}]\n", n + 1);
        }
    }
    let mut agent = Agent::new();
    assert!(agent.feed(read(&text)) >= 5000);
    let fewer = text.replacen("- addresses: [10.244.7.9]\n", "", 1);
    let mut gone = read(&fewer);
    gone.push(Event::Coverage(Coverage::Full));
    let writes = agent.feed(gone);
    // The backend, a new range of slots, and the frontends that name it.
    assert!((1..=5).contains(&writes), "{writes}");
}
