//! How the detectors look at a graph: edges and who makes them (`view`), the part of a graph between two edges
//! (`region`), and which outputs of a linear map an edge holds in which axes (`layout`).

pub(super) mod layout;
pub(super) mod region;
pub(super) mod view;
