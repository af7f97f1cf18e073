//! Exports are plain models of their own, whole or not there at all.

use super::super::{DType, Graph, Initializer, Patch, export};
use super::{ZOO, code, names, zoo};
use crate::base::Hash;

const WEIGHT: &str = "transformer.h.1.mlp.c_proj.weight";

fn edited(graph: &Graph, name: &str, by: f32) -> Initializer {
    let old = graph.initializer(name).unwrap();
    let values: Vec<f32> = graph.values(old).unwrap().floats().unwrap().iter().map(|v| v + by).collect();
    Initializer::f32(name, &old.dims(), &values)
}

/// Every tensor of `graph` is in `written`, with the values of `new` in its place.
fn assert_same(graph: &Graph, new: &[Initializer], written: &Graph) {
    for tensor in graph.initializers() {
        let found = written.bytes(written.initializer(tensor.name()).unwrap()).unwrap();
        match new.iter().find(|n| n.name() == tensor.name()) {
            Some(new) => assert_eq!(new.inline_bytes().unwrap(), found),
            None => assert_eq!(graph.bytes(tensor).unwrap(), found),
        }
    }
    assert_eq!(graph.nodes(), written.nodes());
}

#[test]
fn an_export_is_the_model_with_the_changed_tensors_and_the_base_is_untouched() {
    for name in ZOO {
        let before: Vec<Hash> = names(&zoo(name)).iter().map(|f| Hash::of_file(&zoo(name).join(f)).unwrap()).collect();
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("new/export");
        let graph = Graph::load(&zoo(name)).unwrap();
        let new = [edited(&graph, WEIGHT, 1.0), edited(&graph, "transformer.h.0.ln_1.bias", -1.0)];
        export(&graph, &new, &target).unwrap();
        assert_same(&graph, &new, &Graph::load(&target).unwrap());
        let data = std::fs::read_dir(&target).unwrap().filter(|e| {
            let name = e.as_ref().unwrap().file_name().into_string().unwrap();
            name == "edits.data" && e.as_ref().unwrap().metadata().unwrap().len() == 128 * 32 * 4
        });
        assert_eq!(data.count(), 1, "{name}: one new file holds only the changed tensor");
        let after: Vec<Hash> = names(&zoo(name)).iter().map(|f| Hash::of_file(&zoo(name).join(f)).unwrap()).collect();
        assert_eq!(before, after);
        assert_eq!(names(&folder.path().join("new")), ["export"]);
    }
}

#[test]
fn an_export_is_a_base_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let (once, twice) = (folder.path().join("once"), folder.path().join("twice"));
    let first = Graph::load(&zoo("dynamo-mask")).unwrap();
    export(&first, &[edited(&first, WEIGHT, 1.0)], &once).unwrap();
    let second = Graph::load(&once).unwrap();
    let other = "transformer.h.0.mlp.c_proj.weight";
    export(&second, &[edited(&second, other, 2.0)], &twice).unwrap();
    let third = Graph::load(&twice).unwrap();
    assert_same(&first, &[edited(&first, WEIGHT, 1.0), edited(&first, other, 2.0)], &third);
    assert_eq!(names(&twice), ["edits.data", "model.onnx", "model.onnx.data", "more-edits.data"]);
}

#[test]
fn an_export_overwrites_nothing_and_a_failed_one_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (base, target) = (folder.path().join("base"), folder.path().join("export"));
    export(&Graph::load(&zoo("dynamo-mask")).unwrap(), &[], &base).unwrap();
    let graph = Graph::load(&base).unwrap();
    let wrong = |name: &str, dims: &[usize], n: usize| Initializer::f32(name, dims, &vec![0.0; n]);
    for (tensor, expected) in [
        (wrong("nobody", &[1], 1), "graph-patch-invalid"),
        (wrong(WEIGHT, &[32, 128], 4096), "graph-patch-invalid"),
        (wrong(WEIGHT, &[128, 32], 7), "data-truncated"),
        (graph.initializer(WEIGHT).unwrap().clone(), "graph-patch-invalid"),
    ] {
        assert_eq!(code(export(&graph, &[tensor], &target)), expected);
    }
    // The data file vanishes under the export, when the folder beside is made already.
    std::fs::remove_file(base.join("model.onnx.data")).unwrap();
    assert_eq!(code(export(&graph, &[], &target)), "file-missing");
    assert_eq!(names(folder.path()), ["base"]);
    let graph = Graph::load(&zoo("torchscript-nomask")).unwrap();
    assert_eq!(code(export(&graph, &[], &base)), "export-exists");
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert_eq!(code(export(&graph, &[], &file)), "export-exists");
    assert_eq!(code(export(&graph, &[], &file.join("below"))), "file-write");
    std::fs::create_dir(&target).unwrap();
    export(&graph, &[], &target).unwrap();
    assert_eq!(names(&target), ["model.onnx"]);
    assert_eq!(names(folder.path()), ["base", "export", "file"]);
}

#[cfg(unix)]
#[test]
fn an_export_has_the_usual_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (plain, target) = (folder.path().join("plain"), folder.path().join("export"));
    std::fs::create_dir(&plain).unwrap();
    export(&Graph::load(&zoo("dynamo-mask")).unwrap(), &[], &target).unwrap();
    let mode = |p: &std::path::Path| std::fs::metadata(p).unwrap().permissions().mode();
    assert_eq!(mode(&target), mode(&plain));
}

#[test]
fn a_patched_graph_exports_with_its_new_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let graph = Graph::load(&zoo("dynamo-raw")).unwrap();
    // The unembedding shares the embedding's tensor; only the embedding's own use is to read another one.
    let node = graph.nodes().iter().find(|n| n.is("Gather") && n.input(0) == Some("lm_head.weight")).unwrap();
    let mut patch = Patch::new(&graph);
    let name = patch.fresh("lm_head.weight.edited");
    let new = edited(&graph, "lm_head.weight", 0.5).renamed(&name);
    patch.constant(new.clone());
    patch.reroute(node.output(0), 0, &name).unwrap();
    let patched = patch.apply().unwrap();
    export(&patched, std::slice::from_ref(&new), &folder.path().join("export")).unwrap();
    let written = Graph::load(&folder.path().join("export")).unwrap();
    assert_same(&patched, &[new], &written);
    assert_eq!(written.initializer(&name).unwrap().dtype(), DType::F32);
}

#[test]
fn saving_beside_the_data_only() {
    let folder = tempfile::tempdir().unwrap();
    export(&Graph::load(&zoo("dynamo-mask")).unwrap(), &[], &folder.path().join("a")).unwrap();
    let graph = Graph::load(&folder.path().join("a")).unwrap();
    graph.save(&folder.path().join("a/other.onnx")).unwrap();
    assert_same(&graph, &[], &Graph::load(&folder.path().join("a/other.onnx")).unwrap());
    assert_eq!(code(graph.save(&folder.path().join("other.onnx"))), "data-missing");
}
