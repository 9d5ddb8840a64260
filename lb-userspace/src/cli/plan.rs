//! `lb plan`: what would be written to bring the maps to what the files say. Writes nothing.

use std::{net::IpAddr, path::Path, process::ExitCode, time::Instant};

use anyhow::Context as _;

use super::{FAILED, args::PlanArgs, ops, print, surroundings};
use crate::{
    config,
    devices::{Rules, watch::Watcher},
    maps::{
        Contents,
        reader::{Reader, ReaderError},
    },
    model::{Coverage, Model, Severity},
    nodeport::{self, Selector},
    plan::{Limits, NodeAddresses, Planner},
    source,
};

pub(super) fn plan(args: &PlanArgs, pin_dir: &Path) -> anyhow::Result<ExitCode> {
    let node_name = config::node_name(args.node_name.as_deref(), &surroundings())?;
    let selectors = config::nodeport_addresses(&args.nodeport_addresses)?;
    let contents = if args.empty { Contents::default() } else { pinned(pin_dir)? };
    let mut model = Model::new();
    model.set_node_name(&node_name);
    model.set_external_ips(args.external_ips);
    let addresses = addresses(&selectors)?;
    let _none = model.set_primary(addresses.primary.clone());
    let changed = model.apply(source::dir::read(&args.source, &node_name)?);

    let now = Instant::now();
    let mut planner = Planner::adopt(&contents, Limits::default(), now);
    planner.set_node(addresses);
    planner.mark(changed);
    if model.coverage() == Coverage::Full {
        planner.prune();
    }
    let plan = planner.plan(&model, now);
    let rows: Vec<_> = plan.ops.iter().map(ops::row).collect();
    planner.commit(plan, 0, now);
    let problems: Vec<_> = model.problems().cloned().chain(planner.problems()).collect();

    let code = print(args.output.format, &rows, |rows| {
        rows.iter().map(|row| format!("{}\n", row.text)).collect()
    })?;
    for problem in &problems {
        tracing::warn!("{problem}");
    }
    let wrong = problems.iter().any(|problem| problem.severity == Severity::Warning);
    Ok(if wrong { ExitCode::from(FAILED) } else { code })
}

/// What is in the pinned maps; nothing where there are none.
fn pinned(pin_dir: &Path) -> anyhow::Result<Contents> {
    match Reader::open(pin_dir).and_then(|reader| reader.contents()) {
        Ok(contents) => Ok(contents),
        Err(ReaderError::NoMaps(_)) => Ok(Contents::default()),
        Err(error @ ReaderError::Permission(_)) => {
            Err(error).context("--empty plans against empty maps, without privilege")
        }
        Err(error) => Err(error.into()),
    }
}

/// The addresses of this node as they are now.
fn addresses(selectors: &[Selector]) -> anyhow::Result<NodeAddresses> {
    let watcher = Watcher::start(Rules::default(), |_routing| {}).context("reading the devices")?;
    let state = watcher.states().borrow().clone();
    let primary4 = state.primary4.map(IpAddr::V4);
    let primary: Vec<IpAddr> = primary4.into_iter().chain(state.primary6.map(IpAddr::V6)).collect();
    Ok(NodeAddresses {
        node_port: nodeport::select(selectors, &state.addresses, &primary).into_iter().collect(),
        local: state.addresses.into_iter().collect(),
        primary: primary.into_iter().collect(),
    })
}
