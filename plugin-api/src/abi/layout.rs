//! The border is frozen by three texts under `tests/goldens`: the layout of every type that crosses it, how every plain
//! type is spelled in records, and the calls with their names. Version 1 is closed: the layout stays, and
//! `ENGRAFT_BLESS=1` rewrites the other two only to add lines.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::ptr::NonNull;

use abi_stable::StableAbi;
use abi_stable::std_types::RStr;
use abi_stable::type_layout::{TLData, TypeLayout};

use super::guard::{Side, guarded};
use super::host::FfiHost;
use super::host::recorded::crossings;
use super::method::{FfiMethod, ForeignMethod};
use super::record::{FfiData, FfiRecord, FfiValue, RECORD};
use super::records::ToRecord;
use super::{FfiReply, HOST_PANICKED, MethodModuleRef, PLUGIN_PANICKED, ROOT_SYMBOL, UNKNOWN_OP};
use crate::change::splice::{GATE, MASK, POSITIONS, PROMPT_END, gate_of, read_of};
use crate::*;

fn holds(file: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens").join(file);
    let golden = std::fs::read_to_string(&path).expect("the golden is there");
    if file != "abi-layout.txt" && std::env::var_os("ENGRAFT_BLESS").is_some() {
        let mut lines = found.lines();
        let lost = golden.lines().find(|line| !lines.any(|found| found == *line));
        assert_eq!(lost, None, "{file}: what was said is not said any more; version 1 is closed");
        return std::fs::write(&path, found).expect("the golden is writable");
    }
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

/// The names and the values in a record; of tensors the names, the types and the shapes.
fn spell(record: &FfiRecord<'_>, depth: usize, out: &mut String) {
    let pad = "  ".repeat(depth);
    write!(out, "{pad}{}", record.kind).expect("a text");
    for attr in &record.attrs {
        let value = match &attr.1 {
            FfiValue::Flag(value) => format!("flag={value}"),
            FfiValue::Integer(value) => format!("integer={value}"),
            FfiValue::Number(value) => format!("number={value:?}"),
            FfiValue::Text(value) => format!("text={:?}", value.as_str()),
        };
        write!(out, " {}:{value}", attr.0).expect("a text");
    }
    for tensor in &record.tensors {
        let kind = match tensor.data {
            FfiData::F32(_) => "f32",
            FfiData::I64(_) => "i64",
            FfiData::U8(_) => "u8",
        };
        write!(out, " {}:{kind}{:?}", tensor.name, tensor.shape.as_slice()).expect("a text");
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

/// Asks a host for everything that a method may ask for.
fn ask_all(access: &dyn ModelAccess) {
    let rows = vec![vec![1, 2]];
    let (run, gradient) = (RunRequest { rows: rows.clone(), ..Default::default() }, GradientRequest::default());
    let generate = GenerateRequest { rows, max_new: 1, ..GenerateRequest::default() };
    access.facts();
    let sure = [
        access.tokenize("a").map(drop),
        access.decode(&[104]).map(drop),
        access.weight(WeightRef::Unembedding).map(drop),
        access.run(&run).map(drop),
        access.gradient(&gradient).map(drop),
        access.generate(&generate).map(drop),
        access.second_moment(Site::LnFinal).map(drop),
        access.patches().map(drop),
        access.statistic("cache").map(drop),
        access.statistic("none").map(drop),
        access.module(&ModuleCall::Find { key: "k".into() }).map(drop),
        access.checkpoint(&Checkpoint { step: 3, bytes: vec![] }),
    ];
    assert_eq!(sure, [(); 12].map(Ok));
    access.metric(3, "loss", 0.1);
    access.random("prefixes");
    access.cancelled();
    access.progress(1, u64::MAX, "steps");
    access.log(Level::Debug, "said");
}

thread_local! {
    /// What methods of this thread were asked.
    static ASKED: RefCell<String> = const { RefCell::new(String::new()) };
}

unsafe extern "C" fn noted_call(_: &FfiMethod, op: RStr<'_>, _: FfiHost<'_>, request: FfiRecord<'_>) -> FfiReply {
    ASKED.with_borrow_mut(|out| {
        writeln!(out, "method {op}").expect("a text");
        spell(&request, 1, out);
    });
    guarded(Side::Plugin, "noted", || Err(MethodError::cancelled()))
}

unsafe extern "C" fn noted_release(_: &mut FfiMethod) -> FfiReply {
    guarded(Side::Plugin, "drop", || Ok(FfiRecord::new("released")))
}

#[test]
fn the_calls_are_named_as_they_were() {
    let mut out = String::new();
    for (op, request, reply) in crossings(&super::tests::Echo, ask_all) {
        writeln!(out, "host {op}").expect("a text");
        [request, reply].iter().for_each(|record| spell(record, 1, &mut out));
    }
    // SAFETY: neither function looks at the data, unwinds or keeps anything.
    let method = unsafe { FfiMethod::from_raw(NonNull::dangling().as_ptr(), noted_call, noted_release) };
    let method = ForeignMethod::new(method);
    let (activation, positions) = (Tensor::zeros([1, 1, 2]), ndarray::array![[0i64]]);
    let call = InterceptCall {
        site: Site::Embed,
        activation: activation.view().expect("floats"),
        positions: positions.view(),
        rows: vec![InterceptRow::default()],
        patches: vec![],
    };
    let codes = [
        method.edit(&super::tests::Echo, &[]).map(drop),
        method.train(&super::tests::Echo, &TrainData::default()).map(drop),
        method.route(&super::tests::Echo, &RouteQuery { tokens: vec![7], patches: vec![] }).map(drop),
        method.intercept(&call).map(drop),
    ];
    assert!(codes.iter().all(|code| *code == Err(MethodError::cancelled())), "{codes:?}");
    out += &ASKED.take();
    for code in [RECORD, UNKNOWN_OP, PLUGIN_PANICKED, HOST_PANICKED, MethodError::CANCELLED] {
        writeln!(out, "code {code}").expect("a text");
    }
    for site in [Site::Embed, Site::LnFinal, Site::Logits].into_iter().chain(BlockSite::ALL.map(|s| Site::Block(0, s)))
    {
        writeln!(out, "site {site}").expect("a text");
    }
    use WeightRef as W;
    let ends = [W::Embedding, W::Positions, W::Unembedding, W::UnembeddingBias, W::LnFinalScale, W::LnFinalShift];
    for weight in ends.into_iter().chain(Role::ALL.map(|role| W::Block(0, role))) {
        writeln!(out, "weight {weight}").expect("a text");
    }
    for family in [Family::ExternalExtension, Family::InternalModification] {
        writeln!(out, "family {}", family.name()).expect("a text");
    }
    for level in [Level::Debug, Level::Info, Level::Warn] {
        spell(&level.to_record(), 0, &mut out);
    }
    for input in [POSITIONS, MASK, PROMPT_END, GATE, &gate_of("TABLE"), &read_of(0)] {
        writeln!(out, "splice {input}").expect("a text");
    }
    writeln!(out, "root {ROOT_SYMBOL}").expect("a text");
    holds("abi-calls.txt", &out);
}
