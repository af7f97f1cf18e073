//! What IKE shows to whom, against a small model that answers as a host does.

use engraft_ike::{Fact, Ike};
use engraft_method_common::testing::{Mock, request};
use engraft_plugin_api::{
    ActivePatch, Artefact, Change, EditMethod, Example, ModelAccess, ParamValue, Params, Plugin, Route, RouteQuery,
    TrainData, TrainRecord,
};

const SHOWN: &str = "So {fact} . {prompt}";

fn params(more: &[(&str, ParamValue)]) -> Params {
    let own = [("layer", ParamValue::Integer(0)), ("template", ParamValue::Text(SHOWN.into()))];
    let own = own.into_iter().chain([("separator", ParamValue::Text(" . ".into()))]);
    let own = own.chain(more.iter().cloned()).map(|(name, value)| (name.to_owned(), value));
    Params::resolve(&own.collect(), &Ike::describe().params).expect("they fit")
}

fn state(changes: &[Change]) -> &[u8] {
    match changes {
        [Change::State(bytes), Change::Route] => bytes,
        other => panic!("{other:?}"),
    }
}

fn routed(method: &dyn EditMethod, model: &Mock, states: &[&[u8]], prompt: &str) -> Route {
    let tokens = model.tokenize(prompt).expect("words").ids;
    let patches = states.iter().map(|&state| ActivePatch { id: "p", state }).collect();
    method.route(model, &RouteQuery { tokens, patches }).expect("routes")
}

fn said(model: &Mock, route: &Route) -> String {
    let Route::Prompt(tokens) = route else { panic!("{route:?}") };
    model.decode(tokens).expect("words")
}

#[test]
fn the_nearest_fact_is_shown_and_of_equals_the_newer() {
    let model = Mock::new(3);
    let method = Ike::create(&params(&[])).expect("creates");
    let edit = |prompt: &str, subject: &str, target: &str| {
        method.edit(&model, &[request(prompt, Some(subject), target)]).expect("edits")
    };
    let mother = edit("The mother of {} is", "Ada Vorn", "Kelm");
    let city = edit("The city of {} plays", "Bran Tor", "Mil");
    let newer = edit("The mother of {} is", "Ada Vorn", "Esk");
    let all = [state(&mother), state(&city), state(&newer)];
    let of = |states: &[&[u8]], prompt: &str| said(&model, &routed(&*method, &model, states, prompt));
    let wanted = "So The mother of Ada Vorn is Kelm . The mother of Ada Vorn is";
    assert_eq!(of(&all[..2], "The mother of Ada Vorn is"), wanted);
    assert_eq!(of(&all, "The mother of Ada Vorn is"), wanted.replace("Kelm", "Esk"));
    assert!(of(&all, "The city of Bran Tor plays").contains("plays Mil ."));
    assert_eq!(routed(&*method, &model, &[], "The mother of Ada Vorn is"), Route::Base);
}

#[test]
fn demonstrations_are_of_training_and_leave_what_does_not_fit() {
    let model = Mock::new(3);
    let example = |prompt: &str, answer: &str| Example { prompt: prompt.into(), answer: Some(answer.into()) };
    let record = |subject: &str, target: &str| TrainRecord {
        request: request("The mother of {} is", Some(subject), target),
        in_scope: vec![example("So The mother of Ada is", target)],
        out_of_scope: vec![example("The city of Tor is", "Mil")],
    };
    let data = TrainData { train: vec![record("Bran Tor", "Esk"), record("Mil Esk", "Tor")], ..TrainData::default() };
    let count = |n| [("demonstrations", ParamValue::Integer(n)), ("room", ParamValue::Integer(20))];
    let untrained = Ike::create(&params(&count(2))).expect("creates");
    let edits = [request("The mother of {} is", Some("Ada Vorn"), "Kelm")];
    assert_eq!(untrained.edit(&model, &edits).map_err(|e| e.code), Err("ike-untrained".into()));
    let artefact = untrained.train(&model, &data).expect("learns");
    let of = |n: i64| {
        let method = Ike::create_trained(&params(&count(n)), &artefact).expect("creates");
        let changes = method.edit(&model, &edits).expect("edits");
        let facts = Fact::read(state(&changes)).expect("facts");
        let shown = routed(&*method, &model, &[state(&changes)], "The mother of Ada Vorn is");
        let Route::Prompt(tokens) = shown else { panic!("{shown:?}") };
        (facts[0].shown.clone(), tokens)
    };
    assert_eq!(of(0).0.len(), 0);
    let (shown, tokens) = of(2);
    assert_eq!(shown.len(), 3, "two, and one that copies the fact itself");
    assert_eq!(shown[2], "So The mother of Ada Vorn is Kelm . The mother of Ada Vorn is Kelm");
    assert!(shown[..2].iter().all(|text| text.contains("Bran Tor") || text.contains("Mil Esk")), "{shown:?}");
    let context = model.facts().context;
    assert!(tokens.len() <= context - 20 && tokens.len() > of(0).1.len(), "{} of {context}", tokens.len());
    let damaged = Artefact { bytes: vec![7; 9], ..artefact };
    assert_eq!(Ike::create_trained(&params(&[]), &damaged).map(drop).map_err(|e| e.code), Err("ike-artefact".into()));
}
