//! A plugin that panics as soon as it is asked what it is.

use engraft_plugin_api::{Descriptor, EditMethod, MethodError, Params, Plugin, export_method};

struct Shy;

impl Plugin for Shy {
    fn describe() -> Descriptor {
        panic!("shy")
    }

    fn create(_: &Params) -> Result<Box<dyn EditMethod>, MethodError> {
        Err(MethodError::new("shy", "shy"))
    }
}

export_method!(Shy);
