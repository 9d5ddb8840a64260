//! The steps of the tour.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::Result;

use super::{
    hood,
    screen::{Said, Screen},
    stage::{NODE_PORT, Stage},
};
use crate::{
    lab::{Addresses, FAMILIES, Family},
    worker::Answer,
};

/// Every step, in order.
pub(super) fn walk(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    objects(stage, screen)?;
    outside(stage, screen)?;
    inside(stage, screen)?;
    loopback(stage, screen)?;
    scale(stage, screen)?;
    nothing(stage, screen)?;
    hood::look("node1", &stage.cluster.agents[0].commands, screen)
}

fn objects(stage: &Stage, screen: &mut Screen) -> Result<()> {
    screen.step("Kubernetes objects go in");
    let place = &stage.lab().nodes[0].place;
    let dir = stage.cluster.directory.path().display();
    let said = screen.run("node1", place, &format!("cat {dir}/default-vote-service.yaml"))?;
    screen.check("the Service is plain YAML", said.text.contains("nodePort: 30000"));
    let file = format!("{dir}/default-vote-endpointslices.yaml");
    let said = screen.run("node1", place, &format!("head -20 {file}"))?;
    screen.check("so are its EndpointSlices", said.text.contains("kind: EndpointSlice"));
    for (node, agent) in stage.lab().nodes.iter().zip(&stage.cluster.agents) {
        let said = hood::lb(screen, node.name(), &agent.commands, "status")?;
        screen.check(&format!("the agent of {} is healthy", node.name()), said.code == Some(0));
    }
    Ok(())
}

fn outside(stage: &Stage, screen: &mut Screen) -> Result<()> {
    screen.step("From outside, by any node's address");
    let client = &stage.lab().client;
    for node in &stage.lab().nodes {
        for family in FAMILIES {
            let url = format!("http://{}/", node.addresses.at(family, NODE_PORT));
            let said = screen.run("client", &client.place, &format!("curl -s {url}"))?;
            let own = client.addresses.ip(family);
            let by = parse(&said);
            // The node of the pod keeps the client's address, another node must put its own.
            let right = by.first().is_some_and(|answer| {
                let local = stage.lab().pod(&answer.by).is_ok_and(|pod| pod.node == node.name());
                let wanted = if local { own } else { node.addresses.ip(family) };
                answer.source.ip() == wanted
            });
            screen.check("one of the pods answers and saw the right client address", right);
        }
    }
    screen.line("\nEach connection chooses anew:");
    for node in &stage.lab().nodes {
        for family in FAMILIES {
            let at = node.addresses.at(family, NODE_PORT);
            let answers = many(screen, "client", &client.place, &at.to_string(), 200)?;
            spread(stage, screen, &answers, 200);
        }
    }
    Ok(())
}

fn inside(stage: &Stage, screen: &mut Screen) -> Result<()> {
    screen.step("From a pod and from a host process, by the cluster address");
    let node = &stage.lab().nodes[0];
    let shop = stage.shop()?;
    let clients: [(&str, _, &Addresses); 2] =
        [("shop", &shop.place, &shop.addresses), ("node1", &node.place, &node.addresses)];
    for (who, place, own) in clients {
        for family in FAMILIES {
            let url = format!("http://{}/", host(stage.service.addresses.ip(family)));
            let said = screen.run(who, place, &format!("curl -s {url}"))?;
            let seen = parse(&said).first().map(|answer| answer.source.ip());
            let what = format!("the pod saw {who}'s own address, {}", own.ip(family));
            screen.check(&what, seen == Some(own.ip(family)));
        }
        let host = host(stage.service.addresses.ip(Family::V4));
        let answers = many(screen, who, place, &host, 100)?;
        spread(stage, screen, &answers, 100);
    }
    let vip = host(stage.service.addresses.ip(Family::V4));
    let refused = screen.run("shop", &shop.place, &curl_timed(&format!("http://{vip}:81/")))?;
    check_refused(screen, "a port that the Service does not have", &refused);
    Ok(())
}

fn loopback(stage: &Stage, screen: &mut Screen) -> Result<()> {
    screen.step("On a node, by its loopback addresses");
    let node = &stage.lab().nodes[1];
    for host in ["127.0.0.1", "[::1]"] {
        let line = format!("curl -s http://{host}:{NODE_PORT}/");
        let said = screen.run("node2", &node.place, &line)?;
        let answers = parse(&said);
        screen.check("one of the pods answers", answers.len() == 1);
        let answers = many(screen, "node2", &node.place, &format!("{host}:{NODE_PORT}"), 50)?;
        spread(stage, screen, &answers, 50);
    }
    Ok(())
}

fn scale(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    screen.step("Scaling: the endpoints follow");
    for replicas in [2, 8] {
        stage.scale(replicas)?;
        screen.line(&format!("\nvote is scaled to {replicas}"));
        let agent = &stage.cluster.agents[0];
        let said = hood::lb(screen, "node1", &agent.commands, "services")?;
        screen.check("the maps know the Service", said.text.contains("vote"));
        for family in FAMILIES {
            let at = stage.lab().nodes[1].addresses.at(family, NODE_PORT).to_string();
            let place = &stage.lab().client.place;
            let answers = many(screen, "client", place, &at, 200)?;
            spread(stage, screen, &answers, 200);
        }
    }
    Ok(())
}

fn nothing(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    screen.step("A selector that matches nothing: refused at once");
    stage.select("veto")?;
    let lab = stage.lab();
    let node = &lab.nodes[0];
    let shop = stage.shop()?;
    for family in FAMILIES {
        let vip = format!("http://{}/", host(stage.service.addresses.ip(family)));
        let node_port = format!("http://{}/", node.addresses.at(family, NODE_PORT));
        for (who, place, url) in [
            ("client", &lab.client.place, &node_port),
            ("shop", &shop.place, &vip),
            ("node1", &node.place, &vip),
        ] {
            let said = screen.run(who, place, &curl_timed(url))?;
            check_refused(screen, &format!("{who} to {url}"), &said);
        }
    }
    screen.line("\nThe selector is right again:");
    stage.select("vote")?;
    stage.scale(5)?;
    let at = stage.lab().nodes[0].addresses.at(Family::V4, NODE_PORT).to_string();
    let answers = many(screen, "client", &stage.lab().client.place, &at, 100)?;
    spread(stage, screen, &answers, 100);
    Ok(())
}

pub(super) fn curl_timed(url: &str) -> String {
    format!("curl -sS -m 2 -w 'after %{{time_total}} s\\n' {url}")
}

pub(super) fn check_refused(screen: &mut Screen, what: &str, said: &Said) {
    let at_once = said.took.as_millis() < 500;
    // 7 is curl's code for a connection that could not be made.
    screen.check(&format!("{what}: refused at once"), said.code == Some(7) && at_once);
}

/// Asks `count` times with one command line, each time by a new connection, and shows the tally.
fn many(
    screen: &Screen,
    who: &str,
    place: &crate::lab::Place,
    host: &str,
    count: u32,
) -> Result<BTreeMap<String, u32>> {
    let said = screen.quietly(who, place, &curl_many(host, count))?;
    Ok(tally(screen, &said))
}

/// The command line that asks `count` times, each time by a new connection.
pub(super) fn curl_many(host: &str, count: u32) -> String {
    format!("curl -s 'http://{host}/?[1-{count}]' | cut -d' ' -f1 | sort | uniq -c")
}

/// Shows who answered how often.
pub(super) fn tally(screen: &Screen, said: &Said) -> BTreeMap<String, u32> {
    let mut tally = BTreeMap::new();
    let mut row = String::new();
    for line in said.text.lines() {
        let Some((count, name)) = line.trim().split_once(' ') else { continue };
        let _ = tally.insert(name.to_owned(), count.parse().unwrap_or(0));
        row += &format!("  {count:>4} {name}");
    }
    screen.line(&row);
    tally
}

/// Checks that every replica, and nobody else, got its share, and that nothing was lost.
fn spread(stage: &Stage, screen: &mut Screen, answers: &BTreeMap<String, u32>, count: u32) {
    let pods: Vec<&str> = stage.pods().map(crate::lab::Pod::name).collect();
    let all = answers.values().sum::<u32>() == count;
    let same = answers.len() == pods.len() && pods.iter().all(|pod| answers.contains_key(*pod));
    let what = format!("all {count} answered, by each of the {} pods", pods.len());
    screen.check(&what, all && same);
}

pub(super) fn parse(said: &Said) -> Vec<Answer> {
    said.text.lines().filter_map(Answer::parse).collect()
}

/// An address as URLs want it.
pub(super) fn host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}
