//! Calls that may never return: made on a thread of their own, asked to stop when it is time, and left behind if they
//! do not listen. A blocked native call cannot be stopped; what can be done is to say so and go on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::codes;
use crate::base::{Cancel, Error, Result};

/// How long a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// After this the call is asked to stop; `None` waits for somebody else to ask.
    pub soft: Option<Duration>,
    /// How long a call that was asked to stop may take to return.
    pub grace: Duration,
}

enum Event<T> {
    Returned(Result<T>),
    Panicked(Box<dyn Any + Send>),
    Asked,
}

/// Makes `call` on a thread of its own and waits for it. Once `cancel` is cancelled, by whomever (Ctrl-C, another
/// thread, or this function when the soft deadline passes), the call has the grace time to return, and what it returns
/// is the result; `what` names it in the error otherwise.
///
/// The call has to listen to the same token, as the `cancelled` of a model does.
///
/// # Errors
/// `plugin-hangs` if the call did not return in time: its thread is left behind. Else what the call returns.
///
/// # Panics
/// If the call panics, with its panic.
pub fn watched<T: Send + 'static>(
    what: &str,
    cancel: &Cancel,
    deadlines: Deadlines,
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, events) = channel();
    let asked = sender.clone();
    let _registration = cancel.on_cancel(move || drop(asked.send(Event::Asked)));
    let started = Instant::now();
    let worker = thread::Builder::new().name("engraft-plugin".into()).spawn(move || {
        // The panic is passed on, not survived: whatever it left half changed is not used here.
        let event = match catch_unwind(AssertUnwindSafe(call)) {
            Ok(result) => Event::Returned(result),
            Err(payload) => Event::Panicked(payload),
        };
        // Nobody listens any more to a call that was left behind.
        drop(sender.send(event));
    });
    worker.map_err(|e| Error::new(&codes::THREAD, format!("no thread can be started for {what}")).because(e))?;

    let mut patience = deadlines.soft;
    let mut asked_at = None;
    loop {
        let event = match patience {
            Some(patience) => events.recv_timeout(patience),
            None => events.recv().map_err(RecvTimeoutError::from),
        };
        match event {
            Ok(Event::Returned(result)) => return result,
            Ok(Event::Panicked(payload)) => resume_unwind(payload),
            Ok(Event::Asked) => {
                asked_at = Some(Instant::now());
                patience = Some(deadlines.grace);
            }
            Err(_) => match asked_at {
                // The registration turns this into the event `Asked`.
                None => cancel.cancel(),
                Some(at) => {
                    let message = format!(
                        "{what} does not react to cancellation: asked to stop after {:.1} s, it still ran {:.1} s later; \
                         a blocked native call cannot be stopped",
                        at.duration_since(started).as_secs_f64(),
                        at.elapsed().as_secs_f64()
                    );
                    return Err(Error::new(&codes::HANGS, message).help("end the process to be rid of its thread"));
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(5);
    const NEVER: Duration = Duration::from_secs(3600);

    #[test]
    fn a_call_that_returns_is_just_a_call() {
        let deadlines = Deadlines { soft: Some(NEVER), grace: NEVER };
        assert_eq!(watched("it", &Cancel::new(), deadlines, || Ok(3)).unwrap(), 3);
    }

    #[test]
    fn a_call_that_listens_ends_by_itself() {
        let cancel = Cancel::new();
        let listening = cancel.clone();
        let wait = move || {
            while !listening.is_cancelled() {
                thread::sleep(SOON);
            }
            listening.check()
        };
        let outcome = watched("it", &cancel, Deadlines { soft: Some(SOON), grace: NEVER }, wait);
        assert_eq!(outcome.unwrap_err().code().id, "interrupted");
    }

    #[test]
    fn a_call_that_does_not_listen_is_left_behind() {
        let cancel = Cancel::new();
        cancel.cancel();
        let (release, blocked) = channel::<()>();
        let deaf = move || {
            let _ = blocked.recv();
            Ok(())
        };
        let outcome = watched("the call `edit`", &cancel, Deadlines { soft: None, grace: SOON }, deaf);
        let error = outcome.unwrap_err();
        assert_eq!(error.code().id, "plugin-hangs");
        assert!(error.message().contains("the call `edit` does not react"), "{error}");
        drop(release);
    }
}
