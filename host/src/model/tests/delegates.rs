//! Delegates that are decoders: over their caches they say what they say whole, and what does not fit them is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engraft_plugin_api::{
    Change, GenerateRequest, ModuleCall, ModuleGraph, ModuleId, ModuleReply, ModuleSource, Params, Route, RouteQuery,
    Tensor,
};

use super::difference;
use crate::base::Result;
use crate::graph::testing::rows as zoo_rows;
use crate::model::{Attached, Continuation, Model, OpenOptions, Proposal, Routing};
use crate::runtime;

fn folder(name: &str) -> PathBuf {
    zoo_rows().into_iter().find(|row| row.name == name).unwrap().folder
}

fn open(folder: &Path) -> Model {
    Model::open(folder, &runtime::for_tests(), &OpenOptions::default()).unwrap()
}

/// Lets a network answer every request, on the tokens of its prompt.
struct Lets(ModuleId, f32);

impl Attached for Lets {
    fn route(&self, _: &Routing<'_>, query: &RouteQuery<'_>) -> Result<Route> {
        Ok(Route::Delegate { module: self.0.clone(), tokens: query.tokens.clone(), mix: self.1 })
    }
}

/// A model in whose place the networks in folders answer.
struct Scene(Model);

impl Scene {
    fn new(model: &str) -> Self {
        Self::at(&folder(model))
    }

    fn at(folder: &Path) -> Self {
        let scene = Self(open(folder));
        scene.lets(&ModuleId("a/none".into()), 1.0);
        let proposal = Proposal {
            method: "a".into(),
            version: "0".into(),
            params: Params::default(),
            artefact: None,
            requests: Vec::new(),
            changes: vec![Change::Route],
        };
        scene.0.commit(proposal).unwrap();
        scene
    }

    fn network(&self, key: &str, folder: &Path) -> ModuleId {
        let graph = ModuleGraph::Path(folder.display().to_string());
        let call = ModuleCall::Open { key: key.into(), source: ModuleSource { graph, weights: Vec::new() } };
        self.0.module(&call, None).unwrap();
        ModuleId(key.into())
    }

    fn lets(&self, module: &ModuleId, mix: f32) {
        self.0.attach("a", &Params::default(), Arc::new(Lets(module.clone(), mix)));
    }
}

/// Rows of three lengths, one twice.
fn rows() -> Vec<Vec<u32>> {
    [5, 1, 9, 5].iter().enumerate().map(|(r, n)| (0..*n).map(|i| (7 * i + 31 * r as u32 + 3) % 128).collect()).collect()
}

fn say(model: &Model, rows: Vec<Vec<u32>>, max_new: usize) -> Vec<Vec<u32>> {
    model.generate(&GenerateRequest { rows, max_new, ..GenerateRequest::default() }).unwrap()
}

fn scores(model: &Model) -> Vec<f32> {
    let of = |prompt: Vec<u32>| Continuation { prompt, tokens: vec![4, 90, 30] };
    let all: Vec<Continuation> = rows().into_iter().map(of).collect();
    model.score(&all).unwrap().into_iter().flat_map(|scored| scored.log_probs).collect()
}

#[test]
fn a_decoder_says_over_its_cache_what_it_says_whole() {
    let scene = Scene::new("gpt2-dynamo-23-cache");
    // A cache with mask and positions, one without a mask, and none: each group has one family's weights.
    let groups = [
        &["gpt2-optimum", "gpt2-dynamo-23-cache", "gpt2-dynamo-nomask", "gpt2-dynamo-mask"][..],
        &["llama-optimum", "llama-torchscript-cache", "llama-optimum-nocache"],
    ];
    let mut met = Vec::new();
    for group in groups {
        for mix in [1.0, 0.5] {
            let mut first: Option<(Vec<Vec<u32>>, Vec<f32>)> = None;
            for name in group {
                let module = scene.network(&format!("a/{name}"), &folder(name));
                scene.lets(&module, mix);
                let found = (say(&scene.0, rows(), 8), scores(&scene.0));
                if mix == 1.0 {
                    let alone = open(&folder(name));
                    assert_eq!(found.0, say(&alone, rows(), 8), "{name}");
                    assert!(difference(&found.1, &scores(&alone)) < 1e-4, "{name}");
                }
                let (said, scored) = first.get_or_insert_with(|| found.clone());
                assert_eq!(found.0, *said, "{name} at {mix}");
                assert!(difference(&found.1, scored) < 1e-4, "{name} at {mix}");
            }
            met.extend(first);
        }
    }
    assert!(met[2].0 != met[0].0 && met[3].0 != met[2].0 && met[3].1 != met[2].1);
}

#[test]
fn weights_that_a_method_sets_are_those_that_answer() {
    let scene = Scene::new("gpt2-dynamo-mask");
    let module = scene.network("a/net", &folder("gpt2-dynamo-nomask"));
    scene.lets(&module, 1.0);
    let before = say(&scene.0, rows(), 6);
    let read = ModuleCall::Weights { module: module.clone(), names: Vec::new() };
    let ModuleReply::Weights(mut all) = scene.0.module(&read, None).unwrap() else { panic!("weights") };
    // The first table or matrix of the network, turned round.
    let (name, tensor) = all.iter_mut().find(|(_, tensor)| tensor.shape().len() == 2).unwrap();
    let mut values = tensor.as_f32().unwrap().to_vec();
    values.reverse();
    let new = (name.clone(), Tensor::f32(tensor.shape().to_vec(), values).unwrap());
    scene.0.module(&ModuleCall::Set { module: module.clone(), weights: vec![new] }, None).unwrap();
    let after = say(&scene.0, rows(), 6);
    assert_ne!(after, before);
    for (row, said) in rows().into_iter().zip(after) {
        let ids = [row, said.clone()].concat();
        let tokens = Tensor::i64([1, ids.len()], ids.iter().map(|&t| i64::from(t)).collect()).unwrap();
        let feeds = vec![("input_ids".to_owned(), tokens)];
        let fetch = vec![scene.0.first_output(&module).unwrap()];
        let ModuleReply::Values { outputs, .. } =
            scene.0.module(&ModuleCall::Run { module: module.clone(), feeds, fetch }, None).unwrap()
        else {
            panic!("values")
        };
        let lines: Vec<&[f32]> = outputs[0].as_f32().unwrap().chunks(128).collect();
        for (step, &token) in said.iter().enumerate() {
            let line = lines[ids.len() - said.len() + step - 1];
            assert!(line.iter().all(|v| *v <= line[token as usize] + 1e-5), "{step}");
        }
    }
}

/// A copy of a model's folder.
fn copy(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder(name)).unwrap().map(|entry| entry.unwrap().path()) {
        std::fs::copy(&file, copy.path().join(file.file_name().unwrap())).unwrap();
    }
    copy
}

#[test]
fn a_delegate_whose_tokens_mean_something_else_is_refused() {
    let words = |words: &[&str]| {
        let vocab: Vec<String> = words.iter().enumerate().map(|(id, word)| format!("\"{word}\": {id}")).collect();
        let model = format!(r#"{{"type": "WordLevel", "vocab": {{{}}}, "unk_token": "a"}}"#, vocab.join(", "));
        format!(
            r#"{{"version": "1.0", "added_tokens": [], "pre_tokenizer": {{"type": "Whitespace"}}, "model": {model}}}"#
        )
    };
    let (model, beside) = (copy("gpt2-dynamo-mask"), copy("gpt2-dynamo-nomask"));
    let put = |folder: &tempfile::TempDir, text: &str| std::fs::write(folder.path().join("tokenizer.json"), text);
    put(&model, &words(&["a", "b", "c"])).unwrap();
    let scene = Scene::at(model.path());
    // Another file that means the same, one that knows a token more, and one that means something else.
    let same = words(&["a", "b", "c"]).replace(',', " ,");
    let others = [("same", same), ("more", words(&["a", "b", "c", "d"])), ("other", words(&["a", "c", "b"]))];
    for (key, text) in others {
        put(&beside, &text).unwrap();
        scene.lets(&scene.network(&format!("a/{key}"), beside.path()), 1.0);
        let request = GenerateRequest { rows: rows(), max_new: 2, ..GenerateRequest::default() };
        let scored = scene.0.score(&[Continuation { prompt: vec![1], tokens: vec![2] }]).map(drop);
        for outcome in [scene.0.generate(&request).map(drop), scored] {
            let Err(error) = outcome else {
                assert_ne!(key, "other");
                continue;
            };
            assert_eq!((error.code().id, key), ("route-vocab", "other"));
            assert!(error.message().contains("token 1 is `b` to the model and `c` to the network"), "{error}");
        }
    }
}

#[test]
fn what_is_longer_than_the_context_of_a_delegate_is_refused_by_its_name() {
    let scene = Scene::new("llama-dynamo-23-nomask");
    let learned = scene.network("a/learned", &folder("gpt2-dynamo-23-cache"));
    let beside = copy("llama-optimum");
    std::fs::write(beside.path().join("config.json"), r#"{"max_position_embeddings": 10}"#).unwrap();
    let said = scene.network("a/said", beside.path());
    for (module, limit, mix) in [(&learned, 64, 1.0), (&learned, 64, 0.5), (&said, 10, 1.0), (&said, 10, 0.5)] {
        scene.lets(module, mix);
        let row = |n: usize| (0..n as u32).map(|i| (i * 5 + 1) % 128).collect::<Vec<u32>>();
        let generate = |n: usize| {
            let request = GenerateRequest { rows: vec![row(2), row(n)], max_new: 5, ..GenerateRequest::default() };
            scene.0.generate(&request)
        };
        let score = |n: usize| scene.0.score(&[Continuation { prompt: row(n), tokens: vec![7, 8] }]);
        let lengths: Vec<usize> = generate(limit - 2).unwrap().iter().map(Vec::len).collect();
        assert_eq!(lengths, [5, 2], "a row ends where the context does");
        assert_eq!(score(limit - 1).unwrap()[0].log_probs.len(), 2);
        for (error, n) in [(generate(limit).unwrap_err(), limit), (score(limit).unwrap_err(), limit + 1)] {
            assert_eq!(error.code().id, "row-too-long");
            let words = [format!("`a` gives the network `{}`", module.0), format!("a row of {n} tokens")];
            let words = words.iter().chain([&format!("context of {limit}")]).all(|w| error.message().contains(w));
            assert!(words, "{error}");
        }
    }
    std::fs::write(beside.path().join("config.json"), "{").unwrap();
    let graph = ModuleGraph::Path(beside.path().display().to_string());
    let call = ModuleCall::Open { key: "a/damaged".into(), source: ModuleSource { graph, weights: Vec::new() } };
    assert_eq!(scene.0.module(&call, None).unwrap_err().code().id, "file-read");
}

#[test]
fn one_program_of_a_delegate_reads_continues_and_scores() {
    let scene = Scene::new("llama-dynamo-23-nomask");
    scene.lets(&scene.network("a/net", &folder("gpt2-optimum")), 1.0);
    say(&scene.0, rows(), 3);
    let compiled = scene.0.compiled();
    say(&scene.0, rows(), 9);
    scores(&scene.0);
    assert_eq!(scene.0.compiled(), compiled);
}
