//! The one integration binary: everything that needs plugins, a model or the whole host.

mod atlas;
mod grace;
mod ike;
mod laws;
mod plugins;
mod scope;
mod soak;
mod stress;
mod tidy;
mod train;
mod zoo;
