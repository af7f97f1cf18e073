//! Every type comes back from its record as it was; what is missing, unknown or contradictory is treated as promised.

use std::fmt::Debug;

use super::{FromRecord, IntoRecord, ToRecord};
use crate::abi::record::{FfiRecord, RECORD};
use crate::*;

fn lent<T: ToRecord + ?Sized, U: FromRecord + PartialEq + Debug>(value: &T, expected: &U) {
    assert_eq!(U::from_record(value.to_record()).as_ref(), Ok(expected));
    assert_eq!(U::from_record(value.to_record().into_owned()).as_ref(), Ok(expected));
}

fn given<T: IntoRecord + FromRecord + PartialEq + Debug + Clone>(value: &T) {
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
    ]
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
}

#[test]
fn what_is_asked_of_the_host() {
    let site = Site::Block(0, BlockSite::MlpPost);
    let rows = vec![vec![1, 2, 3], vec![], vec![u32::MAX]];
    let run = RunRequest {
        rows: rows.clone(),
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
    let unknown = FfiRecord::new("edited").with_list("changes", [FfiRecord::new("slots")].into_iter());
    let error = Vec::<Change>::from_record(unknown).expect_err("unknown");
    assert_eq!(error.message, "the record `slots` is not a kind of change that is known here");
}
