//! Creates the Services and their slices, several at a time, at a bounded rate.

use std::{
    collections::BTreeMap,
    fs::File,
    net::Ipv4Addr,
    sync::mpsc::Sender,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{
    core::v1::{Namespace, Service, ServicePort, ServiceSpec},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
};
use kube::{
    Api, Client, Config,
    api::{ObjectMeta, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use lb_tests::kubernetes::Cluster;
use nix::sched::{CloneFlags, setns};

use super::watch::Watched;

const NAMESPACE: &str = "bench";
/// Requests under way at once.
const PARALLEL: usize = 8;
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Creates all, telling `watched` of each; returns when the last was accepted.
pub(super) fn create(
    cluster: &Cluster,
    services: u32,
    endpoints: u32,
    rate: u32,
    watched: &Sender<Watched>,
) -> Result<Instant> {
    let netns = File::open(cluster.client().netns_path())?;
    let kubeconfig = cluster.kubeconfig();
    // The API server is reached inside of the cluster's namespaces only, which a thread can enter.
    let work = move || -> Result<Instant> {
        setns(&netns, CloneFlags::CLONE_NEWNET).context("entering the client's namespace")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let read = Kubeconfig::read_from(&kubeconfig)?;
            let config =
                Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
            let client = Client::try_from(config)?;
            all(client, services, endpoints, rate, watched).await
        })
    };
    thread::scope(|scope| scope.spawn(work).join())
        .map_err(|_panic| anyhow!("the thread that creates Services panicked"))?
}

async fn all(
    client: Client,
    services: u32,
    endpoints: u32,
    rate: u32,
    watched: &Sender<Watched>,
) -> Result<Instant> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = Namespace { metadata: named(NAMESPACE), ..Namespace::default() };
    let _ = namespaces.create(&PostParams::default(), &namespace).await?;
    let begin = Instant::now();
    let each = Duration::from_secs(1) / rate.max(1);
    stream::iter(0..services)
        .map(|n| {
            let client = client.clone();
            async move {
                tokio::time::sleep_until((begin + each * n).into()).await;
                one(client, n, endpoints, watched).await
            }
        })
        .buffer_unordered(PARALLEL)
        .try_collect::<()>()
        .await?;
    Ok(Instant::now())
}

async fn one(client: Client, n: u32, endpoints: u32, watched: &Sender<Watched>) -> Result<()> {
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let slices: Api<EndpointSlice> = Api::namespaced(client, NAMESPACE);
    let name = format!("service-{n}");
    let what = || format!("creating {name}");
    let made = services.create(&PostParams::default(), &service(&name)).await.with_context(what)?;
    let ip = made.spec.and_then(|spec| spec.cluster_ip).context("the Service has no cluster IP")?;
    let slice = slice(&name, n, endpoints);
    let _ = slices.create(&PostParams::default(), &slice).await.with_context(what)?;
    let told = Watched { vip: ip.parse()?, accepted: Instant::now() };
    watched.send(told).map_err(|_gone| anyhow!("nobody looks at the maps any more"))
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn service(name: &str) -> Service {
    let port = ServicePort { name: Some("http".to_owned()), port: 80, ..ServicePort::default() };
    let spec = ServiceSpec { ports: Some(vec![port]), ..ServiceSpec::default() };
    Service { metadata: named(name), spec: Some(spec), ..Service::default() }
}

fn slice(service: &str, n: u32, endpoints: u32) -> EndpointSlice {
    let endpoint = |i| Endpoint {
        addresses: vec![Ipv4Addr::from(0x0b00_0000 + n * endpoints + i + 1).to_string()],
        conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
        ..Endpoint::default()
    };
    let mut metadata = named(&format!("{service}-abcde"));
    metadata.labels = Some(BTreeMap::from([(SERVICE_NAME.to_owned(), service.to_owned())]));
    let now = jiff::Timestamp::now().to_string();
    metadata.annotations = Some(BTreeMap::from([(TRIGGER.to_owned(), now)]));
    EndpointSlice {
        metadata,
        address_type: "IPv4".to_owned(),
        endpoints: Some((0..endpoints).map(endpoint).collect()),
        ports: Some(vec![EndpointPort {
            name: Some("http".to_owned()),
            port: Some(8080),
            protocol: Some("TCP".to_owned()),
            ..EndpointPort::default()
        }]),
    }
}
