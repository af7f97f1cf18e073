//! engraft runs ONNX language models and corrects them with editing methods loaded as plugins.

pub mod anatomy;
pub mod autodiff;
pub mod base;
pub mod cli;
pub mod codes;
pub mod data;
pub mod experiment;
pub mod graph;
pub mod hooks;
pub mod metrics;
pub mod model;
pub mod plugins;
pub mod report;
pub mod runtime;
pub mod weights;
