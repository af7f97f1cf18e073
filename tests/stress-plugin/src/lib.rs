//! A plugin that misbehaves on purpose: its parameter `fault` chooses how.

mod calls;

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use engraft_plugin_api::{
    Artefact, BlockSite, Calls, Capabilities, Change, Delta, Descriptor, EditMethod, EditRequest, Family, Fold,
    Increment, InterceptCall, MethodError, ModelAccess, ParamKind, ParamSpec, ParamValue, Params, Place, Plugin, Poke,
    Role, Route, RouteQuery, RunRequest, Site, Tensor, TrainData, WeightRef, export_method,
};

/// What can go wrong inside a method that was built as it should be.
const FAULTS: [&str; 41] = [
    "none",
    "panic-create",
    "panic-edit",
    "panic-payload",
    "panic-drop",
    "error-create",
    "error-edit",
    "nan",
    "wrong-shape",
    "unknown-weight",
    "hang",
    "wait",
    "deaf-edit",
    "hang-cancelled",
    "unsteady-edit",
    "empty-edit",
    "wrong-request",
    "remembering-edit",
    "unfit-edit",
    "crash-edit",
    "abort-edit",
    "exit-edit",
    "noisy-edit",
    "panic-train",
    "error-train",
    "unbound-artefact",
    "unsteady-train",
    "forgetful-train",
    "deaf-train",
    "panic-route",
    "block-route",
    "error-route",
    "wrong-route",
    "outside-route",
    "unsteady-route",
    "panic-intercept",
    "error-intercept",
    "nan-intercept",
    "wrong-intercept",
    "trespassing-intercept",
    "block-intercept",
];

/// The weight that the method changes.
const WEIGHT: WeightRef = WeightRef::Block(0, Role::MlpOut);

struct Stress {
    fault: String,
    milliseconds: u64,
    extends: bool,
    /// How many edits it was asked for, which only `remembering-edit` looks at.
    edits: AtomicU64,
}

impl EditMethod for Stress {
    fn edit(&self, access: &dyn ModelAccess, requests: &[EditRequest]) -> Result<Vec<Change>, MethodError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        match self.fault.as_str() {
            "deaf-edit" | "hang" => {}
            "hang-cancelled" if access.cancelled() => sleep(Duration::from_millis(self.milliseconds)),
            _ if access.cancelled() => return Err(MethodError::cancelled()),
            _ => {}
        }
        match self.fault.as_str() {
            "panic-edit" => panic!("stress was told to panic"),
            "panic-payload" => std::panic::panic_any(17),
            "error-edit" => {
                return Err(MethodError::new("stress-error", "stress was told to fail")
                    .label("request", &requests[0].id)
                    .help("choose another fault")
                    .cause(&MethodError::new("stress-cause", "it is in its nature")));
            }
            // Deaf to cancellation, as a blocked native call is; it ends at last so that a test can.
            "hang" => sleep(Duration::from_millis(self.milliseconds)),
            "empty-edit" => return Ok(Vec::new()),
            // One number for what is as wide as the model.
            "wrong-request" => {
                let places = vec![Place { row: 0, pos: 0 }];
                let adds = vec![Poke { site: Site::Embed, places: places.clone(), values: Tensor::zeros([1, 1]) }];
                access.run(&RunRequest { rows: vec![vec![1]], adds, logits: places, ..RunRequest::default() })?;
            }
            "wait" => {
                while !access.cancelled() {
                    sleep(Duration::from_millis(1));
                }
                return Err(MethodError::cancelled());
            }
            // Nobody can catch these.
            "crash-edit" => {
                // SAFETY: none is claimed: nobody owns address 16, and the system ends the process for the attempt.
                unsafe { std::ptr::write_volatile(std::ptr::without_provenance_mut::<u8>(16), 1) }
            }
            "abort-edit" => std::process::abort(),
            "exit-edit" => std::process::exit(0),
            // Without a line's end, so that whatever is written next goes on in the same line.
            "noisy-edit" => {
                let mut out = std::io::stdout().lock();
                let printed = write!(out, "stress was here").and_then(|()| out.flush());
                printed.map_err(|e| MethodError::new("stress-print", e.to_string()))?;
            }
            _ => {}
        }
        if self.extends {
            let sites = vec![Site::Block(0, BlockSite::ResidPost)];
            let mut state = requests[0].subject.clone().unwrap_or_default().into_bytes();
            if self.fault == "remembering-edit" {
                state.push(self.edits.fetch_add(1, Ordering::SeqCst) as u8);
            }
            if self.fault == "unfit-edit" {
                // Each part is longer than the one before.
                let value = Tensor::zeros([1 + access.statistic("edits")?.map_or(0, |fold| fold.len())]);
                let part = Increment { name: "edits".into(), fold: Fold::Sum, value };
                return Ok(vec![Change::State(state), Change::Statistic(part)]);
            }
            return Ok(vec![Change::State(state), Change::Route, Change::Intercept { sites, whole_rows: false }]);
        }
        let tensor = access.weight(WEIGHT)?;
        let (mut shape, weight) = match self.fault.as_str() {
            "unknown-weight" => (tensor.shape().to_vec(), WeightRef::Block(usize::MAX, Role::MlpOut)),
            _ => (tensor.shape().to_vec(), WEIGHT),
        };
        if self.fault == "wrong-shape" {
            shape.reverse();
            shape.push(1);
        }
        let mut delta = vec![0.5; tensor.len()];
        if self.fault == "unsteady-edit" {
            delta[0] += calls::another() as f32;
        }
        if self.fault == "nan" {
            delta[1] = f32::NAN;
        }
        Ok(vec![Change::Weight { weight, delta: Delta::Dense(Tensor::f32(shape, delta)?) }])
    }

    fn train(&self, access: &dyn ModelAccess, data: &TrainData) -> Result<Artefact, MethodError> {
        calls::train(&self.fault, access, data)
    }

    fn route(&self, access: &dyn ModelAccess, query: &RouteQuery<'_>) -> Result<Route, MethodError> {
        calls::route(&self.fault, self.milliseconds, access, query)
    }

    fn intercept(&self, call: &InterceptCall<'_>) -> Result<Option<Tensor>, MethodError> {
        calls::intercept(&self.fault, self.milliseconds, call)
    }
}

impl Drop for Stress {
    fn drop(&mut self) {
        assert!(self.fault != "panic-drop", "stress was told to panic while it is dropped");
    }
}

impl Plugin for Stress {
    fn describe() -> Descriptor {
        Descriptor {
            name: "stress".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            family: Family::InternalModification,
            summary: "Misbehaves as it is told.".into(),
            paper: "none".into(),
            capabilities: Capabilities { batch: true, sequential: true, needs_subject: false },
            params: vec![
                ParamSpec::new(
                    "fault",
                    ParamKind::Choice(FAULTS.map(str::to_owned).to_vec()),
                    ParamValue::Text("none".into()),
                    "what goes wrong",
                ),
                ParamSpec::new(
                    "milliseconds",
                    ParamKind::Integer { min: 0, max: 600_000 },
                    ParamValue::Integer(60_000),
                    "how long `hang`, `hang-cancelled`, `block-route` and `block-intercept` are deaf",
                ),
                ParamSpec::new(
                    "extends",
                    ParamKind::Flag,
                    ParamValue::Flag(false),
                    "whether edits ask for routing and interception in place of a delta",
                ),
            ],
        }
    }

    fn create(params: &Params) -> Result<Box<dyn EditMethod>, MethodError> {
        let fault = params.text("fault")?.to_owned();
        match fault.as_str() {
            "panic-create" => panic!("stress was told to panic"),
            "error-create" => return Err(MethodError::new("stress-error", "stress was told to fail")),
            _ => {}
        }
        let milliseconds = params.index("milliseconds")? as u64;
        Ok(Box::new(Stress { fault, milliseconds, extends: params.flag("extends")?, edits: AtomicU64::new(0) }))
    }

    fn calls() -> Calls {
        Calls { train: true, needs_artefact: false, route: true, intercept: true }
    }

    fn create_trained(params: &Params, artefact: &Artefact) -> Result<Box<dyn EditMethod>, MethodError> {
        match artefact.bytes.len() {
            calls::LEARNT => Self::create(params),
            other => Err(MethodError::new("stress-artefact", format!("an artefact of {other} bytes, expected 8"))),
        }
    }
}

export_method!(Stress);
