//! `engraft setup`: gets ONNX Runtime ahead of time.

use clap::Args;
use serde::Serialize;

use super::{notify, out};
use crate::base::Result;
use crate::runtime::provision::{self, Build, Surroundings};

/// Get ONNX Runtime ahead of time, so that no later command needs the network.
#[derive(Args)]
#[command(after_help = "Example: engraft setup --cuda")]
pub(super) struct Setup {
    /// The build for NVIDIA GPUs.
    #[arg(long)]
    cuda: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    library: String,
    version: &'static str,
}

impl Setup {
    pub(super) fn run(&self) -> Result<()> {
        let build = if self.cuda { Build::Cuda } else { Build::Cpu };
        let library = provision::provide(None, build, &Surroundings::of_process(), &*notify())?;
        let library = library.display().to_string();
        if self.json { out::json(&Report { library, version: provision::VERSION }) } else { out::line(library) }
    }
}
