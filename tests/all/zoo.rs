//! Every model of the zoo as a row: logits, taps and gradients are PyTorch's, an addition's gradient over a window is that
//! over whole rows, one edit of ROME is committed, exported and rolled back, and cached rows say PyTorch's tokens.

use std::collections::BTreeSet;
use std::time::Instant;

use engraft::base::{Cancel, Error};
use engraft::model::{Continuation, Model};
use engraft::plugins::Access;
use engraft::runtime::{Program, ProgramOptions, Runtime, RuntimeSettings, Value, silent};
use engraft_plugin_api::{
    BlockSite, EditRequest, GenerateRequest, GradientRequest, Place, Poke, RunRequest, Site, Tap, Target, Tensor, Term,
    WeightRef, Wrt,
};
use engraft_tests::zoo::{Row, rows};
use engraft_tests::{Records, difference, library, method, open, relative};

/// The largest absolute difference of logits and activations, from PyTorch and from an exported model.
const CLOSE: f32 = 1e-4;
/// The norm of a gradient's difference from PyTorch's, over the norm of PyTorch's.
const CLOSE_GRADIENT: f64 = 1e-4;
/// A recorded gradient of a smaller norm is rounding alone (others have norms around 1): softmax does not see what is
/// added to every key, so the bias of keys has none. What is found must be as small.
const ROUNDING: f64 = 1e-6;

/// The families, in parts of about the same size that are tested side by side.
const PARTS: [&[&str]; 8] = [
    &["gpt2", "gptj", "falcon"],
    &["llama", "granite"],
    &["gptneox", "gptneox-serial", "mistral", "opt"],
    &["qwen2", "qwen3", "falcon-new", "mpt"],
    &["phi3", "phi", "olmo2", "cohere"],
    &["gemma", "gemma2", "codegen"],
    &["gemma3", "bigcode", "starcoder2", "nemotron", "smollm3"],
    &["bloom", "stablelm", "gptneo"],
];

#[test]
fn rows_of_part_0() {
    check_part(0);
}

#[test]
fn rows_of_part_1() {
    check_part(1);
}

#[test]
fn rows_of_part_2() {
    check_part(2);
}

#[test]
fn rows_of_part_3() {
    check_part(3);
}

#[test]
fn rows_of_part_4() {
    check_part(4);
}

#[test]
fn rows_of_part_5() {
    check_part(5);
}

#[test]
fn rows_of_part_6() {
    check_part(6);
}

#[test]
fn rows_of_part_7() {
    check_part(7);
}

#[test]
fn every_family_is_in_one_part() {
    let mut parts: Vec<&str> = PARTS.concat();
    parts.sort_unstable();
    let families: BTreeSet<String> = rows().into_iter().map(|row| row.family).collect();
    assert_eq!(parts, families.iter().collect::<Vec<_>>());
}

#[cfg(test)]
fn check_part(part: usize) {
    let (mut table, mut wrong) = (String::new(), 0);
    for row in rows().iter().filter(|row| PARTS[part].contains(&row.family.as_str())) {
        let begun = Instant::now();
        let found = match row.left_out() {
            Some(reason) => format!("left out: {reason}"),
            None => {
                let found = check(row).unwrap_or_else(|error| vec![format!("{error:?}")]);
                wrong += found.len();
                if found.is_empty() { "holds".to_owned() } else { found.join("\n    ") }
            }
        };
        table.push_str(&format!("{} ({:.1} s): {found}\n", row.name, begun.elapsed().as_secs_f32()));
    }
    print!("{table}");
    assert_eq!(wrong, 0, "\n{table}");
}

/// What is wrong with a row.
fn check(row: &Row) -> Result<Vec<String>, Error> {
    let folder = row.with_words();
    let records = row.records();
    let flat: Vec<u32> = records.i64("ids").into_iter().map(|id| id as u32).collect();
    let ids = flat.chunks(records.shape("ids")[1]).map(<[u32]>::to_vec).collect();
    let mut case = Case { model: open(folder.path()), records, ids, wrong: Vec::new() };
    case.activations()?;
    case.gradients()?;
    case.window()?;
    case.edit()?;
    case.continuation()?;
    Ok(case.wrong)
}

struct Case {
    model: Model,
    records: Records,
    ids: Vec<Vec<u32>>,
    wrong: Vec<String>,
}

impl Case {
    fn expect(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(otherwise());
        }
    }

    fn near(&mut self, name: &str, found: &Tensor, wanted: &[f32]) -> Result<(), Error> {
        let found = found.as_f32()?;
        let far = if found.len() == wanted.len() { difference(found, wanted) } else { f32::INFINITY };
        self.expect(far <= CLOSE, || format!("{name}: {far}"));
        Ok(())
    }

    /// Every place of the rows.
    fn places(&self) -> Vec<Place> {
        let places = |(row, ids): (usize, &Vec<u32>)| (0..ids.len()).map(move |pos| Place { row, pos });
        self.ids.iter().enumerate().flat_map(places).collect()
    }

    /// A recorded part is checked, or the anatomy has a reason why it is not there.
    fn all_found(&mut self, found: &BTreeSet<String>, recorded: impl Fn(&str) -> Option<&str>) {
        for name in self.records.names() {
            if let Some(part) = recorded(&name).filter(|part| !found.contains(*part)) {
                let reason = self.model.anatomy().absent.get(part);
                self.expect(reason.is_some_and(|r| !r.is_empty()), || format!("{part} is neither there nor absent"));
            }
        }
    }

    fn activations(&mut self) -> Result<(), Error> {
        let sites: Vec<Site> = self.model.anatomy().sites.keys().copied().collect();
        let taps = sites.iter().map(|&site| Tap { site, places: None }).collect();
        let request = RunRequest { rows: self.ids.clone(), taps, logits: self.places(), ..RunRequest::default() };
        let reply = self.model.run(&request)?;
        self.near("logits at places", &reply.logits, &self.records.f32("logits"))?;
        let recorded = self.records.names();
        let mut checked = BTreeSet::new();
        for (site, tap) in sites.iter().zip(&reply.taps) {
            let name = site.to_string();
            if recorded.contains(&name) {
                self.near(&name, tap, &self.records.f32(&name))?;
                self.expect(tap.shape() == self.records.shape(&name), || format!("{name}: {:?}", tap.shape()));
                checked.insert(name);
            }
        }
        self.expect(checked.len() >= 3 + 3 * 13, || format!("{} sites are checked", checked.len()));
        self.all_found(&checked, |name| name.parse::<Site>().is_ok().then_some(name));
        Ok(())
    }

    fn gradients(&mut self) -> Result<(), Error> {
        let anatomy = self.model.anatomy();
        let recorded = self.records.names();
        let there = |name: String| recorded.contains(&format!("grad:{name}"));
        let sites: Vec<Site> = anatomy.sites.keys().copied().filter(|site| there(site.to_string())).collect();
        let weights: Vec<WeightRef> = anatomy.weights.keys().copied().filter(|w| there(w.to_string())).collect();
        let all = |names: &[String]| names.iter().cloned().collect::<BTreeSet<String>>();
        let weight = 1.0 / self.ids.len() as f32;
        let last = self.ids.iter().enumerate().map(|(row, ids)| Place { row, pos: ids.len() - 1 });
        let terms: Vec<Term> = last.map(|place| Term::Nll { place, token: 17, weight }).collect();
        let base = GradientRequest { rows: self.ids.clone(), terms, ..GradientRequest::default() };
        let add = |site: &Site| {
            let width = self.records.shape(&format!("grad:{site}"))[2..].iter().product();
            Poke { site: *site, places: self.places(), values: Tensor::zeros([1, width]) }
        };
        let adds: Vec<Poke> = sites.iter().map(add).collect();
        let wrt = (0..adds.len()).map(Wrt::Add).collect();
        let at_sites = GradientRequest { adds, wrt, ..base.clone() };
        let of_weights = GradientRequest { wrt: weights.iter().map(|&w| Wrt::Weight(w)).collect(), ..base };
        let names = [
            sites.iter().map(Site::to_string).collect::<Vec<String>>(),
            weights.iter().map(WeightRef::to_string).collect(),
        ];
        for (names, request) in names.iter().zip([at_sites, of_weights]) {
            let reply = self.model.gradient(&request)?;
            let off = (reply.loss - self.records.f32("loss")[0]).abs();
            self.expect(off <= CLOSE, || format!("the loss: {off}"));
            for (name, gradient) in names.iter().zip(&reply.gradients) {
                let (found, wanted) = (gradient[0].as_f32()?, self.records.f32(&format!("grad:{name}")));
                let far = if found.len() == wanted.len() { relative(found, &wanted) } else { f64::INFINITY };
                let rounding = norm(&wanted) <= ROUNDING && norm(found) <= ROUNDING;
                self.expect(far <= CLOSE_GRADIENT || rounding, || format!("grad:{name}: {far}"));
            }
        }
        self.expect(names[0].len() > 3 * 10, || format!("gradients at {} sites", names[0].len()));
        self.expect(names[1].len() >= 3 + 3 * 6, || format!("gradients of {} weights", names[1].len()));
        let found = all(&names.concat());
        self.all_found(&found, |name| name.strip_prefix("grad:"));
        Ok(())
    }

    /// Additions at late positions, whose rows need not be computed whole.
    fn window(&mut self) -> Result<(), Error> {
        let rows =
            vec![vec![5, 9, 11, 2, 3, 60, 71, 8, 12], vec![1, 2, 7, 7, 90], vec![4, 4, 31, 17, 100, 3, 2, 14, 1]];
        let place = |row, pos| Place { row, pos };
        let sites =
            [(0, BlockSite::MlpProj), (1, BlockSite::AttnProj), (1, BlockSite::ResidPost), (2, BlockSite::MlpOut)];
        let sites = sites.map(|(layer, site)| Site::Block(layer, site));
        let add = |&site: &Site| {
            let width: usize = self.records.shape(&site.to_string())[2..].iter().product();
            let values = (0..3 * width).map(|i| ((i * 37 % 11) as f32 - 5.0) * 0.05).collect();
            let places = vec![place(0, 6), place(1, 3), place(2, 7)];
            Ok(Poke { site, places, values: Tensor::f32([3, width], values)? })
        };
        let adds = sites.iter().map(add).collect::<Result<Vec<Poke>, Error>>()?;
        let term = |row, pos, token| Term::Nll { place: place(row, pos), token, weight: 0.3 };
        let late = GradientRequest {
            rows,
            adds,
            terms: vec![term(0, 8, 17), term(0, 6, 3), term(1, 4, 9), term(2, 8, 1)],
            wrt: (0..sites.len()).map(Wrt::Add).collect(),
            ..GradientRequest::default()
        };
        // A term of no weight at a site keeps the rows whole.
        let width = self.records.shape("embed")[2];
        let zero = Term::Seed { site: Site::Embed, place: place(0, 0), vector: vec![0.0; width], weight: 0.0 };
        let mut whole = late.clone();
        whole.terms.push(zero);
        let (late, whole) = (self.model.gradient(&late)?, self.model.gradient(&whole)?);
        self.expect((late.loss - whole.loss).abs() <= 1e-5, || format!("window: {} {}", late.loss, whole.loss));
        for (site, (a, b)) in sites.iter().zip(late.gradients.iter().zip(&whole.gradients)) {
            let (a, b) = (a[0].as_f32()?, b[0].as_f32()?);
            let far = relative(a, b);
            self.expect(norm(b) > 0.0 && far <= 1e-5, || format!("window at {site}: {far}"));
        }
        Ok(())
    }

    fn logits(&self, model: &Model) -> Result<Tensor, Error> {
        let request = RunRequest { rows: self.ids.clone(), logits: self.places(), ..RunRequest::default() };
        Ok(model.run(&request)?.logits)
    }

    fn edit(&mut self) -> Result<(), Error> {
        // Behind the subject stands nothing: without a covariance, what other tokens' outputs turn to is left to chance.
        let target = Target { new: "w90".to_owned(), old: None };
        let (id, prompt) = ("row".to_owned(), "w5 w77 {}".to_owned());
        let request = EditRequest { id, prompt, subject: Some("w31 w64".to_owned()), target };
        let rome = library("engraft_rome");
        let few = "v_num_grad_steps = 8\nv_weight_decay = 0.01";
        let rome = method(&rome, &format!("layer = 1\ncovariance = 'none'\nprefixes = 'none'\n{few}"));
        let score = |model: &Model| {
            let asked = Continuation { prompt: vec![5, 77, 31, 64], tokens: vec![90] };
            Ok::<f32, Error>(model.score(&[asked])?[0].log_probs.iter().sum())
        };
        let (plain, before) = (self.logits(&self.model)?, score(&self.model)?);
        let changes = rome.edit(&Access::new(&self.model, Cancel::new(), 1), std::slice::from_ref(&request))?;
        let patch = self.model.commit(rome.proposal(vec![request], changes))?;
        let (edited, after) = (self.logits(&self.model)?, score(&self.model)?);
        self.expect(after > before + 1.0, || format!("the target's log-probability went from {before} to {after}"));
        self.expect(bits(&edited)? != bits(&plain)?, || "the edit changes no logit".to_owned());
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let target = folder.path().join("edited");
        self.model.export(&target)?;
        let exported = self.logits(&open(&target))?;
        self.near("logits of the exported model", &exported, edited.as_f32()?)?;
        let bare = self.bare(&target)?;
        self.near("logits of the exported file alone", &bare, edited.as_f32()?)?;
        self.model.rollback(&patch)?;
        let back = self.logits(&self.model)?;
        self.expect(bits(&back)? == bits(&plain)?, || "a rollback leaves other logits".to_owned());
        Ok(())
    }

    /// The logits that an exported file gives to whoever runs it.
    fn bare(&self, folder: &std::path::Path) -> Result<Tensor, Error> {
        let file = std::fs::read(folder.join("model.onnx")).expect("the export has a graph");
        let runtime = Runtime::open(&RuntimeSettings::default(), silent())?;
        let program = Program::compile(&runtime, &file, folder, &ProgramOptions::default())?;
        let (anatomy, shape) = (self.model.anatomy(), [self.ids.len(), self.ids[0].len()]);
        let whole = |of: &dyn Fn(usize, u32) -> i64| {
            let row = |ids: &Vec<u32>| ids.iter().enumerate().map(|(pos, &id)| of(pos, id)).collect::<Vec<i64>>();
            Value::i64(&shape, self.ids.iter().flat_map(row).collect())
        };
        let inputs = &anatomy.inputs;
        let mut feeds = vec![(inputs.ids.as_str(), whole(&|_, id| i64::from(id))?)];
        if let Some(mask) = &inputs.mask {
            feeds.push((mask, whole(&|_, _| 1)?));
        }
        if let Some(positions) = &inputs.positions {
            feeds.push((positions, whole(&|pos, _| pos as i64)?));
        }
        for port in &inputs.cache {
            feeds.push((&port.past, Value::f32(&port.shape(shape[0], 0), Vec::new())?));
        }
        let feeds: Vec<(&str, &Value)> = feeds.iter().map(|(name, value)| (*name, value)).collect();
        let logits = anatomy.site(Site::Logits)?;
        program.run(&feeds, &[logits])?[0].to_tensor()
    }

    /// PyTorch's tokens, where the graph caches.
    fn continuation(&mut self) -> Result<(), Error> {
        if self.model.anatomy().inputs.cache.is_empty() {
            return Ok(());
        }
        let width = self.records.shape("greedy")[1];
        let wanted: Vec<u32> = self.records.i64("greedy").into_iter().map(|id| id as u32).collect();
        let request = GenerateRequest { rows: self.ids.clone(), max_new: width, ..GenerateRequest::default() };
        let said = self.model.generate(&request)?;
        self.expect(said.concat() == wanted, || format!("says {said:?}"));
        Ok(())
    }
}

fn norm(v: &[f32]) -> f64 {
    v.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

fn bits(tensor: &Tensor) -> Result<Vec<u32>, Error> {
    Ok(tensor.as_f32()?.iter().map(|v| v.to_bits()).collect())
}
