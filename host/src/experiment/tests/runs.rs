//! Runs from beginning to end, interrupted and resumed.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;

use super::fake::{Bench, World};
use crate::base::Result;
use crate::experiment::{Control, Event, Folder, Outcome, Plan, run};
use crate::metrics::{Scores, Shares};
use crate::report::{CaseLine, Stage, Summary};

/// Runs a world's experiment; stops before the line after `lines`.
fn go(world: &World, bench: &mut Bench, set: &[&str], resume: Option<&Path>, lines: usize) -> Result<Outcome> {
    let plan = Plan::make(world.settings(set)?, bench)?;
    let written = Cell::new(0);
    let observer = |event: &Event<'_>| {
        if let Event::CaseDone { .. } = event {
            written.set(written.get() + 1);
        }
    };
    run(&plan, bench, &Control { resume, cancelled: &|| written.get() >= lines, observer: &observer })
}

fn whole(world: &World, bench: &mut Bench, set: &[&str]) -> Outcome {
    let outcome = go(world, bench, set, None, usize::MAX).unwrap();
    assert!(bench.is_clean());
    outcome
}

fn cases(folder: &Path) -> Vec<CaseLine> {
    let text = fs::read_to_string(folder.join("cases.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The folder that an interrupted run of this world left.
fn left(world: &World) -> std::path::PathBuf {
    let mut folders: Vec<_> =
        fs::read_dir(world.folder.path().join("runs")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(folders.len(), 1);
    folders.remove(0)
}

fn argmax(scores: &Scores) -> [Option<f64>; 3] {
    [scores.accuracy, scores.generalization, scores.locality].map(|s| s.map(|s: Shares| s.argmax))
}

#[test]
fn a_single_run_edits_measures_and_undoes_case_by_case() {
    let (world, mut bench) = (World::new(), Bench::new());
    let mut toml = world.toml.clone();
    toml.push_str("params = { spill = true }\nlabel = \"spilling\"\n[[method]]\nplugin = \"table\"\n");
    let world = World { toml, ..world };
    let outcome = whole(&world, &mut bench, &["data.limit=3"]);
    let [spilling, plain] = &outcome.summary.methods[..] else { panic!("two methods") };
    assert_eq!((spilling.label.as_str(), plain.label.as_str()), ("spilling", "table"));
    assert_eq!((plain.cases, plain.failed, plain.skipped, plain.peak_bytes), (3, 0, 0, Some(1 << 20)));
    assert_eq!(argmax(&plain.metrics), [Some(1.0), Some(1.0), Some(1.0)]);
    assert_eq!(argmax(&spilling.metrics), [Some(1.0), Some(1.0), Some(0.5)]);
    assert_eq!(argmax(&plain.before), [Some(0.0), Some(0.0), Some(1.0)]);
    assert_eq!(plain.before.accuracy.and_then(|s| s.probability), Some(0.0));
    // One look at the unedited model for each record, and one after each edit of each method.
    assert_eq!(bench.table.answers_scored.get(), 3 + 2 * 3);
    assert_eq!(bench.edits.len(), 6);

    let lines = cases(&outcome.folder);
    let text = lines[0].text.as_ref().unwrap();
    assert_eq!((text.before.as_str(), text.after.as_str()), ("Orvia", "New Kelm"));
    let read = |name: &str| fs::read_to_string(outcome.folder.join(name)).unwrap();
    assert_eq!(serde_json::from_str::<Summary>(&read("summary.json")).unwrap(), outcome.summary);
    let report = read("report.md");
    assert!(report.contains("| spilling") && report.contains("**P0 lives in** → New Kelm"), "{report}");
    assert!(read("resolved.toml").contains("label = \"spilling\""));
    assert!(read("manifest.json").contains("\"spill\": \"true\""));
    assert!(outcome.folder.file_name().unwrap().to_str().unwrap().starts_with("a-run-"));
}

#[test]
fn a_failed_case_is_recorded_and_is_no_success() {
    let (world, mut bench) = (World::new(), Bench::new());
    let outcome = whole(&world, &mut bench, &["method.0.params.fail=\"2\""]);
    let summary = &outcome.summary.methods[0];
    assert_eq!((summary.cases, summary.failed), (4, 1));
    let line = &cases(&outcome.folder)[2];
    let error = line.error.as_ref().unwrap();
    assert_eq!((error.code.as_str(), error.message.as_str()), ("fake-failed", "no such fact: underneath"));
    assert_eq!((line.after, line.seconds), (None, None));
}

#[test]
fn a_batch_is_one_call() {
    let (world, mut bench) = (World::new(), Bench::new());
    let outcome = whole(&world, &mut bench, &["run.mode=batch"]);
    assert_eq!(bench.edits, [["0", "1", "2", "3"]]);
    let lines = cases(&outcome.folder);
    assert!(lines.iter().all(|line| line.seconds == Some(0.125) && line.error.is_none()));
    assert_eq!(lines.iter().map(|line| line.notes.len()).collect::<Vec<_>>(), [1, 0, 0, 0]);

    let (world, mut bench) = (World::new(), Bench::new());
    let outcome = whole(&world, &mut bench, &["run.mode=batch", "method.0.params.fail=\"2\""]);
    assert_eq!(outcome.summary.methods[0].failed, 4);
}

#[test]
fn a_sequence_is_measured_again_at_its_end() {
    // All subjects share their home with P1, whose edit comes second: the end differs from the time of each edit.
    let (mut world, mut bench) = (World::new(), Bench::new());
    let data = world.folder.path().join("data.json");
    let text = fs::read_to_string(&data).unwrap().replace("M0 lives in", "P1 lives in");
    fs::write(&data, text).unwrap();
    world.toml.push_str("[run]\nmode = \"sequential\"\n");
    let outcome = whole(&world, &mut bench, &[]);
    let summary = &outcome.summary.methods[0];
    assert_eq!(argmax(&summary.after_own_edit.unwrap())[2], Some(1.0));
    assert_eq!(argmax(&summary.metrics), [Some(1.0), Some(1.0), Some(3.5 / 4.0)]);
    let stages: Vec<_> = cases(&outcome.folder).iter().map(|l| (l.case.clone(), l.stage)).collect();
    assert_eq!((stages.len(), stages[3].1, stages[4].clone()), (8, Stage::Edit, ("0".to_owned(), Stage::End)));
}

#[test]
fn a_mode_that_a_method_cannot_do_is_refused_before_the_model_is_opened() {
    for (mode, able) in [("batch", false), ("sequential", false), ("single", true)] {
        let (world, mut bench) = (World::new(), Bench::new());
        bench.capabilities = Default::default();
        let result = go(&world, &mut bench, &[&format!("run.mode={mode}")], None, usize::MAX);
        let code = result.map_err(|e| e.code().id);
        assert_eq!((code.err(), bench.opened), if able { (None, 1) } else { (Some("config-mode"), 0) });
    }
}

#[test]
fn an_interrupted_run_continues_to_the_same_end() {
    for mode in ["single", "batch", "sequential"] {
        let mode = format!("run.mode={mode}");
        let set = [mode.as_str(), "method.0.params.fail=\"1\"", "method.0.params.spill=true"];
        let set = if mode.ends_with("batch") { &set[..1] } else { &set[..] };
        let other = World::new();
        let straight = whole(&other, &mut Bench::new(), set);
        for lines in 0..cases(&straight.folder).len() {
            let (world, mut bench) = (World::new(), Bench::new());
            let error = go(&world, &mut bench, set, None, lines).unwrap_err();
            assert_eq!((error.code().id, bench.is_clean()), ("interrupted", true));
            let folder = left(&world);
            assert_eq!(cases(&folder).len(), lines);
            let resumed = go(&world, &mut Bench::new(), set, Some(&folder), usize::MAX).unwrap();
            assert_eq!(resumed.summary, straight.summary, "{mode}, {lines} lines");
            assert_eq!(cases(&folder), cases(&straight.folder), "{mode}, {lines} lines");
        }
    }
}

#[test]
fn an_edit_that_is_cancelled_or_a_broken_device_ends_the_run() {
    let (world, mut bench) = (World::new(), Bench::new());
    bench.stop_at = Some("2".into());
    let error = go(&world, &mut bench, &["run.mode=sequential"], None, usize::MAX).unwrap_err();
    assert_eq!((error.code().id, bench.is_clean()), ("interrupted", true));
    assert_eq!(cases(&left(&world)).len(), 2);

    let (world, mut bench) = (World::new(), Bench::new());
    bench.table.broken = true;
    let error = go(&world, &mut bench, &[], None, usize::MAX).unwrap_err();
    assert_eq!(error.code().id, "fake-broken");
}

#[test]
fn only_the_same_run_is_resumed() {
    let (world, mut bench) = (World::new(), Bench::new());
    go(&world, &mut bench, &[], None, 2).unwrap_err();
    let folder = left(&world);
    let resume = |bench: &mut Bench, set: &[&str], folder: &Path| {
        let error = go(&world, bench, set, Some(folder), usize::MAX).unwrap_err();
        (error.code().id, error.message().to_owned())
    };
    let (code, message) = resume(&mut Bench::new(), &["seed=2"], &folder);
    assert_eq!(code, "resume-differs");
    assert!(message.ends_with("it ran with `seed = 1`, now there is `seed = 2`"), "{message}");
    let mut other = Bench::new();
    other.model_hash = "n".into();
    let (code, message) = resume(&mut other, &[], &folder);
    assert_eq!(code, "resume-differs");
    assert!(message.ends_with("the model's hash was m, now it is n"), "{message}");
    assert_eq!(resume(&mut Bench::new(), &[], world.folder.path()).0, "resume-missing");

    // A torn last line is dropped, a damaged one before it is not.
    let path = folder.join("cases.jsonl");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{good}{{\"method\":0,\"la")).unwrap();
    let outcome = go(&world, &mut Bench::new(), &[], Some(&folder), usize::MAX).unwrap();
    assert_eq!((outcome.summary.methods[0].cases, cases(&folder).len()), (4, 4));
    fs::write(&path, format!("{{\"method\":0}}\n{good}")).unwrap();
    assert_eq!(resume(&mut Bench::new(), &[], &folder).0, "resume-damaged");
    fs::write(&path, good).unwrap();
    let held = Folder::reopen(&folder, &Plan::make(world.settings(&[]).unwrap(), &mut Bench::new()).unwrap().settings);
    assert_eq!(resume(&mut Bench::new(), &[], &folder).0, "run-busy");
    drop(held);
}

#[test]
fn a_place_that_cannot_be_written_is_found_before_the_model_is_opened() {
    let (world, mut bench) = (World::new(), Bench::new());
    fs::write(world.folder.path().join("runs"), "a file").unwrap();
    let error = go(&world, &mut bench, &[], None, usize::MAX).unwrap_err();
    assert_eq!((error.code().id, bench.opened), ("run-folder", 0));
}

#[test]
fn an_observer_sees_the_whole_run() {
    let (world, mut bench) = (World::new(), Bench::new());
    let seen = RefCell::new(Vec::new());
    let plan = Plan::make(world.settings(&["data.limit=1"]).unwrap(), &mut bench).unwrap();
    let observer = |event: &Event<'_>| {
        let text = format!("{event:?}");
        seen.borrow_mut().push(text.split([' ', '{']).next().unwrap_or_default().to_owned());
    };
    run(&plan, &mut bench, &Control { resume: None, cancelled: &|| false, observer: &observer }).unwrap();
    assert_eq!(seen.take(), ["Opening", "Started", "MethodStarted", "CaseDone", "MethodDone", "Finished"]);
}
