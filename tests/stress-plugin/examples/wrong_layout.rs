//! A library that says it was built with this plugin API, while its root module is laid out in another way.

use abi_stable::StableAbi;
use abi_stable::library::{CheckTypeLayout, LibHeader, RootModule, RootModuleResult};
use abi_stable::marker_type::ErasedPrefix;
use abi_stable::prefix_type::WithMetadata;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::RResult;
use engraft_plugin_api::abi::MethodModuleRef;

/// The root module of that API.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = OtherModuleRef, prefix_fields = OtherModuleFields)))]
pub struct OtherModule {
    /// What a plugin API that forgot to raise its version would have.
    pub answer: extern "C" fn(u64) -> u64,
}

impl RootModule for OtherModuleRef {
    abi_stable::declare_root_module_statics! {OtherModuleRef}
    const BASE_NAME: &'static str = "other";
    const NAME: &'static str = "other";
    const VERSION_STRINGS: VersionStrings = <MethodModuleRef as RootModule>::VERSION_STRINGS;
}

extern "C" fn twice(number: u64) -> u64 {
    2 * number
}

const MODULE: &WithMetadata<OtherModule> = &WithMetadata::new(OtherModule { answer: twice });

extern "C" fn module() -> RootModuleResult {
    // SAFETY: a cast to the erased type.
    RResult::ROk(unsafe { OtherModuleRef(MODULE.static_as_prefix()).0.cast::<ErasedPrefix>() })
}

/// The header that loaders look at first.
#[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
pub static HEADER: LibHeader =
    // SAFETY: `module` returns an `OtherModuleRef` with its type erased.
    unsafe { LibHeader::from_constructor::<OtherModuleRef>(module, CheckTypeLayout::Yes) };
