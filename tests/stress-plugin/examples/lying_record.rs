//! A plugin that goes round the plain types and answers with a record that contradicts itself: six values in a tensor
//! that says it has a million.

use abi_stable::library::{CheckTypeLayout, LibHeader, RootModuleResult};
use abi_stable::marker_type::ErasedPrefix;
use abi_stable::prefix_type::WithMetadata;
use abi_stable::std_types::{RResult, RStr};
use engraft_plugin_api::abi::host::FfiHost;
use engraft_plugin_api::abi::method::FfiMethod;
use engraft_plugin_api::abi::record::{FfiRecord, FfiTensor};
use engraft_plugin_api::abi::records::{IntoRecord, ToRecord};
use engraft_plugin_api::abi::{API_VERSION, FfiReply, MethodModule, MethodModuleRef};
use engraft_plugin_api::{Capabilities, Descriptor, Family, Tensor};

static NOTHING: u8 = 0;

extern "C" fn describe() -> FfiReply {
    let descriptor = Descriptor {
        name: "lying-record".into(),
        version: "1.0.0".into(),
        family: Family::InternalModification,
        summary: "Lies about its tensors.".into(),
        paper: "none".into(),
        capabilities: Capabilities::default(),
        params: Vec::new(),
    };
    RResult::ROk(descriptor.to_record().into_owned())
}

extern "C" fn create(_: FfiRecord<'_>) -> RResult<FfiMethod, FfiRecord<'static>> {
    // SAFETY: `edit` and `release` look at nothing behind the pointer.
    RResult::ROk(unsafe { FfiMethod::from_raw((&raw const NOTHING).cast_mut().cast(), edit, release) })
}

/// # Safety
/// None is needed.
unsafe extern "C" fn edit(_: &FfiMethod, _: RStr<'_>, _: FfiHost<'_>, _: FfiRecord<'_>) -> FfiReply {
    let mut delta = Tensor::zeros([2, 3]).into_record();
    delta.kind = "dense".into();
    delta.tensors[0] = FfiTensor { name: "delta".into(), shape: vec![1000, 1000].into(), ..delta.tensors[0].clone() };
    let change = FfiRecord::new("weight").with_text("weight", "blocks.0.mlp.W_out").with_child(delta);
    RResult::ROk(FfiRecord::new("edited").with_list("changes", [change].into_iter()))
}

/// # Safety
/// None is needed.
unsafe extern "C" fn release(_: &mut FfiMethod) -> FfiReply {
    RResult::ROk(FfiRecord::new("released"))
}

const MODULE: &WithMetadata<MethodModule> =
    &WithMetadata::new(MethodModule { api_version: API_VERSION, describe, create });

extern "C" fn module() -> RootModuleResult {
    // SAFETY: a cast to the erased type.
    RResult::ROk(unsafe { MethodModuleRef(MODULE.static_as_prefix()).0.cast::<ErasedPrefix>() })
}

/// The header that loaders look at first.
#[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
pub static HEADER: LibHeader =
    // SAFETY: `module` returns a `MethodModuleRef` with its type erased.
    unsafe { LibHeader::from_constructor::<MethodModuleRef>(module, CheckTypeLayout::Yes) };
