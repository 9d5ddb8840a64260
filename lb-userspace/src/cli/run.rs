//! `lb run`: from flags and a configuration file to a running agent.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use tracing::{info, warn};

use super::{
    args::{CleanupArgs, RunArgs},
    cleanup, surroundings,
};
use crate::{
    agent,
    config::{
        Config, Task,
        proxy::Remark,
        watch::{self, Watch},
    },
    telemetry::{endpoints::PROXY_MODE, logs},
};

pub(super) fn run(args: RunArgs, pin_dir: PathBuf, state_dir: PathBuf) -> anyhow::Result<ExitCode> {
    let file = args.config.clone();
    let text = file.as_deref().map(read).transpose()?;
    let build = move |text: Option<&str>| {
        Config::new(args.clone(), pin_dir.clone(), state_dir.clone(), &surroundings(), text)
    };
    let config = build(text.as_deref())?;
    logs::init(config.log_format, config.verbosity);
    announce(&config, file.as_deref());
    match &config.task {
        Task::Run => {}
        Task::InitOnly => {
            info!("nothing has to be prepared");
            return Ok(ExitCode::SUCCESS);
        }
        Task::WriteConfig(to) => return write(&config, to),
        Task::Cleanup => {
            let args = CleanupArgs::default();
            return cleanup::cleanup(&args, &config.pin_dir, &config.state_dir);
        }
    }
    adjust_oom_score(config.oom_score_adj);
    let watch = match (file, text) {
        (Some(file), Some(text)) => follow(&file, text, move |text| build(Some(text)).map(drop)),
        _ => None,
    };
    agent::run(config, watch)?;
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("reading --config {}", file.display()))
}

/// Says what this agent goes by, and what is to be said about it.
fn announce(config: &Config, file: Option<&Path>) {
    let file = file.map(|file| file.display().to_string());
    info!(
        version = env!("CARGO_PKG_VERSION"),
        node = config.node_name,
        node_ips = ?config.node_ips,
        mode = PROXY_MODE,
        source = %config.source,
        config = file.as_deref().unwrap_or("flags"),
        "lb starts"
    );
    for remark in &config.remarks {
        match remark {
            Remark::Warning(text) => warn!("{text}"),
            Remark::Note(text) => info!("{text}"),
        }
    }
}

fn write(config: &Config, to: &Path) -> anyhow::Result<ExitCode> {
    let text = serde_yaml_ng::to_string(&config.proxy).context("writing the configuration")?;
    fs::write(to, text).with_context(|| format!("writing --write-config-to {}", to.display()))?;
    info!(file = %to.display(), "configuration written");
    Ok(ExitCode::SUCCESS)
}

/// An agent that is killed for memory comes back, but its node changes nothing until then.
fn adjust_oom_score(score: i32) {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", score.to_string()) {
        info!(score, %error, "oomScoreAdj cannot be set: CAP_SYS_RESOURCE is missing?");
    }
}

fn follow(
    file: &Path,
    text: String,
    check: impl Fn(&str) -> Result<(), crate::config::ConfigError> + Send + 'static,
) -> Option<Watch> {
    watch::watch(file, text, check)
        .inspect_err(|error| {
            let file = file.display();
            warn!(%file, %error, "changes of the configuration take effect at the next start only");
        })
        .ok()
}
