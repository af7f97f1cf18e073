//! What is wrong with a model or its data is said with a code, before a runtime sees it.

use std::fs;

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{AttributeProto, ModelProto, NodeProto, TensorProto};

use super::super::Graph;
use super::{ZOO, code, load_changed, zoo};

const DATA: &str = "model.onnx.data";

/// The first tensor that is kept in the data file.
fn external(model: &mut ModelProto) -> &mut TensorProto {
    let tensors = &mut model.graph.as_mut().unwrap().initializer;
    tensors.iter_mut().find(|t| !t.external_data.is_empty()).unwrap()
}

fn set(tensor: &mut TensorProto, key: &str, value: &str) {
    tensor.external_data.iter_mut().find(|e| e.key == key).unwrap().value = value.into();
}

#[test]
fn data_must_be_there_and_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (here, data) = (folder.path(), folder.path().join(DATA));
    let whole = fs::read(zoo("dynamo-mask").join(DATA)).unwrap();
    assert_eq!(code(load_changed(here, |_| {})), "data-missing");
    for cut in [0, 1, whole.len() / 2] {
        fs::write(&data, &whole[..cut]).unwrap();
        assert_eq!(code(load_changed(here, |_| {})), "data-truncated", "{cut}");
    }
    fs::write(&data, &whole).unwrap();
    load_changed(here, |_| {}).unwrap();
    let faults: [(&str, &str, &str); 7] = [
        ("offset", "99999999", "data-truncated"),
        ("offset", "18446744073709551615", "data-truncated"),
        ("offset", "-64", "data-truncated"),
        ("length", "7", "data-truncated"),
        ("length", "seven", "data-truncated"),
        ("location", "", "data-missing"),
        ("location", "absent.data", "data-missing"),
    ];
    for (key, value, expected) in faults {
        assert_eq!(code(load_changed(here, |m| set(external(m), key, value))), expected, "{key} {value}");
    }
    fs::remove_file(&data).unwrap();
    fs::create_dir(&data).unwrap();
    assert_eq!(code(load_changed(here, |_| {})), "data-missing");
    // Nobody writes to it: to open it would be to wait for ever.
    fs::remove_dir(&data).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&data).status().unwrap().success());
    assert_eq!(code(load_changed(here, |_| {})), "data-missing");
}

#[test]
fn extents_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(zoo("dynamo-mask").join(DATA), folder.path().join(DATA)).unwrap();
    for dims in [vec![-1, 32], vec![i64::MIN], vec![1 << 40, 1 << 40], vec![i64::MAX, 2], vec![3]] {
        let error = load_changed(folder.path(), |m| external(m).dims = dims.clone());
        assert_eq!(code(error), "data-truncated", "{dims:?}");
    }
    let error = load_changed(folder.path(), |m| external(m).data_type = 999);
    assert_eq!(code(error), "tensor-type");
}

#[test]
fn data_stays_in_the_models_folder() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("model");
    fs::create_dir(&folder).unwrap();
    let secret = outer.path().join("secret");
    fs::copy(zoo("dynamo-mask").join(DATA), &secret).unwrap();
    fs::copy(zoo("dynamo-mask").join(DATA), folder.join(DATA)).unwrap();
    for location in ["../secret", "x/../../secret", secret.to_str().unwrap()] {
        let error = load_changed(&folder, |m| set(external(m), "location", location));
        assert_eq!(code(error), "data-outside", "{location}");
    }
    fs::create_dir(folder.join("sub")).unwrap();
    fs::rename(folder.join(DATA), folder.join("sub").join(DATA)).unwrap();
    load_changed(&folder, |m| {
        for t in m.graph.as_mut().unwrap().initializer.iter_mut().filter(|t| !t.external_data.is_empty()) {
            set(t, "location", &format!("sub/{DATA}"));
        }
    })
    .unwrap();
}

#[cfg(unix)]
#[test]
fn links_are_followed_as_far_as_the_folder_of_the_real_model() {
    use std::os::unix::fs::symlink;
    let outer = tempfile::tempdir().unwrap();
    // The layout of a download cache: the model's folder holds links into a folder of blobs.
    let (blobs, snapshot) = (outer.path().join("blobs"), outer.path().join("snapshots/1"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::copy(zoo("dynamo-mask").join("model.onnx"), blobs.join("aa")).unwrap();
    fs::copy(zoo("dynamo-mask").join(DATA), blobs.join("bb")).unwrap();
    symlink("../../blobs/aa", snapshot.join("model.onnx")).unwrap();
    symlink("../../blobs/bb", snapshot.join(DATA)).unwrap();
    Graph::load(&snapshot).unwrap();
    // The model itself is in the folder, and its data leads out.
    fs::remove_file(snapshot.join("model.onnx")).unwrap();
    fs::copy(blobs.join("aa"), snapshot.join("model.onnx")).unwrap();
    assert_eq!(code(Graph::load(&snapshot)), "data-outside");
}

#[test]
fn files_that_are_no_model_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    assert_eq!(code(Graph::load(folder.path())), "model-missing");
    assert_eq!(code(Graph::load(&folder.path().join("absent"))), "model-missing");
    fs::write(folder.path().join("a.onnx"), "").unwrap();
    fs::write(folder.path().join("b.onnx"), "").unwrap();
    assert_eq!(code(Graph::load(folder.path())), "model-missing");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    for bytes in [&b""[..], b"hello", pointer.as_bytes(), &[0xff; 64], b"PK\x03\x04"] {
        fs::write(&path, bytes).unwrap();
        assert_eq!(code(Graph::load(&path)), "model-not-onnx", "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_cut_off_model_is_refused_at_every_length() {
    for name in ZOO {
        let path = zoo(name).join("model.onnx");
        let whole = fs::read(&path).unwrap();
        let ends = (0..32).chain(whole.len() - 32..whole.len());
        for cut in ends.chain((0..whole.len()).step_by(997)) {
            assert_eq!(code(Graph::parse(&whole[..cut], &path)), "model-not-onnx", "{name} cut at {cut}");
        }
    }
}

#[test]
fn graphs_that_contradict_themselves_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(zoo("dynamo-mask").join(DATA), folder.path().join(DATA)).unwrap();
    let here = folder.path();
    let refused = |change: &dyn Fn(&mut onnx_protobuf::GraphProto)| {
        code(load_changed(here, |m| change(m.graph.as_mut().unwrap())))
    };
    assert_eq!(refused(&|g| g.node[5].input[0] = "nowhere".into()), "graph-invalid");
    assert_eq!(refused(&|g| g.node.push(g.node[0].clone())), "graph-invalid");
    assert_eq!(refused(&|g| g.initializer.push(g.initializer[0].clone())), "graph-invalid");
    assert_eq!(refused(&|g| g.output[0].name = "nowhere".into()), "graph-invalid");
    assert_eq!(refused(&|g| g.node.clear()), "graph-invalid");
    assert_eq!(refused(&|g| g.sparse_initializer.push(Default::default())), "graph-unsupported");
    assert_eq!(code(load_changed(here, |m| m.graph = Default::default())), "model-not-onnx");
}

#[test]
fn nodes_in_any_order_are_brought_into_one_and_a_cycle_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(zoo("dynamo-mask").join(DATA), folder.path().join(DATA)).unwrap();
    let graph = load_changed(folder.path(), |m| m.graph.as_mut().unwrap().node.reverse()).unwrap();
    let whole = Graph::load(&zoo("dynamo-mask")).unwrap();
    assert_eq!(graph.nodes().len(), whole.nodes().len());
    let index = graph.index();
    for (i, node) in graph.nodes().iter().enumerate() {
        assert!(node.inputs().iter().all(|e| index.producer_id(e).is_none_or(|maker| maker < i)), "{}", node.label());
    }
    let turned = load_changed(folder.path(), |m| {
        let nodes = &mut m.graph.as_mut().unwrap().node;
        let (first, last) = (nodes.iter().position(|n| n.op_type == "MatMul").unwrap(), nodes.len() - 1);
        nodes[first].input[0] = nodes[last].output[0].clone();
    });
    let error = turned.unwrap_err();
    assert!(error.code().id == "graph-invalid" && error.message().contains("from its own output"), "{error}");
}

#[test]
fn constants_in_data_files_count_as_initializers() {
    let folder = tempfile::tempdir().unwrap();
    let move_in = |m: &mut ModelProto| {
        let graph = m.graph.as_mut().unwrap();
        let at = graph.initializer.iter().position(|t| !t.external_data.is_empty()).unwrap();
        let tensor = graph.initializer.remove(at);
        let mut node =
            NodeProto { op_type: "Constant".into(), output: vec![tensor.name.clone()], ..Default::default() };
        node.attribute.push(AttributeProto {
            name: "value".into(),
            type_: AttributeType::TENSOR.into(),
            t: Some(tensor).into(),
            ..Default::default()
        });
        graph.node.insert(0, node);
    };
    assert_eq!(code(load_changed(folder.path(), move_in)), "data-missing");
    fs::copy(zoo("dynamo-mask").join(DATA), folder.path().join(DATA)).unwrap();
    let graph = load_changed(folder.path(), move_in).unwrap();
    let whole = Graph::load(&zoo("dynamo-mask")).unwrap();
    assert_eq!(graph.nodes(), whole.nodes());
    assert!(graph.initializers().eq(whole.initializers()));
    // In another operator's attribute nothing would check or copy it.
    let hidden = load_changed(folder.path(), |m| {
        move_in(m);
        m.graph.as_mut().unwrap().node[0].op_type = "ConstantOfShape".into();
    });
    assert_eq!(code(hidden), "graph-unsupported");
}
