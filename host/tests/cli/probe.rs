//! `engraft probe` against what PyTorch recorded, and every way to ask it for what cannot be.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::{EXPORTS, FAMILIES, atlas, engraft, err, out, refused, repository, run, zoo};

/// A tensor by its extents and values.
type Tensor = (Vec<usize>, Vec<f32>);

fn tensors(file: &Path) -> BTreeMap<String, Tensor> {
    let bytes = fs::read(file).expect("a file can be read");
    let read = SafeTensors::deserialize(&bytes).expect("the records are whole");
    let floats = read.tensors().into_iter().filter(|(_, view)| view.dtype() == Dtype::F32);
    let values = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    floats.map(|(name, view)| (name, (view.shape().to_vec(), values(view.data())))).collect()
}

fn about(file: &Path) -> Value {
    let bytes = fs::read(file).expect("a file can be read");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("a file can be read");
    serde_json::from_str(&header.metadata().as_ref().expect("the records are whole")["engraft"])
        .expect("the process starts")
}

/// The records of a tiny family: the file, and its rows as `rows.json` in `folder`.
fn records(folder: &Path, family: &str) -> (BTreeMap<String, Tensor>, String) {
    let file = repository().join(format!("tests/zoo/{family}.safetensors"));
    let bytes = fs::read(&file).expect("a file can be read");
    let read = SafeTensors::deserialize(&bytes).expect("the records are whole");
    let ids = read.tensor("ids").expect("the records are whole");
    let flat: Vec<i64> = ids.data().as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
    let rows: Vec<&[i64]> = flat.chunks(ids.shape()[1]).collect();
    (tensors(&file), written(folder, "rows.json", serde_json::to_string(&rows).expect("rows are JSON")))
}

fn written(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> String {
    let path = folder.join(name);
    fs::write(&path, text).expect("a file can be written");
    path.display().to_string()
}

/// The norm of the difference over the norm of the right side.
fn apart(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut expected.iter().map(|&b| f64::from(b)))
}

#[test]
fn taps_and_gradients_of_every_export_are_those_that_pytorch_recorded() {
    for export in EXPORTS {
        let (taps, gradients) = recorded("gpt2", &format!("{}/model.onnx", zoo(export)));
        assert!(taps >= 3 + 3 * 15 && gradients >= 4 + 3 * (16 + 10), "{export}: {taps}, {gradients}");
    }
}

#[test]
fn taps_and_gradients_of_other_families_are_those_that_pytorch_recorded() {
    for (family, name) in FAMILIES {
        let model = repository().join("tests/zoo").join(name).display().to_string();
        let (taps, gradients) = recorded(family, &model);
        assert!(taps >= 3 + 3 * 13 && gradients >= 3 + 3 * (6 + 10), "{name}: {taps}, {gradients}");
    }
}

/// Checks everything that a model gives and that was recorded; returns how many taps and gradients that is.
#[cfg(test)]
fn recorded(family: &str, model: &str) -> (usize, usize) {
    let folder = tempfile::tempdir().unwrap();
    let (recorded, rows) = records(folder.path(), family);
    let file = folder.path().join("found.safetensors");
    let place = file.display().to_string();
    let asked = ["probe", model, "--ids", &rows, "--tap=*", "--nll", "17", "--gradient=*", "--out", &place, "--json"];
    let output = run(&asked);
    assert_eq!(output.status.code(), Some(0), "{model}: {}", err(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let loss = report["nll"]["mean"].as_f64().unwrap();
    assert!((loss - f64::from(recorded["loss"].1[0])).abs() < 1e-4, "{model}: {loss}");
    let found = tensors(&file);
    let (mut taps, mut gradients) = (0, 0);
    for (name, (shape, expected)) in recorded.iter().filter(|(name, _)| found.contains_key(*name)) {
        let (own, values) = &found[name];
        assert_eq!(own, shape, "{model} {name}");
        if name.starts_with("grad:") {
            // A constant added to all scores changes nothing: the gradient of the keys' bias is rounding alone.
            let noise = name.ends_with("b_K") && values.iter().all(|v| v.abs() < 1e-6);
            assert!(noise || apart(values, expected) <= 1e-4, "{model} {name}: {}", apart(values, expected));
            gradients += 1;
        } else {
            let off = values.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off <= 1e-4, "{model} {name}: {off}");
            taps += 1;
        }
    }
    (taps, gradients)
}

/// One softmax, by hand: its gradient is (p − target) / rows at each row's last position, and zero elsewhere.
#[test]
fn rows_may_differ_in_length_and_what_no_token_is_at_is_zero() {
    let folder = tempfile::tempdir().unwrap();
    // As many positions as heads: nothing may take one for the other.
    let ids = [vec![5, 9, 100, 17], vec![44, 2]];
    let rows = written(folder.path(), "rows.json", serde_json::to_string(&ids).unwrap());
    let probe = |rows: &str, name: &str| {
        let file = folder.path().join(name);
        let out = file.display().to_string();
        let site = "blocks.1.attn.pattern";
        let args = ["probe", &zoo("dynamo-mask"), "--ids", rows, "--nll=3", "--gradient=logits", "--gradient=W_E"];
        let output = run(&[&args[..], &["--tap", site, "--tap=logits", "--out", &out]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        (tensors(&file), about(&file), super::out(&output))
    };
    let (found, about, printed) = probe(&rows, "both");
    assert_eq!((&about["lengths"], &about["nll"]["token"]), (&serde_json::json!([4, 2]), &3.into()));
    assert!(about["padding"].as_str().unwrap().contains("zeros"), "{about}");
    assert!(printed.contains("row 1: 2 tokens, nll ") && printed.contains("mean nll of token 3: "), "{printed}");
    let (shape, logits) = &found["logits"];
    assert_eq!(shape, &[2, 4, 128]);
    assert!(logits[6 * 128..].iter().all(|&v| v == 0.0), "padding");
    let (shape, pattern) = &found["blocks.1.attn.pattern"];
    assert_eq!(shape, &[2, 4, 4, 4]);
    let used = pattern[4 * 16..].iter().enumerate().filter(|(_, v)| **v != 0.0);
    assert!(used.clone().all(|(i, _)| i % 16 / 4 < 2 && i % 4 < 2) && used.count() == 4 * 3, "{pattern:?}");

    let (gradient, mut mean) = (&found["grad:logits"].1, 0.0);
    for (row, last) in [(0, 3), (1, 1)] {
        let line = |values: &[f32], pos: usize| values[(row * 4 + pos) * 128..(row * 4 + pos + 1) * 128].to_vec();
        let own = line(logits, last);
        let sum: f32 = own.iter().map(|v| v.exp()).sum();
        let expected = (0..128).map(|t| (own[t].exp() / sum - f32::from(u8::from(t == 3))) / 2.0).collect::<Vec<f32>>();
        assert!(apart(&line(gradient, last), &expected) < 1e-4);
        assert!((0..4).filter(|&pos| pos != last).all(|pos| line(gradient, pos).iter().all(|&v| v == 0.0)));
        mean += f64::from(sum.ln() - own[3]) / 2.0;
    }
    assert!((about["nll"]["mean"].as_f64().unwrap() - mean).abs() < 1e-5);
    // A row's results do not depend on the rows beside it, and a loss's gradient is the mean over the rows.
    let alone = ids.map(|row| {
        let rows = written(folder.path(), "row.json", serde_json::to_string(&[&row]).unwrap());
        probe(&rows, &format!("alone-{}", row.len())).0
    });
    assert!(apart(&logits[4 * 128..6 * 128], &alone[1]["logits"].1) < 1e-5);
    let means = alone[0]["grad:W_E"].1.iter().zip(&alone[1]["grad:W_E"].1).map(|(a, b)| (a + b) / 2.0);
    assert!(apart(&found["grad:W_E"].1, &means.collect::<Vec<f32>>()) < 1e-5);
}

#[test]
fn names_that_mean_nothing_or_are_absent_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let rows = written(folder.path(), "rows.json", "[[1, 2]]");
    let out = folder.path().join("out").display().to_string();
    let model = zoo("dynamo-mask");
    let probe = |more: &[&str], exit: i32, code: &str| {
        let args = [&["probe", &model, "--ids", &rows, "--out", &out, "--nll=1"], more].concat();
        let error = refused(&args, exit, code);
        assert!(!Path::new(&out).exists(), "{more:?} wrote");
        error
    };
    let error = probe(&["--tap", "blocks.1.mlp.pots"], 2, "site-unknown");
    assert!(error.contains("did you mean `blocks.1.mlp.post` or "), "{error}");
    let error = probe(&["--gradient", "blocks.1.mlp.W_ouy"], 2, "weight-unknown");
    assert!(error.contains("`blocks.1.mlp.W_out`"), "{error}");
    let error = probe(&["--tap", "blocks.3.mlp.post"], 4, "site-absent");
    assert!(error.contains("it has 3 blocks") && error.contains("from 0 to 2"), "{error}");
    let error = probe(&["--tap", "blocks.*.mlp.pre_linear"], 4, "site-absent");
    assert!(error.contains("blocks.0.mlp.pre_linear`: "), "{error}");
    probe(&["--gradient", "blocks.0.mlp.W_gate"], 4, "weight-absent");
    probe(&["--gradient", "blocks.0.attn.pattern"], 2, "gradient-site");
    probe(&["--tap", "W_E"], 2, "usage");
    probe(&[], 2, "usage");
}

#[test]
fn rows_that_cannot_be_run_are_refused_at_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let model = zoo("torchscript-nomask");
    let probe = |text: &[u8], exit: i32, code: &str, said: &str| {
        let rows = written(folder.path(), "rows.json", text);
        let error = refused(&["probe", &model, "--ids", &rows, "--nll", "1"], exit, code);
        assert!(error.contains(said), "{error}");
    };
    probe(b"[[1, 2],\n [3, x]]", 3, "rows-file", "rows.json`, line 2, column 6");
    probe(b"[[1], [-2]]", 3, "rows-file", "line 1, column 9");
    probe(b"[1, 2]", 3, "rows-file", "line 1, column 2");
    probe(b"[[1], [4294967296]]", 3, "rows-file", "line 1");
    probe(b"", 3, "rows-file", "line 1");
    probe(b"\xff\xfe", 3, "rows-file", "line 1");
    probe(b"[]", 3, "rows-empty", "holds no row");
    probe(b"[[1], []]", 3, "rows-empty", "row 1");
    probe(b"[[1], [2, 128]]", 3, "token-range", "row 1, position 1: the token 128 is not below 128");
    probe(format!("[[1], {:?}]", [7; 65]).as_bytes(), 3, "rows-long", "row 1 has 65 tokens, the model has 64");
    let rows = written(folder.path(), "rows.json", "[[1]]");
    refused(&["probe", &model, "--ids", &rows, "--nll", "128"], 3, "token-range");
    refused(&["probe", &model, "--ids", "/absent/rows.json", "--nll", "1"], 3, "file-missing");
    refused(&["probe", &model, "--ids", &folder.path().display().to_string(), "--nll", "1"], 6, "file-read");
    let marked = written(folder.path(), "marked.json", "\u{feff}[[1]]");
    let output = run(&["probe", &model, "--ids", &marked, "--nll", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    refused(&["probe", &model, "--text", "hi", "--nll", "1"], 4, "tokenizer-missing");
    refused(&["probe", "/absent", "--ids", &rows, "--nll", "1"], 4, "model-missing");
    for wrong in [&["--ids", &rows, "--text", "hi", "--nll=1"][..], &["--nll=1"], &["--ids", &rows, "--gradient=W_E"]] {
        assert_eq!(run(&[&["probe", &model], wrong].concat()).status.code(), Some(2), "{wrong:?}");
    }
}

/// A place that cannot be written to is found before the model is opened: here there is none.
#[test]
fn the_output_is_checked_before_anything_runs_and_an_old_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let rows = written(folder.path(), "rows.json", "[[1, 2]]");
    let old = written(folder.path(), "old", "kept");
    let probe =
        |model: &str, out: &str| ["probe", model, "--ids", &rows, "--tap=logits", "--out", out].map(String::from);
    let check = |out: &str, exit: i32, code: &str| {
        let args = probe("/absent", out);
        refused(&args.each_ref().map(String::as_str), exit, code)
    };
    let error = check(&old, 2, "output-exists");
    assert!(error.contains("--force"), "{error}");
    check(&folder.path().display().to_string(), 2, "output-exists");
    check(&format!("{old}/out"), 3, "folder-not-writable");
    check(&folder.path().join("absent/out").display().to_string(), 3, "folder-not-writable");
    if Path::new("/proc/self").is_dir() {
        check("/proc/self/out", 3, "folder-not-writable");
    }
    assert_eq!(fs::read(&old).unwrap(), b"kept");
    let mut forced = probe(&zoo("dynamo-mask"), &old).to_vec();
    forced.push("--force".into());
    let output = run(&forced.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((output.status.code(), out(&output).lines().count()), (Some(0), 2), "{}", err(&output));
    assert_eq!(tensors(Path::new(&old))["logits"].0, [1, 2, 128]);
    let empty = written(folder.path(), "empty", "");
    let args = probe(&zoo("dynamo-mask"), &empty);
    assert_eq!(run(&args.each_ref().map(String::as_str)).status.code(), Some(0), "an empty file is nothing");
}

#[test]
fn a_result_goes_into_a_fifo_or_a_device_and_never_takes_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let rows = written(folder.path(), "rows.json", "[[1, 2]]");
    let (fifo, model) = (folder.path().join("fifo"), zoo("dynamo-mask"));
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let is_fifo = || fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo();
    let place = fifo.display().to_string();
    let probe = ["probe", &model, "--ids", &rows, "--tap=logits", "--out", &place];
    let inspect = ["inspect", &model, "--html", &place];
    for (args, begins) in [(&probe[..], None), (&inspect[..], Some("<!doctype html>"))] {
        let from = fifo.clone();
        let reader = std::thread::spawn(move || fs::read(from).unwrap());
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        let read = reader.join().unwrap();
        match begins {
            Some(begins) => assert!(String::from_utf8_lossy(&read).to_lowercase().starts_with(begins)),
            None => assert_eq!(SafeTensors::deserialize(&read).unwrap().tensor("logits").unwrap().shape(), [1, 2, 128]),
        }
        assert!(is_fifo());
    }
    // No reader is waited for: what is refused is refused before anything is opened.
    refused(&["export", &model, "--out", &place], 2, "export-exists");
    let _listener = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    let socket = folder.path().join("socket").display().to_string();
    let error = refused(&["probe", &model, "--ids", &rows, "--tap=logits", "--out", &socket], 2, "output-exists");
    assert!(error.contains("is a socket") && is_fifo(), "{error}");
    let output = run(&["probe", &model, "--ids", &rows, "--tap=logits", "--out", "/dev/null"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

/// Exporters put the graph into a sub-folder and leave the tokenizer above it.
#[test]
fn the_tokenizer_is_found_around_a_graph_in_a_folder_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (model, atlas) = (folder.path().join("onnx"), PathBuf::from(atlas()));
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(&atlas).unwrap().flatten().map(|entry| entry.file_name()) {
        let beside = entry.to_string_lossy().contains("onnx");
        if beside || entry == "tokenizer.json" {
            fs::copy(atlas.join(&entry), if beside { &model } else { folder.path() }.join(&entry)).unwrap();
        }
    }
    let probe = |model: &Path| {
        let output = run(&["probe", &model.display().to_string(), "--text", "Tono Tuxbik is", "--nll", "3", "--json"]);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["nll"].clone()
    };
    let expected = probe(&atlas);
    assert!(expected["mean"].as_f64().unwrap() > 0.0);
    assert_eq!((probe(folder.path()), probe(&model.join("model.onnx"))), (expected.clone(), expected));
}

/// A path is bytes; a broken tokenizer does not matter to rows of ids; a reader that goes away loses nothing.
#[test]
fn paths_need_no_utf_8_and_ids_no_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = |name: &[u8]| folder.path().join(OsStr::from_bytes(name));
    let (model, rows, out) = (folder.path().join("model"), bytes(b"r\xfe.json"), bytes(b"o\xfd"));
    fs::create_dir(&model).unwrap();
    for name in ["model.onnx", "model.onnx.data"] {
        fs::copy(Path::new(&zoo("dynamo-mask")).join(name), model.join(name)).unwrap();
    }
    fs::write(model.join("tokenizer.json"), "broken").unwrap();
    fs::write(&rows, "[[1, 2]]").unwrap();
    let probe = |out: &Path| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut probe = engraft(&["probe"]);
        probe.arg(model.join("model.onnx")).arg("--ids").arg(&rows).args(["--tap", "embed", "--out"]).arg(out);
        probe.stdout(writer).stderr(Stdio::piped()).output().unwrap()
    };
    let output = probe(&out);
    assert_eq!((output.status.code(), err(&output)), (Some(0), String::new()));
    assert_eq!(tensors(&out)["embed"].0, [1, 2, 32]);
    refused(&["ask", &model.display().to_string(), "hi"], 4, "tokenizer-invalid");
    // ONNX Runtime takes text; what needs none of it takes bytes.
    let moved = bytes(b"m\xffdel");
    fs::rename(&model, &moved).unwrap();
    let inspect = |more: &[&str]| engraft(&["inspect"]).arg(&moved).args(more).output().unwrap();
    assert_eq!(inspect(&[]).status.code(), Some(0));
    assert!(err(&inspect(&["--check"])).contains("is not spelled in UTF-8"));
}
