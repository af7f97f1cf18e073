//! The host as it is lent to a plugin for one call: [`FfiHost`] is made by the host, `ForeignHost` is what the
//! plugin sees of it.

use std::marker::PhantomData;
use std::panic::resume_unwind;
use std::sync::OnceLock;

use abi_stable::StableAbi;
use abi_stable::std_types::RStr;

use super::guard::{Side, guarded, opened};
use super::record::FfiRecord;
use super::records::{FromRecord, IntoRecord, ToRecord};
use super::{FfiReply, UNKNOWN_OP};
use crate::access::{
    GenerateRequest, GradientReply, GradientRequest, Level, ModelAccess, ModelFacts, ModuleCall, ModuleReply, OwnPatch,
    RunReply, RunRequest, SecondMoment, Tokens,
};
use crate::error::MethodError;
use crate::method::Checkpoint;
use crate::site::Site;
use crate::tensor::Tensor;
use crate::weight::WeightRef;

/// A host, lent for `'a`. Its calls may be made from any thread.
#[repr(C)]
#[derive(StableAbi)]
pub struct FfiHost<'a> {
    /// A `&'a &'a dyn ModelAccess`, which only the lender's `call` looks at; null where no host is lent.
    access: *const (),
    call: unsafe extern "C" fn(&FfiHost<'_>, RStr<'_>, FfiRecord<'_>) -> FfiReply,
    lifetime: PhantomData<&'a ()>,
}

// SAFETY: `access` is a shared reference to a `ModelAccess`, which is `Sync`, and is used for nothing but shared calls.
unsafe impl Send for FfiHost<'_> {}
// SAFETY: as above.
unsafe impl Sync for FfiHost<'_> {}

impl<'a> FfiHost<'a> {
    /// Lends a host.
    pub fn lend(access: &'a &'a dyn ModelAccess) -> Self {
        Self { access: std::ptr::from_ref(access).cast(), call: lent_call, lifetime: PhantomData }
    }

    /// A host that refuses every call, for calls in the middle of a pass.
    pub fn absent() -> Self {
        Self { access: std::ptr::null(), call: absent_call, lifetime: PhantomData }
    }
}

unsafe extern "C" fn absent_call(_: &FfiHost<'_>, op: RStr<'_>, _: FfiRecord<'_>) -> FfiReply {
    guarded(Side::Host, op.as_str(), move || {
        let text = format!("the host cannot be called here, in the middle of a pass: `{op}`");
        Err(MethodError::new(UNKNOWN_OP, text))
    })
}

/// # Safety
/// `host` comes from [`FfiHost::lend`] of this library and is still lent.
unsafe extern "C" fn lent_call(host: &FfiHost<'_>, op: RStr<'_>, request: FfiRecord<'_>) -> FfiReply {
    guarded(Side::Host, op.as_str(), move || {
        // SAFETY: `lend` put a reference of this very type there, and the caller promises that its lifetime lasts.
        let access = unsafe { *host.access.cast::<&dyn ModelAccess>() };
        serve(access, op.as_str(), request)
    })
}

fn serve(access: &dyn ModelAccess, op: &str, request: FfiRecord<'_>) -> Result<FfiRecord<'static>, MethodError> {
    Ok(match op {
        "facts" => access.facts().into_record(),
        "tokenize" => access.tokenize(request.text("text")?)?.into_record(),
        "decode" => FfiRecord::new("text").with_text("text", &access.decode(&Vec::from_record(request)?)?),
        "weight" => access.weight(request.parsed("weight")?)?.into_record(),
        "run" => access.run(&RunRequest::from_record(request)?)?.into_record(),
        "gradient" => access.gradient(&GradientRequest::from_record(request)?)?.into_record(),
        "generate" => access.generate(&GenerateRequest::from_record(request)?)?.into_record(),
        "second_moment" => access.second_moment(request.parsed("site")?)?.into_record(),
        "patches" => access.patches()?.into_record(),
        "statistic" => access.statistic(request.text("name")?)?.into_record(),
        "module" => access.module(&ModuleCall::from_record(request)?)?.into_record(),
        "checkpoint" => {
            access.checkpoint(&Checkpoint::from_record(request)?)?;
            FfiRecord::new("kept")
        }
        "metric" => {
            access.metric(request.bits("step")?, request.text("name")?, request.number("value")?);
            FfiRecord::new("noted")
        }
        "random" => FfiRecord::new("seed").with_bits("seed", access.random(request.text("stream")?)),
        "cancelled" => FfiRecord::new("cancelled").with_flag("cancelled", access.cancelled()),
        "progress" => {
            access.progress(request.bits("done")?, request.bits("total")?, request.text("what")?);
            FfiRecord::new("noted")
        }
        "log" => {
            let message = request.text("message")?.to_owned();
            access.log(Level::from_record(request)?, &message);
            FfiRecord::new("noted")
        }
        _ => return Err(MethodError::unknown_call(op)),
    })
}

/// A lent host as the plugin sees it. Its facts are asked for once.
///
/// Calls that cannot fail by their type (`facts`, `random`, ...) unwind with the host's error if the host panics in
/// them; the guard at the plugin's entry hands that error back to the host.
pub(super) struct ForeignHost<'a> {
    host: FfiHost<'a>,
    facts: OnceLock<ModelFacts>,
}

impl<'a> ForeignHost<'a> {
    pub(super) fn new(host: FfiHost<'a>) -> Self {
        Self { host, facts: OnceLock::new() }
    }

    fn call(&self, op: &str, request: FfiRecord<'_>) -> Result<FfiRecord<'static>, MethodError> {
        // SAFETY: whoever made the struct put its own function there, and `'a` says that the host is still lent.
        opened(unsafe { (self.host.call)(&self.host, op.into(), request) })
    }

    fn ask<T: FromRecord>(&self, op: &str, request: FfiRecord<'_>) -> Result<T, MethodError> {
        T::from_record(self.call(op, request)?)
    }
}

fn sure<T>(outcome: Result<T, MethodError>) -> T {
    outcome.unwrap_or_else(|error| resume_unwind(Box::new(error)))
}

impl ModelAccess for ForeignHost<'_> {
    fn facts(&self) -> ModelFacts {
        self.facts.get_or_init(|| sure(self.ask("facts", FfiRecord::new("facts")))).clone()
    }

    fn tokenize(&self, text: &str) -> Result<Tokens, MethodError> {
        self.ask("tokenize", FfiRecord::new("tokenize").with_text("text", text))
    }

    fn decode(&self, ids: &[u32]) -> Result<String, MethodError> {
        self.call("decode", ids.to_record())?.text("text").map(str::to_owned)
    }

    fn weight(&self, weight: WeightRef) -> Result<Tensor, MethodError> {
        self.ask("weight", FfiRecord::new("weight").with_text("weight", &weight.to_string()))
    }

    fn run(&self, request: &RunRequest) -> Result<RunReply, MethodError> {
        self.ask("run", request.to_record())
    }

    fn gradient(&self, request: &GradientRequest) -> Result<GradientReply, MethodError> {
        self.ask("gradient", request.to_record())
    }

    fn generate(&self, request: &GenerateRequest) -> Result<Vec<Vec<u32>>, MethodError> {
        self.ask("generate", request.to_record())
    }

    fn second_moment(&self, site: Site) -> Result<SecondMoment, MethodError> {
        self.ask("second_moment", FfiRecord::new("second_moment").with_text("site", &site.to_string()))
    }

    fn patches(&self) -> Result<Vec<OwnPatch>, MethodError> {
        self.ask("patches", FfiRecord::new("patches"))
    }

    fn statistic(&self, name: &str) -> Result<Option<Tensor>, MethodError> {
        self.ask("statistic", FfiRecord::new("statistic").with_text("name", name))
    }

    fn module(&self, call: &ModuleCall) -> Result<ModuleReply, MethodError> {
        self.ask("module", call.to_record())
    }

    fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), MethodError> {
        self.call("checkpoint", checkpoint.to_record()).map(drop)
    }

    fn metric(&self, step: u64, name: &str, value: f64) {
        let request =
            FfiRecord::new("metric").with_bits("step", step).with_text("name", name).with_number("value", value);
        match self.call("metric", request) {
            Err(error) if error.code == UNKNOWN_OP => {}
            outcome => drop(sure(outcome)),
        }
    }

    fn random(&self, stream: &str) -> u64 {
        let request = FfiRecord::new("random").with_text("stream", stream);
        sure(self.call("random", request).and_then(|reply| reply.bits("seed")))
    }

    fn cancelled(&self) -> bool {
        sure(self.call("cancelled", FfiRecord::new("cancelled")).and_then(|reply| reply.flag("cancelled")))
    }

    fn progress(&self, done: u64, total: u64, what: &str) {
        let request =
            FfiRecord::new("progress").with_bits("done", done).with_bits("total", total).with_text("what", what);
        sure(self.call("progress", request));
    }

    fn log(&self, level: Level, message: &str) {
        sure(self.call("log", level.to_record().with_text("message", message)));
    }
}

/// For the goldens: every call that is asked of a host, with its request and its answer as they cross.
#[cfg(test)]
pub(super) mod recorded {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        static CROSSED: RefCell<Vec<(String, FfiRecord<'static>, FfiRecord<'static>)>> = const { RefCell::new(vec![]) };
    }

    /// # Safety
    /// As [`lent_call`].
    unsafe extern "C" fn noted_call(host: &FfiHost<'_>, op: RStr<'_>, request: FfiRecord<'_>) -> FfiReply {
        guarded(Side::Host, op.as_str(), move || {
            // SAFETY: as in `lent_call`.
            let access = unsafe { *host.access.cast::<&dyn ModelAccess>() };
            let request = request.into_owned();
            let (asked, noted) = (request.clone(), serve(access, op.as_str(), request)?);
            CROSSED.with_borrow_mut(|all| all.push((op.to_string(), asked, noted.clone())));
            Ok(noted)
        })
    }

    pub(in crate::abi) fn crossings(
        access: &dyn ModelAccess,
        ask: impl FnOnce(&dyn ModelAccess),
    ) -> Vec<(String, FfiRecord<'static>, FfiRecord<'static>)> {
        let host = FfiHost { access: std::ptr::from_ref(&access).cast(), call: noted_call, lifetime: PhantomData };
        ask(&ForeignHost::new(host));
        CROSSED.take()
    }
}
