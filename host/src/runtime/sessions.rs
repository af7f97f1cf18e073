//! The sessions of one program. A session runs one call at a time: the runtime's own call may overlap with others, but
//! some of its allocators and the kernels of our operator do not bear that, so `ort` lends a session to one call alone.
//! Calls that overlap get a session each, over the same files.
//!
//! Another session costs time, and memory where it holds packed weights. So a call that finds all of them busy waits;
//! once calls have waited, all together, for as long as making one takes, another one is made. A call that never comes
//! back therefore keeps others waiting for about that long, once, and calls that follow each other closely make none
//! for nothing.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::{Cancel, Result};

/// How long a call waits before it looks whether it was cancelled, or whether there is memory now.
const LOOK: Duration = Duration::from_millis(20);

/// How to make another session. An error leaves the calls to take turns.
type Make<S> = Box<dyn Fn() -> Result<S> + Send + Sync>;

/// Sessions that are lent to calls.
pub(super) struct Sessions<S> {
    /// None where one is all.
    make: Option<Make<S>>,
    pool: Mutex<Pool<S>>,
    returned: Condvar,
}

struct Pool<S> {
    idle: Vec<S>,
    /// How many there are, lent or idle or being made.
    made: usize,
    most: usize,
    /// What making one took.
    price: Duration,
    /// How long calls have waited since the last one was made.
    waited: Duration,
}

impl<S> Sessions<S> {
    /// One session for all calls.
    pub(super) fn one(first: S) -> Self {
        Self::of(first, Duration::ZERO, 1, None)
    }

    /// As many as `most`, made as they are needed; making the first one took `price`.
    pub(super) fn growing(
        first: S,
        price: Duration,
        most: usize,
        make: impl Fn() -> Result<S> + Send + Sync + 'static,
    ) -> Self {
        Self::of(first, price, most, Some(Box::new(make)))
    }

    fn of(first: S, price: Duration, most: usize, make: Option<Make<S>>) -> Self {
        let pool = Pool { idle: vec![first], made: 1, most, price, waited: Duration::ZERO };
        Self { make, pool: Mutex::new(pool), returned: Condvar::new() }
    }

    /// How many there are.
    pub(super) fn made(&self) -> usize {
        self.pool().made
    }

    /// A session for one call. `room` tells whether there is memory for another one.
    ///
    /// # Errors
    /// `interrupted` if the call was cancelled while it waited.
    pub(super) fn lend(&self, cancel: Option<&Cancel>, room: impl Fn() -> bool) -> Result<Lent<'_, S>> {
        let lent = |session| Lent { sessions: self, session: Some(session) };
        let mut pool = self.pool();
        loop {
            cancel.map_or(Ok(()), Cancel::check)?;
            if let Some(session) = pool.idle.pop() {
                return Ok(lent(session));
            }
            let more = pool.made < pool.most;
            if let Some(make) = &self.make
                && more
                && pool.waited >= pool.price
                && room()
            {
                pool.made += 1;
                pool.waited = Duration::ZERO;
                drop(pool);
                let began = Instant::now();
                let session = make();
                pool = self.pool();
                match session {
                    Ok(session) => {
                        pool.price = began.elapsed();
                        return Ok(lent(session));
                    }
                    Err(_) => {
                        pool.made -= 1;
                        pool.most = pool.made;
                        continue;
                    }
                }
            }
            let began = Instant::now();
            let patience = match pool.price.saturating_sub(pool.waited) {
                left if more && !left.is_zero() => left.min(LOOK),
                _ => LOOK,
            };
            pool = self.returned.wait_timeout(pool, patience).unwrap_or_else(PoisonError::into_inner).0;
            pool.waited += began.elapsed();
        }
    }

    fn pool(&self) -> MutexGuard<'_, Pool<S>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session that one call has to itself; it goes back when this is dropped.
pub(super) struct Lent<'s, S> {
    sessions: &'s Sessions<S>,
    session: Option<S>,
}

impl<S> Lent<'_, S> {
    /// The session; it is there until this is dropped.
    pub(super) fn session(&mut self) -> Option<&mut S> {
        self.session.as_mut()
    }
}

impl<S> Drop for Lent<'_, S> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.sessions.pool().idle.push(session);
            self.sessions.returned.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::base::Error;
    use crate::runtime::codes;

    const PRICE: Duration = Duration::from_millis(30);

    fn numbered(most: usize) -> Sessions<usize> {
        let made = AtomicUsize::new(1);
        Sessions::growing(0, PRICE, most, move || Ok(made.fetch_add(1, Ordering::SeqCst)))
    }

    #[test]
    fn a_call_that_never_comes_back_keeps_the_next_waiting_as_long_as_a_session_takes_to_make() {
        let sessions = numbered(3);
        let mut first = sessions.lend(None, || true).unwrap();
        assert_eq!((*first.session().unwrap(), sessions.made()), (0, 1));
        let began = Instant::now();
        let mut second = sessions.lend(None, || true).unwrap();
        assert_eq!((*second.session().unwrap(), sessions.made()), (1, 2));
        assert!(began.elapsed() >= PRICE);
        drop(second);
        // What came back is lent again before another is made.
        assert_eq!(*sessions.lend(None, || true).unwrap().session().unwrap(), 1);
        assert_eq!(sessions.made(), 2);
    }

    #[test]
    fn at_the_bound_and_without_room_calls_take_turns_and_can_be_cancelled() {
        let failing = Sessions::growing(0, Duration::ZERO, 5, || {
            Err(Error::new(&codes::PROGRAM_MEMORY, "there is not enough memory to load the graph"))
        });
        for (sessions, room) in [(numbered(1), true), (numbered(5), false), (Sessions::one(0), true), (failing, true)] {
            let held = sessions.lend(None, || room).unwrap();
            let cancel = Cancel::new();
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| sessions.lend(Some(&cancel), || room).map(drop));
                std::thread::sleep(2 * PRICE);
                cancel.cancel();
                assert_eq!(waiting.join().unwrap().unwrap_err().code().id, "interrupted");
                let turn = scope.spawn(|| sessions.lend(None, || room).map(drop));
                std::thread::sleep(2 * PRICE);
                assert!(!turn.is_finished());
                drop(held);
                turn.join().unwrap().unwrap();
            });
            assert_eq!(sessions.made(), 1);
        }
    }

    #[test]
    fn calls_that_follow_each_other_make_none_for_nothing() {
        let sessions = numbered(8);
        for _ in 0..1000 {
            drop(sessions.lend(None, || true).unwrap());
        }
        assert_eq!(sessions.made(), 1);
        // A call that panics gives its session back.
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _held = sessions.lend(None, || true).unwrap();
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert_eq!((*sessions.lend(None, || true).unwrap().session().unwrap(), sessions.made()), (0, 1));
    }
}
