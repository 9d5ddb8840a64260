//! The steps of the tour on a real cluster.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use super::{
    super::{
        hood,
        screen::{Said, Screen},
        steps::{check_refused, curl_timed, host, parse},
    },
    scene::{Machine, Scene, items, text},
};
use crate::lab::Place;

const NODE_PORT: u16 = 30000;
const NAME: &str = "vote.default.svc.cluster.local";

/// Every step, in order.
pub(super) fn walk(scene: &mut Scene, screen: &mut Screen) -> Result<()> {
    cluster(scene, screen)?;
    create(scene, screen)?;
    outside(scene, screen)?;
    inside(scene, screen)?;
    scale(scene, screen)?;
    nothing(scene, screen)?;
    both_families(scene, screen)?;
    under_the_hood(scene, screen)
}

fn cluster(scene: &Scene, screen: &mut Screen) -> Result<()> {
    screen.step("A Kubernetes without kube-proxy");
    let _said = scene.run(screen, "kubectl get nodes -o wide")?;
    let nodes = scene.json("get nodes")?;
    let ready = items(&nodes).all(|node| {
        let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        conditions.clone().any(|one| one["type"] == "Ready" && one["status"] == "True")
    });
    screen.check("every node is Ready", ready);
    let said = scene.run(screen, "kubectl get pods --all-namespaces -o wide")?;
    screen.check("there is no kube-proxy", !said.text.contains("kube-proxy"));
    for node in &scene.nodes {
        let said = scene.run(screen, &scene.lb(node, "status"))?;
        let healthy = said.code == Some(0) && !said.text.contains("Beside:");
        screen.check(&format!("the agent of {} is healthy, and alone", node.name), healthy);
    }
    Ok(())
}

fn create(scene: &Scene, screen: &mut Screen) -> Result<()> {
    screen.step("A Deployment and a Service");
    for line in [
        "kubectl create deployment vote --image=schoolofdevops/vote:v1 --replicas=5",
        "kubectl create service nodeport vote --tcp=80 --node-port=30000",
        "kubectl run shop --image=schoolofdevops/vote:v1",
        "kubectl rollout status deployment vote --timeout=120s",
        "kubectl wait --for=condition=Ready pod/shop --timeout=120s",
    ] {
        let said = scene.run(screen, line)?;
        screen.check("done", said.code == Some(0));
    }
    scene.settled(5, 1)?;
    let _said = scene.run(screen, "kubectl get pods -l app=vote -o wide")?;
    let said = scene.run(screen, "kubectl describe svc vote")?;
    let right = said.text.contains("30000/TCP") && said.text.contains("NodePort");
    screen.check("the Service has its node port", right);
    let said =
        scene.run(screen, "kubectl get endpointslices -l kubernetes.io/service-name=vote")?;
    screen.check("its endpoints are in a slice", said.text.contains("IPv4"));
    Ok(())
}

fn outside(scene: &Scene, screen: &mut Screen) -> Result<()> {
    screen.step("From outside, by any node's address");
    let pods = scene.pods()?;
    for node in &scene.nodes {
        let at = node_port(node, false)?;
        let said = scene.run(screen, &format!("curl -s http://{at}/"))?;
        let by = parse(&said);
        screen.check("one of the pods answers", by.len() == 1 && pods.contains(&by[0].by));
        let answers = many(scene, screen, "client", &scene.outside, &at, 100)?;
        spread(screen, &pods, &answers, 100);
    }
    Ok(())
}

fn inside(scene: &Scene, screen: &mut Screen) -> Result<()> {
    screen.step("From a pod, by its DNS name; from a process of a node");
    let pods = scene.pods()?;
    let said = scene.run(screen, &format!("kubectl exec shop -- /vote get http://{NAME}/"))?;
    let by = parse(&said);
    screen.check("one of the pods answers", by.len() == 1 && pods.contains(&by[0].by));
    let shop = scene.json("-n default get pod shop")?;
    let own = text(&shop["status"]["podIP"]);
    let seen = by.first().map(|answer| answer.source.ip().to_string());
    screen.check(&format!("it saw shop's own address, {own}"), seen == Some(own));

    let vip = vip(scene)?;
    if let Some(place) = scene.pod("shop")? {
        let answers = many(scene, screen, "shop", &place, &vip, 100)?;
        spread(screen, &pods, &answers, 100);
        let refused =
            scene.run_at(screen, "shop", &place, &curl_timed(&format!("http://{vip}:81/")))?;
        check_refused(screen, "a port that the Service does not have", &refused);
    }
    let Some((node, place)) = entered(scene) else { return Ok(()) };
    for host in [vip, format!("127.0.0.1:{NODE_PORT}")] {
        let answers = many(scene, screen, &node.name, place, &host, 100)?;
        spread(screen, &pods, &answers, 100);
    }
    Ok(())
}

fn scale(scene: &Scene, screen: &mut Screen) -> Result<()> {
    screen.step("Scaling: the endpoints follow");
    for replicas in [2, 8] {
        let line = format!("kubectl scale deployment vote --replicas={replicas}");
        let said = scene.run(screen, &line)?;
        screen.check("done", said.code == Some(0));
        scene.settled(replicas, 1)?;
        let pods = scene.pods()?;
        for node in &scene.nodes {
            let at = node_port(node, false)?;
            let answers = many(scene, screen, "client", &scene.outside, &at, 200)?;
            spread(screen, &pods, &answers, 200);
        }
    }
    Ok(())
}

fn nothing(scene: &Scene, screen: &mut Screen) -> Result<()> {
    screen.step("A selector that matches nothing: refused at once");
    let edit = |from: &str, to: &str| {
        format!("KUBE_EDITOR=\"sed -i 's/app: {from}/app: {to}/'\" kubectl edit service vote")
    };
    let said = scene.run(screen, &edit("vote", "veto"))?;
    screen.check("edited", said.code == Some(0));
    scene.emptied()?;
    let said = scene.run(screen, "kubectl describe svc vote")?;
    screen.check("no endpoints", said.text.contains("app=veto"));
    for node in &scene.nodes {
        let url = format!("http://{}/", node_port(node, false)?);
        let said = scene.run(screen, &curl_timed(&url))?;
        check_refused(screen, &format!("client to {url}"), &said);
    }
    let said = scene.run(screen, &format!("kubectl exec shop -- /vote get http://{NAME}/"))?;
    let right = said.code != Some(0) && said.text.to_lowercase().contains("refused");
    screen.check("shop is refused as well", right);
    if let Some((node, place)) = entered(scene) {
        let url = format!("http://{}/", vip(scene)?);
        let said = scene.run_at(screen, &node.name, place, &curl_timed(&url))?;
        check_refused(screen, &format!("{} to {url}", node.name), &said);
    }
    let said = scene.run(screen, &edit("veto", "vote"))?;
    screen.check("edited back", said.code == Some(0));
    scene.settled(8, 1)?;
    let pods = scene.pods()?;
    let at = node_port(&scene.nodes[0], false)?;
    let answers = many(scene, screen, "client", &scene.outside, &at, 200)?;
    spread(screen, &pods, &answers, 200);
    Ok(())
}

fn both_families(scene: &Scene, screen: &mut Screen) -> Result<()> {
    if scene.nodes.iter().any(|node| node_port(node, true).is_err()) {
        return Ok(());
    }
    screen.step("And IPv6");
    let said = scene.run(
        screen,
        "kubectl patch service vote -p '{\"spec\":{\"ipFamilyPolicy\":\"RequireDualStack\"}}'",
    )?;
    screen.check("the Service has addresses of both families", said.code == Some(0));
    scene.settled(8, 2)?;
    let pods = scene.pods()?;
    for node in &scene.nodes {
        let at = node_port(node, true)?;
        let answers = many(scene, screen, "client", &scene.outside, &at, 200)?;
        spread(screen, &pods, &answers, 200);
    }
    Ok(())
}

fn under_the_hood(scene: &Scene, screen: &mut Screen) -> Result<()> {
    let node = &scene.nodes[0];
    if let Some(commands) = scene.commands(node) {
        return hood::look(&node.name, &commands, screen);
    }
    screen.step("Under the hood");
    for (words, mention) in [
        ("services describe vote", "30000"),
        ("flows --service vote --limit 6", "lb_"),
        ("backends --service vote", "vote"),
    ] {
        let said = scene.run(screen, &scene.lb(node, words))?;
        screen.check("it is there", said.code == Some(0) && said.text.contains(mention));
    }
    Ok(())
}

/// The first node that can be entered.
fn entered(scene: &Scene) -> Option<(&Machine, &Place)> {
    scene.nodes.iter().find_map(|node| Some((node, node.place.as_ref()?)))
}

/// Address and node port of a node.
fn node_port(node: &Machine, v6: bool) -> Result<String> {
    let ip = node.addresses.iter().find(|ip| ip.is_ipv6() == v6);
    let ip = ip.with_context(|| format!("{} has no address of this family", node.name))?;
    Ok(format!("{}:{NODE_PORT}", host(*ip)))
}

/// The Service's first address.
fn vip(scene: &Scene) -> Result<String> {
    let service = scene.json("-n default get service vote")?;
    Ok(host(text(&service["spec"]["clusterIP"]).parse().context("the Service has no address")?))
}

/// Asks `count` times with one command line, each time by a new connection, and shows the tally.
fn many(
    scene: &Scene,
    screen: &Screen,
    who: &str,
    place: &Place,
    host: &str,
    count: u32,
) -> Result<BTreeMap<String, u32>> {
    let line = super::super::steps::curl_many(host, count);
    let said: Said = scene.quietly_at(screen, who, place, &line)?;
    Ok(super::super::steps::tally(screen, &said))
}

/// Checks that every pod, and nobody else, got its share, and that nothing was lost.
fn spread(
    screen: &mut Screen,
    pods: &BTreeSet<String>,
    answers: &BTreeMap<String, u32>,
    count: u32,
) {
    let all = answers.values().sum::<u32>() == count;
    let same = answers.keys().eq(pods.iter());
    let what = format!("all {count} answered, by each of the {} pods", pods.len());
    screen.check(&what, all && same);
}
