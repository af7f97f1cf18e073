//! The scope classifier: trained on the training split of the atlas, asked about facts that it has never seen, alone and
//! with a hundred edits held at once.

use std::path::Path;
use std::sync::Arc;

use engraft::base::Cancel;
use engraft::data::{self, DataKind, Record};
use engraft::experiment::{self, ModelWorkbench, Settings, TrainControl, TrainPlan};
use engraft::model::Model;
use engraft::plugins::{Access, ArtefactFile, Library, Method, SearchPath};
use engraft::runtime::silent;
use engraft_plugin_api::{ActivePatch, Change, Route, RouteQuery};
use engraft_tests::{atlas, deps, library, open, root};

/// Trains as `examples/experiments/train-scope.toml` says.
fn trained(out: &Path, library: &Arc<Library>) -> Method {
    let plugin = deps().join("libengraft_scope_classifier.so").display().to_string();
    let overrides = [format!("method.0.plugin={plugin}"), format!("train.out={}", out.display())];
    let settings =
        Settings::load(&root().join("examples/experiments/train-scope.toml"), &overrides).expect("it resolves");
    let mut bench = ModelWorkbench::new(SearchPath::of_process([]), Cancel::new(), silent(), Arc::new(|_, _| {}));
    let plan = TrainPlan::make(settings, &mut bench, false).expect("it can be trained");
    assert_eq!(plan.overlap.warning(), None, "the evaluation is of other facts");
    let control = TrainControl { resume: None, cancel: Cancel::new(), observer: &|_| {} };
    let outcome = experiment::train(&plan, &mut bench, &control).expect("it trains");
    let file = ArtefactFile::load(&outcome.artefacts[0]).expect("it is read");
    library
        .create_with(library.configure(&toml::Table::new()).expect("defaults fit"), Some(&file))
        .expect("it is created")
}

struct Judge<'a> {
    model: &'a Model,
    method: &'a Method,
    records: Vec<Record>,
    states: Vec<Vec<u8>>,
}

impl Judge<'_> {
    /// Which of the edits a prompt is routed to.
    fn routed(&self, prompt: &str, edits: &[usize]) -> Option<usize> {
        let tokens = self.model.tokenizer().and_then(|t| t.encode(prompt)).expect("it is encoded").ids;
        let ids: Vec<String> = edits.iter().map(ToString::to_string).collect();
        let patch = |(id, &edit): (_, &usize)| ActivePatch { id, state: &self.states[edit] };
        let patches = ids.iter().map(String::as_str).zip(edits).map(patch).collect();
        let access = Access::new(self.model, Cancel::new(), 0);
        match self.method.route(&access, &RouteQuery { tokens, patches }).expect("it is routed") {
            Route::Changes(chosen) => chosen.first().map(|&i| edits[i]),
            Route::Base => None,
            other => panic!("{other:?}"),
        }
    }

    /// Of the records of some edits that are held at once, the shares of prompts that are routed as they should be: the
    /// edits' own and their paraphrases to their edit, neighbours to none.
    fn shares(&self, of: &[usize], held: impl Fn(usize) -> Vec<usize>) -> [f64; 3] {
        let (mut right, mut all) = ([0; 3], [0; 3]);
        for &edit in of {
            let record = &self.records[edit];
            let held = held(edit);
            let paraphrases = record.probes.paraphrases.iter().map(|p| (1, &p.prompt, Some(edit)));
            let neighbours = record.probes.neighbours.iter().map(|p| (2, &p.prompt, None));
            for (kind, prompt, expected) in
                std::iter::once((0, &record.prompt, Some(edit))).chain(paraphrases).chain(neighbours)
            {
                all[kind] += 1;
                right[kind] += usize::from(self.routed(prompt, &held) == expected);
            }
        }
        [0, 1, 2].map(|kind| f64::from(right[kind] as u32) / f64::from(all[kind]))
    }
}

#[test]
fn a_learned_scope_tells_paraphrases_of_facts_it_has_not_seen_from_their_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    let (model, library) = (open(&atlas().join("model")), library("engraft_scope_classifier"));
    let method = trained(folder.path(), &library);
    let records = data::load(DataKind::CounterFact, &atlas().join("counterfact.json"), None).unwrap().records;
    let access = Access::new(&model, Cancel::new(), 0);
    let state = |record: &Record| {
        let changes = method.edit(&access, std::slice::from_ref(&record.request)).unwrap();
        let [Change::State(state), Change::Route] = &changes[..] else { panic!("{changes:?}") };
        state.clone()
    };
    let states = records.iter().map(state).collect();
    let judge = Judge { model: &model, method: &method, records, states };

    let each: Vec<usize> = (0..judge.records.len()).collect();
    let [own, accepted, refused] = judge.shares(&each, |edit| vec![edit]);
    assert!(own == 1.0 && accepted >= 0.9 && refused >= 0.95, "alone: {own} {accepted} {refused}");

    let hundred: Vec<usize> = (0..100).collect();
    let [own, accepted, refused] = judge.shares(&hundred, |_| hundred.clone());
    assert!(own >= 0.97 && accepted >= 0.93 && refused >= 0.97, "a hundred: {own} {accepted} {refused}");
}
