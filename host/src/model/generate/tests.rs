//! Continuations with and without a cache.
