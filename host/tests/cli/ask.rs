//! `engraft ask` and models with cached keys and values, as a user meets them.

use std::fs;
use std::path::Path;

use engraft::model::{Model, OpenOptions, Proposal};
use engraft::runtime::{Runtime, RuntimeSettings, silent};
use engraft_plugin_api::{Change, Delta, Params, Role, Tensor, WeightRef};
use onnx_protobuf::{
    ModelProto, NodeProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};
use protobuf::Message;
use serde_json::{Value, json};

use super::{atlas, err, out, plugin, refused, repository, run};

const PROMPTS: [&str; 3] = ["The birthplace of Tono Tuxbik is", "Tono Tuxbik is a native of", "The mother tongue of"];

/// The answers, one for each prompt.
#[track_caller]
fn ask(model: &str, prompts: &[&str], more: &[&str]) -> Vec<Value> {
    let output = run(&[&["ask", model], prompts, &["--json"], more].concat());
    assert_eq!(output.status.code(), Some(0), "{more:?}: {}", err(&output));
    match serde_json::from_slice(&output.stdout).expect("it is JSON") {
        Value::Array(all) => all,
        one => vec![one],
    }
}

fn text(answer: &Value) -> &str {
    answer["text"].as_str().expect("an answer has a text")
}

#[test]
fn several_prompts_are_answered_as_each_alone() {
    let model = atlas();
    for more in [&[][..], &["--max-new", "7"], &["--stop", "."]] {
        let together = ask(&model, &PROMPTS, more);
        let alone: Vec<Value> = PROMPTS.iter().flat_map(|p| ask(&model, &[p], more)).collect();
        assert_eq!(together, alone, "{more:?}");
        assert!(together.iter().zip(PROMPTS).all(|(answer, prompt)| answer["prompt"] == prompt));
    }
    let printed = out(&run(&[&["ask", &model], &PROMPTS[..], &["--max-new", "3"]].concat()));
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines.len() == 3 && lines.iter().zip(PROMPTS).all(|(l, p)| l.starts_with(p)), "{printed}");
}

#[test]
fn draws_follow_their_options_and_say_so() {
    let model = atlas();
    let drawn = |more: &[&str]| ask(&model, &PROMPTS, more);
    let plain = drawn(&[]);
    assert_eq!(plain[0]["decoding"], "greedy");
    for options in [
        &["--temperature", "3"][..],
        &["--top-k", "8", "--temperature", "3"],
        &["--top-p", "0.99", "--temperature", "3"],
    ] {
        let with = |seed| drawn(&[options, &["--seed", seed]].concat());
        assert_eq!(with("5"), with("5"), "{options:?}");
        let texts = |answers: &[Value]| answers.iter().map(|a| text(a).to_owned()).collect::<Vec<_>>();
        assert_ne!(texts(&with("5")), texts(&with("6")), "{options:?}");
    }
    let said = drawn(&["--top-p", "0.5", "--seed", "2"]);
    assert_eq!(said[1]["decoding"], json!({"sample": {"temperature": 1.0, "top_k": null, "top_p": 0.5, "seed": 2}}));
    // Of one token there is nothing to draw.
    for one in [&["--top-k", "1"][..], &["--top-p", "0.000001"]] {
        assert!(drawn(one).iter().zip(&plain).all(|(a, b)| a["tokens"] == b["tokens"]), "{one:?}");
    }
}

#[test]
fn an_answer_ends_before_a_stop_text_that_straddles_tokens_or_with_the_length() {
    let model = atlas();
    let whole = ask(&model, &PROMPTS[..1], &["--max-new", "10"]).remove(0);
    assert_eq!((&whole["end"], whole["tokens"].as_array().unwrap().len()), (&json!("max-new"), 10));
    let said = text(&whole);
    let letters: Vec<(usize, char)> = said.char_indices().collect();
    for width in [1, 5, 13] {
        let (from, to) = (letters[9].0, letters[9 + width].0);
        let stop = &said[from..to];
        let cut = ask(&model, &PROMPTS[..1], &["--max-new", "10", "--stop", "no such text", "--stop", stop]).remove(0);
        assert_eq!(text(&cut), &said[..said.find(stop).unwrap()], "{stop:?}");
        let tokens = |answer: &Value| answer["tokens"].as_array().unwrap().clone();
        assert!(tokens(&whole).starts_with(&tokens(&cut)) && tokens(&cut).len() < 10, "{stop:?}");
        assert_eq!(cut["end"], "stop-text");
    }
}

#[test]
fn options_that_cannot_be_are_usage_errors() {
    for options in [
        &["--top-k", "0"][..],
        &["--top-p", "0"],
        &["--top-p", "1.5"],
        &["--top-p", "NaN"],
        &["--temperature", "0"],
        &["--temperature", "inf"],
        &["--stop", ""],
    ] {
        refused(&[&["ask", "m", "hi"], options].concat(), 2, "usage");
    }
    for options in [&["--seed", "3"][..], &["--top-k", "many"], &["--max-new", "-1"], &["--patience", "soon"]] {
        let output = run(&[&["ask", "m", "hi"], options].concat());
        assert_eq!((output.status.code(), out(&output)), (Some(2), String::new()), "{options:?}");
    }
    let help = out(&run(&["ask", "--help"]));
    for words in ["[default: 24]", "[default: 0]", "[default when drawing: 1]", "[default: all]"] {
        assert!(help.contains(words), "{words}: {help}");
    }
}

#[test]
fn a_chat_template_is_applied_where_it_is_asked_for_and_recorded() {
    refused(&["ask", &atlas(), "hi", "--chat"], 4, "chat-template-missing");
    let folder = tempfile::tempdir().unwrap();
    let from = Path::new(&atlas()).to_owned();
    for name in ["model.onnx", "model.onnx.data", "tokenizer.json", "config.json", "generation_config.json"] {
        fs::copy(from.join(name), folder.path().join(name)).unwrap();
    }
    let model = folder.path().display().to_string();
    let template = |source: &str| {
        let config = json!({"chat_template": source, "eos_token": "<|endoftext|>"}).to_string();
        fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    };
    template("{% for m in messages %}The birthplace of {{ m['content'].strip() }}{% endfor %} is");
    let plain = ask(&model, &PROMPTS[..1], &[]).remove(0);
    assert_eq!((&plain["chat"], plain["prompt"].as_str()), (&Value::Null, Some(PROMPTS[0])));
    let chat = ask(&model, &[" Tono Tuxbik "], &["--chat"]).remove(0);
    assert_eq!((&chat["text"], &chat["chat"]["fed"]), (&plain["text"], &json!(PROMPTS[0])));
    assert_eq!(chat["chat"]["file"], "tokenizer_config.json");
    assert_eq!(chat["chat"]["hash"].as_str().unwrap().len(), 64);
    let output = run(&["ask", &model, "Tono Tuxbik", "--chat"]);
    assert_eq!(out(&output).trim_end_matches('\n'), text(&plain).trim_end_matches('\n'));
    assert!(err(&output).contains("chat template of tokenizer_config.json"), "{}", err(&output));
    template("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}");
    let told = ask(&model, &["hi"], &["--chat", "--system", "Be brief."]).remove(0);
    assert_eq!(told["chat"]["fed"], "system: Be brief. user: hi ");
    assert_eq!(run(&["ask", &model, "hi", "--system", "Be brief."]).status.code(), Some(2));
    template("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system message, please') }}{% endif %}");
    let error = refused(&["ask", &model, "hi", "--chat", "--system", "x"], 4, "chat-template-invalid");
    assert!(error.contains("no system message, please"), "{error}");
}

/// A graph of the zoo, changed.
fn changed(name: &str, change: impl Fn(&mut ModelProto)) -> (tempfile::TempDir, String) {
    let from = repository().join("tests/zoo").join(name);
    let folder = tempfile::tempdir().expect("a folder can be made");
    for entry in fs::read_dir(from).expect("the zoo is there").flatten() {
        fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("a file can be copied");
    }
    let path = folder.path().join("model.onnx");
    let mut model = ModelProto::parse_from_bytes(&fs::read(&path).expect("there is a graph")).expect("it is ONNX");
    change(&mut model);
    fs::write(&path, model.write_to_bytes().expect("it is ONNX")).expect("a file can be written");
    (folder, path.display().to_string())
}

fn port(name: &str, dtype: i32, rank: usize) -> ValueInfoProto {
    let shape = TensorShapeProto { dim: vec![tensor_shape_proto::Dimension::new(); rank], ..Default::default() };
    let tensor = type_proto::Tensor { elem_type: dtype, shape: Some(shape).into(), ..Default::default() };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: name.into(), type_: Some(kind).into(), ..Default::default() }
}

/// The node that joins what an input caches with new ones.
fn joins<'m>(model: &'m mut ModelProto, past: &str) -> &'m mut NodeProto {
    let nodes = &mut model.graph.as_mut().expect("a model has a graph").node;
    nodes.iter_mut().find(|n| n.op_type == "Concat" && n.input.iter().any(|i| i == past)).expect("the input is joined")
}

#[test]
fn a_cache_that_is_not_whole_is_refused_with_what_was_expected_and_found() {
    let cached = "llama-optimum";
    let lost = |m: &mut ModelProto| m.graph.as_mut().unwrap().output.retain(|o| o.name != "present.1.key");
    let (_folder, path) = changed(cached, lost);
    let error = refused(&["ask", &path, "hi"], 4, "anatomy-cache");
    assert!(error.contains("`past_key_values.1.key`") && error.contains("found none"), "{error}");

    let (_folder, path) = changed(cached, |m| {
        let node = joins(m, "past_key_values.2.value");
        node.op_type = "Identity".into();
        node.attribute.clear();
        node.input.remove(0);
        m.graph.as_mut().unwrap().input.retain(|i| i.name != "past_key_values.2.value");
    });
    let error = refused(&["ask", &path, "hi"], 4, "anatomy-cache");
    assert!(error.contains("each of 3 blocks, found 3 and 2"), "{error}");

    let (_folder, path) = changed("gpt2-torchscript-mask", |m| {
        let graph = m.graph.as_mut().unwrap();
        let made = |edge: &String| graph.node.iter().find(|n| n.output.contains(edge));
        let pattern = |edge: &String| {
            let maker = made(edge).map(|n| if n.op_type == "Cast" { made(&n.input[0]).unwrap_or(n) } else { n });
            maker.is_some_and(|n| n.op_type == "Softmax")
        };
        let mixes = |n: &&NodeProto| n.op_type == "MatMul" && pattern(&n.input[0]);
        let values: Vec<String> = graph.node.iter().filter(mixes).map(|n| n.input[1].clone()).collect();
        assert_eq!(values.len(), 3);
        graph.output.extend(values.iter().map(|v| port(v, 1, 4)));
    });
    let error = refused(&["ask", &path, "hi"], 4, "anatomy-cache");
    assert!(error.contains("expected an input for each of them, found none"), "{error}");
}

#[test]
fn inputs_that_are_not_read_are_named_with_advice() {
    for (name, dtype, rank, advice) in [
        ("use_cache_branch", 9, 1, "a file of its own"),
        ("nobody_reads_it", 7, 1, "use_cache=False"),
        ("encoder", 1, 3, "use_cache=False"),
    ] {
        let (_folder, path) =
            changed("llama-optimum", |m| m.graph.as_mut().unwrap().input.push(port(name, dtype, rank)));
        let error = refused(&["ask", &path, "hi"], 4, "anatomy-input-unread");
        assert!(error.contains(&format!("`{name}`")) && error.contains(advice), "{error}");
    }
}

#[test]
fn patches_of_a_journal_are_chosen_by_their_identifiers() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = atlas();
    let journal = folder.path().join("journal");
    let at = journal.to_str().expect("a path of characters");
    refused(&["ask", &model, "hi", "--journal", at], 4, "journal-missing");
    let ids: Vec<String> = {
        let runtime = Runtime::open(&RuntimeSettings::default(), silent()).expect("a runtime");
        let options = OpenOptions { journal: Some(journal.clone()), ..OpenOptions::default() };
        let model = Model::open(Path::new(&model), &runtime, &options).expect("a model");
        let commit = |scale: f32| {
            let right = Tensor::f32([1, 128], (0..128).map(|i| scale * (i as f32).sin()).collect()).expect("fits");
            let left = Tensor::f32([512, 1], vec![1.0; 512]).expect("fits");
            let weight = WeightRef::Block(0, Role::MlpOut);
            let changes = vec![Change::Weight { weight, delta: Delta::LowRank { left, right } }];
            let (method, version, params) = ("by hand".into(), "1".into(), Params::default());
            model
                .commit(Proposal { method, version, params, artefact: None, requests: Vec::new(), changes })
                .expect("an edit")
        };
        let ids = [0.5, -0.7, 0.9].map(commit);
        model.rollback(&ids[2]).expect("it is active");
        ids.iter().map(ToString::to_string).collect()
    };
    let ask = |more: &[&str]| ask(&model, &PROMPTS[..1], &[&["--journal", at], more].concat()).remove(0);
    let base = self::ask(&model, &PROMPTS[..1], &[]).remove(0);
    let none = ask(&["--patch", "none"]);
    assert_eq!((text(&none), &none["patches"]), (text(&base), &json!([])));
    assert_eq!(self::ask(&model, &PROMPTS[..1], &["--patch", "none"]).remove(0), base);
    let (all, both) = (ask(&[]), ask(&["--patch", &ids[0], "--patch", &ids[1]]));
    assert_eq!((&all, &all["patches"]), (&both, &json!(ids[..2])));
    let one = ask(&["--patch", &ids[1]]);
    assert_eq!(one["patches"], json!([ids[1]]));
    assert!(text(&one) != text(&base) && text(&one) != text(&all), "{one} {all}");
    let with = |patch: &str| refused(&["ask", &model, "hi", "--journal", at, "--patch", patch], 4, "patch-unknown");
    assert!(with(&ids[2]).contains(&ids[2]));
    with("edit.safetensors");
    refused(&["ask", &model, "hi", "--journal", at, "--patch", &ids[0], "--patch", "none"], 2, "usage");
}

#[test]
fn a_patch_that_routes_is_asked_with_its_method() {
    let folder = tempfile::tempdir().expect("a folder");
    let patch = folder.path().join("fact.safetensors").display().to_string();
    let (model, library) = (atlas(), plugin("ike"));
    let edit =
        ["edit", &model, "--plugin", &library, "--param", "layer=5", "--param", "template=New fact: {fact}. {prompt}"];
    let fact = ["--prompt", "{} is a native of", "--subject", "Tono Tuxbik", "--target", "Grasnan", "--save", &patch];
    let output = run(&[&edit[..], &fact].concat());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let prompt = ["Tono Tuxbik is a native of"];
    let said = ask(&model, &prompt, &["--patch", &patch, "--max-new", "3"]).remove(0);
    assert!(text(&said).starts_with(" Grasnan") && said["routed"] == "ike", "{said}");
    let plain = ask(&model, &prompt, &["--max-new", "3"]).remove(0);
    assert!(text(&plain) != text(&said) && plain.get("routed").is_none(), "{plain}");
    let target = folder.path().join("out").display().to_string();
    refused(&["export", &model, "--patch", &patch, "--out", &target], 4, "export-route");
}

/// One scope is learnt from other records than the other.
#[test]
fn patches_of_one_method_are_asked_with_the_artefacts_that_made_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (model, library) = (atlas(), plugin("ike"));
    let params = ["layer=5", "scope=learned", "scope_steps=10", "template=New fact: {fact}. {prompt}"];
    let params: Vec<&str> = params.iter().flat_map(|pair| ["--param", pair]).collect();
    let facts = [("Tono Tuxbik", "Grasnan", "0.2"), ("Suso Trembun", "Delktrix", "0.5")];
    for (subject, target, share) in facts {
        let atlas = repository().join("examples/atlas").display().to_string();
        let runs = at("runs");
        let text = format!(
            r#"
name = "learn"
[model]
path = "{atlas}/model"
[data]
kind = "counterfact"
path = "{atlas}/counterfact.json"
limit = 1
[run]
mode = "single"
out = "{runs}"
[train]
path = "{atlas}/counterfact_train.json"
validation = {share}
[[method]]
plugin = "{library}"
artefact = "{target}.artefact"
params = {{ layer = 5, scope = "learned", scope_steps = 10, template = "New fact: {{fact}}. {{prompt}}" }}
"#
        );
        fs::write(at("learn.toml"), text).expect("writes");
        let output = run(&["train", &at("learn.toml")]);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        let fact = ["--prompt", "{} is a native of", "--subject", subject, "--target", target];
        let (patch, artefact) = (at(&format!("{target}.patch")), at(&format!("{target}.artefact")));
        let files = ["--save", &patch, "--artefact", &artefact];
        let output = run(&[&["edit", &model, "--plugin", &library][..], &params, &fact, &files].concat());
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    }
    let patches = [at("Grasnan.patch"), at("Delktrix.patch")];
    let artefacts = [at("Grasnan.artefact"), at("Delktrix.artefact")];
    let patches = ["--patch", &patches[0], "--patch", &patches[1]];
    let prompts = ["Tono Tuxbik is a native of", "Suso Trembun is a native of"];
    let all = [&patches[..], &["--artefact", &artefacts[1], "--artefact", &artefacts[0], "--max-new", "4"]].concat();
    for (answer, (_, target, _)) in ask(&model, &prompts, &all).iter().zip(facts) {
        assert!(answer["routed"] == "ike" && text(answer).starts_with(&format!(" {target}")), "{answer}");
    }
    let one = [&["ask", &model, prompts[0]][..], &patches, &["--artefact", &artefacts[1]]].concat();
    let error = refused(&one, 5, "artefact-missing");
    assert!(
        error.contains("`ike` made the patch") && error.contains("; given is ") && error.contains("`--artefact`"),
        "{error}"
    );
}
