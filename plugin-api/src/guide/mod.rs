//! # Write a method
//!
//! The [crate's first page](crate) holds a whole plugin that edits a weight. `engraft plugins new NAME` writes a crate
//! around one: it builds, has tests, and keeps the laws. This chapter is about what else a method can do; its pages:
//!
//! 1. [`asking`]: what a method may ask of the host: runs, gradients, statistics, networks of its own.
//! 2. [`changes`]: what it may propose: weights, slots, splices, states and sums over edits.
//! 3. [`calls`]: what it may implement besides `edit`: interception, routing, training.
//! 4. [`shipping`]: the laws, how they are tried, and how a plugin reaches its users: versions, pins, trust.
//!
//! # Choose
//!
//! Everything a method proposes is a list of [`Change`](crate::Change)s, one patch for each call of `edit`:
//!
//! | to ... | propose | and implement |
//! |---|---|---|
//! | rewrite weights | [`Change::Weight`](crate::Change::Weight) | |
//! | add neurons to an MLP | [`Change::Slots`](crate::Change::Slots) | |
//! | replace an activation by a rule that a graph can hold | [`Change::Splice`](crate::Change::Splice) | |
//! | replace an activation by a rule that it cannot hold | [`Change::Intercept`](crate::Change::Intercept) | [`intercept`](crate::EditMethod::intercept) |
//! | decide for each request: which patches, which prompt, which network | [`Change::Route`](crate::Change::Route) | [`route`](crate::EditMethod::route) |
//! | remember something of an edit | [`Change::State`](crate::Change::State) | |
//! | sum something up over edits | [`Change::Statistic`](crate::Change::Statistic) | |
//! | learn before the first edit | | [`train`](crate::EditMethod::train), [`create_trained`](crate::Plugin::create_trained) |
//!
//! What it implements it announces in [`Plugin::calls`](crate::Plugin::calls). **A method keeps nothing between calls
//! that a rollback would have to undo**: what belongs to an edit is in its patch, what follows from several edits is a
//! fold over the patches that are active ([`Increment`](crate::Increment)), and so any patch can be rolled back.
//!
//! Prefer what comes first in the table. Weights, slots and splices run inside the session, on the device; an
//! interception leaves it at every pass, and a route costs what it asks of the model, once a request.
//!
//! Whole plugins to read, each under 80 lines: `examples/minimal-plugin` (a weight), `examples/splice-plugin` and
//! `examples/intercept-plugin` (the same steering, as a graph and as a call).
//!
//! # Errors
//!
//! Every error has a code, in kebab case, that begins with the method's name; a message that names the thing, what was
//! expected and what was found; and, where there is any, advice. A panic is an error too (`plugin-panicked`), but the
//! method is not called again after one.

pub mod asking;
pub mod calls;
pub mod changes;
pub mod shipping;
