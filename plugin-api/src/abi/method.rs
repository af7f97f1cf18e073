//! A method across the border: [`FfiMethod`] is made by the plugin, [`ForeignMethod`] is what the host sees of it.

use std::ptr;

use abi_stable::StableAbi;
use abi_stable::std_types::RStr;

use super::guard::{Side, guarded, opened};
use super::host::{FfiHost, ForeignHost};
use super::record::FfiRecord;
use super::records::{BorrowRecord, FromRecord, IntoRecord, ToRecord};
use super::{FfiReply, UNKNOWN_OP};
use crate::access::ModelAccess;
use crate::change::Change;
use crate::error::MethodError;
use crate::method::{Artefact, EditMethod, InterceptCall, Route, RouteQuery, TrainData};
use crate::request::EditRequest;
use crate::tensor::Tensor;

/// How a method is called: the method, the name of the call, the host for its duration, and the request.
pub type MethodCall = unsafe extern "C" fn(&FfiMethod, RStr<'_>, FfiHost<'_>, FfiRecord<'_>) -> FfiReply;

/// How a method is released, at most once; it answers whether dropping it went well.
pub type MethodRelease = unsafe extern "C" fn(&mut FfiMethod) -> FfiReply;

/// A method that a plugin made.
#[repr(C)]
#[derive(StableAbi)]
pub struct FfiMethod {
    /// Whatever its maker keeps there; nobody else looks at it. Null once it is released.
    method: *mut (),
    call: unsafe extern "C" fn(&FfiMethod, RStr<'_>, FfiHost<'_>, FfiRecord<'_>) -> FfiReply,
    release: unsafe extern "C" fn(&mut FfiMethod) -> FfiReply,
}

// SAFETY: by the contract of `from_raw` the functions may be called from any thread, `call` concurrently.
unsafe impl Send for FfiMethod {}
// SAFETY: as above.
unsafe impl Sync for FfiMethod {}

impl FfiMethod {
    /// Hands a method out.
    pub(super) fn give(method: Box<dyn EditMethod>) -> Self {
        Self { method: Box::into_raw(Box::new(method)).cast(), call: given_call, release: given_release }
    }

    /// A method from its parts, for plugins that are not written against [`EditMethod`].
    ///
    /// # Safety
    /// `method` is what `call` and `release` of the same maker expect, not null, and lives until `release`. Both
    /// functions may be called from any thread, `call` concurrently; neither unwinds or keeps what it borrows.
    pub unsafe fn from_raw(method: *mut (), call: MethodCall, release: MethodRelease) -> Self {
        Self { method, call, release }
    }

    /// Releases the method's data, once.
    fn close(&mut self) -> Result<(), MethodError> {
        if self.method.is_null() {
            return Ok(());
        }
        // SAFETY: the data is not released yet, and `&mut self` excludes calls on the way.
        let answer = unsafe { (self.release)(self) };
        self.method = ptr::null_mut();
        opened(answer).map(drop)
    }
}

impl Drop for FfiMethod {
    fn drop(&mut self) {
        // Dropping cannot report; whoever wants to know calls `ForeignMethod::close`.
        let _ = self.close();
    }
}

/// # Safety
/// `method` comes from [`FfiMethod::give`] of this library and is not released.
unsafe extern "C" fn given_call(
    method: &FfiMethod,
    op: RStr<'_>,
    host: FfiHost<'_>,
    request: FfiRecord<'_>,
) -> FfiReply {
    guarded(Side::Plugin, op.as_str(), move || {
        // SAFETY: `give` put a box of this very type there, and the caller promises that it is still alive.
        let method = unsafe { &*method.method.cast::<Box<dyn EditMethod>>() };
        let access = ForeignHost::new(host);
        match op.as_str() {
            "edit" => Ok(method.edit(&access, &Vec::from_record(request)?)?.into_record()),
            "train" => {
                let artefact = method.train(&access, &TrainData::from_record(request)?)?;
                Ok(artefact.to_record().into_owned())
            }
            "route" => Ok(method.route(&access, &RouteQuery::borrow_record(&request)?)?.into_record()),
            "intercept" => Ok(method.intercept(&InterceptCall::borrow_record(&request)?)?.into_record()),
            op => Err(MethodError::new(UNKNOWN_OP, format!("this plugin does not know the call `{op}`"))),
        }
    })
}

/// # Safety
/// `method` comes from [`FfiMethod::give`] of this library.
unsafe extern "C" fn given_release(method: &mut FfiMethod) -> FfiReply {
    let data = std::mem::replace(&mut method.method, ptr::null_mut());
    guarded(Side::Plugin, "drop", move || {
        if !data.is_null() {
            // SAFETY: `give` made it of a box of this very type, and the pointer to it is gone from the struct.
            drop(unsafe { Box::from_raw(data.cast::<Box<dyn EditMethod>>()) });
        }
        Ok(FfiRecord::new("released"))
    })
}

/// A plugin's method as the host sees it.
pub struct ForeignMethod(FfiMethod);

impl ForeignMethod {
    pub(super) fn new(method: FfiMethod) -> Self {
        Self(method)
    }

    /// Drops the method and tells how that went.
    ///
    /// # Errors
    /// `plugin-panicked` if the method panicked while it was dropped.
    pub fn close(mut self) -> Result<(), MethodError> {
        self.0.close()
    }
}

impl ForeignMethod {
    fn call(&self, op: &str, host: FfiHost<'_>, request: FfiRecord<'_>) -> Result<FfiRecord<'static>, MethodError> {
        // SAFETY: the method is not released, since only `close` and dropping do that, and both take `self`.
        opened(unsafe { (self.0.call)(&self.0, op.into(), host, request) })
    }
}

/// Every call: as the plugin's own.
///
/// # Errors
/// Also `plugin-panicked`, `abi-record` if the answer cannot be read, `abi-op` if the plugin does not know the call.
impl EditMethod for ForeignMethod {
    fn edit(&self, access: &dyn ModelAccess, requests: &[EditRequest]) -> Result<Vec<Change>, MethodError> {
        Vec::from_record(self.call("edit", FfiHost::lend(&access), requests.to_record())?)
    }

    fn train(&self, access: &dyn ModelAccess, data: &TrainData) -> Result<Artefact, MethodError> {
        Artefact::from_record(self.call("train", FfiHost::lend(&access), data.to_record())?)
    }

    fn route(&self, access: &dyn ModelAccess, query: &RouteQuery<'_>) -> Result<Route, MethodError> {
        Route::from_record(self.call("route", FfiHost::lend(&access), query.to_record())?)
    }

    fn intercept(&self, call: &InterceptCall<'_>) -> Result<Option<Tensor>, MethodError> {
        Option::from_record(self.call("intercept", FfiHost::absent(), call.to_record())?)
    }
}
