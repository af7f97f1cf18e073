//! Opening a large model.

use engraft::anatomy::Anatomy;
use engraft::graph::{Graph, Shapes};
use engraft::model::{Model, OpenOptions};
use engraft::runtime::{Runtime, RuntimeSettings, memory, silent};
use engraft_plugin_api::{Place, RunRequest};
use std::path::{Path, PathBuf};

use crate::tools::{Outcome, median, rows, seconds};

/// Loading a graph of Llama's shape and finding its parts; the memory of opening it, and of one pass after that where
/// its weights are there.
pub(crate) fn anatomy(folder: &Path) -> Outcome<()> {
    let path = Graph::find(folder)?;
    let (mut loads, mut finds, mut found) = (Vec::new(), Vec::new(), None);
    for _ in 0..9 {
        let mut graph = None;
        loads.push(seconds(|| {
            graph = Some(Graph::load(&path)?);
            Ok(())
        })?);
        let graph = graph.ok_or("no graph")?;
        finds.push(seconds(|| {
            found = Some(Anatomy::of(&graph, &Shapes::infer(&graph)?)?);
            Ok(())
        })?);
    }
    let layers = found.map_or(0, |a| a.layers);
    println!(
        "a graph of {layers} blocks: loaded in {:.3} s, shapes and anatomy in {:.3} s",
        median(loads),
        median(finds)
    );
    let out = std::process::Command::new(std::env::current_exe()?).arg("child-peak").output()?;
    print!("{}", String::from_utf8_lossy(&out.stdout));
    Ok(())
}

/// Opens the Llama-shaped model, runs one row of 16 tokens, and says what was resident at most.
pub(crate) fn peak() -> Outcome<()> {
    let folder = PathBuf::from(std::env::var_os("ENGRAFT_BENCH_LLAMA").ok_or("ENGRAFT_BENCH_LLAMA is not set")?);
    let runtime = Runtime::open(&RuntimeSettings::default(), silent())?;
    let model = Model::open(&folder, &runtime, &OpenOptions::default())?;
    let weights: u64 = model.graph().initializers().filter_map(|i| i.byte_len().ok()).sum();
    let of_weights = |bytes: Option<u64>| bytes.unwrap_or(0) as f64 / weights as f64;
    println!(
        "opening it: at most {:.3}x of its {:.2} GB of weights resident",
        of_weights(memory::peak_bytes()),
        weights as f64 / 1e9
    );
    if memory::available_bytes().is_some_and(|free| free > weights + weights / 2) {
        let rows = rows(1, 16, model.anatomy().vocab);
        model.run(&RunRequest { rows, logits: vec![Place { row: 0, pos: 15 }], ..RunRequest::default() })?;
        println!(
            "after a pass: at most {:.3}x resident, mapped files included; {:.3}x of it allocated",
            of_weights(memory::peak_bytes()),
            of_weights(memory::anonymous_bytes())
        );
    }
    Ok(())
}
