//! `lb-image` writes container images: the agent's for anybody, all of them for a cluster of tests.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use lb_tests::image::{self, Format, Sources};

/// Writes container images of static programs.
#[derive(Parser)]
struct Cli {
    /// Directory of the agent and of the pods' program
    #[arg(long, value_name = "DIR")]
    programs: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The agent's image
    Agent {
        /// The archive
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        /// Layout of the archive
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Every image of a cluster
    All {
        /// Directory of the components; without it, the image of CoreDNS is left out
        #[arg(long, value_name = "DIR")]
        components: Option<PathBuf>,
        /// Directory of the archives
        #[arg(long, value_name = "DIR")]
        output: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lb-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.what {
        What::Agent { output, format } => {
            let sources = Sources { programs: cli.programs, components: None };
            let image = image::agent(&sources)?;
            let digest = image.save(format, &output)?;
            println!("{} {digest} {}", image.names[0], output.display());
        }
        What::All { components, output } => {
            let sources = Sources { programs: cli.programs, components };
            for (file, image) in image::all(&sources)? {
                let path = output.join(file);
                let digest = image.save(Format::Docker, &path)?;
                println!("{} {digest} {}", image.names[0], path.display());
            }
        }
    }
    Ok(())
}
