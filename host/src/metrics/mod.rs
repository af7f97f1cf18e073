//! Metrics: one file per property. A metric sees a [`Scorer`], never a session, and nothing of how an edit was made.
//!
//! A record is observed once before and once after an edit, each time by one call of the scorer with all its queries;
//! every property and regime is then read off the two observations. All shares are in [0, 1].

mod accuracy;
pub mod codes;
mod generalization;
mod locality;
mod observe;
mod scorer;
mod scores;

pub use accuracy::accuracy;
pub use generalization::generalization;
pub use locality::locality;
pub use observe::{Observation, Pair, observe, write};
pub use scorer::{Query, Scored, Scorer};
pub use scores::{Regime, Scores, Shares};
