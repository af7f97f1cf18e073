//! Calls through the whole border, in process: every call of the host arrives and answers as without it, and faults on
//! either side come back as errors.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::host::{FfiHost, ForeignHost};
use super::{ForeignModule, HOST_PANICKED, PLUGIN_PANICKED};
use crate::testing::StillModel;
use crate::*;

/// Answers every call with what it was asked.
pub(super) struct Echo;

impl ModelAccess for Echo {
    fn facts(&self) -> ModelFacts {
        ModelFacts { layers: 3, ..ModelFacts::default() }
    }
    fn tokenize(&self, text: &str) -> Result<Tokens, MethodError> {
        StillModel::default().tokenize(text)
    }
    fn decode(&self, ids: &[u32]) -> Result<String, MethodError> {
        StillModel::default().decode(ids)
    }
    fn weight(&self, weight: WeightRef) -> Result<Tensor, MethodError> {
        match weight {
            WeightRef::Unembedding => Tensor::f32([1, 2], vec![1.5, -0.0]),
            other => Err(MethodError::new("host-weight", "no").label("weight", other).help("ask for another")),
        }
    }
    fn run(&self, request: &RunRequest) -> Result<RunReply, MethodError> {
        let taps = request.adds.iter().chain(&request.overwrites).map(|poke| poke.values.clone()).collect();
        Ok(RunReply { taps, logits: Tensor::zeros([request.logits.len(), request.rows.len()]) })
    }
    fn gradient(&self, request: &GradientRequest) -> Result<GradientReply, MethodError> {
        let gradients = vec![request.adds.iter().map(|poke| poke.values.clone()).collect()];
        Ok(GradientReply { loss: request.terms.len() as f32, terms: vec![0.5; request.wrt.len()], gradients })
    }
    fn generate(&self, request: &GenerateRequest) -> Result<Vec<Vec<u32>>, MethodError> {
        Ok(request.rows.iter().rev().cloned().collect())
    }
    fn second_moment(&self, site: Site) -> Result<SecondMoment, MethodError> {
        assert_eq!(site, Site::LnFinal);
        Ok(SecondMoment { matrix: Tensor::zeros([2, 2]), tokens: 12 })
    }
    fn patches(&self) -> Result<Vec<OwnPatch>, MethodError> {
        Ok(vec![OwnPatch { id: "a".into(), requests: vec![], state: vec![1] }])
    }
    fn statistic(&self, name: &str) -> Result<Option<Tensor>, MethodError> {
        Ok((name == "cache").then(|| Tensor::zeros([2])))
    }
    fn module(&self, call: &ModuleCall) -> Result<ModuleReply, MethodError> {
        match call {
            ModuleCall::Find { .. } => Ok(ModuleReply::Module(None)),
            ModuleCall::Open { key, .. } => Ok(ModuleReply::Module(Some(ModuleId(key.clone())))),
            ModuleCall::Run { feeds, .. } => {
                let outputs = feeds.iter().map(|(_, tensor)| tensor.clone()).collect();
                Ok(ModuleReply::Values { outputs, gradients: vec![] })
            }
            ModuleCall::Set { weights, .. } => Ok(ModuleReply::Weights(weights.clone())),
            _ => Err(MethodError::unknown_call("module")),
        }
    }
    fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), MethodError> {
        if checkpoint.step == 3 { Ok(()) } else { Err(MethodError::new("host-disk-full", "no")) }
    }
    fn metric(&self, step: u64, name: &str, value: f64) {
        assert_eq!((step, name, value), (3, "loss", 0.1));
    }
    fn random(&self, stream: &str) -> u64 {
        u64::MAX - stream.len() as u64
    }
    fn cancelled(&self) -> bool {
        true
    }
    fn progress(&self, done: u64, total: u64, what: &str) {
        assert_eq!((done, total, what), (1, u64::MAX, "steps"));
    }
    fn log(&self, level: Level, message: &str) {
        assert_eq!((level, message), (Level::Debug, "said"));
    }
}

#[test]
fn every_call_of_the_host_crosses_unharmed() {
    let near: &dyn ModelAccess = &Echo;
    let far = ForeignHost::new(FfiHost::lend(&near));
    assert_eq!(far.facts(), near.facts());
    assert_eq!(far.tokenize("größe"), near.tokenize("größe"));
    assert_eq!(far.decode(&[104, 105]), Ok("hi".to_owned()));
    assert_eq!(far.decode(&[300]), near.decode(&[300]));
    for weight in [WeightRef::Unembedding, WeightRef::Embedding] {
        assert_eq!(far.weight(weight), near.weight(weight));
    }
    let values = Tensor::f32([1, 3], vec![0.25, f32::MIN_POSITIVE, -7.0]).expect("fits");
    let poke = Poke { site: Site::Embed, places: vec![Place { row: 0, pos: 1 }], values };
    let rows = vec![vec![1, 2], vec![3]];
    let run = RunRequest { rows: rows.clone(), adds: vec![poke.clone()], overwrites: vec![poke], ..Default::default() };
    assert_eq!(far.run(&run), near.run(&run));
    let gradient = GradientRequest { adds: run.adds.clone(), wrt: vec![Wrt::Add(0)], ..Default::default() };
    assert_eq!(far.gradient(&gradient), near.gradient(&gradient));
    let generate = GenerateRequest { rows, max_new: 1, ..GenerateRequest::default() };
    assert_eq!(far.generate(&generate), near.generate(&generate));
    assert_eq!(far.second_moment(Site::LnFinal), near.second_moment(Site::LnFinal));
    assert_eq!(far.patches(), near.patches());
    assert_eq!((far.statistic("cache"), far.statistic("none")), (near.statistic("cache"), Ok(None)));
    let module = Module::open(&far, "net", || Ok(ModuleSource { graph: ModuleGraph::Bytes(vec![1]), weights: vec![] }))
        .expect("opens");
    assert_eq!(module.id(), &ModuleId("net".into()));
    let x = || vec![("x".to_owned(), Tensor::zeros([2]))];
    assert_eq!(module.run(x(), &["y"]), Ok(vec![Tensor::zeros([2])]));
    assert_eq!(module.run(x(), &["y", "z"]).map_err(|e| e.code), Err("module-reply".to_owned()));
    assert_eq!(module.set(x()), Ok(()));
    assert_eq!(module.tokenize("a").map_err(|e| e.code), Err(MethodError::UNKNOWN_CALL.to_owned()));
    for step in [3, 4] {
        let checkpoint = Checkpoint { step, bytes: vec![1] };
        assert_eq!(far.checkpoint(&checkpoint), near.checkpoint(&checkpoint));
    }
    far.metric(3, "loss", 0.1);
    assert_eq!(far.random("prefixes"), near.random("prefixes"));
    assert!(far.cancelled());
    far.progress(1, u64::MAX, "steps");
    far.log(Level::Debug, "said");
    // The assertions of `Echo` are panics of the host.
    assert_eq!(far.second_moment(Site::Embed).map_err(|e| e.code), Err(HOST_PANICKED.to_owned()));
}

/// Does what its request's prompt says.
struct Rude(&'static AtomicUsize);

static DROPS: AtomicUsize = AtomicUsize::new(0);

impl Drop for Rude {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("while dropped");
    }
}

impl EditMethod for Rude {
    fn edit(&self, access: &dyn ModelAccess, requests: &[EditRequest]) -> Result<Vec<Change>, MethodError> {
        match requests[0].prompt.as_str() {
            "panic" => panic!("as asked"),
            "host" => access.log(Level::Info, "not what Echo expects"),
            "error" => return access.weight(WeightRef::Embedding).map(|_| vec![]),
            _ => {}
        }
        Ok(vec![])
    }
}

impl Plugin for Rude {
    fn describe() -> Descriptor {
        panic!("while describing")
    }
    fn create(params: &Params) -> Result<Box<dyn EditMethod>, MethodError> {
        if params.flag("fail")? { Err(MethodError::new("rude", "no")) } else { Ok(Box::new(Rude(&DROPS))) }
    }
}

#[test]
fn faults_come_back_as_errors() {
    let module = ForeignModule::of::<Rude>();
    assert_eq!(module.api_version(), super::API_VERSION);
    let error = module.describe().expect_err("panics");
    let [op, at] = &error.labels[..] else { panic!("{error}") };
    assert_eq!((error.code.as_str(), op), (PLUGIN_PANICKED, &("op".into(), "describe".into())));
    assert!(at.0 == "at" && at.1.contains("tests.rs:"), "{at:?}");
    let create = |fail| module.create(&Params([("fail".to_owned(), ParamValue::Flag(fail))].into()));
    assert_eq!(create(true).map(drop), Err(MethodError::new("rude", "no")));
    assert_eq!(module.create(&Params::default()).map(drop).map_err(|e| e.code), Err("param-missing".to_owned()));

    let method = create(false).expect("creates");
    let edit = |prompt: &str| {
        let target = Target { new: String::new(), old: None };
        method.edit(&Echo, &[EditRequest { id: String::new(), prompt: prompt.into(), subject: None, target }])
    };
    assert_eq!(edit(""), Ok(vec![]));
    let error = edit("panic").expect_err("panics");
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        (PLUGIN_PANICKED, "the plugin panicked in `edit`: as asked")
    );
    let error = edit("host").expect_err("the host panics");
    assert_eq!(error.code, HOST_PANICKED);
    assert!(error.message.contains("the host panicked in `log`"), "{}", error.message);
    assert_eq!(edit("error"), Echo.weight(WeightRef::Embedding).map(|_| vec![]));

    assert_eq!(method.close().map_err(|e| e.message), Err("the plugin panicked in `drop`: while dropped".into()));
    assert_eq!(DROPS.load(Ordering::SeqCst), 1);
    drop(create(false));
    assert_eq!(DROPS.load(Ordering::SeqCst), 2);
}

/// Learns nothing, and panics in every call that it need not have.
struct Late;

impl EditMethod for Late {
    fn edit(&self, _: &dyn ModelAccess, _: &[EditRequest]) -> Result<Vec<Change>, MethodError> {
        Ok(vec![Change::Route])
    }
    fn train(&self, access: &dyn ModelAccess, data: &TrainData) -> Result<Artefact, MethodError> {
        access.checkpoint(&Checkpoint { step: data.train.len() as u64, bytes: vec![] })?;
        panic!("in train")
    }
    fn route(&self, _: &dyn ModelAccess, query: &RouteQuery<'_>) -> Result<Route, MethodError> {
        if query.patches.is_empty() { panic!("in route") } else { Ok(Route::Prompt(query.tokens.clone())) }
    }
    fn intercept(&self, call: &InterceptCall<'_>) -> Result<Option<Tensor>, MethodError> {
        if call.patches.is_empty() {
            panic!("in intercept")
        }
        Ok(Some(Tensor::from_array(&call.activation.mapv(|v| v + 1.0))))
    }
}

impl Plugin for Late {
    fn describe() -> Descriptor {
        Descriptor {
            name: "late".into(),
            version: "1.0.0".into(),
            family: Family::ExternalExtension,
            summary: String::new(),
            paper: String::new(),
            capabilities: Capabilities::default(),
            params: vec![],
        }
    }
    fn calls() -> Calls {
        Calls { route: true, intercept: true, ..Calls::default() }
    }
    fn create(_: &Params) -> Result<Box<dyn EditMethod>, MethodError> {
        Ok(Box::new(Late))
    }
}

#[test]
fn the_other_calls_cross_and_their_faults_come_back() {
    let module = ForeignModule::of::<Late>();
    assert_eq!(module.calls(), Ok(Late::calls()));
    assert_eq!(module.describe(), Ok(Late::describe()));
    let artefact = Artefact { base: "b".into(), data: "d".into(), bytes: vec![] };
    let refused = module.create_trained(&Params::default(), &artefact).map(drop);
    assert_eq!(refused.map_err(|e| e.code), Err("artefact-unused".to_owned()));
    let method = module.create(&Params::default()).expect("creates");
    let code = |error: MethodError| (error.code, error.labels.into_iter().next());
    let panicked = |op: &str| Some((PLUGIN_PANICKED.to_owned(), Some(("op".to_owned(), op.to_owned()))));

    let example = TrainRecord {
        request: EditRequest {
            id: String::new(),
            prompt: String::new(),
            subject: None,
            target: Target { new: String::new(), old: None },
        },
        in_scope: vec![],
        out_of_scope: vec![],
    };
    let data = |n| TrainData { train: vec![example.clone(); n], ..TrainData::default() };
    assert_eq!(method.train(&Echo, &data(3)).err().map(code), panicked("train"));
    assert_eq!(method.train(&Echo, &data(4)).map_err(|e| e.code), Err("host-disk-full".to_owned()));

    let state = vec![1];
    let patches = vec![ActivePatch { id: "a", state: &state }];
    let query = |patches| RouteQuery { tokens: vec![7], patches };
    assert_eq!(method.route(&Echo, &query(patches.clone())), Ok(Route::Prompt(vec![7])));
    assert_eq!(method.route(&Echo, &query(vec![])).err().map(code), panicked("route"));

    let (activation, positions) = (Tensor::zeros([1, 2, 2]), ndarray::array![[0i64, 1]]);
    let call = |patches| InterceptCall {
        site: Site::Embed,
        activation: activation.view().expect("floats"),
        positions: positions.view(),
        rows: vec![InterceptRow { prompt_end: 1, patches: vec![] }],
        patches,
    };
    assert_eq!(method.intercept(&call(patches)), Tensor::f32([1, 2, 2], vec![1.0; 4]).map(Some));
    assert_eq!(method.intercept(&call(vec![])).err().map(code), panicked("intercept"));
}

/// Implements nothing but `edit`.
struct Plain;

impl EditMethod for Plain {
    fn edit(&self, _: &dyn ModelAccess, _: &[EditRequest]) -> Result<Vec<Change>, MethodError> {
        Ok(vec![])
    }
}

impl Plugin for Plain {
    fn describe() -> Descriptor {
        Late::describe()
    }
    fn create(_: &Params) -> Result<Box<dyn EditMethod>, MethodError> {
        Ok(Box::new(Plain))
    }
}

#[test]
fn what_is_not_there_has_its_default_or_a_code() {
    let module = ForeignModule::of::<Plain>();
    assert_eq!(module.calls(), Ok(Calls::default()));
    let method = module.create(&Params::default()).expect("creates");
    let query = RouteQuery { tokens: vec![7], patches: vec![] };
    assert_eq!(method.route(&Echo, &query), Ok(Route::Base));
    assert_eq!(method.train(&Echo, &TrainData::default()).map_err(|e| e.code), Err("train-none".to_owned()));
    let nobody = ForeignHost::new(FfiHost::absent());
    assert_eq!(nobody.run(&RunRequest::default()).map_err(|e| e.code), Err(MethodError::UNKNOWN_CALL.to_owned()));
    nobody.metric(1, "loss", 0.0);
}
