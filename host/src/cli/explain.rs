//! `engraft explain`: what an error code means.

use clap::Args;

use super::{codes, out};
use crate::base::{Error, Result};

/// Explain an error code, or list all of them.
#[derive(Args)]
#[command(after_help = "Example: engraft explain delta-not-finite")]
pub(super) struct Explain {
    /// The code, as it stands in the brackets of an error.
    code: Option<String>,
}

impl Explain {
    pub(super) fn run(&self) -> Result<()> {
        let Some(id) = &self.code else {
            for (folder, codes) in crate::codes::all() {
                for code in codes {
                    out::line(format_args!("{folder:<11} {}", code.id))?;
                }
            }
            return Ok(());
        };
        let Some(code) = crate::codes::find(id) else {
            let known = crate::codes::all().into_iter().flat_map(|(_, codes)| codes).map(|c| c.id);
            let error = Error::new(&codes::CODE_UNKNOWN, format!("there is no error code `{id}`"));
            let more = "`engraft explain` lists all codes; a plugin's own stand in its README";
            return Err(match engraft_plugin_api::params::nearest(id, known) {
                Some(near) => error.help(format!("did you mean `{near}`? {more}")),
                None => error.help(more),
            });
        };
        out::line(format_args!("{} (exit code {})\n", code.id, code.class.exit_code()))?;
        out::line(code.explanation)
    }
}
