//! The operator by which code is called in the middle of a run: `engraft.Intercept(activation, positions, run)`.
//!
//! A session is shared by requests and outlives them, so what is called comes with the run: its number is an input of
//! the graph, and a table of the process says what is called for it. A failure is parked there until the run has ended,
//! since the runtime passes on no more than that an operator failed. The operator runs on the CPU; in a program for
//! another device the runtime copies the activation there and back.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use engraft_plugin_api::Tensor;
use ndarray::{ArrayView2, ArrayViewD, IxDyn};
use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput};
use ort::value::TensorElementType;

use super::codes;
use crate::base::{Error, Result};

/// The operator's domain.
pub const DOMAIN: &str = "engraft";

/// The operator. Its inputs are an activation f32 `[rows, columns, ...]`, positions i64 `[rows, columns]` and
/// [`RUN_INPUT`]; its output is what the activation becomes, whose shape the graph states: an operator of ours cannot
/// tell the runtime of extents that have a name.
pub const INTERCEPT: &str = "Intercept";

/// The operator's attribute that names the place in the graph.
pub const PLACE: &str = "place";

/// The input of a graph with this operator, i64 without an axis, that a [`Program`](super::Program) feeds by itself.
pub const RUN_INPUT: &str = "engraft.run";

/// What is called in the middle of a run. Several runs may call it at once.
pub trait Called: Send + Sync {
    /// Sees an activation `[rows, columns, ...]` and its positions `[rows, columns]` at a place of the graph, and
    /// gives what it becomes, in its shape; none to leave it. It must not run a program that it is called from.
    ///
    /// # Errors
    /// Whatever went wrong; the run ends with this error.
    fn call(
        &self,
        place: &str,
        activation: ArrayViewD<'_, f32>,
        positions: ArrayView2<'_, i64>,
    ) -> Result<Option<Tensor>>;
}

/// What one run calls, and how that failed.
struct Run {
    called: Arc<dyn Called>,
    failed: Mutex<Option<Error>>,
}

static RUNS: LazyLock<Mutex<HashMap<i64, Arc<Run>>>> = LazyLock::new(Mutex::default);

static NUMBERS: AtomicI64 = AtomicI64::new(0);

fn runs() -> MutexGuard<'static, HashMap<i64, Arc<Run>>> {
    RUNS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A run that is under way; dropped, it is no longer found.
pub(super) struct Underway {
    number: i64,
    run: Arc<Run>,
}

impl Underway {
    pub(super) fn new(called: Arc<dyn Called>) -> Self {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let run = Arc::new(Run { called, failed: Mutex::new(None) });
        runs().insert(number, run.clone());
        Self { number, run }
    }

    pub(super) fn number(&self) -> i64 {
        self.number
    }

    /// How a call failed, if one did.
    pub(super) fn failure(&self) -> Option<Error> {
        self.run.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        runs().remove(&self.number);
    }
}

/// The domain for the options of a session.
pub(super) fn domain() -> ort::Result<OperatorDomain> {
    OperatorDomain::new(DOMAIN)?.add(Intercept)
}

struct Intercept;

impl Operator for Intercept {
    type Kernel<'attr> = At;

    fn name(&self) -> &str {
        INTERCEPT
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [TensorElementType::Float32, TensorElementType::Int64, TensorElementType::Int64].map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<At> {
        let place = context.get::<String>(PLACE);
        Ok(At { place: place.ok_or_else(|| ort::Error::new("an interception without a place"))? })
    }
}

/// The operator at a place.
struct At {
    place: String,
}

impl Kernel for At {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let input = |i: usize| context.input(i)?.ok_or_else(|| ort::Error::new("an input is missing"));
        let (activation, positions, number) = (input(0)?, input(1)?, input(2)?);
        let (extents, values) = activation.try_extract_tensor::<f32>()?;
        let (columns, positions) = positions.try_extract_tensor::<i64>()?;
        let number = number.try_extract_tensor::<i64>()?.1.first().copied();
        let run = number.and_then(|number| runs().get(&number).cloned());
        let run = run.ok_or_else(|| ort::Error::new("the run is not under way"))?;
        let parked = |error: Error| {
            run.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            ort::Error::new("what was called failed")
        };
        let extent = |extents: &[i64]| extents.iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect::<Vec<_>>();
        let (shape, columns) = (extent(extents), extent(columns));
        let shapes = || {
            let text = format!("`{}` is {shape:?}, with positions of {columns:?}", self.place);
            parked(Error::new(&codes::CALLED_SHAPE, text))
        };
        let Ok(view) = ArrayViewD::from_shape(IxDyn(&shape), values) else { return Err(shapes()) };
        let [rows, width] = columns[..] else { return Err(shapes()) };
        let fits = shape.len() >= 2 && shape[..2] == columns[..];
        let Some(positions) = ArrayView2::from_shape((rows, width), positions).ok().filter(|_| fits) else {
            return Err(shapes());
        };
        // A panic must not unwind into the runtime. What it may have left half changed belongs to what was called.
        let called = catch_unwind(AssertUnwindSafe(|| run.called.call(&self.place, view, positions)));
        let found = called.unwrap_or_else(|payload| {
            let text = format!("what was called at `{}` panicked: {}", self.place, words(&*payload));
            Err(Error::new(&codes::CALLED_PANICKED, text))
        });
        let new = match found.map_err(parked)? {
            Some(new) if new.shape() != shape => {
                let text = format!("what `{}` became is {:?}, expected {shape:?}", self.place, new.shape());
                return Err(parked(Error::new(&codes::CALLED_SHAPE, text)));
            }
            new => new,
        };
        let new = new.as_ref().map(|new| new.as_f32()).transpose().map_err(|e| parked(e.into()))?;
        let mut output = context.output(0, extents.to_vec())?.ok_or_else(|| ort::Error::new("there is no output"))?;
        output.try_extract_tensor_mut::<f32>()?.1.copy_from_slice(new.unwrap_or(values));
        Ok(())
    }
}

/// What a panic said.
fn words(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("it did not say why")
}
