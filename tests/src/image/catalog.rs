//! Which images a cluster needs, and what is in each.

use std::path::PathBuf;

use anyhow::Result;

use super::Image;

/// The module that pins CoreDNS, whose version its image is called by.
const COREDNS_MODULE: &str = include_str!("../../kubernetes/modules/coredns/go.mod");

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Directory of the agent and of `lb-pod`.
    pub programs: PathBuf,
    /// Directory of the components, for CoreDNS; a cluster that is somebody else's has its own.
    pub components: Option<PathBuf>,
}

/// The agent's image: one program, no shell.
///
/// # Errors
///
/// The program cannot be read.
pub fn agent(sources: &Sources) -> Result<Image> {
    let version = env!("CARGO_PKG_VERSION");
    let label =
        |key: &str, value: &str| (format!("org.opencontainers.image.{key}"), value.to_owned());
    Ok(Image {
        names: vec![format!("docker.io/library/lb:{version}")],
        programs: vec![("lb".into(), Image::program(&sources.programs.join("lb"))?)],
        entrypoint: vec!["/lb".into()],
        labels: vec![
            label("title", "lb"),
            label("description", "Kubernetes Services as eBPF: the agent of one node"),
            label("version", version),
            label("licenses", env!("CARGO_PKG_LICENSE")),
        ],
        ports: vec![],
    })
}

/// Every image for which there are programs, with the name of its file.
///
/// # Errors
///
/// A program cannot be read.
pub fn all(sources: &Sources) -> Result<Vec<(&'static str, Image)>> {
    let pod = Image::program(&sources.programs.join("lb-pod"))?;
    let image = |name: &str, file: &str, program: &[u8], words: &[&str], ports: &[&str]| Image {
        names: vec![name.to_owned()],
        programs: vec![(file.to_owned(), program.to_vec())],
        entrypoint: words.iter().map(|word| (*word).to_owned()).collect(),
        labels: vec![],
        ports: ports.iter().map(|port| (*port).to_owned()).collect(),
    };
    let mut vote = image(
        "docker.io/schoolofdevops/vote:v1",
        "vote",
        &pod,
        &["/vote", "serve"],
        &["80/tcp", "80/udp"],
    );
    // Something to update to.
    vote.names.push("docker.io/schoolofdevops/vote:v2".into());
    let mut images = vec![
        ("lb.tar", agent(sources)?),
        ("vote.tar", vote),
        (
            "pause.tar",
            image("registry.k8s.io/pause:3.10.2", "pause", &pod, &["/pause", "pause"], &[]),
        ),
    ];
    if let Some(components) = &sources.components {
        let name = format!("registry.k8s.io/coredns/coredns:{}", coredns_version());
        let program = Image::program(&components.join("coredns"))?;
        let coredns = image(&name, "coredns", &program, &["/coredns"], &["53/tcp", "53/udp"]);
        images.push(("coredns.tar", coredns));
    }
    Ok(images)
}

fn coredns_version() -> &'static str {
    COREDNS_MODULE
        .lines()
        .find_map(|line| line.trim().strip_prefix("github.com/coredns/coredns "))
        .and_then(|rest| rest.split(' ').next())
        .expect("the module of CoreDNS requires CoreDNS")
}
