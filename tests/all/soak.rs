//! A model in long service: thousands of edits leave nothing behind, requests beside them see a model that was, and any
//! patch of many goes without a trace. The edits are those of the example plugins' libraries, and slots beside them.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use engraft::base::Cancel;
use engraft::laws::{self, Tiny};
use engraft::model::{Model, Proposal};
use engraft::plugins::{Access, Attachment, Method};
use engraft::runtime::memory;
use engraft_plugin_api::{
    Activation, Change, Delta, EditRequest, GenerateRequest, Params, Place, Role, RunRequest, Slots, Tensor, WeightRef,
};
use engraft_tests::{library, method, open};

/// How many edits are made, asked about and rolled back.
const CYCLES: usize = 2_000;
/// So many of one kind are made in a row, as a service would; a change of kinds compiles programs.
const IN_A_ROW: usize = 100;
/// After this many every kind was met, and the memory is what the programs and their arena need.
const WARM: usize = 5 * IN_A_ROW;
/// What a cycle may leave: two entries of the journal, which is the record of all that happened, and what an allocator
/// loses on the way. Measured: 550 bytes.
const BYTES_PER_CYCLE: i64 = 2048;

/// The methods that edit, with their models' names of them.
struct Methods(Vec<Arc<Method>>);

impl Methods {
    /// Each loaded from its library; the one that is called in passes is attached.
    fn attach(model: &Model) -> Self {
        let load = |(name, params): (&str, &str)| {
            let method = Arc::new(method(&library(&format!("engraft_{name}_plugin")), params));
            Attachment::attach(&method, model);
            method
        };
        Self([("minimal", "layer = 0"), ("splice", "layer = 1"), ("intercept", "layer = 1")].map(load).into())
    }

    /// What edit `i` proposes: kinds take turns, and no two of a kind are equal.
    fn proposal(&self, model: &Model, i: usize) -> Proposal {
        let requests = laws::requests();
        let request = EditRequest { id: format!("edit-{i}"), ..requests[i % requests.len()].clone() };
        let own = |changes| Proposal {
            method: "soak".into(),
            version: "1".into(),
            params: Params::default(),
            requests: vec![request.clone()],
            artefact: None,
            changes,
        };
        let width = model.anatomy().d_model;
        let wave = |shape: [usize; 2], seed: f32| {
            let values = (0..shape[0] * shape[1]).map(|k| (k as f32 * 0.37 + seed).sin() * 0.2).collect();
            Tensor::f32(shape, values).expect("fits")
        };
        match i % 5 {
            0 => {
                let weight = WeightRef::Block(1, Role::MlpOut);
                let [inputs, outputs] = model.anatomy().weight(weight).expect("is there").shape;
                let (left, right) = (wave([inputs, 1], i as f32), wave([1, outputs], 0.5));
                own(vec![Change::Weight { weight, delta: Delta::LowRank { left, right } }])
            }
            1 => {
                let bias = Tensor::f32([2], vec![0.5, 0.6]).expect("fits");
                let (keys, values) = (wave([width, 2], i as f32), wave([2, width], 1.5));
                let activation = Activation::Model;
                own(vec![Change::Slots(Slots { layer: 0, keys, bias, values, gate: None, activation })])
            }
            kind => {
                let method = &self.0[kind - 2];
                let access = Access::new(model, Cancel::new(), i as u64);
                let changes = method.edit(&access, std::slice::from_ref(&request)).expect("edits");
                let descriptor = method.library().descriptor();
                Proposal {
                    method: descriptor.name.clone(),
                    version: descriptor.version.clone(),
                    params: method.params().clone(),
                    requests: vec![request],
                    artefact: None,
                    changes,
                }
            }
        }
    }
}

fn row(model: &Model) -> Vec<u32> {
    let request = laws::requests().swap_remove(0);
    let text = format!("{} {}", request.filled().expect("fits"), request.target.new);
    model.tokenizer().and_then(|t| t.encode(&text)).expect("encodes").ids
}

/// Every logit of two equal rows, to the bit.
fn logits(model: &Model, row: &[u32]) -> Vec<u32> {
    let logits = (0..2).flat_map(|r| (0..row.len()).map(move |pos| Place { row: r, pos })).collect();
    let request = RunRequest { rows: vec![row.to_vec(), row.to_vec()], logits, ..RunRequest::default() };
    let reply = model.run(&request).expect("runs");
    reply.logits.as_f32().expect("floats").iter().map(|v| v.to_bits()).collect()
}

fn texts(model: &Model, row: &[u32]) -> Vec<Vec<u32>> {
    let request = GenerateRequest { rows: vec![row[..4].to_vec(), row.to_vec()], max_new: 3, ..Default::default() };
    model.generate(&request).expect("generates")
}

/// Runs in a process of its own, so that the memory is that of the cycles alone.
#[test]
fn thousands_of_edits_leave_nothing_behind() {
    let child = Command::new(std::env::current_exe().expect("a test has a path"))
        .args(["--exact", "soak::cycles", "--ignored", "--nocapture", "--test-threads", "1"])
        .output()
        .expect("starts");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(child.status.success(), "{}\n{}", said(&child.stdout), said(&child.stderr));
    assert!(said(&child.stdout).contains("1 passed"), "{}", said(&child.stdout));
}

#[test]
#[ignore = "thousands_of_edits_leave_nothing_behind runs it in a process of its own"]
fn cycles() {
    let tiny = Tiny::unpack().expect("unpacks");
    let model = open(tiny.folder());
    let methods = Methods::attach(&model);
    let row = row(&model);
    let before = (logits(&model, &row), texts(&model, &row), model.state_hash());
    let mut warm = 0;
    for i in 0..CYCLES {
        if i == WARM {
            warm = memory::anonymous_bytes().unwrap_or(0);
        }
        let edit = 5 * i + i / IN_A_ROW % 5;
        let id = model.commit(methods.proposal(&model, edit)).expect("commits");
        let during = logits(&model, &row);
        // What steers at the end of another request's prompt does not show at the first one's.
        let shows = edit % 5 < 3 || edit.is_multiple_of(laws::requests().len());
        assert!(!shows || during != before.0, "edit {edit} shows nowhere");
        if i % 20 == 0 {
            texts(&model, &row);
        }
        model.rollback(&id).expect("rolls back");
        if i % 20 == 0 {
            assert!(logits(&model, &row) == before.0, "edit {edit} left something behind");
        }
    }
    let end = memory::anonymous_bytes().unwrap_or(0);
    assert!((logits(&model, &row), texts(&model, &row), model.state_hash()) == before);
    assert_eq!((model.history().len(), model.patches().len()), (2 * CYCLES, 0));
    let slope = (end as i64 - warm as i64) / (CYCLES - WARM) as i64;
    let (warm, end) = (warm / 1024, end / 1024);
    assert!(slope < BYTES_PER_CYCLE, "{slope} bytes a cycle: {warm} KiB after {WARM} cycles, {end} KiB in the end");
}

/// One patch of weights, slots and a splice: whoever saw a part of it would say something that neither model says.
#[test]
fn requests_beside_edits_see_the_model_before_or_after() {
    let tiny = Tiny::unpack().expect("unpacks");
    let model = open(tiny.folder());
    let methods = Methods::attach(&model);
    let row = row(&model);
    let mut proposal = methods.proposal(&model, 0);
    proposal.changes.extend((1..4).flat_map(|i| methods.proposal(&model, i).changes));
    let answers = || (logits(&model, &row), texts(&model, &row));
    let without = answers();
    let id = model.commit(proposal.clone()).expect("commits");
    let with = answers();
    model.rollback(&id).expect("rolls back");
    assert!(without.0 != with.0 && answers() == without);

    let (asked, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let seen = std::thread::scope(|scope| {
        let ask = |continues: bool| {
            let mut seen = [0, 0];
            while !done.load(Ordering::Acquire) {
                let which = if continues {
                    let found = texts(&model, &row);
                    [&without, &with].map(|allowed| allowed.1 == found)
                } else {
                    let found = logits(&model, &row);
                    [&without, &with].map(|allowed| allowed.0 == found)
                };
                assert!(which[0] || which[1], "an answer of neither model");
                seen.iter_mut().zip(which).for_each(|(n, hit)| *n += usize::from(hit));
                asked.fetch_add(1, Ordering::Release);
            }
            seen
        };
        let askers = [false, false, true].map(|continues| scope.spawn(move || ask(continues)));
        // Three more answers than there are askers: one of them was asked for after the change.
        let wait = || {
            let from = asked.load(Ordering::Acquire);
            while asked.load(Ordering::Acquire) < from + 4 && !askers.iter().any(|a| a.is_finished()) {
                std::thread::yield_now();
            }
        };
        for _ in 0..25 {
            let id = model.commit(proposal.clone()).expect("commits");
            wait();
            model.rollback(&id).expect("rolls back");
            wait();
        }
        done.store(true, Ordering::Release);
        askers.map(|asker| asker.join().expect("no asker failed"))
    });
    assert!(seen.iter().all(|[without, _]| *without > 0), "{seen:?}");
    assert!(seen[..2].iter().map(|[_, with]| with).sum::<usize>() > 0, "{seen:?}");
    assert!(answers() == without);
}

#[test]
fn any_of_a_hundred_patches_goes_without_a_trace() {
    let tiny = Tiny::unpack().expect("unpacks");
    let model = open(tiny.folder());
    let methods = Methods::attach(&model);
    let row = row(&model);
    let proposals: Vec<Proposal> = (0..100).map(|i| methods.proposal(&model, i)).collect();
    let ids: Vec<_> = proposals.iter().map(|p| model.commit(p.clone()).expect("commits")).collect();
    let mut gone = Vec::new();
    // One of each kind, first, last but one and between.
    for k in [40, 0, 61, 98, 77, 33] {
        model.rollback(&ids[k]).expect("rolls back");
        gone.push(k);
        let never = open(tiny.folder());
        Methods::attach(&never);
        for (_, proposal) in proposals.iter().enumerate().filter(|(i, _)| !gone.contains(i)) {
            never.commit(proposal.clone()).expect("commits");
        }
        assert!(model.state_hash() == never.state_hash(), "without {gone:?}");
        assert!(logits(&model, &row) == logits(&never, &row), "without {gone:?}");
    }
}

#[test]
fn a_patch_is_applied_once_and_rolled_back_once() {
    let tiny = Tiny::unpack().expect("unpacks");
    let model = open(tiny.folder());
    let methods = Methods::attach(&model);
    let row = row(&model);
    for i in 0..5 {
        let (plain, proposal) = (logits(&model, &row), methods.proposal(&model, i));
        let id = model.commit(proposal.clone()).expect("commits");
        let (with, state) = (logits(&model, &row), model.state_hash());
        assert_eq!(model.commit(proposal).expect_err("is active").code().id, "patch-applied");
        assert!(logits(&model, &row) == with && model.state_hash() == state && model.patches().len() == 1);
        model.rollback(&id).expect("rolls back");
        assert_eq!(model.rollback(&id).expect_err("is gone").code().id, "patch-unknown");
        assert!(logits(&model, &row) == plain && model.patches().is_empty());
        assert_eq!(model.history().len(), 2 * (i + 1));
    }
}
