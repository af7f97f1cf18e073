//! A graph and its files: reading one with its functions inlined (`load`, `functions`), the data files that lie beside it
//! (`external`), writing it (`save`), and models written to other folders (`export`, `housing`).

mod export;
mod external;
mod functions;
mod housing;
mod load;
mod save;

pub use export::{Beside, export, export_with};
pub use external::ExternalFiles;
