//! `engraft explain`: what an error code means.

use clap::Args;
use serde::Serialize;

use super::{codes, out};
use crate::base::{Code, Error, Result};

/// Explain an error code, or list all of them.
#[derive(Args)]
#[command(after_help = "Example: engraft explain delta-not-finite")]
pub(super) struct Explain {
    /// The code, as it stands in the brackets of an error.
    code: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Explained {
    code: &'static str,
    folder: &'static str,
    exit: u8,
    explanation: &'static str,
}

impl Explained {
    fn of((folder, code): (&'static str, &'static Code)) -> Self {
        Self { code: code.id, folder, exit: code.class.exit_code(), explanation: code.explanation }
    }
}

/// Every code with the folder it belongs to.
fn all() -> impl Iterator<Item = (&'static str, &'static Code)> {
    crate::codes::all().into_iter().flat_map(|(folder, codes)| codes.iter().map(move |code| (folder, *code)))
}

impl Explain {
    pub(super) fn run(&self) -> Result<()> {
        let Some(id) = &self.code else {
            if self.json {
                return out::json(&all().map(Explained::of).collect::<Vec<_>>());
            }
            return all().try_for_each(|(folder, code)| out::line(format_args!("{folder:<11} {}", code.id)));
        };
        // What the host reports to a plugin carries its own code behind `host-`; its panic is one of the border's.
        let bare = id.strip_prefix("host-").unwrap_or(id);
        let spelled = |code: &str| code == id || code == bare || code.strip_prefix("plugin-") == Some(id);
        let Some(found) = all().find(|(_, code)| spelled(code.id)) else {
            let error = Error::new(&codes::CODE_UNKNOWN, format!("there is no error code `{id}`"));
            let more = "`engraft explain` lists all codes; a plugin's own stand in its README";
            return Err(match engraft_plugin_api::params::nearest(id, all().map(|(_, code)| code.id)) {
                Some(near) => error.help(format!("did you mean `{near}`? {more}")),
                None => error.help(more),
            });
        };
        if self.json {
            return out::json(&Explained::of(found));
        }
        let (_, code) = found;
        out::line(format_args!("{} (exit code {})\n", code.id, code.class.exit_code()))?;
        out::line(code.explanation)
    }
}
