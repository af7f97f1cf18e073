//! The border is frozen by two texts under `tests/goldens`: the layout of every type that crosses it, and how every
//! plain type is spelled in records. `ENGRAFT_BLESS=1` rewrites them: with v1 closed, only to add.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use abi_stable::StableAbi;
use abi_stable::type_layout::{TLData, TypeLayout};

use super::MethodModuleRef;
use super::record::{FfiData, FfiRecord, FfiValue};

fn holds(file: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens").join(file);
    if std::env::var_os("ENGRAFT_BLESS").is_some() {
        return std::fs::write(&path, found).expect("the golden is writable");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden is there");
    for (golden, found) in golden.lines().zip(found.lines()) {
        assert_eq!(golden, found, "{file}: the border changed");
    }
    assert_eq!(golden.lines().count(), found.lines().count(), "{file}: the border grew or shrank");
}

/// Describes a type and all types in it; those of other crates are told apart by their size alone.
fn visit(layout: &'static TypeLayout, seen: &mut Vec<*const TypeLayout>, texts: &mut BTreeSet<String>) {
    if seen.contains(&std::ptr::from_ref(layout)) {
        return;
    }
    seen.push(layout);
    let (name, repr) = (layout.full_type(), layout.repr_attr());
    let mut text = format!("{name}: {repr:?}, size {}, align {}", layout.size(), layout.alignment());
    if let TLData::Enum(variants) = layout.data() {
        let names: Vec<_> = variants.variant_names_iter().collect();
        write!(text, ", variants {}", names.join(" ")).expect("a text");
    }
    for field in layout.get_fields().into_iter().flatten() {
        write!(text, "\n    {}: {}", field.name(), field.full_type()).expect("a text");
        for function in field.function_range().iter() {
            write!(text, "\n        {function}").expect("a text");
        }
    }
    texts.insert(text);
    let inner = layout.shared_vars().type_layouts().iter().map(|inner| inner());
    let fields = layout.get_fields().into_iter().chain([layout.phantom_fields()]).flatten();
    inner.chain(fields.map(|field| field.layout())).for_each(|inner| visit(inner, seen, texts));
}

#[test]
fn the_layout_of_every_type_is_as_it_was() {
    let (mut seen, mut texts) = (Vec::new(), BTreeSet::new());
    visit(MethodModuleRef::LAYOUT, &mut seen, &mut texts);
    let ours = ["MethodModule", "FfiMethod", "FfiHost", "FfiRecord", "FfiTensor", "FfiData", "FfiValue", "ApiVersion"];
    for name in ours {
        assert!(texts.iter().any(|t| t.starts_with(name)), "{name} is not walked to");
    }
    // Blanks are of another crate's way to print, not of a layout.
    let lines: Vec<&str> = texts.iter().flat_map(|text| text.lines()).map(str::trim_end).collect();
    let lines: Vec<&str> = lines.into_iter().filter(|line| !line.is_empty()).collect();
    holds("abi-layout.txt", &(lines.join("\n") + "\n"));
}

/// The names in a record, without its values.
fn spell(record: &FfiRecord<'_>, depth: usize, out: &mut String) {
    let pad = "  ".repeat(depth);
    write!(out, "{pad}{}", record.kind).expect("a text");
    for attr in &record.attrs {
        let kind = match attr.1 {
            FfiValue::Flag(_) => "flag",
            FfiValue::Integer(_) => "integer",
            FfiValue::Number(_) => "number",
            FfiValue::Text(_) => "text",
        };
        write!(out, " {}:{kind}", attr.0).expect("a text");
    }
    for tensor in &record.tensors {
        let kind = match tensor.data {
            FfiData::F32(_) => "f32",
            FfiData::I64(_) => "i64",
            FfiData::U8(_) => "u8",
        };
        write!(out, " {}:{kind}[{}]", tensor.name, tensor.shape.len()).expect("a text");
    }
    out.push('\n');
    for child in &record.children {
        spell(child, depth + 1, out);
    }
}

#[test]
fn the_spelling_of_every_record_is_as_it_was() {
    let mut out = String::new();
    for record in super::records::tests::samples() {
        spell(&record, 0, &mut out);
    }
    holds("abi-records.txt", &out);
}
