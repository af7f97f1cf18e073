//! The figures of BENCHMARKS.md, as ratios within one run; a file a figure, what they share in `tools`.
//!
//! `cargo build --release --workspace && cargo bench -p engraft [-- edit | step | forward | slots | memory | generate |
//! anatomy | intercept | splice | switch | threads | soak]`. With
//! `ENGRAFT_BENCH_MODEL` naming a GPT-2-small-shaped model (`examples/bench/make_gpt2_small.py` makes one), the larger
//! figures are measured too; `generate` wants a model with cached keys and values (the same with `--cache`), named by
//! `ENGRAFT_BENCH_CACHED`; `anatomy` wants one that `examples/bench/make_llama.py` makes, named by `ENGRAFT_BENCH_LLAMA`.
//! `soak`, which takes minutes, is measured where it is named.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]

mod anatomy;
mod edit;
mod forward;
mod generate;
mod intercept;
mod memory;
mod slots;
mod soak;
mod splice;
mod step;
mod switch;
mod threads;
mod tools;

use std::path::Path;

use engraft::runtime::{Runtime, RuntimeSettings, silent};

use crate::tools::{Outcome, atlas, large};

fn main() -> Outcome<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let named = |name: &str| wanted.iter().any(|w| w == name);
    let chosen = |name: &str| wanted.is_empty() || named(name);
    match wanted.iter().find_map(|w| w.strip_prefix("child-")) {
        Some("peak") => return anatomy::peak(),
        Some(what) => return memory::measured(what),
        None => {}
    }
    let runtime = Runtime::open(&RuntimeSettings::default(), silent())?;
    println!("ONNX Runtime: {}", runtime.description());
    if chosen("edit") {
        edit::edit(&runtime)?;
    }
    if chosen("generate") {
        match std::env::var_os("ENGRAFT_BENCH_CACHED") {
            Some(cached) => generate::generate(&runtime, Path::new(&cached))?,
            None => println!("ENGRAFT_BENCH_CACHED is not set: generation over a cache is left out"),
        }
    }
    if chosen("anatomy") {
        match std::env::var_os("ENGRAFT_BENCH_LLAMA") {
            Some(llama) => anatomy::anatomy(Path::new(&llama))?,
            None => println!("ENGRAFT_BENCH_LLAMA is not set: the Llama-shaped model is left out"),
        }
    }
    if chosen("intercept") {
        intercept::call(&runtime)?;
    }
    if chosen("switch") {
        switch::switch(&runtime, "the atlas", &atlas().join("model"))?;
    }
    if chosen("threads") {
        threads::threads(&runtime, "the atlas", &atlas().join("model"))?;
    }
    if named("soak") {
        soak::soak(&runtime)?;
    }
    let Some(large) = large() else {
        println!("ENGRAFT_BENCH_MODEL is not set: the figures of the GPT-2-small-shaped model are left out");
        return Ok(());
    };
    let what = "a GPT-2-small-shaped model";
    if chosen("switch") {
        switch::switch(&runtime, what, &large)?;
    }
    if chosen("threads") {
        threads::threads(&runtime, what, &large)?;
    }
    if chosen("intercept") {
        intercept::intercept(&runtime, &large)?;
    }
    if chosen("step") {
        step::step(&runtime, &large)?;
    }
    if chosen("forward") {
        forward::forward(&runtime, &large)?;
    }
    if chosen("slots") {
        slots::slots(&runtime, &large)?;
    }
    if chosen("splice") {
        splice::splice(&runtime, &large)?;
    }
    if chosen("memory") {
        memory::of_three()?;
    }
    Ok(())
}
