//! Trainings end to end, through the library of a method that learns little: cut off and resumed to the byte, bound to
//! model, data and method, with every fault a coded error.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use engraft::base::{Cancel, Error};
use engraft::experiment::{
    self, Control, Event, ModelWorkbench, Plan, Settings, Source, TrainControl, TrainEvent, TrainOutcome, TrainPlan,
};
use engraft::model::Model;
use engraft::plugins::{Access, ArtefactFile, Attachment, SearchPath};
use engraft::report::MetricLine;
use engraft::runtime::silent;
use engraft_plugin_api::{Artefact, Change};
use engraft_tests::{a_request, atlas, deps, library, open};
use tempfile::TempDir;

/// An experiment in a folder of its own.
struct Lab {
    folder: TempDir,
    text: String,
}

impl Lab {
    /// `train` are the lines of the `[train]` table, `method` those of the `[[method]]`.
    fn new(train: &str, method: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let world = atlas().display().to_string();
        let plugin = deps().join("libengraft_stress.so").display().to_string();
        let out = folder.path().join("runs").display().to_string();
        let text = format!(
            "name = \"lab\"\nseed = 3\n[model]\npath = \"{world}/model\"\n\
             [data]\nkind = \"counterfact\"\npath = \"{world}/counterfact.json\"\nlimit = 2\n\
             [run]\nout = \"{out}\"\ntext = 0\n\
             [train]\n{}\n[[method]]\nplugin = \"{plugin}\"\n{method}\n",
            train.replace("ATLAS", &world)
        );
        Self { folder, text }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn settings(&self) -> Result<Settings, Error> {
        Settings::resolve(&Source::new(&self.path("lab.toml"), self.text.clone(), &[]))
    }

    fn bench() -> ModelWorkbench {
        ModelWorkbench::new(SearchPath::of_process([]), Cancel::new(), silent(), Arc::new(|_, _| {}))
    }

    fn train(
        &self,
        resume: Option<&Path>,
        cancel: &Cancel,
        observer: &(dyn Fn(&TrainEvent<'_>) + Sync),
    ) -> Result<TrainOutcome, Error> {
        let mut bench = Self::bench();
        let plan = TrainPlan::make(self.settings()?, &mut bench, resume.is_some())?;
        experiment::train(&plan, &mut bench, &TrainControl { resume, cancel: cancel.clone(), observer })
    }

    fn trained(&self) -> TrainOutcome {
        self.train(None, &Cancel::new(), &|_| {}).expect("the training ends well")
    }

    fn run(&self) -> Result<(experiment::Outcome, Vec<String>), Error> {
        let mut bench = Self::bench();
        let plan = Plan::make(self.settings()?, &mut bench)?;
        let warnings = Mutex::new(Vec::new());
        let observer = |event: &Event<'_>| {
            if let Event::Warning { text, .. } = event {
                warnings.lock().expect("no panic").push((*text).to_owned());
            }
        };
        let outcome =
            experiment::run(&plan, &mut bench, &Control { resume: None, cancelled: &|| false, observer: &observer })?;
        Ok((outcome, warnings.into_inner().expect("no panic")))
    }

    /// The one folder of a training.
    fn book(&self) -> PathBuf {
        let mut entries = fs::read_dir(self.path("runs")).expect("there is a folder");
        entries.next().expect("there is a training").expect("it can be read").path()
    }
}

const TRAIN: &str = "path = \"ATLAS/counterfact_train.json\"\nvalidation = 0.2";

fn code<T>(outcome: Result<T, Error>) -> &'static str {
    outcome.map_or_else(|e| e.code().id, |_| "nothing")
}

fn metrics(folder: &Path) -> Vec<MetricLine> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).expect("there are figures");
    text.lines().map(|line| serde_json::from_str(line).expect("each is a line")).collect()
}

#[test]
fn a_training_that_was_cut_off_ends_as_if_it_had_not_been() {
    let (through, cut) = (Lab::new(TRAIN, ""), Lab::new(TRAIN, ""));
    let through = through.trained();
    assert!(through.manifest.warnings().is_empty());
    let (folder, trained) = (&through.folder, &through.summary.methods[0]);
    assert_eq!((trained.steps, trained.metrics["loss"].last), (4, Some(0.25)));
    let page = fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(page.contains("<polyline") && page.contains(&trained.hash), "{page}");
    assert!(fs::read_to_string(folder.join("report.md")).unwrap().contains("| loss | 1.000 | 0.2500 |"));

    // Stopped after its second checkpoint, in the middle of a line.
    let (cancel, kept) = (Cancel::new(), AtomicUsize::new(0));
    let stopping = |event: &TrainEvent<'_>| {
        if matches!(event, TrainEvent::Checkpoint { .. }) && kept.fetch_add(1, Ordering::SeqCst) == 1 {
            cancel.cancel();
        }
    };
    let error = cut.train(None, &cancel, &stopping).unwrap_err();
    let book = cut.book();
    assert_eq!((error.code().id, metrics(&book).len()), ("interrupted", 2));
    assert!(error.advice().is_some_and(|help| help.contains("--resume")));
    let file = book.join("metrics.jsonl");
    let after = "{\"method\":0,\"step\":3,\"name\":\"loss\",\"value\":9.0}\n{\"meth";
    fs::write(&file, fs::read_to_string(&file).unwrap() + after).unwrap();

    let from = Mutex::new(None);
    let resumed = cut.train(Some(&book), &Cancel::new(), &|event| {
        if let TrainEvent::Learning { from: step, .. } = event {
            *from.lock().expect("no panic") = *step;
        }
    });
    let resumed = resumed.unwrap();
    assert_eq!(from.into_inner().unwrap(), Some(2));
    assert_eq!(metrics(&book), metrics(folder));
    assert_eq!(fs::read(&resumed.artefacts[0]).unwrap(), fs::read(&through.artefacts[0]).unwrap());
    assert!(!book.join("0.checkpoint").exists());
    // Once more changes nothing.
    let bytes = fs::read(&resumed.artefacts[0]).unwrap();
    let again = cut.train(Some(&book), &Cancel::new(), &|event| {
        assert!(!matches!(event, TrainEvent::Learning { .. }), "it is done");
    });
    assert_eq!(fs::read(&again.unwrap().artefacts[0]).unwrap(), bytes);
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_one_before() {
    let lab = Lab::new(TRAIN, "");
    let (file, aside) = (|| lab.book().join("0.checkpoint"), || lab.book().join("aside"));
    // In the place of the file comes a folder that is not empty, so that nothing can be put there.
    let blocking = |event: &TrainEvent<'_>| {
        if let TrainEvent::Checkpoint { step: 1 } = event {
            fs::rename(file(), aside()).unwrap();
            fs::create_dir_all(file().join("full")).unwrap();
        }
    };
    let error = lab.train(None, &Cancel::new(), &blocking).unwrap_err();
    assert_eq!(error.code().id, "file-write", "{error:?}");
    let unfinished = fs::read_dir(lab.book())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".engraft-unfinished"));
    assert_eq!(unfinished.count(), 0);
    fs::remove_dir_all(file()).unwrap();
    fs::rename(aside(), file()).unwrap();

    // A checkpoint that something else changed is not gone on from.
    let (whole, book) = (fs::read(file()).unwrap(), lab.book());
    let resume = |lab: &Lab| lab.train(Some(&book), &Cancel::new(), &|_| {});
    let mut turned = whole.clone();
    *turned.last_mut().unwrap() ^= 1;
    fs::write(file(), turned).unwrap();
    assert_eq!(code(resume(&lab)), "checkpoint-damaged");
    fs::write(file(), whole).unwrap();

    // Nor is one of other settings, data or model.
    let changed = |from: &str, to: &str| Lab { folder: tempfile::tempdir().unwrap(), text: lab.text.replace(from, to) };
    assert_eq!(code(resume(&changed("seed = 3", "seed = 4"))), "resume-differs");
    assert_eq!(code(resume(&changed("validation = 0.2", "validation = 0.3"))), "resume-differs");
    assert_eq!(code(resume(&changed("counterfact_train", "counterfact"))), "resume-differs");

    let resumed = resume(&lab).unwrap();
    let through = Lab::new(TRAIN, "");
    let through = through.trained();
    assert_eq!(fs::read(&resumed.artefacts[0]).unwrap(), fs::read(&through.artefacts[0]).unwrap());
}

#[test]
fn an_experiment_is_run_with_what_its_training_gave_and_with_nothing_else() {
    let lab = Lab::new(TRAIN, "artefact = \"learnt.artefact\"");
    let missing = lab.run().unwrap_err();
    assert_eq!(missing.code().id, "config-path");
    assert!(missing.message().contains("line 17"), "{missing}");
    let path = lab.path("learnt.artefact");
    fs::create_dir(&path).unwrap();
    let error = lab.train(None, &Cancel::new(), &|_| {}).unwrap_err();
    assert!(error.code().id == "artefact-exists" && error.message().contains("is a folder"), "{error}");
    fs::remove_dir(&path).unwrap();
    let trained = lab.trained();
    assert_eq!(trained.artefacts, std::slice::from_ref(&path));
    assert_eq!(code(lab.train(None, &Cancel::new(), &|_| {})), "artefact-exists");
    let file = ArtefactFile::load(&path).unwrap();
    let (outcome, warnings) = lab.run().unwrap();
    let entry = outcome.manifest.methods[0].artefact.clone().unwrap();
    assert_eq!((entry.hash, entry.data), (file.hash().to_string(), trained.manifest.data.hash));
    assert!(fs::read_to_string(outcome.folder.join("report.md")).unwrap().contains(&file.hash().to_string()));
    assert_eq!(warnings, Vec::<String>::new());

    let put = |file: &ArtefactFile| file.save(&path).unwrap();
    let artefact = || file.artefact.clone();
    put(&ArtefactFile { method: "rome".into(), ..file.clone() });
    assert_eq!(code(lab.run()), "artefact-method");
    put(&ArtefactFile { artefact: Artefact { base: "another".into(), ..artefact() }, ..file.clone() });
    assert_eq!(code(lab.run()), "artefact-base");
    put(&ArtefactFile { artefact: Artefact { data: "others".into(), ..artefact() }, ..file.clone() });
    assert_eq!(code(lab.run()), "artefact-data");
    put(&ArtefactFile { artefact: Artefact { bytes: vec![1], ..artefact() }, ..file.clone() });
    assert_eq!(code(lab.run()), "plugin-failed");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(code(lab.run()), "artefact-file");
    put(&file);

    // Where the files of the training are not at hand, its artefact does without them.
    let alone = Lab { text: lab.text.replace("counterfact_train.json", "elsewhere.json"), ..lab };
    alone.run().unwrap();
    assert_eq!(code(alone.train(None, &Cancel::new(), &|_| {})), "config-path");
}

#[test]
fn a_training_that_shares_facts_with_the_evaluation_is_told_wherever_its_numbers_stand() {
    let lab = Lab::new("path = \"ATLAS/counterfact.json\"\nlimit = 1", "artefact = \"learnt.artefact\"");
    let trained = lab.trained();
    let overlap = trained.manifest.overlap;
    assert_eq!((overlap.evaluated, overlap.facts, overlap.subjects, overlap.prompts), (2, 1, 1, 1));
    let told = "of 2 evaluated records 1 ask for a fact of the training";
    assert!(fs::read_to_string(trained.folder.join("report.html")).unwrap().contains(told));
    let (outcome, warnings) = lab.run().unwrap();
    assert!(warnings.len() == 1 && warnings[0].contains(told), "{warnings:?}");
    assert_eq!(outcome.manifest.methods[0].artefact.as_ref().map(|a| a.overlap), Some(overlap));
    assert!(fs::read_to_string(outcome.folder.join("report.md")).unwrap().contains(told));
    // So is one that is validated on what it learns from.
    let both = "path = \"ATLAS/counterfact.json\"\nlimit = 1\nvalidation = \"ATLAS/counterfact.json\"";
    let warnings = Lab::new(both, "").trained().manifest.warnings();
    assert!(warnings.iter().any(|w| w.contains("for validation 1 ask for a fact")), "{warnings:?}");
}

#[test]
fn mistakes_in_the_table_have_their_place() {
    let refused = |train: &str, method: &str| {
        let lab = Lab::new(train, method);
        let error = lab.train(None, &Cancel::new(), &|_| {}).unwrap_err();
        assert!(!lab.path("runs").exists(), "nothing is written");
        (error.code().id, error.message().to_owned())
    };
    for (train, expected, words) in [
        ("pat = \"x\"", "config-key", "line 13, column 1: unknown key `pat`"),
        ("seed = 1", "config-value", "names nothing to learn from"),
        ("path = \"none.json\"", "config-path", "line 13, column 8: `train.path` names"),
        ("path = \"x\"\nvalidation = 1.5", "config-value", "line 14, column 14: `validation` takes a share"),
        ("texts = \"x\"\nvalidation = 0.5", "config-value", "is of no use without a `path`"),
        ("path = \"x\"\nkind = \"counterfac\"", "data-kind", "line 14, column 8"),
    ] {
        let (code, message) = refused(train, "");
        assert!(code == expected && message.contains(words), "{train}: {code}: {message}");
    }
    assert_eq!(refused(TRAIN, "params = { fault = \"non\" }").0, "config-param");
    let lab = Lab::new(TRAIN, "");
    let without = Lab { text: lab.text.replace(&TRAIN.replace("ATLAS", &atlas().display().to_string()), ""), ..lab };
    assert_eq!(code(without.train(None, &Cancel::new(), &|_| {})), "config-value");
    let rome = deps().join("libengraft_rome.so").display().to_string();
    let stress = deps().join("libengraft_stress.so").display().to_string();
    let lab = Lab::new(TRAIN, "params = { layer = 0 }");
    let idle = Lab { text: lab.text.replace(&stress, &rome), ..lab };
    assert_eq!(code(idle.train(None, &Cancel::new(), &|_| {})), "config-train");
    assert_eq!(
        code(Lab::new(TRAIN, "params = { fault = \"error-train\" }").train(None, &Cancel::new(), &|_| {})),
        "plugin-failed"
    );
}

#[test]
fn a_patch_is_served_by_the_method_with_the_artefact_that_made_it() {
    let (model, stress) = (open(&atlas().join("model")), library("engraft_stress"));
    let base = model.hash().unwrap().to_string();
    let file = |byte: u8| ArtefactFile {
        method: "stress".into(),
        version: "0".into(),
        params: String::new(),
        seed: 0,
        artefact: Artefact { base: base.clone(), data: "d".into(), bytes: vec![byte; 8] },
        seen: Default::default(),
    };
    let params = || stress.configure(&"extends = true".parse().unwrap()).unwrap();
    let with = |byte: u8| Arc::new(stress.create_with(params(), Some(&file(byte))).unwrap());
    let (one, other) = (with(1), with(2));
    let requests = vec![a_request()];
    let mut changes = one.edit(&Access::new(&model, Cancel::new(), 0), &requests).unwrap();
    changes.retain(|change| *change != Change::Route);
    let commit = |model: &Model| model.commit(one.proposal(requests.clone(), changes.clone()));
    Attachment::attach(&other, &model);
    Attachment::attach(&Arc::new(stress.create(params()).unwrap()), &model);
    assert_eq!(code(commit(&model)), "intercept-method");
    Attachment::attach(&one, &model);
    let id = commit(&model).unwrap();
    let patch = model.patches()[0].1.clone();
    assert_eq!(patch.artefact, Some(file(1).hash()));
    // It stays so in a file, and is part of the patch's name.
    let folder = tempfile::tempdir().unwrap();
    patch.save(&folder.path().join("patch")).unwrap();
    model.rollback(&id).unwrap();
    let loaded = engraft::weights::Patch::load(&folder.path().join("patch")).unwrap();
    assert_eq!(model.apply(loaded).unwrap(), id);
    let untaught = engraft::weights::Patch { artefact: None, ..(*patch).clone() };
    assert_ne!(untaught.id(), id);
}
