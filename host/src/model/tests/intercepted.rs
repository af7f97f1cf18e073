//! Methods that are called in the middle of passes: what they see, what becomes of the passes, and what goes wrong.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use engraft_plugin_api::{
    BlockSite, Change, GenerateRequest, GradientRequest, InterceptCall, Params, Place, Poke, Role, RunRequest, Site,
    Tap, Tensor, Term, WeightRef, Wrt,
};

use super::{difference, low_rank};
use crate::base::{Error, Result};
use crate::graph::testing::{rows, zoo};
use crate::model::{Active, Attached, Model, OpenOptions, Proposal, View, codes};
use crate::runtime;

/// Exports whose edges have the axes of their sites, and ones whose edges have others.
const EXPORTS: [&str; 7] = [
    "gpt2-dynamo-mask",
    "gpt2-torchscript-opset14",
    "gptneox-torchscript",
    "opt-dynamo",
    "falcon-new-dynamo",
    "phi3-dynamo",
    HALF,
];

/// One whose edges are float16.
const HALF: &str = "gpt2-dynamo-f16";

const SITE: Site = Site::Block(1, BlockSite::ResidPost);

fn model(name: &str) -> Model {
    Model::open(&zoo(name), &runtime::for_tests(), &OpenOptions::default()).unwrap()
}

fn proposal(method: &str, changes: Vec<Change>) -> Proposal {
    let (method, version) = (method.to_owned(), "0".to_owned());
    Proposal { method, version, params: Params::default(), artefact: None, requests: Vec::new(), changes }
}

fn at(sites: &[Site], state: &[u8]) -> Vec<Change> {
    vec![Change::State(state.to_vec()), Change::Intercept { sites: sites.to_vec(), whole_rows: false }]
}

fn logits(model: &Model, rows: &[Vec<u32>]) -> Result<Vec<f32>> {
    let logits = rows.iter().enumerate().map(|(row, r)| Place { row, pos: r.len() - 1 }).collect();
    Ok(model.run(&RunRequest { rows: rows.to_vec(), logits, ..RunRequest::default() })?.logits.into_f32()?)
}

/// A method made of a function.
struct By<F>(F);

impl<F: Fn(&InterceptCall<'_>) -> Result<Option<Tensor>> + Send + Sync> Attached for By<F> {
    fn intercept(&self, call: &InterceptCall<'_>) -> Result<Option<Tensor>> {
        (self.0)(call)
    }
}

fn attach(
    model: &Model,
    method: &str,
    call: impl Fn(&InterceptCall<'_>) -> Result<Option<Tensor>> + Send + Sync + 'static,
) {
    model.attach(method, &Params::default(), Arc::new(By(call)));
}

/// Adds a wave at the last token of each row's prompt, `state[0]` times for each patch.
fn adding(call: &InterceptCall<'_>) -> Result<Option<Tensor>> {
    let mut new = call.activation.to_owned();
    for (r, row) in call.rows.iter().enumerate() {
        let Some(column) = call.column(r, row.prompt_end) else { continue };
        let times: f32 = row.patches.iter().map(|&p| f32::from(call.patches[p].state[0])).sum();
        let mut there = new.index_axis_mut(ndarray::Axis(0), r);
        let mut there = there.index_axis_mut(ndarray::Axis(0), column);
        there.iter_mut().zip(wave()).for_each(|(v, w)| *v += times * w);
    }
    Ok(Some(Tensor::from_array(&new)))
}

fn wave() -> impl Iterator<Item = f32> {
    (0..).map(|i| 0.5 * (0.7 * (i as f32 + 1.0)).sin())
}

fn some_rows() -> Vec<Vec<u32>> {
    vec![vec![5, 9, 11, 2, 3], vec![1, 2, 7], vec![4, 4, 31, 17, 100]]
}

fn poke(model: &Model, site: Site, rows: &[Vec<u32>], times: f32) -> Poke {
    let width: usize = crate::hooks::site_width(model.anatomy(), site).iter().product();
    let values = Tensor::f32([1, width], wave().take(width).map(|v| times * v).collect()).unwrap();
    let places = rows.iter().enumerate().map(|(row, r)| Place { row, pos: r.len() - 1 }).collect();
    Poke { site, places, values }
}

#[test]
fn a_method_that_adds_a_vector_is_a_poke_at_sites_of_every_shape_and_a_rollback_is_exact() {
    let rows = some_rows();
    for row in self::rows().into_iter().filter(|row| EXPORTS.contains(&row.name.as_str())) {
        let export = &row.name;
        let model = Model::open(&row.folder, &runtime::for_tests(), &OpenOptions::default()).unwrap();
        let base = logits(&model, &rows).unwrap();
        attach(&model, "adding", adding);
        let sites = [BlockSite::ResidPost, BlockSite::Q, BlockSite::MlpPost, BlockSite::AttnProj];
        for site in sites.map(|site| Site::Block(1, site)).into_iter().chain([Site::Embed, Site::Logits]) {
            let ids = [1, 2].map(|n| model.commit(proposal("adding", at(&[site], &[n]))).unwrap());
            let state = model.state_hash();
            let found = logits(&model, &rows).unwrap();
            let tap = Tap { site, places: None };
            let tapped = model.run(&RunRequest { rows: rows.clone(), taps: vec![tap.clone()], ..Default::default() });
            model.rollback(&ids[0]).unwrap();
            let second = logits(&model, &rows).unwrap();
            model.rollback(&ids[1]).unwrap();
            for (found, times) in [(&found, 3.0), (&second, 2.0)] {
                let logits = rows.iter().enumerate().map(|(row, r)| Place { row, pos: r.len() - 1 }).collect();
                let adds = vec![poke(&model, site, &rows, times)];
                let taps = vec![tap.clone()];
                let poked = RunRequest { rows: rows.clone(), logits, adds, taps, ..RunRequest::default() };
                let poked = model.run(&poked).unwrap();
                let close = if export == HALF { 2e-2 } else { 1e-4 };
                let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= close);
                assert!(near(found, poked.logits.as_f32().unwrap()), "{export} {site}");
                if times == 3.0 {
                    let tapped = &tapped.as_ref().unwrap().taps[0];
                    assert!(near(tapped.as_f32().unwrap(), poked.taps[0].as_f32().unwrap()), "{export} {site}");
                }
            }
            assert!(found != base && second != found, "{export} {site}");
            assert_ne!(model.state_hash(), state);
            assert_eq!(logits(&model, &rows).unwrap(), base, "{export} {site}");
        }
    }
}

#[test]
fn failures_end_their_request_alone_and_name_the_method_and_the_site() {
    let rows = some_rows();
    let model = model("dynamo-mask");
    let base = logits(&model, &rows).unwrap();
    let refused = |found: Result<_>, code: &str, words: &str| {
        let error = found.map(drop).unwrap_err();
        assert_eq!(error.code().id, code, "{error:?}");
        assert!(error.message().contains(words), "{error}");
    };
    refused(model.commit(proposal("adding", at(&[SITE], &[1]))).map(drop), "intercept-method", "`adding`");
    attach(&model, "adding", adding);
    let far = Site::Block(9, BlockSite::ResidPost);
    refused(model.commit(proposal("adding", at(&[far], &[1]))).map(drop), "site-absent", "blocks.9");
    let pattern = Site::Block(0, BlockSite::Pattern);
    refused(model.commit(proposal("adding", at(&[pattern], &[1]))).map(drop), "site-not-pokable", "pattern");
    refused(
        model.commit(proposal("adding", at(&[SITE, SITE], &[1]))).map(drop),
        "intercept-twice",
        "`blocks.1.resid_post`",
    );
    let under = at(&[SITE], &[1]);
    let run = RunRequest { rows: rows.clone(), logits: vec![Place { row: 0, pos: 0 }], under, ..RunRequest::default() };
    refused(model.run(&run).map(drop), "intercept-trial", "trial");

    let id = model.commit(proposal("adding", at(&[SITE], &[1]))).unwrap();
    let good = logits(&model, &rows).unwrap();
    type Call = fn(&InterceptCall<'_>) -> Result<Option<Tensor>>;
    let faults: [(Call, &str, &str); 4] = [
        (|_| panic!("on purpose"), "intercept-panicked", "`adding` panicked at `blocks.1.resid_post`: on purpose"),
        (|_| Err(Error::new(&codes::DECODING, "my words")), "decoding-invalid", "my words"),
        (
            |call| Ok(Some(Tensor::from_array(&call.activation.mapv(|_| f32::NAN)))),
            "intercept-not-finite",
            "`blocks.1.resid_post`",
        ),
        (|_| Ok(Some(Tensor::zeros([1]))), "intercept-shape", "`blocks.1.resid_post` has shape [1]"),
    ];
    for (fault, code, words) in faults {
        attach(&model, "adding", fault);
        refused(logits(&model, &rows).map(drop), code, words);
        // An edit whose method fails on the probe is taken back.
        refused(model.commit(proposal("adding", at(&[SITE], &[7]))).map(drop), code, words);
        attach(&model, "adding", adding);
        assert_eq!(logits(&model, &rows).unwrap(), good, "{code}");
    }
    refused(model.export(&zoo("dynamo-mask").join("never")).map(drop), "export-intercept", "`adding`");
    model.rollback(&id).unwrap();
    assert_eq!(logits(&model, &rows).unwrap(), base);
    assert_eq!(model.patches().len(), 0);
}

#[test]
fn a_gradient_through_an_intercepted_site_is_refused_and_one_behind_it_sees_the_method() {
    let rows = some_rows();
    let model = model("dynamo-mask");
    attach(&model, "adding", adding);
    let request = |site: Site, adds: Vec<Poke>| {
        let width = model.anatomy().d_model;
        let places = vec![Place { row: 0, pos: 4 }];
        GradientRequest {
            rows: rows.clone(),
            adds: [Poke { site, places, values: Tensor::zeros([1, width]) }].into_iter().chain(adds).collect(),
            terms: vec![Term::Nll { place: Place { row: 0, pos: 4 }, token: 17, weight: 1.0 }],
            wrt: vec![Wrt::Add(0)],
            ..GradientRequest::default()
        }
    };
    let behind = Site::Block(2, BlockSite::MlpProj);
    let wanted = model.gradient(&request(behind, vec![poke(&model, SITE, &rows, 1.0)])).unwrap();
    model.commit(proposal("adding", at(&[SITE], &[1]))).unwrap();
    let error = model.gradient(&request(Site::Block(0, BlockSite::MlpProj), Vec::new())).unwrap_err();
    assert_eq!(error.code().id, "intercept-gradient");
    assert!(error.message().contains("`blocks.1.resid_post`"), "{error}");
    let found = model.gradient(&request(behind, Vec::new())).unwrap();
    assert!((found.loss - wanted.loss).abs() < 1e-5);
    let (found, wanted) = (&found.gradients[0][0], &wanted.gradients[0][0]);
    let pairs = found.as_f32().unwrap().iter().zip(wanted.as_f32().unwrap());
    assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-5) && pairs.clone().any(|(_, b)| b.abs() > 1e-3));
}

#[test]
fn positions_go_on_with_the_cache_and_whole_rows_do_without_it() {
    let cached = ["gpt2-dynamo-23-cache", "llama-dynamo-cache"];
    let prompts = vec![vec![5, 9, 11, 2, 3], vec![1, 2, 7]];
    for row in rows().into_iter().filter(|row| cached.contains(&row.name.as_str())) {
        let mut said = Vec::new();
        for whole_rows in [false, true] {
            let model = Model::open(&row.folder, &runtime::for_tests(), &OpenOptions::default()).unwrap();
            let seen = Arc::new(Mutex::new(Vec::new()));
            let noted = seen.clone();
            attach(&model, "adding", move |call| {
                let ends: Vec<usize> = call.rows.iter().map(|row| row.prompt_end).collect();
                noted.lock().unwrap().push((call.positions.to_owned(), ends));
                adding(call)
            });
            let changes = vec![Change::State(vec![9]), Change::Intercept { sites: vec![SITE], whole_rows }];
            model.commit(proposal("adding", changes)).unwrap();
            seen.lock().unwrap().clear();
            let request = GenerateRequest { rows: prompts.clone(), max_new: 4, ..GenerateRequest::default() };
            said.push(model.generate(&request).unwrap());
            let seen = seen.lock().unwrap();
            let last = seen.last().unwrap();
            if !whole_rows {
                assert!(seen.iter().any(|(positions, _)| positions.ncols() == 1), "{}", row.name);
            }
            let newest = |r: usize| *last.0.row(r).iter().max().unwrap();
            assert!(last.0.nrows() == 1 || (newest(0), newest(1)) == (7, 5), "{} {last:?}", row.name);
            assert!(last.1.len() == 1 || last.1 == [4, 2], "{} {last:?}", row.name);
        }
        assert_eq!(said[0], said[1], "{}", row.name);
    }
}

#[test]
fn a_journal_opens_without_the_method_and_requests_wait_for_it() {
    let (rows, folder) = (some_rows(), tempfile::tempdir().unwrap());
    let journal = Some(folder.path().join("journal"));
    let again = || {
        let options = OpenOptions { journal: journal.clone(), ..OpenOptions::default() };
        Model::open(&zoo("dynamo-mask"), &runtime::for_tests(), &options).unwrap()
    };
    let (wanted, state) = {
        let model = again();
        attach(&model, "adding", adding);
        model.commit(proposal("adding", at(&[SITE, Site::Embed], &[2]))).unwrap();
        (logits(&model, &rows).unwrap(), model.state_hash())
    };
    let model = again();
    assert_eq!(logits(&model, &rows).unwrap_err().code().id, "intercept-method");
    let places = vec![Place { row: 0, pos: 0 }];
    let request = RunRequest { rows: rows.clone(), logits: places, ..RunRequest::default() };
    let unseen = model.run_seeing(&request, &View::only([]).active, None).unwrap().logits;
    assert!(
        difference(unseen.as_f32().unwrap(), model.run_base(&request, None).unwrap().logits.as_f32().unwrap()) < 1e-5
    );
    attach(&model, "adding", adding);
    assert_eq!((logits(&model, &rows).unwrap(), model.state_hash()), (wanted, state));
}

#[test]
fn requests_at_once_do_not_see_each_others_calls() {
    let model = model("dynamo-mask");
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    attach(&model, "adding", move |call| {
        counted.fetch_add(1, Ordering::SeqCst);
        // A row that is longer than its prompt fails, and its request alone.
        match call.rows.iter().enumerate().find(|(r, row)| call.column(*r, row.prompt_end + 1).is_some()) {
            Some((_, row)) => Err(Error::new(&codes::DECODING, format!("end {}", row.prompt_end))),
            None => adding(call),
        }
    });
    model.commit(proposal("adding", at(&[SITE], &[1]))).unwrap();
    let row = |t: u32| vec![vec![t, 9, 11, t + 1, 3]];
    let wanted: Vec<Vec<f32>> = (0..4).map(|t| logits(&model, &row(t)).unwrap()).collect();
    std::thread::scope(|scope| {
        for t in 0..4u32 {
            let (model, wanted) = (&model, &wanted);
            scope.spawn(move || {
                for i in 0..20 {
                    assert_eq!(logits(model, &row(t)).unwrap(), wanted[t as usize]);
                    let end = (t as usize + i) % 4;
                    let logits = vec![Place { row: 0, pos: 0 }];
                    let request = RunRequest { rows: row(t), prompt_ends: vec![end], logits, ..RunRequest::default() };
                    assert_eq!(model.run(&request).unwrap_err().message(), format!("end {end}"));
                }
            });
        }
    });
    assert!(calls.load(Ordering::SeqCst) > 160);
}

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// As [`adding`], but holds up a request whose prompts all end at their first token, says so, and waits to be released.
fn holding_up(model: &Model) -> (Receiver<()>, Sender<()>) {
    let ((says, said), (release, released)) = (channel(), channel());
    let gate = Mutex::new((says, released));
    attach(model, "adding", move |call| {
        if call.rows.iter().all(|row| row.prompt_end == 0) {
            let (says, released) = &*gate.lock().unwrap();
            says.send(()).unwrap();
            released.recv_timeout(LONG).map_err(|e| Error::new(&codes::DECODING, "held up for good").because(e))?;
        }
        adding(call)
    });
    (said, release)
}

fn held_up(model: &Model, rows: &[Vec<u32>]) -> Result<Vec<f32>> {
    let logits = rows.iter().enumerate().map(|(row, r)| Place { row, pos: r.len() - 1 }).collect();
    let request = RunRequest { rows: rows.to_vec(), prompt_ends: vec![0; rows.len()], logits, ..RunRequest::default() };
    Ok(model.run(&request)?.logits.into_f32()?)
}

#[test]
fn a_method_that_blocks_holds_up_its_own_request_alone() {
    let rows = some_rows();
    let model = model("dynamo-23-cache");
    let base = logits(&model, &rows).unwrap();
    let (said, release) = holding_up(&model);
    let id = model.commit(proposal("adding", at(&[SITE], &[3]))).unwrap();
    let weight = WeightRef::Block(1, Role::MlpOut);
    let other = model.commit(proposal("by hand", vec![low_rank(&model, weight, 0.1)])).unwrap();
    let request = RunRequest {
        logits: rows.iter().enumerate().map(|(row, r)| Place { row, pos: r.len() - 1 }).collect(),
        rows: rows.clone(),
        ..RunRequest::default()
    };
    let chosen = [Active::Only(vec![other.clone()])];
    let texts = GenerateRequest { rows: rows.clone(), max_new: 4, ..GenerateRequest::default() };
    let ask = || {
        let unseeing = model.run_seeing(&request, &chosen, None).unwrap().logits.into_f32().unwrap();
        (logits(&model, &rows).unwrap(), unseeing, model.generate(&texts).unwrap())
    };
    let wanted = ask();
    release.send(()).unwrap();
    let late = held_up(&model, &rows).unwrap();
    said.recv_timeout(LONG).unwrap();
    assert!(wanted.0 != wanted.1 && wanted.0 != base && late != wanted.0);
    let compiled = model.compiled();
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| held_up(&model, &rows));
        said.recv_timeout(LONG).unwrap();
        for _ in 0..10 {
            assert_eq!(ask(), wanted);
        }
        // The others do not need more sessions than that.
        assert_eq!((model.compiled(), blocked.is_finished()), (compiled, false));
        model.rollback_all(&[id, other]).unwrap();
        assert_eq!(logits(&model, &rows).unwrap(), base);
        assert!(!blocked.is_finished());
        release.send(()).unwrap();
        assert_eq!(blocked.join().unwrap().unwrap(), late);
    });
}

#[test]
fn requests_at_once_run_at_once_and_take_turns_where_one_is_all() {
    let rows = some_rows();
    let open = |sessions| {
        let options = OpenOptions { sessions, ..OpenOptions::default() };
        Model::open(&zoo("dynamo-mask"), &runtime::for_tests(), &options).unwrap()
    };
    // Three requests are inside the method at one time, or none of them ends.
    let model = open(None);
    let (expected, inside) = (Arc::new(AtomicUsize::new(1)), Arc::new((Mutex::new(0), Condvar::new())));
    let (together, met) = (expected.clone(), inside.clone());
    attach(&model, "adding", move |call| {
        let (count, changed) = &*met;
        let mut count = count.lock().unwrap();
        *count += 1;
        changed.notify_all();
        let apart = |count: &mut usize| *count < together.load(Ordering::SeqCst);
        let (_count, timeout) = changed.wait_timeout_while(count, LONG, apart).unwrap();
        if timeout.timed_out() { Err(Error::new(&codes::DECODING, "alone")) } else { adding(call) }
    });
    model.commit(proposal("adding", at(&[SITE], &[1]))).unwrap();
    let wanted = logits(&model, &rows).unwrap();
    *inside.0.lock().unwrap() = 0;
    expected.store(3, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..3).map(|_| scope.spawn(|| logits(&model, &rows))).collect();
        asked.into_iter().for_each(|asked| assert_eq!(asked.join().unwrap().unwrap(), wanted));
    });

    let model = open(Some(1));
    let (said, release) = holding_up(&model);
    model.commit(proposal("adding", at(&[SITE], &[1]))).unwrap();
    assert_eq!(logits(&model, &rows).unwrap(), wanted);
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| held_up(&model, &rows));
        said.recv_timeout(LONG).unwrap();
        let waiting = scope.spawn(|| logits(&model, &rows));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!waiting.is_finished());
        release.send(()).unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), wanted);
        blocked.join().unwrap().unwrap();
    });
}
