//! Tests of experiments, on a world of three fakes: a folder of files, a model that is a table, a method that writes
//! into it.

mod config;
mod fake;
mod runs;
