//! A library whose header is that of another version of `abi_stable`, and nothing behind it.

use abi_stable::library::AbiHeader;

/// The header that loaders look at first.
#[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
pub static HEADER: AbiHeader = {
    let mut header = AbiHeader::VALUE;
    header.abi_minor += 1;
    header
};
