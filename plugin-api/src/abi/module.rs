//! What a plugin library exports: one root module, behind the header that `abi_stable` checks before anything of the
//! library is called.

use std::fmt;

use abi_stable::StableAbi;
use abi_stable::library::{CheckTypeLayout, ROOT_MODULE_LOADER_NAME, RootModule, RootModuleResult};
use abi_stable::marker_type::ErasedPrefix;
use abi_stable::prefix_type::WithMetadata;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::RResult;

use super::FfiReply;
use super::guard::{Side, guarded, opened};
use super::method::{FfiMethod, ForeignMethod};
use super::record::FfiRecord;
use super::records::{FromRecord, ToRecord};
use crate::descriptor::{Calls, Descriptor};
use crate::error::MethodError;
use crate::method::{Artefact, Plugin};
use crate::params::Params;

pub use abi_stable::library::LibHeader;

/// The symbol under which a library exports its header.
pub const ROOT_SYMBOL: &str = ROOT_MODULE_LOADER_NAME;

/// A version of this crate, the plugin API.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiVersion {
    /// Another number: another contract.
    pub major: u32,
    /// Additions in data. (Before version 1, another number was another contract too.)
    pub minor: u32,
    /// Corrections.
    pub patch: u32,
}

/// The version of the plugin API that this library was built with.
pub const API_VERSION: ApiVersion = ApiVersion {
    major: digits(env!("CARGO_PKG_VERSION_MAJOR")),
    minor: digits(env!("CARGO_PKG_VERSION_MINOR")),
    patch: digits(env!("CARGO_PKG_VERSION_PATCH")),
};

const fn digits(text: &str) -> u32 {
    match u32::from_str_radix(text, 10) {
        Ok(number) => number,
        Err(_) => panic!("a version is made of numbers"),
    }
}

impl ApiVersion {
    /// True if a plugin built with `self` can work in a host built with `host`: the same major version, and while
    /// that is 0, the same minor one.
    pub fn fits(self, host: Self) -> bool {
        self.major == host.major && (self.major != 0 || self.minor == host.minor)
    }

    /// Reads `major.minor.patch`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        let version = Self { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? };
        parts.next().is_none().then_some(version)
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The root module of a plugin library.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = MethodModuleRef, prefix_fields = MethodModuleFields)))]
#[sabi(missing_field(option))]
pub struct MethodModule {
    /// The version of the plugin API, read before anything is called.
    pub api_version: ApiVersion,
    /// Describes the method: a descriptor, with the calls that it implements in it.
    pub describe: extern "C" fn() -> FfiReply,
    /// Creates the method from checked parameters, and from the artefact that may be among them.
    #[sabi(last_prefix_field)]
    pub create: extern "C" fn(FfiRecord<'_>) -> RResult<FfiMethod, FfiRecord<'static>>,
}

impl RootModule for MethodModuleRef {
    abi_stable::declare_root_module_statics! {MethodModuleRef}
    const BASE_NAME: &'static str = "engraft_method";
    const NAME: &'static str = "engraft-plugin-api";
    const VERSION_STRINGS: VersionStrings = abi_stable::package_version_strings!();
}

/// The module of one plugin.
struct Exported<P>(P);

impl<P: Plugin> Exported<P> {
    const MODULE: &'static WithMetadata<MethodModule> =
        &WithMetadata::new(MethodModule { api_version: API_VERSION, describe: Self::describe, create: Self::create });

    const REF: MethodModuleRef = MethodModuleRef(Self::MODULE.static_as_prefix());

    extern "C" fn describe() -> FfiReply {
        guarded(Side::Plugin, "describe", || {
            let descriptor = P::describe();
            Ok(descriptor.to_record().with_child(P::calls().to_record()).into_owned())
        })
    }

    extern "C" fn create(mut params: FfiRecord<'_>) -> RResult<FfiMethod, FfiRecord<'static>> {
        guarded(Side::Plugin, "create", move || {
            params.expect_kind("create")?;
            let artefact = params.take_child_if("artefact").map(Artefact::from_record).transpose()?;
            let params = Params::from_record(params)?;
            let method = match artefact {
                Some(artefact) => P::create_trained(&params, &artefact),
                None => P::create(&params),
            };
            method.map(FfiMethod::give)
        })
    }

    extern "C" fn module() -> RootModuleResult {
        // SAFETY: a cast to the erased type; the reader casts it back to `MethodModuleFields` once the layouts agree.
        RResult::ROk(unsafe { Self::REF.0.cast::<ErasedPrefix>() })
    }
}

/// The header of a library that exports the plugin `P`; [`export_method!`](crate::export_method) makes it a symbol.
pub const fn header<P: Plugin>() -> LibHeader {
    // SAFETY: the constructor returns a `MethodModuleRef` with its type erased.
    unsafe { LibHeader::from_constructor::<MethodModuleRef>(Exported::<P>::module, CheckTypeLayout::Yes) }
}

/// A plugin's module as the host sees it.
#[derive(Clone, Copy)]
pub struct ForeignModule(MethodModuleRef);

impl ForeignModule {
    /// The module that a library exports, once its layout was checked.
    pub fn new(module: MethodModuleRef) -> Self {
        Self(module)
    }

    /// The module that `P` would export: a plugin called through the whole border without a library being loaded, for
    /// the tests of its author.
    pub fn of<P: Plugin>() -> Self {
        Self(Exported::<P>::REF)
    }

    /// The version of the plugin API that the plugin was built with; calls nothing.
    pub fn api_version(&self) -> ApiVersion {
        self.0.api_version()
    }

    /// Asks the plugin to describe its method.
    ///
    /// # Errors
    /// `plugin-panicked`, or `abi-record` if the answer cannot be read.
    pub fn describe(&self) -> Result<Descriptor, MethodError> {
        Descriptor::from_record(opened(self.0.describe()())?)
    }

    /// Asks the plugin which calls its method implements; one that does not say implements `edit` alone.
    ///
    /// # Errors
    /// As [`describe`](Self::describe).
    pub fn calls(&self) -> Result<Calls, MethodError> {
        let calls = opened(self.0.describe()())?.take_child_if("calls");
        calls.map_or(Ok(Calls::default()), Calls::from_record)
    }

    /// Asks the plugin to create its method from checked parameters and what it learnt before.
    ///
    /// # Errors
    /// What the plugin finds wrong, or `plugin-panicked`.
    pub fn create_trained(&self, params: &Params, artefact: &Artefact) -> Result<ForeignMethod, MethodError> {
        opened(self.0.create()(params.to_record().with_child(artefact.to_record()))).map(ForeignMethod::new)
    }

    /// Asks the plugin to create its method from checked parameters.
    ///
    /// # Errors
    /// What the plugin finds wrong, or `plugin-panicked`.
    pub fn create(&self, params: &Params) -> Result<ForeignMethod, MethodError> {
        opened(self.0.create()(params.to_record())).map(ForeignMethod::new)
    }
}

/// Makes the library that is being built an engraft plugin: exports the [`Plugin`](crate::Plugin) of that type.
///
/// Once a library, in a crate with `crate-type = ["cdylib"]` (add `"rlib"` for doc-tests).
#[macro_export]
macro_rules! export_method {
    ($plugin:ty) => {
        #[doc(hidden)]
        #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
        pub static ENGRAFT_METHOD: $crate::abi::LibHeader = $crate::abi::header::<$plugin>();
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exported_name_is_the_one_that_loaders_look_for() {
        assert_eq!(ROOT_SYMBOL, "_1as_0lib_1header_0root_bmodule_bloader");
    }

    #[test]
    fn versions_fit_by_their_leading_numbers() {
        let fits = |plugin: &str, host: &str| {
            ApiVersion::parse(plugin).expect("parses").fits(ApiVersion::parse(host).expect("parses"))
        };
        assert!(fits("0.1.7", "0.1.0") && fits("1.2.0", "1.9.0"));
        assert!(!fits("0.2.0", "0.1.0") && !fits("1.0.0", "2.0.0") && !fits("0.1.0", "1.1.0"));
        assert_eq!(ApiVersion::parse("1.2"), None);
        assert_eq!(ApiVersion::parse(env!("CARGO_PKG_VERSION")), Some(API_VERSION));
    }
}
