//! `engraft inspect`: the anatomy with its evidence, its checks and its picture; of what cannot be read, how far it was.

use std::fs;
use std::path::{Path, PathBuf};

use engraft::graph::{Dim, Graph, Patch};
use onnx_protobuf::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto};
use protobuf::Message;
use serde_json::Value;

use super::{EXPORTS, FAMILIES, err, out, refused, repository, run, zoo};

#[test]
fn anatomies_are_shown_as_text_and_json_and_hold_in_numbers() {
    for export in EXPORTS {
        let output = run(&["inspect", &zoo(export), "--check"]);
        let text = out(&output);
        assert_eq!(output.status.code(), Some(0), "{export}: {}", err(&output));
        assert!(text.starts_with("3 blocks, d_model 32, d_mlp 128, 4 heads of 8"), "{text}");
        assert!(text.lines().any(|l| l.contains("blocks.2.mlp.pre_linear") && l.contains("absent")), "{text}");
        assert!(text.contains("blocks.2 mlp.out = mlp.post W_out + b_out"), "{text}");
        assert!(text.contains("the largest error is "), "{text}");
        assert!(text.contains("the largest relative difference of a gradient is "), "{text}");

        let output = run(&["inspect", &zoo(export), "--json", "--check"]);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&found["anatomy"]["layers"], &found["problems"]), (&3.into(), &Value::Array(vec![])));
        let rows = found["anatomy"]["rows"].as_array().unwrap();
        assert!(rows.iter().any(|row| row["name"] == "blocks.1.attn.pattern" && row["edge"].is_string()));
        assert!(rows.iter().all(|row| row["evidence"] != ""), "everything has evidence or a reason");
        holds(export, &found, 3 + 3 * 13);
    }
}

#[test]
fn anatomies_of_other_families_hold_in_numbers() {
    for (_, name) in FAMILIES {
        let model = repository().join("tests/zoo").join(name).display().to_string();
        let output = run(&["inspect", &model, "--json", "--check"]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", err(&output));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        holds(name, &found, 3 + 3 * 7);
    }
}

#[test]
fn the_ports_of_cached_keys_and_values_are_listed() {
    let model = repository().join("tests/zoo/llama-dynamo-cache").display().to_string();
    let text = out(&run(&["inspect", &model]));
    let ports: Vec<&str> = text.lines().filter(|line| line.contains(" cached ")).collect();
    assert_eq!(ports.len(), 6, "{text}");
    assert!(
        ports[1].starts_with("blocks.0 cached values") && ports[1].contains("[batch, 2, pos, 8] float32"),
        "{text}"
    );
    let found: Value = serde_json::from_slice(&run(&["inspect", &model, "--json"]).stdout).unwrap();
    let last = &found["anatomy"]["cache"][5];
    assert_eq!((&last["layer"], &last["kind"]), (&2.into(), &"values".into()));
    assert!(ports[5].contains(last["past"].as_str().unwrap()) && ports[5].contains(last["present"].as_str().unwrap()));
    let none: Value = serde_json::from_slice(&run(&["inspect", &zoo("dynamo-mask"), "--json"]).stdout).unwrap();
    assert_eq!(none["anatomy"]["cache"], Value::Array(vec![]));
}

#[test]
fn a_model_of_one_shape_is_checked_and_probed_in_that_shape() {
    let folder = tempfile::tempdir().unwrap();
    let graph = Graph::load(Path::new(&zoo("dynamo-mask"))).unwrap();
    let mut patch = Patch::new(&graph);
    for port in graph.inputs() {
        let fixed =
            patch.input(&format!("{}.fixed", port.name), port.dtype, vec![Dim::Known(1), Dim::Known(5)]).unwrap();
        let same = patch.op("Identity", &[&fixed], &[]).unwrap();
        patch.shunt(&port.name, &same).unwrap();
    }
    let graph = patch.apply().unwrap();
    fs::write(folder.path().join("model.onnx"), graph.to_bytes().unwrap()).unwrap();
    for (name, path) in graph.external_paths() {
        fs::copy(path, folder.path().join(name)).unwrap();
    }
    let model = folder.path().display().to_string();
    let output = run(&["inspect", &model, "--json", "--check"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    holds("one shape", &found, 3 + 3 * 13);
    let rows = folder.path().join("rows.json");
    let place = rows.display().to_string();
    let probe = ["probe", &model, "--ids", &place, "--nll", "3"];
    // One row after the other, where the file takes one.
    fs::write(&rows, "[[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]").unwrap();
    assert_eq!(run(&probe).status.code(), Some(0));
    fs::write(&rows, "[[1, 2, 3, 4]]").unwrap();
    let error = refused(&probe, 3, "row-extent");
    assert!(error.contains("input_ids.fixed` was exported for exactly 5 tokens"), "{error}");
}

/// Every identity holds, of so many at least, and every sampled gradient is its difference.
#[cfg(test)]
fn holds(name: &str, found: &Value, least: usize) {
    let identities = found["identities"].as_array().unwrap();
    assert!(identities.len() >= least, "{name}: {}", identities.len());
    let off = |i: &Value| i["error"].as_f64().unwrap() / i["scale"].as_f64().unwrap();
    assert!(identities.iter().all(|i| off(i) < 1e-5), "{name}: {identities:?}");
    let gradients = found["gradients"].as_array().unwrap();
    let weights = gradients.iter().filter(|g| g["name"].as_str().unwrap().contains("W_")).count();
    assert!(gradients.len() >= 12 && weights > 0, "{name}: {gradients:?}");
    let fine = |g: &Value| g["holds"] == true && g["difference"].as_f64().is_none_or(|d| d < 2e-2);
    assert!(gradients.iter().all(fine), "{name}: {gradients:?}");
}

#[test]
fn an_identity_that_does_not_hold_is_exit_4() {
    let folder = tempfile::tempdir().unwrap();
    let source = PathBuf::from(zoo("dynamo-mask"));
    fs::copy(source.join("model.onnx"), folder.path().join("model.onnx")).unwrap();
    // Every weight is NaN: no identity holds, and none may pass for want of a comparison.
    let bytes = fs::metadata(source.join("model.onnx.data")).unwrap().len() as usize;
    fs::write(folder.path().join("model.onnx.data"), vec![0xff; bytes]).unwrap();
    let output = run(&["inspect", &folder.path().display().to_string(), "--check"]);
    assert_eq!(output.status.code(), Some(4), "{}", err(&output));
    assert!(err(&output).contains("error[check-failed]: "), "{}", err(&output));
    assert!(out(&output).contains("NaN"), "{}", out(&output));
}

/// A model whose only node is a Relu, in `folder`.
fn relu(folder: &Path) -> String {
    let port = |name: &str| ValueInfoProto { name: name.into(), ..Default::default() };
    let node =
        NodeProto { op_type: "Relu".into(), input: vec!["x".into()], output: vec!["y".into()], ..Default::default() };
    let graph = GraphProto {
        name: "g".into(),
        node: vec![node],
        input: vec![port("x")],
        output: vec![port("y")],
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { version: 18, ..Default::default() }];
    let model = ModelProto { ir_version: 9, opset_import, graph: Some(graph).into(), ..Default::default() };
    let file = folder.join("model.onnx");
    fs::write(&file, model.write_to_bytes().expect("a file can be written")).expect("the process starts");
    file.display().to_string()
}

#[test]
fn a_graph_that_is_no_transformer_is_shown_as_far_as_it_was_read_and_not_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let model = relu(folder.path());
    let page = folder.path().join("page.html");
    let html = page.display().to_string();
    let output = run(&["inspect", &model, "--check", "--html", &html]);
    assert_eq!(output.status.code(), Some(4));
    assert!(err(&output).contains("error[anatomy-not-found]: "), "{}", err(&output));
    assert!(out(&output).starts_with("0 blocks") && out(&output).contains("\nnot read: "), "{}", out(&output));
    // What was there stays as it was, and nothing is left beside it.
    fs::write(&page, "old").unwrap();
    let output = run(&["inspect", &model, "--json", "--html", &html]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["problems"].as_array().unwrap().len(), 1);
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((&error["code"], &error["exit"]), (&"anatomy-not-found".into(), &4.into()));
    assert_eq!(fs::read(&page).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn the_picture_holds_every_part_and_nothing_from_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let html = page.display().to_string();
    for more in [&["--check"][..], &[]] {
        let output = run(&[&["inspect", &zoo("dynamo-sdpa"), "--html", &html], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        let text = fs::read_to_string(&page).unwrap();
        let table = run(&["inspect", &zoo("dynamo-sdpa"), "--json"]);
        let found: Value = serde_json::from_slice(&table.stdout).unwrap();
        for row in found["anatomy"]["rows"].as_array().unwrap() {
            let name = row["name"].as_str().unwrap();
            // Once as a line of a table, once as a part of a drawing.
            assert_eq!(text.matches(&format!("id=\"{name}\"")).count(), 1, "{name}");
            assert_eq!(text.matches(&format!("href=\"#{name}\"")).count(), 1, "{name}");
            assert!(row["edge"].as_str().is_none_or(|edge| text.contains(edge)), "{name}");
        }
        for outside in ["<script", "src=", "http:", "https:", "url(", "@import", "<link"] {
            assert!(!text.contains(outside), "{outside}");
        }
        assert!(text.contains("prefers-color-scheme: dark") && text.matches("<svg ").count() == 4, "{text}");
        assert_eq!(text.contains("Gradients beside finite differences"), !more.is_empty());
        // No element is left open.
        for element in ["svg", "table", "details", "a", "title", "code", "p", "style", "html"] {
            let opened = text.matches(&format!("<{element} ")).count() + text.matches(&format!("<{element}>")).count();
            assert_eq!(opened, text.matches(&format!("</{element}>")).count(), "{element}");
        }
    }
    refused(&["inspect", "/absent", "--html", &format!("{html}/x")], 3, "folder-not-writable");
}
