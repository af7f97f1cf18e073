//! A model that is a table of answers, and a method that changes it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use engraft_plugin_api::{Capabilities, Descriptor, EditRequest, Family, ParamKind, ParamSpec, ParamValue, Params};

use crate::base::{Class, Code, Error, Result};
use crate::experiment::{Described, Edit, MethodSettings, Opened, PluginRef, Settings, Workbench};
use crate::metrics::{Query, Scored, Scorer};

pub static FAILED: Code = Code { id: "fake-failed", class: Class::Plugin, explanation: "" };
pub static BROKEN: Code = Code { id: "fake-broken", class: Class::Runtime, explanation: "" };
static STOPPED: Code = Code { id: "fake-stopped", class: Class::Interrupted, explanation: "" };

/// A folder with an experiment, a model and four records about P0 to P3, each with a paraphrase and two neighbours.
pub struct World {
    pub folder: tempfile::TempDir,
    pub toml: String,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("model")).unwrap();
        let records: Vec<_> = (0..4)
            .map(|i| {
                serde_json::json!({
                    "case_id": i,
                    "requested_rewrite": {
                        "prompt": "{} lives in", "subject": format!("P{i}"),
                        "target_new": {"str": "New Kelm"}, "target_true": {"str": "Orvia"},
                    },
                    "paraphrase_prompts": [format!("It rained. The home of P{i} is")],
                    "neighborhood_prompts": [format!("N{i} lives in"), format!("M{i} lives in")],
                })
            })
            .collect();
        std::fs::write(folder.path().join("data.json"), serde_json::to_string(&records).unwrap()).unwrap();
        let toml = "name = \"a run\"\nseed = 1\n[model]\npath = \"model\"\n[data]\nkind = \"counterfact\"\n\
                    path = \"data.json\"\n[[method]]\nplugin = \"table\"\n";
        Self { folder, toml: toml.to_owned() }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("e.toml")
    }

    /// The settings of the file with `toml` at its end, and overrides.
    pub fn settings(&self, overrides: &[&str]) -> Result<Settings> {
        std::fs::write(self.file(), &self.toml).unwrap();
        let mut overrides: Vec<String> = overrides.iter().map(|o| (*o).to_owned()).collect();
        overrides.push(format!("run.out={}", self.folder.path().join("runs").display()));
        Settings::load(&self.file(), &overrides)
    }
}

/// Answers every prompt with "Orvia" until an edit says otherwise.
#[derive(Default)]
pub struct Table {
    /// Prompts that hold the key are answered with the value; later patches win.
    patches: Vec<(String, Vec<(String, String)>)>,
    pub answers_scored: Cell<usize>,
    pub broken: bool,
}

impl Table {
    fn answer(&self, prompt: &str) -> &str {
        let entries = self.patches.iter().rev().flat_map(|(_, entries)| entries.iter().rev());
        entries.into_iter().find(|(key, _)| prompt.contains(key.as_str())).map_or("Orvia", |(_, answer)| answer)
    }
}

fn ids(text: &str) -> Vec<u32> {
    text.split_whitespace().map(|word| word.bytes().fold(7, |h, b| h * 31 % 65_521 + u32::from(b))).collect()
}

impl Scorer for Table {
    fn score(&self, queries: &[Query]) -> Result<Vec<Scored>> {
        self.answers_scored.set(self.answers_scored.get() + 1);
        if self.broken {
            return Err(Error::new(&BROKEN, "the device is gone"));
        }
        Ok(queries
            .iter()
            .map(|query| {
                assert!(query.continuation.starts_with(' '));
                let tokens = ids(&query.continuation);
                let answer = ids(self.answer(&query.prompt));
                let predicted = (0..tokens.len()).map(|i| *answer.get(i).unwrap_or(&0)).collect::<Vec<_>>();
                let log_probs = tokens.iter().zip(&predicted).map(|(t, p)| if t == p { -0.5 } else { -2.0 }).collect();
                Scored { tokens, log_probs, predicted }
            })
            .collect())
    }

    fn generate(&self, prompts: &[String], max_new: usize) -> Result<Vec<String>> {
        let words = |p: &String| self.answer(p).split(' ').take(max_new).collect::<Vec<_>>().join(" ");
        Ok(prompts.iter().map(words).collect())
    }
}

/// The workbench: edits write the subject's answer; parameters make them spill over, fail or stop.
pub struct Bench {
    pub table: Table,
    pub capabilities: Capabilities,
    pub model_hash: String,
    pub opened: usize,
    pub edits: Vec<Vec<String>>,
    /// The next edit of this id stops, once.
    pub stop_at: Option<String>,
    params: Params,
}

impl Bench {
    pub fn new() -> Self {
        Self {
            table: Table::default(),
            capabilities: Capabilities { batch: true, sequential: true, needs_subject: true },
            model_hash: "m".into(),
            opened: 0,
            edits: Vec::new(),
            stop_at: None,
            params: Params(BTreeMap::new()),
        }
    }

    pub fn is_clean(&self) -> bool {
        self.table.patches.is_empty()
    }
}

pub fn specs() -> Vec<ParamSpec> {
    vec![
        ParamSpec::new("layer", ParamKind::Layer, ParamValue::Integer(0), "the layer"),
        ParamSpec::new("spill", ParamKind::Flag, ParamValue::Flag(false), "whether M0, M1, ... are changed too"),
        ParamSpec::new("fail", ParamKind::Text, ParamValue::Text(String::new()), "the request that fails"),
    ]
}

impl Workbench for Bench {
    fn describe(&mut self, method: &MethodSettings) -> Result<Described> {
        assert_eq!(self.opened, 0, "methods are described before a model is open");
        assert_eq!(method.plugin, PluginRef::Name("table".into()));
        let descriptor = Descriptor {
            name: "table".into(),
            version: "1.0.0".into(),
            family: Family::InternalModification,
            summary: String::new(),
            paper: String::new(),
            capabilities: self.capabilities,
            params: specs(),
        };
        let params = method.check(&descriptor.params)?;
        Ok(Described { descriptor, params, library: Path::new("libtable.so").into(), hash: "p".into(), artefact: None })
    }

    fn open(&mut self, _: &Settings) -> Result<Opened> {
        self.opened += 1;
        let word = |w: &str| w.to_owned();
        Ok(Opened {
            hash: self.model_hash.clone(),
            device: word("cpu"),
            runtime: word("table 1"),
            scorer: word("teacher forcing"),
            decoding: word("greedy"),
        })
    }

    fn start(&mut self, _: usize, params: &Params) -> Result<()> {
        self.params = params.clone();
        Ok(())
    }

    fn edit(&mut self, requests: &[EditRequest]) -> Result<Edit> {
        let mut entries = Vec::new();
        for request in requests {
            if self.stop_at.as_ref() == Some(&request.id) {
                self.stop_at = None;
                return Err(Error::new(&STOPPED, "the edit was cancelled"));
            }
            if self.params.text("fail").unwrap() == request.id {
                return Err(Error::new(&FAILED, "no such fact").because("underneath"));
            }
            entries.push((request.subject.clone().unwrap(), request.target.new.clone()));
            if self.params.flag("spill").unwrap() {
                entries.push((format!("M{}", request.id), request.target.new.clone()));
            }
        }
        self.edits.push(requests.iter().map(|r| r.id.clone()).collect());
        let patch = format!("patch {}", self.edits.len());
        self.table.patches.push((patch.clone(), entries));
        Ok(Edit { patch, seconds: 0.5, peak_bytes: Some(1 << 20), notes: vec!["norm 1".into()] })
    }

    fn rollback(&mut self, patch: &str) -> Result<()> {
        let (last, _) = self.table.patches.pop().unwrap();
        assert_eq!(last, patch, "patches are rolled back in the reverse order");
        Ok(())
    }

    fn scorer(&self) -> Result<&dyn Scorer> {
        Ok(&self.table)
    }
}
