//! Edits by hand, on a model whose key at a token is the token's number and whose loss falls by a constant slope: what
//! is asked of the host, where the value ends, and what the tables hold.

use std::collections::BTreeMap;
use std::sync::Mutex;

use engraft_grace::{Grace, GraceParams};
use engraft_plugin_api::testing::StillModel;
use engraft_plugin_api::{
    BlockSite, Change, EditMethod, EditRequest, GenerateRequest, GradientReply, GradientRequest, Increment, Level,
    MethodError, ModelAccess, ModelFacts, ParamValue, Params, Place, Plugin, RunReply, RunRequest, SecondMoment, Site,
    Splice, Target, Tensor, Tokens, WeightRef, Wrt,
};

const KEY: Site = Site::Block(2, BlockSite::MlpPost);
const VALUE: Site = Site::Block(2, BlockSite::MlpProj);

/// One token a byte; the key at a token is `[byte, 0]`, the value `[8, 8]`; it says ` y`.
struct Bytes {
    still: StillModel,
    loss: f32,
    asked: Mutex<Vec<GradientRequest>>,
    ran: Mutex<Vec<RunRequest>>,
}

impl Bytes {
    fn new() -> Self {
        let facts = ModelFacts { context: 64, vocab: 256, ..ModelFacts::default() };
        let still = StillModel { facts, ..StillModel::default() };
        Self { still, loss: 1.0, asked: Mutex::default(), ran: Mutex::default() }
    }

    /// Commits a splice: its tables are stacked on those that are there.
    fn commit(&mut self, splice: &Splice) {
        for Increment { name, value, .. } in &splice.tables {
            let old = self.still.statistics.remove(name);
            let rows = old.as_ref().map_or(0, |t| t.shape()[0]) + value.shape()[0];
            let shape = [rows, value.shape()[1]];
            let stacked = match value.as_f32() {
                Ok(own) => {
                    let old = old.map_or(vec![], |t| t.into_f32().expect("floats"));
                    Tensor::f32(shape, [&old[..], own].concat())
                }
                Err(_) => {
                    let old = old.map_or(vec![], |t| t.as_i64().expect("integers").to_vec());
                    Tensor::i64(shape, [&old[..], value.as_i64().expect("integers")].concat())
                }
            };
            self.still.statistics.insert(name.clone(), stacked.expect("fits"));
        }
    }
}

impl ModelAccess for Bytes {
    fn facts(&self) -> ModelFacts {
        self.still.facts()
    }

    fn tokenize(&self, text: &str) -> Result<Tokens, MethodError> {
        self.still.tokenize(text)
    }

    fn decode(&self, ids: &[u32]) -> Result<String, MethodError> {
        self.still.decode(ids)
    }

    fn weight(&self, weight: WeightRef) -> Result<Tensor, MethodError> {
        self.still.weight(weight)
    }

    fn run(&self, request: &RunRequest) -> Result<RunReply, MethodError> {
        self.ran.lock().expect("no panic").push(request.clone());
        let end = request.rows[0][request.prompt_ends[0]];
        let mut logits = vec![0.0; request.logits.len() * 256];
        let said = logits.chunks_exact_mut(256).zip(b" y");
        said.for_each(|(row, &byte)| row[usize::from(byte)] = 1.0);
        let taps = vec![Tensor::f32([1, 2], vec![end as f32, 0.0])?, Tensor::f32([1, 2], vec![8.0, 8.0])?];
        Ok(RunReply { taps, logits: Tensor::f32([request.logits.len(), 256], logits)? })
    }

    fn gradient(&self, request: &GradientRequest) -> Result<GradientReply, MethodError> {
        self.asked.lock().expect("no panic").push(request.clone());
        let places = request.adds[0].places.len();
        let slope = [3.0 / places as f32, -0.5 / places as f32].repeat(places);
        let gradients = vec![vec![Tensor::f32([places, 2], slope)?]];
        Ok(GradientReply { loss: self.loss, terms: vec![self.loss; request.terms.len()], gradients })
    }

    fn generate(&self, request: &GenerateRequest) -> Result<Vec<Vec<u32>>, MethodError> {
        self.still.generate(request)
    }

    fn second_moment(&self, site: Site) -> Result<SecondMoment, MethodError> {
        self.still.second_moment(site)
    }

    fn statistic(&self, name: &str) -> Result<Option<Tensor>, MethodError> {
        self.still.statistic(name)
    }

    fn random(&self, stream: &str) -> u64 {
        self.still.random(stream)
    }

    fn cancelled(&self) -> bool {
        self.still.cancelled()
    }

    fn progress(&self, done: u64, total: u64, what: &str) {
        self.still.progress(done, total, what);
    }

    fn log(&self, level: Level, message: &str) {
        self.still.log(level, message);
    }
}

fn grace(given: &[(&str, ParamValue)]) -> Box<dyn EditMethod> {
    let mut all = BTreeMap::from([("layer".to_owned(), ParamValue::Integer(2))]);
    all.insert("value_init".into(), ParamValue::Text("warm".into()));
    all.insert("n_iter".into(), ParamValue::Integer(4));
    all.extend(given.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    Grace::create(&Params::resolve(&all, &GraceParams::specs()).expect("resolves")).expect("is created")
}

/// A request whose prompt ends with a byte.
fn request(end: char, target: &str) -> EditRequest {
    let target = Target { new: target.into(), old: None };
    EditRequest { id: end.into(), prompt: format!("ask {end}"), subject: None, target }
}

fn made(method: &dyn EditMethod, model: &Bytes, request: EditRequest) -> Splice {
    let changes = method.edit(model, &[request]).expect("edits");
    let [Change::Splice(splice)] = &changes[..] else { panic!("{changes:?}") };
    splice.clone()
}

/// Near entry, kind; radii; value of the one entry of a splice.
fn entry(splice: &Splice) -> (i64, i64, Vec<f32>, Vec<f32>) {
    let table = |i: usize| splice.tables[i].value.as_f32().expect("floats").to_vec();
    let marks = splice.tables[2].value.as_i64().expect("integers");
    (marks[1], marks[2], table(3), table(1))
}

#[test]
fn the_search_stands_in_for_the_activation_at_the_places_that_are_replaced() {
    let whole: Vec<usize> = (0..7).collect();
    for (replace, expected) in
        [("last", &whole[4..5]), ("prompt", &whole[..5]), ("answer", &whole[4..7]), ("all", &whole[..7])]
    {
        let model = Bytes::new();
        let method = grace(&[("replace", ParamValue::Text(replace.into()))]);
        let splice = made(&*method, &model, request('a', "no"));
        // Warm, and four steps of 1 against the slope's signs.
        assert_eq!(splice.tables[1].value.as_f32().map(|v| v.iter().map(|v| v.round()).collect()), Ok(vec![4.0, 12.0]));
        assert_eq!((splice.reads, splice.writes, splice.whole_rows), (vec![KEY, VALUE], VALUE, replace != "last"));
        let asked = model.asked.lock().expect("no panic");
        assert_eq!(asked.len(), 4);
        let places: Vec<Place> = expected.iter().map(|&pos| Place { row: 0, pos }).collect();
        let first = &asked[0];
        assert_eq!((first.rows[0].len(), first.prompt_ends.clone()), (7, vec![4])); // "ask a" and " n" of " no"
        assert_eq!((first.overwrites[0].site, &first.overwrites[0].places), (VALUE, &places));
        assert_eq!((first.adds[0].site, &first.adds[0].places), (VALUE, &places));
        assert_eq!(first.overwrites[0].values, Tensor::zeros([1, 2]));
        assert_eq!(first.adds[0].values.as_f32(), Ok(&[8.0, 8.0][..]));
        assert_eq!((first.wrt.clone(), first.terms.len()), (vec![Wrt::Add(0)], 3));
        assert!(first.terms.iter().all(|term| (term.weight() - 1.0 / 3.0).abs() < 1e-6));
    }
}

#[test]
fn entries_are_added_expanded_split_and_made_again() {
    let mut model = Bytes::new();
    let method = grace(&[("epsilon", ParamValue::Number(2.0))]);
    let first = made(&*method, &model, request('a', "no"));
    assert_eq!(entry(&first).0, -1);
    assert_eq!((entry(&first).1, first.tables[0].value.as_f32()), (0, Ok(&[97.0, 0.0][..])));
    let id = first.tables[2].value.as_i64().expect("integers")[0];
    model.commit(&first);

    // d = 4 = ε + R is still near; of the same label it expands, and goes on from the value that is there.
    let (near, kind, radii, value) = entry(&made(&*method, &model, request('e', "no")));
    assert_eq!((near, kind), (id, 2));
    assert!((radii[2] - 4.0 * 1.001).abs() < 1e-4, "{radii:?}");
    assert_eq!(value.iter().map(|v| v.round()).collect::<Vec<_>>(), [0.0, 16.0]);
    // Of another label it splits in the middle.
    assert_eq!(entry(&made(&*method, &model, request('d', "yo"))).2, [2.0, 1.5, 1.5 - 1e-5]);
    // Farther away it is added, whatever its label.
    assert_eq!(entry(&made(&*method, &model, request('f', "no"))).1, 0);
    // At the place of another label it takes over its radius.
    let (near, kind, radii, _) = entry(&made(&*method, &model, request('a', "yo")));
    assert_eq!((near, kind, radii[1]), (id, 3, 2.0));

    // After the expansion the same place is answered with its value, from its own row.
    model.commit(&made(&*method, &model, request('e', "no")));
    let (near, kind, .., value) = entry(&made(&*method, &model, request('d', "no")));
    assert_eq!((near, kind), (id, 2));
    assert_eq!(value.iter().map(|v| v.round()).collect::<Vec<_>>(), [-4.0, 20.0]);
}

#[test]
fn what_is_right_already_is_left_alone_and_faults_have_codes() {
    let model = Bytes::new();
    let edits = |method: &dyn EditMethod, target| method.edit(&model, &[request('a', target)]).map(|c| c.len());
    assert_eq!((edits(&*grace(&[]), "y"), edits(&*grace(&[]), "n")), (Ok(0), Ok(1)));
    assert_eq!(edits(&*grace(&[("only_errors", ParamValue::Flag(false))]), "y"), Ok(1));
    assert_eq!(grace(&[]).edit(&model, &[]).map(|c| c.len()), Ok(0));
    let error = Bytes { loss: f32::NAN, ..Bytes::new() };
    let code = |model: &Bytes, request| grace(&[]).edit(model, &[request]).map_err(|e| e.code).err();
    assert_eq!(code(&error, request('a', "no")), Some("loss-not-finite".into()));
    assert_eq!(code(&model, request('a', " ")), Some("target-empty".into()));
    let long = EditRequest { prompt: "a".repeat(65), ..request('a', "no") };
    assert_eq!(code(&model, long), Some("prompt-too-long".into()));

    let mut damaged = Bytes::new();
    let splice = made(&*grace(&[]), &damaged, request('a', "no"));
    damaged.commit(&splice);
    let name = splice.tables[3].name.clone();
    damaged.still.statistics.insert(name.clone(), Tensor::zeros([2, 3]));
    assert_eq!(code(&damaged, request('a', "no")), Some("grace-tables".into()));
    damaged.still.statistics.remove(&name);
    assert_eq!(code(&damaged, request('a', "no")), Some("grace-tables".into()));
}

#[test]
fn several_requests_of_one_call_see_each_other() {
    let model = Bytes::new();
    let changes = grace(&[]).edit(&model, &[request('a', "no"), request('b', "yo")]).expect("edits");
    let [Change::Splice(splice)] = &changes[..] else { panic!("{changes:?}") };
    let marks = splice.tables[2].value.as_i64().expect("integers");
    assert_eq!((marks.len(), marks[6], marks[7], marks[4]), (10, marks[0], 1, 3));
    let ran = model.ran.lock().expect("no panic");
    assert_eq!(ran.iter().map(|r| r.under.len()).collect::<Vec<_>>(), [0, 1]);
}
