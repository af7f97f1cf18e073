//! The guard that stands at every entry: a panic of the callee becomes an error of the caller.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use abi_stable::std_types::RResult;

use super::record::FfiRecord;
use super::records::{FromRecord, ToRecord};
use crate::error::MethodError;

/// The code of a call that panicked inside the plugin.
pub const PLUGIN_PANICKED: &str = "plugin-panicked";

/// The code of a call that panicked inside the host.
pub const HOST_PANICKED: &str = "host-panicked";

/// Who is called.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Plugin,
    Host,
}

thread_local! {
    /// True while a plugin is called on this thread.
    static CALLED: Cell<bool> = const { Cell::new(false) };
    /// Where the last panic of a call on this thread began.
    static ORIGIN: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A stretch of a thread in which panics are reported to the caller, or are not.
struct Stretch(bool);

impl Stretch {
    fn of(side: Side) -> Self {
        if matches!(side, Side::Plugin) {
            keep_panics();
        }
        Self(CALLED.replace(matches!(side, Side::Plugin)))
    }
}

impl Drop for Stretch {
    fn drop(&mut self) {
        CALLED.set(self.0);
    }
}

/// Has panics of a plugin's calls kept for the error that they become. Nothing is printed of them: standard error is
/// the host's, whose errors may be read by a machine. A plugin has a standard library of its own, and so a hook of its
/// own; panics on other threads go on to the one before.
fn keep_panics() {
    static ONCE: Once = Once::new();
    if std::thread::panicking() {
        return;
    }
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info: &PanicHookInfo<'_>| match CALLED.try_with(Cell::get) {
            Ok(true) => {
                let place = info.location().map(ToString::to_string);
                // A panic inside of this hook would end the process.
                drop(ORIGIN.try_with(|origin| origin.try_borrow_mut().map(|mut origin| *origin = place)));
            }
            _ => before(info),
        }));
    });
}

/// Runs the body of an entry; nothing unwinds out of it.
pub(super) fn guarded<T>(
    side: Side,
    op: &str,
    body: impl FnOnce() -> Result<T, MethodError>,
) -> RResult<T, FfiRecord<'static>> {
    let _stretch = Stretch::of(side);
    // What the body leaves half done is behind `&self` of the trait's own types, which answer for it: the panic is
    // reported, not hidden, and a host stops using a method that panicked.
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(caught(side, op, payload)));
    match outcome {
        Ok(value) => RResult::ROk(value),
        Err(error) => RResult::RErr(error.to_record().into_owned()),
    }
}

fn caught(side: Side, op: &str, payload: Box<dyn Any + Send>) -> MethodError {
    // A foreign host has no other way to fail in a call that cannot fail than to unwind with the error itself.
    let payload = match payload.downcast::<MethodError>() {
        Ok(error) => return *error,
        Err(payload) => payload,
    };
    let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => {
            // A payload of the panicking code's own type could panic again when it is dropped.
            std::mem::forget(payload);
            "a payload that is not a text".to_owned()
        }
    };
    let (code, who) = match side {
        Side::Plugin => (PLUGIN_PANICKED, "plugin"),
        Side::Host => (HOST_PANICKED, "host"),
    };
    let error = MethodError::new(code, format!("the {who} panicked in `{op}`: {text}")).label("op", op);
    match (side, ORIGIN.take()) {
        (Side::Plugin, Some(place)) => error.label("at", place),
        _ => error,
    }
}

/// The result that an answer stands for.
pub(super) fn opened<T>(answer: RResult<T, FfiRecord<'static>>) -> Result<T, MethodError> {
    answer.into_result().map_err(|record| MethodError::from_record(record).unwrap_or_else(|unreadable| unreadable))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: impl FnOnce() -> Result<(), MethodError>) -> MethodError {
        opened(guarded(Side::Plugin, "edit", body)).expect_err("fails")
    }

    #[test]
    fn every_panic_becomes_an_error_that_names_the_call() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let lit = message(|| panic!("of a literal"));
        assert_eq!(
            (lit.code.as_str(), lit.message.as_str()),
            (PLUGIN_PANICKED, "the plugin panicked in `edit`: of a literal")
        );
        assert!(message(|| panic!("of {}", 1)).message.ends_with("of 1"));
        let at = lit.labels.iter().find(|(name, _)| name == "at").expect("it is told where");
        assert!(at.1.contains("guard.rs:"), "{at:?}");
        // What panics outside of a call is not taken for the next one's.
        let outside = std::thread::spawn(|| panic!("outside")).join();
        assert!(outside.is_err() && !CALLED.get() && ORIGIN.take().is_none());
        assert!(message(|| std::panic::panic_any(Bomb)).message.ends_with("not a text"));
    }

    #[test]
    fn an_error_that_unwinds_arrives_as_itself() {
        let sent = MethodError::new("host-panicked", "the host panicked").label("op", "facts").help("tell us");
        assert_eq!(message(|| std::panic::resume_unwind(Box::new(sent.clone()))), sent);
    }
}
