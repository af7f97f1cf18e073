//! Splices: graphs of methods between a site and its readers, at sites of every shape, folded over patches, taken out
//! to the bit, differentiated, over cached keys and values, and refused where something is wrong with them.

use std::collections::BTreeMap;

use engraft_plugin_api::change::splice::{MASK, POSITIONS, PROMPT_END, gate_of};
use engraft_plugin_api::{
    Activation, BlockSite, Change, Fold, GenerateRequest, GradientRequest, Increment, ModelAccess, ParamValue, Params,
    Place, Poke, RunRequest, Site, Slots, Splice, Tap, Tensor, Term, Wrt,
};

use super::case::far;
use super::proposal;
use crate::base::Cancel;
use crate::graph::testing::rows as zoo_rows;
use crate::graph::{Attr, DType, Dim, Graph, Patch as Drawing};
use crate::hooks::{Name, Rig, SplicePart, Values, site_width};
use crate::model::run::visible::Visible;
use crate::model::{Model, OpenOptions, Proposal};
use crate::plugins::Access;
use crate::runtime::{self, Program, ProgramOptions, Value};
use crate::weights::{Patch, PatchId};

/// Exports whose edges have the axes of their sites, others, a cache, and float16; operator sets 14 to 23.
const EXPORTS: [&str; 7] = [
    "gpt2-dynamo-mask",
    "gpt2-torchscript-opset14",
    "gptneox-torchscript",
    "opt-dynamo",
    "falcon-new-dynamo",
    "llama-dynamo-cache",
    "gpt2-dynamo-f16",
];

const SITE: Site = Site::Block(1, BlockSite::ResidPost);

fn open(name: &str) -> Model {
    let row = zoo_rows().into_iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no row {name}"));
    Model::open(&row.folder, &runtime::for_tests(), &OpenOptions::default()).unwrap()
}

fn some_rows() -> Vec<Vec<u32>> {
    vec![vec![5, 9, 11, 2, 3], vec![1, 2, 7], vec![4, 4, 31, 17, 90]]
}

const ENDS: [usize; 3] = [2, 1, 4];

fn request(under: Vec<Change>) -> RunRequest {
    let rows = some_rows();
    let places = |(row, ids): (usize, &Vec<u32>)| (0..ids.len()).map(move |pos| Place { row, pos });
    let logits = rows.iter().enumerate().flat_map(places).collect();
    RunRequest { rows, prompt_ends: ENDS.to_vec(), logits, under, ..RunRequest::default() }
}

fn logits(model: &Model, under: Vec<Change>) -> Vec<f32> {
    model.run(&request(under)).unwrap().logits.into_f32().unwrap()
}

fn wave(n: usize, f: f32) -> Vec<f32> {
    (0..n).map(|i| 0.5 * (f * (i as f32 + 1.0)).sin()).collect()
}

fn table(name: &str, fold: Fold, shape: &[usize], values: Vec<f32>) -> Increment {
    Increment { name: name.into(), fold, value: Tensor::f32(shape, values).unwrap() }
}

/// A graph of the operator set that a drawing makes, with one output.
fn drawn(opset: i64, draw: impl FnOnce(&mut Drawing<'_>) -> String) -> Vec<u8> {
    let empty = Graph::empty(opset);
    let mut drawing = Drawing::new(&empty);
    let end = draw(&mut drawing);
    drawing.tap(&end, DType::F32).unwrap();
    drawing.apply().unwrap().to_bytes().unwrap()
}

fn dims(names: &[&str], widths: &[usize]) -> Vec<Dim> {
    names.iter().map(|name| Dim::symbol(name)).chain(widths.iter().map(|&w| Dim::Known(w))).collect()
}

/// 1 where a comparison of positions with the ends of prompts holds, `[rows, columns]`.
fn compared(d: &mut Drawing<'_>, comparison: &str) -> String {
    let positions = d.input(POSITIONS, DType::I64, dims(&["batch", "time"], &[])).unwrap();
    let ends = d.input(PROMPT_END, DType::I64, dims(&["batch"], &[])).unwrap();
    let one = d.i64(&[1], &[1]);
    let ends = d.op("Unsqueeze", &[&ends, &one], &[]).unwrap();
    let met = d.op(comparison, &[&positions, &ends], &[]).unwrap();
    d.op("Cast", &[&met], &[("to", Attr::Int(1))]).unwrap()
}

/// Adds the vector `v` at and behind the end of the prompt.
fn adding(model: &Model, site: Site, vector: Vec<f32>) -> Splice {
    let widths = site_width(model.anatomy(), site);
    let graph = drawn(17, |d| {
        let x = d.input(&site.to_string(), DType::F32, dims(&["batch", "time"], &widths)).unwrap();
        let v = d.input("v", DType::F32, dims(&[], &widths)).unwrap();
        let met = compared(d, "GreaterOrEqual");
        let axes: Vec<i64> = (2..2 + widths.len() as i64).collect();
        let axes = d.i64(&[axes.len()], &axes);
        let met = d.op("Unsqueeze", &[&met, &axes], &[]).unwrap();
        let added = d.op("Mul", &[&met, &v], &[]).unwrap();
        d.op("Add", &[&x, &added], &[]).unwrap()
    });
    Splice {
        graph,
        reads: vec![site],
        writes: site,
        tables: vec![table("v", Fold::Sum, &widths, vector)],
        whole_rows: false,
        order: 0,
    }
}

/// A key, a value and a radius.
type Entry = (Vec<f32>, Vec<f32>, f32);

/// A codebook: where the activation at the end of the prompt lies within the radius of the nearest key that the row
/// sees, it becomes that key's value.
fn codebook(model: &Model, site: Site, entries: &[Entry]) -> Splice {
    let (width, n) = (model.anatomy().d_model, entries.len());
    let graph = drawn(13, |d| {
        let x = d.input(&site.to_string(), DType::F32, dims(&["batch", "time"], &[width])).unwrap();
        let keys = d.input("keys", DType::F32, dims(&["n"], &[width])).unwrap();
        let values = d.input("values", DType::F32, dims(&["n"], &[width])).unwrap();
        let radii = d.input("radii", DType::F32, dims(&["n"], &[])).unwrap();
        let seen = d.input(&gate_of("keys"), DType::F32, dims(&["batch", "n"], &[])).unwrap();
        let [one, two, last] = [1, 2, -1].map(|axis| d.i64(&[1], &[axis]));
        let met = compared(d, "Equal");
        let here = d.op("Unsqueeze", &[&met, &two], &[]).unwrap();
        let picked = d.op("Mul", &[&x, &here], &[]).unwrap();
        let query = d.op("ReduceSum", &[&picked, &one], &[("keepdims", Attr::Int(1))]).unwrap();
        let apart = d.op("Sub", &[&query, &keys], &[]).unwrap();
        let squares = d.op("Mul", &[&apart, &apart], &[]).unwrap();
        let distance = d.op("ReduceSum", &[&squares, &last], &[("keepdims", Attr::Int(0))]).unwrap();
        let (far, whole) = (d.f32(&[1], &[1e30]), d.f32(&[1], &[1.0]));
        let unseen = d.op("Sub", &[&whole, &seen], &[]).unwrap();
        let unseen = d.op("Mul", &[&unseen, &far], &[]).unwrap();
        let distance = d.op("Add", &[&distance, &unseen], &[]).unwrap();
        let nearest = d.op("ArgMin", &[&distance], &[("axis", Attr::Int(1)), ("keepdims", Attr::Int(1))]).unwrap();
        let least = d.op("GatherElements", &[&distance, &nearest], &[("axis", Attr::Int(1))]).unwrap();
        let radius = d.op("Gather", &[&radii, &nearest], &[]).unwrap();
        let radius = d.op("Mul", &[&radius, &radius], &[]).unwrap();
        let within = d.op("LessOrEqual", &[&least, &radius], &[]).unwrap();
        let here = d.op("Cast", &[&met], &[("to", Attr::Int(9))]).unwrap();
        let at = d.op("And", &[&within, &here], &[]).unwrap();
        let at = d.op("Unsqueeze", &[&at, &two], &[]).unwrap();
        let value = d.op("Gather", &[&values, &nearest], &[]).unwrap();
        d.op("Where", &[&at, &value, &x], &[]).unwrap()
    });
    let all = |of: &dyn Fn(&Entry) -> Vec<f32>| entries.iter().flat_map(of).collect::<Vec<f32>>();
    let tables = vec![
        table("keys", Fold::Stack, &[n, width], all(&|e| e.0.clone())),
        table("values", Fold::Stack, &[n, width], all(&|e| e.1.clone())),
        table("radii", Fold::Stack, &[n], all(&|e| vec![e.2])),
    ];
    Splice { graph, reads: vec![site], writes: site, tables, whole_rows: false, order: 0 }
}

/// The activations at the ends of the prompts.
fn queries(model: &Model, site: Site) -> Vec<Vec<f32>> {
    let places = ENDS.iter().enumerate().map(|(row, &pos)| Place { row, pos }).collect();
    let taps = vec![Tap { site, places: Some(places) }];
    let reply = model.run(&RunRequest { taps, logits: Vec::new(), ..request(Vec::new()) }).unwrap();
    reply.taps[0].matrix().unwrap().outer_iter().map(|row| row.to_vec()).collect()
}

#[test]
fn a_row_that_is_added_from_the_end_of_the_prompt_on_is_a_poke_at_sites_of_every_shape() {
    for name in EXPORTS {
        let model = open(name);
        let (base, state) = (logits(&model, Vec::new()), model.state_hash());
        let mut sites = vec![Site::Block(1, BlockSite::Q), Site::Block(1, BlockSite::ResidPost), Site::Logits];
        if ["gptneox-torchscript", "opt-dynamo"].contains(&name) {
            sites.extend([BlockSite::V, BlockSite::MlpPost, BlockSite::AttnProj].map(|site| Site::Block(1, site)));
            sites.push(Site::Embed);
        }
        for site in sites {
            let width: usize = site_width(model.anatomy(), site).iter().product();
            let parts = [wave(width, 0.7), wave(width, 1.1)];
            let changes = parts.clone().map(|part| vec![Change::Splice(adding(&model, site, part))]);
            let trial = logits(&model, changes[0].clone());
            let ids = changes.map(|changes| model.commit(proposal(changes)).unwrap());
            let found = logits(&model, Vec::new());
            let tap = Tap { site, places: None };
            let tapped = model.run(&RunRequest { taps: vec![tap.clone()], ..request(Vec::new()) }).unwrap();
            model.rollback(&ids[1]).unwrap();
            assert_eq!(logits(&model, Vec::new()), trial, "{name} {site}: a trial is not what is committed");
            model.rollback(&ids[0]).unwrap();
            let sum: Vec<f32> = parts[0].iter().zip(&parts[1]).map(|(a, b)| a + b).collect();
            let places = |(row, ids): (usize, Vec<u32>)| (ENDS[row]..ids.len()).map(move |pos| Place { row, pos });
            let places = some_rows().into_iter().enumerate().flat_map(places).collect();
            let poke = Poke { site, places, values: Tensor::f32([1, width], sum).unwrap() };
            let poked = RunRequest { adds: vec![poke], taps: vec![tap], ..request(Vec::new()) };
            let poked = model.run(&poked).unwrap();
            let close = 1e-5_f32.max(8.0 * model.roundoff());
            assert!(far(&found, poked.logits.as_f32().unwrap()) <= close, "{name} {site}");
            assert!(far(tapped.taps[0].as_f32().unwrap(), poked.taps[0].as_f32().unwrap()) <= close, "{name} {site}");
            assert!(found != base && trial != base && found != trial, "{name} {site} changes nothing");
            assert_eq!((logits(&model, Vec::new()), model.state_hash()), (base.clone(), state), "{name} {site}");
        }
    }
}

#[test]
fn any_entry_of_a_codebook_is_taken_out_to_the_bit() {
    for name in ["gpt2-dynamo-mask", "gpt2-torchscript-opset14", "llama-dynamo-cache", "gpt2-dynamo-f16"] {
        let model = open(name);
        let width = model.anatomy().d_model;
        let base = logits(&model, Vec::new());
        let keys = queries(&model, SITE);
        let entry = |i: usize| (keys[i].clone(), wave(width, 0.3 + i as f32), 0.5);
        let commit = |model: &Model, i: usize| {
            model.commit(proposal(vec![Change::Splice(codebook(model, SITE, &[entry(i)]))])).unwrap()
        };
        let mut ids: Vec<PatchId> = vec![commit(&model, 0)];
        // Another entry is the same programs.
        let compiled = model.compiled();
        ids.extend([1, 2].map(|i| commit(&model, i)));
        assert_eq!(model.compiled(), compiled, "{name}");
        let taps = vec![Tap { site: SITE, places: Some((0..3).map(|row| Place { row, pos: ENDS[row] }).collect()) }];
        let reply = model.run(&RunRequest { taps, ..request(Vec::new()) }).unwrap();
        let found = reply.taps[0].as_f32().unwrap();
        let wanted: Vec<f32> = (0..3).flat_map(|i| entry(i).1).collect();
        assert!(far(found, &wanted) <= model.roundoff(), "{name}");
        let all = logits(&model, Vec::new());
        model.rollback(&ids[1]).unwrap();
        let without = logits(&model, Vec::new());
        let other = open(name);
        commit(&other, 0);
        commit(&other, 2);
        assert_eq!((&without, model.state_hash()), (&logits(&other, Vec::new()), other.state_hash()), "{name}");
        assert!(without != all && without != base, "{name}");
        assert_eq!(model.rollback(&ids[1]).unwrap_err().code().id, "patch-unknown");
        // Two entries of one patch are the two patches.
        let together = open(name);
        let both = Change::Splice(codebook(&together, SITE, &[entry(0), entry(2)]));
        together.commit(proposal(vec![both])).unwrap();
        assert_eq!(logits(&together, Vec::new()), without, "{name}");
        model.rollback(&ids[0]).unwrap();
        model.rollback(&ids[2]).unwrap();
        assert_eq!(logits(&model, Vec::new()), base, "{name}");
    }
}

#[test]
fn generation_is_the_same_with_cached_keys_and_values_and_with_whole_rows() {
    let prompts = vec![vec![5, 9, 11, 2, 3], vec![1, 2, 7], vec![4, 4, 31, 17, 90, 3, 2]];
    for name in ["gpt2-dynamo-23-cache", "llama-dynamo-cache", "llama-torchscript-cache", "gpt2-dynamo-mask"] {
        let mut said = Vec::new();
        for whole_rows in [false, true] {
            let model = open(name);
            let vector = wave(model.anatomy().d_model, 0.7).iter().map(|v| 9.0 * v).collect();
            let splice = Splice { whole_rows, ..adding(&model, SITE, vector) };
            let request = GenerateRequest { rows: prompts.clone(), max_new: 5, ..GenerateRequest::default() };
            let base = model.generate(&request).unwrap();
            let under = vec![Change::Splice(splice.clone())];
            let trial = model.generate(&GenerateRequest { under: under.clone(), ..request.clone() }).unwrap();
            model.commit(proposal(under)).unwrap();
            said.push(model.generate(&request).unwrap());
            assert_eq!(said.last(), Some(&trial), "{name}");
            assert_ne!(trial, base, "{name}");
        }
        assert_eq!(said[0], said[1], "{name}");
    }
}

#[test]
fn gradients_of_tables_and_through_splices_agree_with_differences() {
    for name in ["gpt2-torchscript-mask", "llama-dynamo", "opt-dynamo", "phi3-dynamo"] {
        let model = open(name);
        let width = model.anatomy().d_model;
        let keys = queries(&model, SITE);
        let entry = |i: usize, radius: f32| (keys[i].clone(), wave(width, 0.3 + i as f32), radius);
        // Folded with what is committed, and with another of the trial.
        model.commit(proposal(vec![Change::Splice(codebook(&model, SITE, &[entry(2, 1.0)]))])).unwrap();
        let early = Site::Block(0, BlockSite::ResidPost);
        model.commit(proposal(vec![Change::Splice(adding(&model, early, wave(width, 0.2)))])).unwrap();
        let under = |value: Vec<f32>, vector: Vec<f32>| {
            let mut own = codebook(&model, SITE, &[entry(0, 1e3)]);
            own.tables[1] = table("values", Fold::Stack, &[1, width], value);
            let beside = codebook(&model, SITE, &[entry(1, 1.0)]);
            vec![Change::Splice(beside), Change::Splice(own), Change::Splice(adding(&model, early, vector))]
        };
        let at = Poke {
            site: Site::Embed,
            places: vec![Place { row: 1, pos: 0 }],
            values: Tensor::f32([1, width], wave(width, 1.9)).unwrap(),
        };
        let request = |value: Vec<f32>, vector: Vec<f32>, add: Vec<f32>| GradientRequest {
            rows: some_rows(),
            prompt_ends: ENDS.to_vec(),
            adds: vec![Poke { values: Tensor::f32([1, width], add).unwrap(), ..at.clone() }],
            under: under(value, vector),
            terms: (0..3)
                .map(|row| Term::Nll { place: Place { row, pos: some_rows()[row].len() - 1 }, token: 17, weight: 0.5 })
                .collect(),
            wrt: vec![Wrt::Trial(1), Wrt::Trial(2), Wrt::Add(0)],
            ..GradientRequest::default()
        };
        let start = [wave(width, 0.4), wave(width, 0.9), wave(width, 1.9)];
        let of = |[value, vector, add]: [Vec<f32>; 3]| model.gradient(&request(value, vector, add)).unwrap();
        let reply = of(start.clone());
        assert_eq!(reply.gradients[0].len(), 3, "{name}");
        assert_eq!(reply.gradients[0][0].shape(), [1, width]);
        let found = [&reply.gradients[0][1], &reply.gradients[1][0], &reply.gradients[2][0]];
        for (number, gradient) in found.into_iter().enumerate() {
            let g = gradient.as_f32().unwrap();
            let norm = g.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
            assert!(norm > 1e-4, "{name} {number}: {norm}");
            let step = 1e-2 / norm.max(1.0);
            let moved = |sign: f64| {
                let mut now = start.clone();
                now[number].iter_mut().zip(g).for_each(|(v, g)| *v += (sign * step * f64::from(*g) / norm) as f32);
                f64::from(of(now).loss)
            };
            let slope = (moved(1.0) - moved(-1.0)) / (2.0 * step);
            assert!((slope - norm).abs() <= 0.03 * norm, "{name} {number}: {slope} {norm}");
        }
    }
}

#[test]
fn rows_whose_gate_is_closed_and_the_padding_keep_the_old_value_to_the_bit() {
    for name in ["gpt2-dynamo-mask", "opt-dynamo", "gpt2-dynamo-f16"] {
        let model = open(name);
        // Some of it is no number.
        let splice = mapped(&model, 0, |d, x| d.op("Log", &[x], &[]).unwrap());
        let rows = some_rows();
        let tapped = |gates: Option<[f32; 3]>| {
            let under = gates.map(|_| Change::Splice(splice.clone()));
            let seen = model.seen(under.as_slice()).unwrap();
            let rig = Rig { taps: vec![(SITE, false)], splices: seen.grafts.clone(), ..Rig::default() };
            let compiled = model.programs.run(&rig, || rig.attach(model.graph(), model.anatomy())).unwrap();
            let mut values = model.batch(&rows).unwrap();
            model.feed(&seen, &Visible::all(rows.len()), &mut values).unwrap();
            if let Some(gates) = gates {
                let name = Name::Splice(SITE, 0, SplicePart::Gate);
                values.set(name, Value::f32(&[rows.len()], gates.to_vec()).unwrap());
            }
            let feeds = values.feeds(compiled.program.inputs().iter().map(|port| port.name.as_str()));
            let tap = compiled.rigged.taps[0].as_str();
            let out = compiled.program.run(&feeds, &[tap]).unwrap().remove(0);
            out.as_f32().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<u32>>()
        };
        let (base, width) = (tapped(None), model.anatomy().d_model);
        let of_row = |all: &[u32], row: usize, columns: std::ops::Range<usize>| {
            all[(5 * row + columns.start) * width..(5 * row + columns.end) * width].to_vec()
        };
        let found = tapped(Some([1.0, 0.0, 1.0]));
        assert_eq!(of_row(&found, 1, 0..5), of_row(&base, 1, 0..5), "{name}");
        assert!(of_row(&found, 0, 0..5).into_iter().any(|bits| f32::from_bits(bits).is_nan()), "{name}");
        let found = tapped(Some([0.0, 1.0, 0.0]));
        assert_ne!(of_row(&found, 1, 0..3), of_row(&base, 1, 0..3), "{name}");
        assert_eq!(of_row(&found, 1, 3..5), of_row(&base, 1, 3..5), "{name}");
        assert_eq!(of_row(&found, 2, 0..5), of_row(&base, 2, 0..5), "{name}");
    }
}

#[test]
fn a_journal_and_a_file_bring_splices_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = zoo_rows().into_iter().find(|row| row.name == "llama-dynamo").unwrap().folder;
    let options = OpenOptions { journal: Some(folder.path().join("journal")), ..OpenOptions::default() };
    let (id, expected, state) = {
        let model = Model::open(&path, &runtime::for_tests(), &options).unwrap();
        let (width, key) = (model.anatomy().d_model, queries(&model, SITE).remove(0));
        let splice = codebook(&model, SITE, &[(key, wave(width, 0.4), 1.0)]);
        let id = model.commit(proposal(vec![Change::Splice(splice)])).unwrap();
        let words = format!("a splice at `{SITE}`, order 0 with `keys` 1 x {width}, `values` 1 x {width}, `radii` 1");
        assert_eq!(model.patches()[0].1.contents(), [words]);
        model.patches()[0].1.save(&folder.path().join("patch")).unwrap();
        (id, logits(&model, Vec::new()), model.state_hash())
    };
    let model = Model::open(&path, &runtime::for_tests(), &options).unwrap();
    assert_eq!((logits(&model, Vec::new()), model.state_hash()), (expected.clone(), state));
    let other = open("llama-dynamo");
    assert_ne!(logits(&other, Vec::new()), expected);
    assert_eq!(other.apply(Patch::load(&folder.path().join("patch")).unwrap()).unwrap(), id);
    assert_eq!(logits(&other, Vec::new()), expected);
}

#[test]
fn a_method_is_told_its_own_patches_and_the_folds_of_their_parts() {
    let model = open("gpt2-dynamo-mask");
    let access = |method: &str| Access::new(&model, Cancel::new(), 0).of(method);
    assert_eq!(Access::new(&model, Cancel::new(), 0).patches().unwrap_err().code, "host-access-method");
    let width = model.anatomy().d_model;
    let key = queries(&model, SITE).remove(0);
    let part = |name: &str, fold, values: Vec<i64>| {
        Change::Statistic(Increment { name: name.into(), fold, value: Tensor::i64([values.len()], values).unwrap() })
    };
    let commit = |method: &str, layer: i64, seed: f32| {
        let params = Params([("layer".into(), ParamValue::Integer(layer))].into());
        let splice = codebook(&model, SITE, &[(key.clone(), wave(width, seed), 0.5)]);
        let changes = vec![
            Change::State(vec![seed as u8]),
            Change::Splice(splice),
            part("count", Fold::Sum, vec![1, seed as i64]),
            part("labels", Fold::Stack, vec![seed as i64]),
        ];
        model.commit(Proposal { method: method.into(), params, ..proposal(changes) }).unwrap()
    };
    let ids = [commit("a", 0, 1.0), commit("a", 1, 2.0), commit("b", 0, 3.0), commit("a", 0, 4.0)];
    let own = access("a").patches().unwrap();
    assert_eq!(
        own.iter().map(|p| (p.id.clone(), p.state[0])).collect::<Vec<_>>(),
        [(ids[0].to_string(), 1), (ids[1].to_string(), 2), (ids[3].to_string(), 4)]
    );
    let told = |method: &str, name: &str| access(method).statistic(name).unwrap();
    let ints = |values: &[i64]| Some(Tensor::i64([values.len()], values.to_vec()).unwrap());
    assert_eq!((told("a", "count"), told("a", "labels")), (ints(&[3, 7]), ints(&[1, 2, 4])));
    assert_eq!((told("b", "labels"), told("a", "nothing"), told("c", "labels")), (ints(&[3]), None, None));
    let values = |seeds: &[f32]| {
        let flat = seeds.iter().flat_map(|&seed| wave(width, seed)).collect();
        Some(Tensor::f32([seeds.len(), width], flat).unwrap())
    };
    assert_eq!(told("a", "values"), values(&[1.0, 2.0, 4.0]));
    model.rollback(&ids[1]).unwrap();
    assert_eq!((told("a", "values"), told("a", "count")), (values(&[1.0, 4.0]), ints(&[2, 5])));
    assert_eq!(access("a").patches().unwrap().len(), 2);
}

/// Adds what depends on positions, on the mask, on the gates and on two tables.
fn telling(model: &Model, site: Site, entries: usize, seed: f32) -> Splice {
    let width = model.anatomy().d_model;
    let graph = drawn(13, |d| {
        let x = d.input(&site.to_string(), DType::F32, dims(&["b", "t"], &[width])).unwrap();
        let positions = d.input(POSITIONS, DType::I64, dims(&["b", "t"], &[])).unwrap();
        let mask = d.input(MASK, DType::F32, dims(&["b", "t"], &[])).unwrap();
        let gate = d.input("gate", DType::F32, dims(&["b"], &[])).unwrap();
        let v = d.input("v", DType::F32, dims(&[], &[width])).unwrap();
        let rows = d.input("rows", DType::F32, dims(&["n"], &[width])).unwrap();
        let seen = d.input(&gate_of("rows"), DType::F32, dims(&["b", "n"], &[])).unwrap();
        let [one, two] = [1, 2].map(|axis| d.i64(&[1], &[axis]));
        let at = d.op("Cast", &[&positions], &[("to", Attr::Int(1))]).unwrap();
        let at = d.op("Mul", &[&at, &mask], &[]).unwrap();
        let at = d.op("Unsqueeze", &[&at, &two], &[]).unwrap();
        let along = d.op("Mul", &[&at, &v], &[]).unwrap();
        let sum = d.op("MatMul", &[&seen, &rows], &[]).unwrap();
        let gate = d.op("Unsqueeze", &[&gate, &one], &[]).unwrap();
        let sum = d.op("Mul", &[&sum, &gate], &[]).unwrap();
        let sum = d.op("Unsqueeze", &[&sum, &one], &[]).unwrap();
        let added = d.op("Add", &[&along, &sum], &[]).unwrap();
        d.op("Add", &[&x, &added], &[]).unwrap()
    });
    let tables = vec![
        table("v", Fold::Sum, &[width], wave(width, seed)),
        table("rows", Fold::Stack, &[entries, width], wave(entries * width, seed + 0.5)),
    ];
    Splice { graph, reads: vec![site], writes: site, tables, whole_rows: false, order: 0 }
}

#[test]
fn an_export_holds_splices_as_plain_nodes() {
    let names = [
        "gpt2-dynamo-mask",
        "gpt2-dynamo-nomask",
        "gpt2-torchscript-opset14",
        "llama-dynamo-cache",
        "llama-torchscript-cache",
        "opt-dynamo",
        "gpt2-dynamo-f16",
    ];
    for name in names {
        let model = open(name);
        let folder = tempfile::tempdir().unwrap();
        let site = Site::Block(1, BlockSite::MlpProj);
        let width = model.anatomy().d_model;
        let keys = Tensor::f32([width, 3], wave(3 * width, 0.8)).unwrap();
        let slots = Change::Slots(Slots {
            layer: 1,
            keys,
            bias: Tensor::zeros([3]),
            values: Tensor::f32([3, width], wave(3 * width, 1.2)).unwrap(),
            gate: None,
            activation: Activation::Relu,
        });
        // Slots come first, and the square of what they leave last.
        let squared = mapped_at(&model, site, 4, |d, x| d.op("Mul", &[x, x], &[]).unwrap());
        model.commit(proposal(vec![Change::Splice(squared)])).unwrap();
        model.commit(proposal(vec![Change::Splice(telling(&model, site, 2, 0.3)), slots])).unwrap();
        model.commit(proposal(vec![Change::Splice(telling(&model, site, 1, 1.3))])).unwrap();
        let target = folder.path().join("out");
        model.export(&target).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        // As any program runs it: in one pass, and over cached keys and values with the last column alone.
        let path = Graph::find(&target).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let options = ProgramOptions::default();
        let program = Program::compile(&runtime::for_tests(), &bytes, &target, &options).unwrap();
        let names: Vec<String> = program.outputs().iter().map(|port| port.name.clone()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let logits_name = model.anatomy().site(Site::Logits).unwrap();
        let run = |values: &Values| {
            let feeds = values.feeds(program.inputs().iter().map(|port| port.name.as_str()));
            let outputs = program.run(&feeds, &names).unwrap();
            names.iter().map(|name| name.to_string()).zip(outputs).collect::<BTreeMap<_, _>>()
        };
        let close = 1e-5_f32.max(4.0 * model.roundoff());
        let rows = some_rows();
        let all = run(&model.batch(&rows).unwrap())[logits_name].to_tensor().unwrap().into_f32().unwrap();
        let vocab = model.anatomy().vocab;
        let tokens = (0..3).flat_map(|row| (0..rows[row].len()).map(move |pos| (5 * row + pos) * vocab));
        let found: Vec<f32> = tokens.flat_map(|at| all[at..at + vocab].to_vec()).collect();
        let found = far(&found, &logits(&model, Vec::new()));
        assert!(found <= close, "{name}: {found}");
        let ports = &model.anatomy().inputs.cache;
        if !ports.is_empty() {
            let [whole, head] = [5, 4].map(|n| vec![rows[0][..n].to_vec(), rows[2][..n].to_vec()]);
            let kept = run(&model.batch(&head).unwrap());
            let last: Vec<Vec<u32>> = whole.iter().map(|row| row[4..].to_vec()).collect();
            let mut values = model.batch(&last).unwrap();
            let inputs = &model.anatomy().inputs;
            inputs.mask.iter().for_each(|mask| values.set(mask, Value::i64(&[2, 5], vec![1; 10]).unwrap()));
            inputs.positions.iter().for_each(|at| values.set(at, Value::i64(&[2, 1], vec![4; 2]).unwrap()));
            ports.iter().for_each(|port| values.set(&port.past, kept[&port.present].clone()));
            let found = run(&values)[logits_name].to_tensor().unwrap().into_f32().unwrap();
            let places = (0..2).map(|row| Place { row, pos: 4 }).collect();
            let wanted = RunRequest { rows: whole, logits: places, ..RunRequest::default() };
            let found = far(&found, model.run(&wanted).unwrap().logits.as_f32().unwrap());
            assert!(found <= close, "{name}, the last column alone: {found}");
        }
        // In the residual stream, and whole rows over a cache.
        let model = open(name);
        let whole_rows = Splice { whole_rows: true, ..telling(&model, SITE, 1, 0.3) };
        let id = model.commit(proposal(vec![Change::Splice(whole_rows)])).unwrap();
        let cached = !model.anatomy().inputs.cache.is_empty();
        let out = model.export(&folder.path().join("whole"));
        assert_eq!(out.err().map(|e| e.code().id), cached.then_some("splice-plain"), "{name}");
        model.rollback(&id).unwrap();
    }
}

/// A splice of one elementwise function of the site, of an order.
fn mapped(model: &Model, order: i32, map: impl Fn(&mut Drawing<'_>, &str) -> String) -> Splice {
    mapped_at(model, SITE, order, map)
}

fn mapped_at(model: &Model, site: Site, order: i32, map: impl Fn(&mut Drawing<'_>, &str) -> String) -> Splice {
    let graph = drawn(17, |d| {
        let x = d.input(&site.to_string(), DType::F32, dims(&["b", "t"], &[model.anatomy().d_model])).unwrap();
        map(d, &x)
    });
    Splice { graph, reads: vec![site], writes: site, tables: vec![], whole_rows: false, order }
}

fn scaled(model: &Model, order: i32, times: f32) -> Splice {
    mapped(model, order, |d, x| {
        let times = d.f32(&[1], &[times]);
        d.op("Mul", &[x, &times], &[]).unwrap()
    })
}

#[test]
fn splices_at_one_site_run_in_their_order_and_equal_orders_are_a_conflict() {
    let model = open("gpt2-dynamo-mask");
    let squared = mapped(&model, 1, |d, x| d.op("Mul", &[x, x], &[]).unwrap());
    let tap = |model: &Model| {
        let taps = vec![Tap { site: SITE, places: None }];
        model.run(&RunRequest { taps, ..request(Vec::new()) }).unwrap().taps.remove(0).into_f32().unwrap()
    };
    let x = tap(&model);
    // Twice before the square, then half behind it, in whatever order they came.
    let late = model.commit(proposal(vec![Change::Splice(scaled(&model, 7, 0.5))])).unwrap();
    model.commit(proposal(vec![Change::Splice(squared.clone()), Change::Splice(scaled(&model, -7, 2.0))])).unwrap();
    let wanted: Vec<f32> = x.iter().map(|x| 2.0 * x * x).collect();
    assert!(far(&tap(&model), &wanted) < 1e-6);
    let state = (logits(&model, Vec::new()), model.state_hash(), model.patches().len());
    // The same activation under another name.
    let next = Site::Block(2, BlockSite::ResidPre);
    let renamed = Splice { writes: next, ..scaled(&model, 7, 3.0) };
    for other in [scaled(&model, 7, 3.0), renamed] {
        let error = model.commit(proposal(vec![Change::Splice(other.clone())])).unwrap_err();
        assert_eq!(error.code().id, "splice-conflict", "{error:?}");
        assert!(error.message().contains(&late.to_string()) && error.message().contains(" and "), "{error}");
        let error = model.run(&request(vec![Change::Splice(other)])).unwrap_err();
        assert_eq!(error.code().id, "splice-conflict", "{error:?}");
    }
    assert_eq!((logits(&model, Vec::new()), model.state_hash(), model.patches().len()), state);
    // Silent at the probe is no defect, and neither is what changes nothing.
    model
        .commit(proposal(vec![Change::Splice(mapped(&model, 9, |d, x| d.op("Identity", &[x], &[]).unwrap()))]))
        .unwrap();
    assert_eq!(logits(&model, Vec::new()), state.0);
}

#[test]
fn defects_are_named_and_change_nothing() {
    for name in ["gpt2-dynamo-mask", "gpt2-dynamo-f16"] {
        let model = open(name);
        let width = model.anatomy().d_model;
        let base = logits(&model, Vec::new());
        let key = queries(&model, SITE).remove(0);
        let good = codebook(&model, SITE, &[(key.clone(), wave(width, 0.4), 1.0)]);
        let committed = model.commit(proposal(vec![Change::Splice(good.clone())])).unwrap();
        let state = (logits(&model, Vec::new()), model.state_hash());
        let op = |op: &'static str| mapped(&model, 1, move |d, x| d.op(op, &[x], &[]).unwrap());
        let with = |i: usize, part: Increment| {
            let mut splice = good.clone();
            splice.tables[i] = part;
            splice
        };
        let reading = |site: Site, edge: &str| {
            let mut splice = mapped(&model, 1, |d, x| {
                let y = d.input(edge, DType::F32, dims(&["b", "t"], &[width])).unwrap();
                d.op("Add", &[x, &y], &[]).unwrap()
            });
            splice.reads.push(site);
            splice
        };
        let later = Site::Block(2, BlockSite::AttnProj);
        let absent = Site::Block(99, BlockSite::ResidPost);
        let foreign = mapped(&model, 1, |d, x| d.op_of("com.microsoft", "BiasGelu", &[x, x], &[]).unwrap());
        let narrow = mapped(&model, 1, |d, x| {
            let axis = d.i64(&[1], &[2]);
            d.op("ReduceSum", &[x, &axis], &[("keepdims", Attr::Int(1))]).unwrap()
        });
        let integer = mapped(&model, 1, |d, x| d.op("Cast", &[x], &[("to", Attr::Int(7))]).unwrap());
        let mask = mapped(&model, 1, |d, x| {
            let mask = d.input(MASK, DType::I64, dims(&["b", "t"], &[])).unwrap();
            let mask = d.op("Cast", &[&mask], &[("to", Attr::Int(1))]).unwrap();
            let axis = d.i64(&[1], &[2]);
            let mask = d.op("Unsqueeze", &[&mask, &axis], &[]).unwrap();
            d.op("Mul", &[x, &mask], &[]).unwrap()
        });
        // A sum over the rows of the batch, or over the positions.
        let summing = |axis: i64| {
            mapped(&model, 1, move |d, x| {
                let axis = d.i64(&[1], &[axis]);
                let sum = d.op("ReduceSum", &[x, &axis], &[("keepdims", Attr::Int(1))]).unwrap();
                d.op("Add", &[x, &sum], &[]).unwrap()
            })
        };
        let fixed = |rows: usize| {
            let graph = drawn(17, |d| {
                let dims = vec![Dim::Known(rows), Dim::symbol("t"), Dim::Known(width)];
                let x = d.input(&SITE.to_string(), DType::F32, dims).unwrap();
                d.op("Neg", &[&x], &[]).unwrap()
            });
            Splice { graph, ..scaled(&model, 1, 2.0) }
        };
        let two = {
            let bytes = scaled(&model, 1, 2.0).graph;
            let graph = Graph::parse(&bytes, std::path::Path::new("two.onnx")).unwrap();
            let mut drawing = Drawing::new(&graph);
            let more = drawing.op("Neg", &[&SITE.to_string()], &[]).unwrap();
            drawing.tap(&more, DType::F32).unwrap();
            Splice { graph: drawing.apply().unwrap().to_bytes().unwrap(), ..scaled(&model, 1, 2.0) }
        };
        let newer = {
            let graph = drawn(24, |d| {
                let x = d.input(&SITE.to_string(), DType::F32, dims(&["b", "t"], &[width])).unwrap();
                d.op("Swish", &[&x], &[]).unwrap()
            });
            Splice { graph, ..scaled(&model, 1, 2.0) }
        };
        let nan = table("values", Fold::Stack, &[1, width], vec![f32::NAN; width]);
        let wide = table("values", Fold::Stack, &[1, width + 1], vec![0.0; width + 1]);
        let active = committed.to_string();
        let rows: [(&str, &str, Splice); 24] = [
            ("splice-graph", "cannot be read", Splice { graph: b"no graph".to_vec(), ..good.clone() }),
            ("splice-graph", "has no graph", Splice { graph: vec![], ..good.clone() }),
            ("splice-graph", "2 outputs", two),
            ("splice-operator", "`BiasGelu` of the domain `com.microsoft`", foreign),
            ("splice-operator", "`Frobnicate` of the standard domain `ai.onnx`", op("Frobnicate")),
            ("splice-operator", "cannot be put into this model's graph", newer),
            ("splice-output", "expected [rows, columns,", narrow),
            ("splice-output", "int64: expected float32", integer),
            ("splice-input", "`mask` as int64", mask),
            ("splice-input", "[2, t,", fixed(2)),
            ("splice-input", "an input `elsewhere`", reading(Site::Embed, "elsewhere")),
            (
                "splice-input",
                "has two inputs `gate`",
                with(0, Increment { name: "gate".into(), ..good.tables[0].clone() }),
            ),
            ("splice-read", "`blocks.2.attn.out`, which is not computed before", reading(later, &later.to_string())),
            ("splice-input", "two inputs `blocks.1.resid_post`", reading(SITE, "embed")),
            ("site-absent", "blocks.99", reading(absent, "embed")),
            ("site-absent", "blocks.99", Splice { writes: absent, ..good.clone() }),
            ("site-not-pokable", "attn.pattern", Splice { writes: Site::Block(0, BlockSite::Pattern), ..good.clone() }),
            ("splice-table", "not finite", with(1, nan)),
            ("splice-input", "declares its input `values`", with(1, wide.clone())),
            (
                "splice-table",
                "which its graph gives one extent",
                with(1, table("values", Fold::Stack, &[2, width], vec![0.0; 2 * width])),
            ),
            ("splice-not-finite", "`blocks.1.resid_post`", op("Log")),
            ("splice-mixes", "another row in its batch", summing(0)),
            ("splice-mixes", "more tokens behind it", summing(1)),
            ("splice-conflict", &active, Splice { whole_rows: true, ..good.clone() }),
        ];
        for (code, words, splice) in rows {
            let error = model.commit(proposal(vec![Change::Splice(splice.clone())]));
            let error = error.err().unwrap_or_else(|| panic!("{name} {words}: committed"));
            assert_eq!(error.code().id, code, "{name} {words}: {error:?}");
            assert!(format!("{error:?}").contains(words), "{name} {words}: {error:?}");
            let run = model.run(&request(vec![Change::Splice(splice)]));
            assert!(run.is_err() || ["splice-not-finite", "splice-mixes"].contains(&code), "{name} {words}");
        }
        let whole = model.commit(proposal(vec![Change::Splice(Splice { whole_rows: true, ..summing(1) })])).unwrap();
        model.rollback(&whole).unwrap();
        // Parts of one name of one method fold, wherever they are.
        let other = Splice { tables: vec![wide], order: 3, ..scaled(&model, 3, 2.0) };
        let error = model.commit(proposal(vec![Change::Splice(other)])).unwrap_err();
        assert_eq!(error.code().id, "statistic-part", "{error:?}");
        assert!(error.message().contains(&committed.to_string()), "{error}");
        // What a plain model is not told.
        let folder = tempfile::tempdir().unwrap();
        let error = model.export(&folder.path().join("out")).unwrap_err();
        assert_eq!(error.code().id, "splice-plain", "{error:?}");
        assert!(error.message().contains("the end of the prompt"), "{error}");
        assert_eq!((logits(&model, Vec::new()), model.state_hash(), model.patches().len()), (state.0, state.1, 1));
        model.rollback(&committed).unwrap();
        assert_eq!(logits(&model, Vec::new()), base, "{name}");
    }
}
