//! Asking running work to stop: one token, cloned to whoever may ask and whoever must listen.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Error, Result, codes};

type Action = Box<dyn Fn() + Send>;

#[derive(Default)]
struct Shared {
    flag: AtomicBool,
    actions: Mutex<Actions>,
}

#[derive(Default)]
struct Actions {
    next: u64,
    waiting: Vec<(u64, Action)>,
}

/// A token of cancellation. Clones are the same token; once cancelled, it stays so.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Shared>);

impl Cancel {
    /// A token that nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the work to stop: it does so at its next safe point. May be called from any thread, any number of times.
    pub fn cancel(&self) {
        let actions = self.actions();
        if !self.0.flag.swap(true, Ordering::SeqCst) {
            actions.waiting.iter().for_each(|(_, action)| action());
        }
    }

    /// True once somebody has asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.flag.load(Ordering::SeqCst)
    }

    /// A safe point.
    ///
    /// # Errors
    /// `interrupted` once somebody has asked.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::new(&codes::INTERRUPTED, "interrupted by the user")) } else { Ok(()) }
    }

    /// Registers what is to happen at the moment of cancelling, at once if that has passed, until the guard is dropped.
    /// The action must be short and must not use this token's registrations itself.
    #[must_use]
    pub fn on_cancel(&self, action: impl Fn() + Send + 'static) -> OnCancel {
        let mut actions = self.actions();
        if self.is_cancelled() {
            action();
        }
        let id = actions.next;
        actions.next += 1;
        actions.waiting.push((id, Box::new(action)));
        OnCancel { token: self.clone(), id }
    }

    fn actions(&self) -> MutexGuard<'_, Actions> {
        self.0.actions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cancel").field(&self.is_cancelled()).finish()
    }
}

/// Keeps an action of [`Cancel::on_cancel`] registered.
#[derive(Debug)]
pub struct OnCancel {
    token: Cancel,
    id: u64,
}

impl Drop for OnCancel {
    fn drop(&mut self) {
        self.token.actions().waiting.retain(|(id, _)| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn clones_are_one_token() {
        let token = Cancel::new();
        token.check().unwrap();
        token.clone().cancel();
        assert_eq!(token.check().unwrap_err().code().id, "interrupted");
    }

    #[test]
    fn actions_run_once_while_registered() {
        let count = Arc::new(AtomicU32::new(0));
        let bump = |count: &Arc<AtomicU32>| {
            let count = count.clone();
            move || {
                count.fetch_add(1, Ordering::SeqCst);
            }
        };
        let token = Cancel::new();
        let kept = token.on_cancel(bump(&count));
        drop(token.on_cancel(bump(&count)));
        token.cancel();
        token.cancel();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        drop(kept);
        let _late = token.on_cancel(bump(&count));
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }
}
