//! Generation over a cache.

use engraft::graph::Graph;
use engraft::model::{Model, OpenOptions};
use engraft::runtime::{Program, ProgramOptions, Runtime, Value};
use engraft_plugin_api::{GenerateRequest, Site};
use std::path::Path;

use crate::tools::{Outcome, median, rows, seconds};

/// Tokens per second over a cache against a bare loop over a session of the same file, one row and four.
pub(crate) fn generate(runtime: &Runtime, folder: &Path) -> Outcome<()> {
    const PROMPT: usize = 32;
    const NEW: usize = 24;
    let model = Model::open(folder, runtime, &OpenOptions::default())?;
    let path = Graph::find(folder)?;
    let bytes = std::fs::read(&path)?;
    let at = path.parent().unwrap_or(Path::new("."));
    let bare =
        |prepack| Program::compile(runtime, &bytes, at, &ProgramOptions { prepack, ..ProgramOptions::default() });
    let (mapped, packed) = (bare(false)?, bare(true)?);
    for n in [1, 4] {
        let rows = rows(n, PROMPT, model.anatomy().vocab);
        let request = GenerateRequest { rows: rows.clone(), max_new: NEW, ..GenerateRequest::default() };
        let said = model.generate(&request)?;
        let mut times = vec![Vec::new(); 3];
        for _ in 0..6 {
            times[0].push(seconds(|| model.generate(&request).map(drop).map_err(Into::into))?);
            for (program, times) in [&mapped, &packed].into_iter().zip(&mut times[1..]) {
                times.push(seconds(|| {
                    let same = bare_loop(program, &model, &rows, NEW)? == said;
                    if same { Ok(()) } else { Err("the bare loop says something else".into()) }
                })?);
            }
        }
        let rate = |i: usize| (n * NEW) as f64 / median(times[i][1..].to_vec());
        let ratio = |i: usize| median(times[i][1..].iter().zip(&times[0][1..]).map(|(a, b)| a / b).collect());
        println!(
            "generation over a cache, {n} x {PROMPT} + {NEW} greedy: {:.1} tokens/s, {:.3}x of a bare loop over the \
             mapped weights, {:.3}x of one over the runtime's defaults ({:.1} and {:.1} tokens/s)",
            rate(0),
            ratio(1),
            ratio(2),
            rate(1),
            rate(2)
        );
    }
    Ok(())
}

/// What one would write without engraft: the outputs of a pass are the inputs of the next.
fn bare_loop(program: &Program, model: &Model, rows: &[Vec<u32>], new: usize) -> Outcome<Vec<Vec<u32>>> {
    let inputs = &model.anatomy().inputs;
    let logits = model.anatomy().site(Site::Logits)?;
    let (n, vocab) = (rows.len(), model.anatomy().vocab);
    let mut past = Vec::new();
    for port in &inputs.cache {
        past.push(Value::f32(&port.shape(n, 0), Vec::new())?);
    }
    let fetch: Vec<&str> = std::iter::once(logits).chain(inputs.cache.iter().map(|p| p.present.as_str())).collect();
    let (mut fed, mut done, mut said) = (rows.to_vec(), 0, vec![Vec::new(); n]);
    for _ in 0..new {
        let length = fed[0].len();
        let ids = Value::i64(&[n, length], fed.concat().into_iter().map(i64::from).collect())?;
        let mask = Value::i64(&[n, done + length], vec![1; n * (done + length)])?;
        let positions =
            Value::i64(&[n, length], (0..n).flat_map(|_| (done..done + length).map(|p| p as i64)).collect())?;
        let mut feeds = vec![(inputs.ids.as_str(), &ids)];
        feeds.extend(inputs.mask.iter().map(|name| (name.as_str(), &mask)));
        feeds.extend(inputs.positions.iter().map(|name| (name.as_str(), &positions)));
        feeds.extend(inputs.cache.iter().map(|p| p.past.as_str()).zip(&past));
        let mut outputs = program.run(&feeds, &fetch)?;
        past = outputs.split_off(1);
        let values = outputs[0].as_f32()?;
        for row in 0..n {
            let at = ((row + 1) * length - 1) * vocab;
            let last = &values[at..at + vocab];
            let best = (0..vocab).fold(0, |best, i| if last[i] > last[best] { i } else { best });
            said[row].push(best as u32);
            fed[row] = vec![best as u32];
        }
        done += length;
    }
    Ok(said)
}
