//! Every type comes back from its record as it was; what is missing, unknown or contradictory is treated as promised.

use std::cell::RefCell;
use std::fmt::Debug;

use super::{BorrowRecord, FromRecord, IntoRecord, ToRecord};
use crate::abi::record::{FfiRecord, RECORD};
use crate::*;

thread_local! {
    /// What the tests of this thread spelled.
    static SPELLED: RefCell<Vec<FfiRecord<'static>>> = const { RefCell::new(Vec::new()) };
}

fn spelled(record: FfiRecord<'_>) {
    SPELLED.with_borrow_mut(|all| all.push(record.into_owned()));
}

/// A record of every kind.
pub(crate) fn samples() -> Vec<FfiRecord<'static>> {
    SPELLED.take();
    what_a_plugin_says_of_itself();
    what_is_asked_of_a_method_and_what_it_answers();
    what_is_lent_for_a_call_is_read_in_place();
    what_is_asked_of_networks();
    what_is_asked_of_the_host();
    what_the_host_tells();
    SPELLED.take()
}

fn lent<T: ToRecord + ?Sized, U: FromRecord + PartialEq + Debug>(value: &T, expected: &U) {
    spelled(value.to_record());
    assert_eq!(U::from_record(value.to_record()).as_ref(), Ok(expected));
    assert_eq!(U::from_record(value.to_record().into_owned()).as_ref(), Ok(expected));
}

fn given<T: IntoRecord + FromRecord + PartialEq + Debug + Clone>(value: &T) {
    spelled(value.clone().into_record());
    assert_eq!(T::from_record(value.clone().into_record()).as_ref(), Ok(value));
}

fn tensor(shape: &[usize]) -> Tensor {
    let len = shape.iter().product::<usize>();
    Tensor::f32(shape, (0..len).map(|i| i as f32 / 3.0 - 1.0).collect()).expect("fits")
}

fn changes() -> Vec<Change> {
    let weight = WeightRef::Block(2, Role::MlpOut);
    vec![
        Change::Weight { weight, delta: Delta::LowRank { left: tensor(&[4, 1]), right: tensor(&[1, 3]) } },
        Change::Weight { weight: WeightRef::Unembedding, delta: Delta::Dense(tensor(&[2, 3])) },
        Change::Weight {
            weight: WeightRef::Embedding,
            delta: Delta::Rows { rows: vec![7, 0], values: tensor(&[2, 3]) },
        },
        slots(Activation::Model, None),
        slots(Activation::Relu, Some(SlotGate { keys: tensor(&[3, 2]), bias: tensor(&[2]) })),
        Change::Splice(Splice {
            graph: vec![8, 13],
            reads: vec![Site::Block(1, BlockSite::MlpPost), Site::LnFinal],
            writes: Site::LnFinal,
            tables: vec![
                Increment { name: "keys".into(), fold: Fold::Stack, value: tensor(&[2, 3]) },
                Increment { name: "labels".into(), fold: Fold::Sum, value: Tensor::i64([1], vec![-1]).expect("fits") },
            ],
            whole_rows: true,
            order: -2,
        }),
        Change::Intercept { sites: vec![Site::Embed, Site::Block(0, BlockSite::Z)], whole_rows: true },
        Change::Route,
        Change::State(vec![0, 255]),
        Change::Statistic(Increment { name: "cache".into(), fold: Fold::Sum, value: tensor(&[2, 2]) }),
    ]
}

fn slots(activation: Activation, gate: Option<SlotGate>) -> Change {
    let (keys, bias, values) = (tensor(&[3, 2]), tensor(&[2]), tensor(&[2, 3]));
    Change::Slots(Slots { layer: 4, keys, bias, values, gate, activation })
}

fn pokes() -> Vec<Poke> {
    let places = vec![Place { row: 0, pos: 3 }, Place { row: 1, pos: 0 }];
    vec![
        Poke { site: Site::Block(1, BlockSite::MlpProj), places, values: tensor(&[1, 5]) },
        Poke { site: Site::Embed, places: vec![], values: tensor(&[0, 5]) },
    ]
}

#[test]
fn what_a_plugin_says_of_itself() {
    let spec = |kind, default: Option<ParamValue>| ParamSpec { name: "p".into(), kind, default, help: "h".into() };
    let words = vec!["a".to_owned(), "b".to_owned()];
    let numbers = ParamKind::Number { min: f64::MIN, max: 0.1 };
    let descriptor = Descriptor {
        name: "rome".into(),
        version: "1.2.3".into(),
        family: Family::ExternalExtension,
        summary: "größer".into(),
        paper: String::new(),
        capabilities: Capabilities { batch: true, sequential: false, needs_subject: true },
        params: vec![
            spec(ParamKind::Flag, Some(ParamValue::Flag(true))),
            spec(ParamKind::Integer { min: i64::MIN, max: 9 }, Some(ParamValue::Integer(-4))),
            spec(numbers.clone(), Some(ParamValue::Number(0.1))),
            spec(ParamKind::Layer, None),
            spec(ParamKind::Choice(words), Some(ParamValue::Text("b".into()))),
            spec(ParamKind::Text, None),
            spec(
                ParamKind::List(Box::new(numbers)),
                Some(ParamValue::List(vec![ParamValue::Number(0.0), ParamValue::List(vec![])])),
            ),
        ],
    };
    lent(&descriptor, &descriptor);
    let params = Params([("a".to_owned(), ParamValue::Flag(false)), ("b".to_owned(), ParamValue::List(vec![]))].into());
    lent(&params, &params);
    let error = MethodError::new("c", "m").label("layer", 7).help("h").cause(&MethodError::new("d", "under"));
    lent(&error, &error);
    lent(&MethodError::cancelled(), &MethodError::cancelled());
}

#[test]
fn what_is_asked_of_a_method_and_what_it_answers() {
    let target = Target { new: "Kelm".into(), old: Some("Vorn".into()) };
    let requests = vec![
        EditRequest { id: "1".into(), prompt: "{} is".into(), subject: Some("Ada".into()), target },
        EditRequest {
            id: "2".into(),
            prompt: "So".into(),
            subject: None,
            target: Target { new: String::new(), old: None },
        },
    ];
    lent(requests.as_slice(), &requests);
    lent(changes().as_slice(), &changes());
    given(&changes());
    for patches in [vec![], vec![1, 0]] {
        given(&vec![OwnPatch { id: "ab".into(), requests: requests.clone(), state: patches }]);
    }
    lent(&Calls::default(), &Calls::default());
    let calls = Calls { train: true, needs_artefact: true, route: true, intercept: true };
    lent(&calls, &calls);

    let artefact = Artefact { base: "b".into(), data: "d".into(), bytes: vec![0, 255] };
    lent(&artefact, &artefact);
    let example = |answer: Option<&str>| Example { prompt: "p".into(), answer: answer.map(str::to_owned) };
    let record = TrainRecord {
        request: requests[0].clone(),
        in_scope: vec![example(Some("a"))],
        out_of_scope: vec![example(None), example(Some(""))],
    };
    let data = TrainData {
        hash: "h".into(),
        train: vec![record.clone(), record],
        validation: vec![],
        texts: vec!["t".into()],
        resume: Some(Checkpoint { step: u64::MAX, bytes: vec![7] }),
    };
    lent(&data, &data);
    lent(&TrainData::default(), &TrainData::default());
    for route in routes() {
        given(&route);
    }
    given(&Some(tensor(&[1, 2, 3])));
    given(&None::<Tensor>);
}

fn routes() -> Vec<Route> {
    let delegate = Route::Delegate { module: ModuleId("m".into()), tokens: vec![1], mix: 0.25 };
    vec![Route::Base, Route::Changes(vec![2, 0]), Route::Changes(vec![]), Route::Prompt(vec![u32::MAX]), delegate]
}

#[test]
fn what_is_lent_for_a_call_is_read_in_place() {
    let states = [vec![], vec![1, 2, 3]];
    let patches = vec![ActivePatch { id: "a", state: &states[0] }, ActivePatch { id: "b", state: &states[1] }];
    let query = RouteQuery { tokens: vec![3, u32::MAX], patches: patches.clone() };
    let record = query.to_record();
    spelled(query.to_record());
    let read = RouteQuery::borrow_record(&record).expect("reads");
    assert_eq!(read, query);
    assert_eq!(read.patches[1].state.as_ptr(), states[1].as_ptr(), "a copy");

    let activation = tensor(&[2, 2, 3]);
    let positions = ndarray::array![[4i64, 5], [2, -1]];
    let call = InterceptCall {
        site: Site::Block(1, BlockSite::MlpOut),
        activation: activation.view().expect("floats"),
        positions: positions.view(),
        rows: vec![InterceptRow { prompt_end: 5, patches: vec![0, 1] }, InterceptRow::default()],
        patches,
    };
    let record = call.to_record();
    spelled(call.to_record());
    let read = InterceptCall::borrow_record(&record).expect("reads");
    assert_eq!(read.activation.as_ptr(), call.activation.as_ptr(), "a copy");
    assert_eq!((&read.activation, read.positions), (&call.activation, call.positions));
    assert_eq!((read.site, &read.rows, &read.patches), (call.site, &call.rows, &call.patches));
    // What does not lie in one piece is copied, and the same.
    let turned = InterceptCall { activation: call.activation.view().reversed_axes(), ..call.clone() };
    let record = turned.to_record();
    assert_eq!(InterceptCall::borrow_record(&record).expect("reads").activation, turned.activation);
}

#[test]
fn what_is_asked_of_networks() {
    let module = || ModuleId("m".into());
    let feeds = vec![("x".to_owned(), tensor(&[2, 1])), ("ids".to_owned(), Tensor::i64([1], vec![4]).expect("fits"))];
    let open = |graph, weights| ModuleCall::Open { key: "k".into(), source: ModuleSource { graph, weights } };
    let calls = [
        ModuleCall::Find { key: "k".into() },
        open(ModuleGraph::Bytes(vec![8, 0]), vec![]),
        open(ModuleGraph::Path("p".into()), feeds.clone()),
        ModuleCall::Run { module: module(), feeds: feeds.clone(), fetch: vec!["y".into()] },
        ModuleCall::Gradient {
            module: module(),
            feeds: feeds.clone(),
            fetch: vec![],
            seeds: feeds.clone(),
            wrt: vec![ModuleVariable::Input("x".into()), ModuleVariable::Weight("w".into())],
        },
        ModuleCall::Weights { module: module(), names: vec!["w".into()] },
        ModuleCall::Set { module: module(), weights: feeds.clone() },
        ModuleCall::Tokenize { module: module(), text: "größe".into() },
    ];
    for call in &calls {
        lent(call, call);
    }
    let replies = [
        ModuleReply::Module(None),
        ModuleReply::Module(Some(module())),
        ModuleReply::Values { outputs: vec![tensor(&[2])], gradients: vec![] },
        ModuleReply::Weights(feeds),
        ModuleReply::Tokens(Tokens { ids: vec![4, 5], spans: vec![0..2, 2..3] }),
    ];
    for reply in &replies {
        given(reply);
    }
    let unknown = ModuleCall::from_record(FfiRecord::new("prune")).expect_err("unknown");
    assert_eq!(unknown.code, MethodError::UNKNOWN_CALL);
}

#[test]
fn what_is_asked_of_the_host() {
    let site = Site::Block(0, BlockSite::MlpPost);
    let rows = vec![vec![1, 2, 3], vec![], vec![u32::MAX]];
    let run = RunRequest {
        rows: rows.clone(),
        prompt_ends: vec![2, 0, 0],
        taps: vec![Tap { site, places: None }, Tap { site: Site::Logits, places: Some(vec![]) }],
        overwrites: pokes(),
        adds: pokes().into_iter().rev().collect(),
        logits: vec![Place { row: 2, pos: 0 }],
        under: changes(),
    };
    lent(&run, &run);
    lent(&RunRequest::default(), &RunRequest::default());

    let place = Place { row: 1, pos: 2 };
    let kl = |direction| Term::Kl { place, reference: vec![-0.5, -1.5], direction, weight: 0.0625 };
    let gradient = GradientRequest {
        rows: rows.clone(),
        prompt_ends: vec![],
        overwrites: vec![],
        adds: pokes(),
        under: changes(),
        terms: vec![
            Term::Nll { place, token: 9, weight: 0.1 },
            kl(KlDirection::FromCurrent),
            kl(KlDirection::FromReference),
            Term::Seed { site, place, vector: vec![1.0], weight: -1.0 },
        ],
        wrt: vec![
            Wrt::Add(1),
            Wrt::Weight(WeightRef::Positions),
            Wrt::Pairs(WeightRef::Block(1, Role::Output)),
            Wrt::Trial(0),
        ],
    };
    lent(&gradient, &gradient);

    let generate = |decoding| GenerateRequest {
        rows: rows.clone(),
        max_new: 5,
        decoding,
        stop: vec![0],
        stop_texts: vec!["\n".into(), "größe".into()],
        under: changes(),
    };
    let greedy = generate(Decoding::Greedy);
    lent(&greedy, &greedy);
    for (top_k, top_p) in [(None, None), (Some(5), None), (None, Some(0.9)), (Some(1), Some(1.0))] {
        let drawn = generate(Decoding::Sample(Sampling { temperature: 0.7, top_k, top_p, seed: u64::MAX - 1 }));
        lent(&drawn, &drawn);
    }
    lent([3, 1].as_slice(), &vec![3, 1]);
    lent(&Level::Warn, &Level::Warn);
}

#[test]
fn what_the_host_tells() {
    given(&ModelFacts::default());
    given(&ModelFacts {
        hash: "ab".into(),
        layers: 6,
        d_model: 128,
        d_mlp: 512,
        heads: 4,
        vocab: 1024,
        context: 256,
        start_token: Some(0),
        sites: vec![Site::Embed, Site::Block(5, BlockSite::ResidPost)],
        weights: vec![WeightRef::Block(0, Role::MlpOut)],
        prefixes: vec!["{}".into()],
    });
    given(&Tokens { ids: vec![4, 5], spans: vec![0..2, 2..7] });
    given(&tensor(&[2, 0, 3]));
    given(&Tensor::i64([2], vec![i64::MIN, 4]).expect("fits"));
    given(&RunReply { taps: vec![tensor(&[2, 3]), tensor(&[])], logits: tensor(&[0, 7]) });
    given(&GradientReply {
        loss: 0.1,
        terms: vec![0.3, -2.0],
        gradients: vec![vec![tensor(&[1, 2])], vec![], vec![tensor(&[2]), tensor(&[1])]],
    });
    given(&vec![vec![1, 2], vec![]]);
    given(&SecondMoment { matrix: tensor(&[2, 2]), tokens: 10 });
}

#[test]
fn growth_is_in_data() {
    // A newer sender says more, and names sites that this side does not know.
    let facts = ModelFacts { sites: vec![Site::Embed], ..ModelFacts::default() };
    let mut newer = facts.clone().into_record().with_text("kv-heads", "2").with_child(FfiRecord::new("news"));
    let sites = newer.children.iter_mut().find(|c| c.kind == "sites").expect("has sites");
    sites.children.push(FfiRecord::new("name").with_text("text", "blocks.0.moe.router"));
    assert_eq!(ModelFacts::from_record(newer), Ok(facts));
}

#[test]
fn a_model_may_have_no_longest_row() {
    let facts = ModelFacts { context: usize::MAX, ..ModelFacts::default() };
    assert_eq!(ModelFacts::from_record(facts.clone().into_record()), Ok(facts));
}

#[test]
fn what_is_wrong_is_named() {
    let message = |record| ModelFacts::from_record(record).map_err(|e| (e.code, e.message));
    let of = |text: &str| Err((RECORD.to_owned(), text.to_owned()));
    assert_eq!(message(FfiRecord::new("fact")), of("the record `fact` came where a `facts` was expected"));
    let mut record = ModelFacts::default().into_record();
    record.attrs.retain(|a| a.0 != "vocab");
    assert_eq!(message(record.clone()), of("the record `facts` has no attribute `vocab`"));
    let number = record.clone().with_number("vocab", 1.0);
    assert_eq!(message(number), of("the record `facts` has a number as `vocab` where an integer was expected"));
    let negative = record.with_integer("vocab", -1);
    assert_eq!(message(negative), of("the record `facts` has -1 as `vocab`, which cannot be"));

    let mut lying = tensor(&[2, 3]).into_record();
    lying.tensors[0].shape = vec![usize::MAX, 2].into();
    let error = Tensor::from_record(lying).expect_err("lies");
    assert_eq!(error.code, RECORD);
    assert!(error.message.contains("`value` contradicts itself"), "{}", error.message);

    let mut short = vec![vec![1, 2]].into_record();
    short.children[0].tensors[0] = crate::abi::record::FfiTensor::integers("lengths", 1, [3].into_iter());
    assert_eq!(Vec::<Vec<u32>>::from_record(short).map_err(|e| e.code), Err(RECORD.to_owned()));
    let unknown = FfiRecord::new("edited").with_list("changes", [FfiRecord::new("adapter")].into_iter());
    let error = Vec::<Change>::from_record(unknown).expect_err("unknown");
    assert_eq!(error.message, "the record `adapter` is not a kind of change that is known here");
}
