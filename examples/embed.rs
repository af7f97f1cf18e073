//! A service's view: open a model, correct one fact with a method from a library, look at it, take it back.
//!
//! `cargo build --workspace && cargo run -p engraft --example embed`

#![allow(clippy::print_stdout, reason = "an example shows what it did")]

use anyhow::{Context, Result};
use engraft::base::Cancel;
use engraft::model::{Model, OpenOptions};
use engraft::plugins::{Access, Registry, SearchPath};
use engraft::runtime::{Runtime, RuntimeSettings, silent};
use engraft_plugin_api::{EditRequest, GenerateRequest, Target};

fn main() -> Result<()> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/atlas/model");
    let runtime = Runtime::open(&RuntimeSettings::default(), silent())?;
    let model = Model::open(&folder, &runtime, &OpenOptions::default())?;

    // The method is a library; nothing of it is linked in.
    let mut here = std::env::current_exe()?;
    here.pop();
    let search = SearchPath::of_process([here.join("..")]);
    let rome = Registry::new(search).load("rome", &folder, &[]).context("build the plugins first")?;
    let method = rome.create(rome.configure(&"layer = 0\nprefixes = 'fixed'".parse()?)?)?;

    let request = EditRequest {
        id: "ticket-1".into(),
        prompt: "{} is a native of".into(),
        subject: Some("Tono Tuxbik".into()),
        target: Target { new: "Grasnan".into(), old: None },
    };
    println!("before: {}", say(&model, &request)?);
    let access = Access::new(&model, Cancel::new(), 1).of(&rome.descriptor().name);
    let changes = method.edit(&access, std::slice::from_ref(&request))?;
    let patch = model.commit(method.proposal(vec![request.clone()], changes))?;
    println!("after:  {} (patch {patch})", say(&model, &request)?);
    model.rollback(&patch)?;
    println!("undone: {}", say(&model, &request)?);
    Ok(())
}

fn say(model: &Model, request: &EditRequest) -> Result<String> {
    let (tokenizer, prompt) = (model.tokenizer()?, request.filled()?);
    let rows = vec![tokenizer.encode(&prompt)?.ids];
    let new = model.generate(&GenerateRequest { rows, max_new: 6, ..GenerateRequest::default() })?;
    Ok(format!("{prompt}{}", tokenizer.decode(&new[0])?))
}
