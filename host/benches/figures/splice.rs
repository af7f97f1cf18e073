//! The forward pass with a splice: a codebook in one block.

use engraft::graph::{Attr, DType, Dim, Graph, Patch};
use engraft::model::{Model, OpenOptions};
use engraft::runtime::Runtime;
use engraft_plugin_api::{BlockSite, Change, Fold, Increment, Site, Splice, Tensor};
use std::path::Path;

use crate::tools::{Outcome, Passes, commit, seconds};

/// A codebook of 100 keys in the middle block, against the runtime's defaults.
pub(crate) fn splice(runtime: &Runtime, large: &Path) -> Outcome<()> {
    let [none, with] = [(); 2].map(|()| Model::open(large, runtime, &OpenOptions::default()));
    let (none, with) = (none?, with?);
    let passes = Passes::new(runtime, large, none.anatomy().vocab)?;
    let (all, last) = (&passes.all, &passes.last);
    let add = |seed: f32, keys: usize| -> Outcome<f64> {
        let changes = vec![codebook(&with, keys, seed)?];
        seconds(|| commit(&with, changes.clone()).map(drop))
    };
    let first = add(0.0, 98)?;
    let more = [add(1.0, 1)?, add(2.0, 1)?];
    let times = passes.timed(25, &[(&none, all), (&with, all), (&none, last), (&with, last)])?;
    println!(
        "a splice of 100 keys in one block, 4 x 35, plain session {:.3} s: all logits {:.3}x of the plain session and \
         {:.3}x of none; the last positions' {:.3}x of none; the first patch took {first:.2} s, the next {:.2} s",
        times.plain(),
        times.ratio(2, 0),
        times.ratio(2, 1),
        times.ratio(4, 3),
        more[0].min(more[1])
    );
    Ok(())
}

/// A splice that looks for the key that is nearest to the activation at the end of the prompt, and puts the key's value
/// there if it is near enough. Every other key is met.
fn codebook(model: &Model, keys: usize, seed: f32) -> Outcome<Change> {
    let (width, site) = (model.anatomy().d_model, Site::Block(model.anatomy().layers / 2, BlockSite::ResidPost));
    let named = |names: &[&str], widths: &[usize]| -> Vec<Dim> {
        names.iter().map(|n| Dim::symbol(n)).chain(widths.iter().map(|&w| Dim::Known(w))).collect()
    };
    let empty = Graph::empty(13);
    let mut d = Patch::new(&empty);
    let x = d.input(&site.to_string(), DType::F32, named(&["rows", "columns"], &[width]))?;
    let table = d.input("keys", DType::F32, named(&["n"], &[width]))?;
    let values = d.input("values", DType::F32, named(&["n"], &[width]))?;
    let radii = d.input("radii", DType::F32, named(&["n"], &[]))?;
    let seen = d.input("keys.gate", DType::F32, named(&["rows", "n"], &[]))?;
    let positions = d.input("positions", DType::I64, named(&["rows", "columns"], &[]))?;
    let ends = d.input("prompt_end", DType::I64, named(&["rows"], &[]))?;
    let [one, two, last] = [1, 2, -1].map(|axis| d.i64(&[1], &[axis]));
    let cast = |to: DType| [("to", Attr::Int(i64::from(to.0)))];
    let ends = d.op("Unsqueeze", &[&ends, &one], &[])?;
    let here = d.op("Equal", &[&positions, &ends], &[])?;
    let picked = d.op("Cast", &[&here], &cast(DType::F32))?;
    let picked = d.op("Unsqueeze", &[&picked, &one], &[])?;
    let query = d.op("MatMul", &[&picked, &x], &[])?;
    let apart = d.op("Sub", &[&query, &table], &[])?;
    let apart = d.op("Mul", &[&apart, &apart], &[])?;
    let apart = d.op("ReduceSum", &[&apart, &last], &[("keepdims", Attr::Int(0))])?;
    let (whole, far) = (d.f32(&[1], &[1.0]), d.f32(&[1], &[1e30]));
    let unseen = d.op("Sub", &[&whole, &seen], &[])?;
    let unseen = d.op("Mul", &[&unseen, &far], &[])?;
    let apart = d.op("Add", &[&apart, &unseen], &[])?;
    let nearest = d.op("ArgMin", &[&apart], &[("axis", Attr::Int(1)), ("keepdims", Attr::Int(1))])?;
    let least = d.op("GatherElements", &[&apart, &nearest], &[("axis", Attr::Int(1))])?;
    let radius = d.op("Gather", &[&radii, &nearest], &[])?;
    let radius = d.op("Mul", &[&radius, &radius], &[])?;
    let within = d.op("LessOrEqual", &[&least, &radius], &[])?;
    let at = d.op("And", &[&within, &here], &[])?;
    let at = d.op("Unsqueeze", &[&at, &two], &[])?;
    let value = d.op("Gather", &[&values, &nearest], &[])?;
    let new = d.op("Where", &[&at, &value, &x], &[])?;
    d.tap(&new, DType::F32)?;
    let wave = |n: usize, size: f32| (0..n).map(|k| size * (0.7 * k as f32 + seed).sin()).collect::<Vec<f32>>();
    let radii = (0..keys).map(|i| if i % 2 == 0 { 1e9 } else { 1e-9 }).collect();
    let part = |name: &str, value: Tensor| Increment { name: name.into(), fold: Fold::Stack, value };
    Ok(Change::Splice(Splice {
        graph: d.apply()?.to_bytes()?,
        reads: vec![site],
        writes: site,
        tables: vec![
            part("keys", Tensor::f32([keys, width], wave(keys * width, 1.0))?),
            part("values", Tensor::f32([keys, width], wave(keys * width, 0.1))?),
            part("radii", Tensor::f32([keys], radii)?),
        ],
        whole_rows: false,
        order: 0,
    }))
}
