//! What can be tested without a model, through the same border that a host calls the plugin through. The laws need a
//! model: `engraft plugins check` brings a small one.

use std::sync::atomic::Ordering;

use engraft_plugin_api::abi::{ForeignMethod, ForeignModule};
use engraft_plugin_api::testing::StillModel;
use engraft_plugin_api::{EditMethod, EditRequest, MethodError, ParamValue, Params, Target};
use my_method::MyMethod;

fn method(layer: i64) -> Result<ForeignMethod, MethodError> {
    let module = ForeignModule::of::<MyMethod>();
    let given = [("layer".to_owned(), ParamValue::Integer(layer))].into();
    module.create(&Params::resolve(&given, &module.describe()?.params)?)
}

fn request() -> EditRequest {
    EditRequest {
        id: "1".into(),
        prompt: "{} was born in".into(),
        subject: Some("Ada Vorn".into()),
        target: Target {
            new: "Kelm".into(),
            old: None,
        },
    }
}

fn model() -> StillModel {
    let mut model = StillModel::default();
    model.facts.layers = 2;
    model
}

#[test]
fn no_requests_are_no_changes() -> Result<(), MethodError> {
    assert_eq!(method(0)?.edit(&model(), &[])?, vec![]);
    Ok(())
}

#[test]
fn a_layer_that_is_not_there_is_an_error() -> Result<(), MethodError> {
    let error = method(2)?
        .edit(&model(), &[request()])
        .expect_err("there is no such layer");
    assert_eq!(error.code, "my-method-layer");
    Ok(())
}

#[test]
fn a_cancelled_edit_does_not_begin() -> Result<(), MethodError> {
    let model = model();
    model.cancelled.store(true, Ordering::SeqCst);
    let error = method(0)?.edit(&model, &[request()]).expect_err("stops");
    assert_eq!(error.code, MethodError::CANCELLED);
    Ok(())
}
