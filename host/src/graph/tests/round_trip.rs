//! Nothing of a model is lost by reading and writing it.

use onnx_protobuf::{Message, ModelProto, StringStringEntryProto};

use super::super::testing::rows;
use super::super::{Graph, Node, Shapes, dump};
use super::{ZOO, message, zoo};

#[test]
fn reading_and_writing_keeps_every_field() {
    for name in ZOO {
        let (graph, mut before) = (Graph::load(&zoo(name)).unwrap(), message(name));
        let after = ModelProto::parse_from_bytes(&graph.to_bytes().unwrap()).unwrap();
        assert!(after == before, "{name}");
        // Fields and operators that this crate does not know, and metadata.
        before.special_fields.mut_unknown_fields().add_length_delimited(1000, b"future".to_vec());
        before.metadata_props.push(StringStringEntryProto { key: "a".into(), value: "b".into(), ..Default::default() });
        let inner = before.graph.as_mut().unwrap();
        inner.special_fields.mut_unknown_fields().add_varint(1001, 7);
        inner.node[0].special_fields.mut_unknown_fields().add_fixed32(1002, 7);
        inner.initializer[0].special_fields.mut_unknown_fields().add_fixed32(1003, 7);
        inner.node[1].op_type = "Novel".into();
        inner.node[1].domain = "org.example".into();
        let path = zoo(name).join("model.onnx");
        let changed = Graph::parse(&before.write_to_bytes().unwrap(), &path).unwrap();
        assert_eq!((changed.nodes()[1].op(), changed.nodes()[1].domain()), ("Novel", "org.example"));
        assert!(!changed.nodes()[1].is("Novel"));
        assert!(ModelProto::parse_from_bytes(&changed.to_bytes().unwrap()).unwrap() == before, "{name}");
        // Unknown fields of a tensor survive its move to another file.
        let moved =
            changed.initializers().find(|i| i.proto().special_fields.unknown_fields().iter().next().is_some()).unwrap();
        assert!(moved.moved("x", 0, 1).proto().special_fields.unknown_fields().iter().next().is_some());
    }
}

#[test]
fn every_row_of_the_zoo_reads_and_writes_the_same() {
    let rows = rows();
    assert!(rows.iter().any(|row| row.family == "gpt2"));
    for row in rows {
        let before = ModelProto::parse_from_bytes(&std::fs::read(row.folder.join("model.onnx")).unwrap()).unwrap();
        let graph = Graph::load(&row.folder).unwrap_or_else(|error| panic!("{}: {error}", row.name));
        let after = ModelProto::parse_from_bytes(&graph.to_bytes().unwrap()).unwrap();
        assert!(after == before, "{}", row.name);
        assert!(row.record.is_file(), "{}", row.name);
    }
}

#[test]
fn a_dump_shows_shapes_small_values_and_sorted_attributes() {
    let graph = Graph::load(&zoo("torchscript-opset14")).unwrap();
    let text = dump(&graph, Some(&Shapes::infer(&graph).unwrap()));
    for line in [
        "input input_ids: int64[batch, sequence]",
        "const transformer.h.0.mlp.c_fc.weight: float32[32, 128]",
        "output logits: float32[batch, sequence, 128]",
    ] {
        assert!(text.lines().any(|l| l == line), "`{line}` in\n{text}");
    }
    let gemm = text.lines().find(|l| l.contains("= Gemm(")).unwrap();
    assert!(gemm.ends_with(" alpha=1.0 beta=1.0"), "{gemm}");
    assert!(gemm.contains(": float32[batch*sequence, 96] = Gemm("), "{gemm}");
    assert!(text.lines().any(|l| l.contains(": int64[1] = Constant() value=int64[1][-1]")), "{text}");
    assert_eq!(text, dump(&Graph::load(&zoo("torchscript-opset14")).unwrap(), Some(&Shapes::infer(&graph).unwrap())));
    let plain = dump(&graph, None);
    assert_eq!(plain.lines().count(), text.lines().count());
    let node = Node::new("Foo", "", &["a", ""], &["b"]);
    assert_eq!(node.label(), "Foo `b`");
}
