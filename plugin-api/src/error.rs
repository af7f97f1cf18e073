//! The one error that crosses between host and method: plain data, no foreign types inside.

use std::fmt;

/// Why a call failed, in words a user can act on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MethodError {
    /// A stable identifier in kebab case, e.g. `subject-missing`.
    pub code: String,
    /// One sentence that names the thing, what was expected and what was found.
    pub message: String,
    /// Named facts: (`layer`, `7`), (`parameter`, `v_lr`).
    pub labels: Vec<(String, String)>,
    /// What the user can do about it.
    pub help: Option<String>,
    /// Messages of the errors underneath, outermost first.
    pub causes: Vec<String>,
}

impl MethodError {
    /// The code of an edit that stopped because the host asked for it.
    pub const CANCELLED: &'static str = "cancelled";

    /// An error with a code and a message.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), ..Self::default() }
    }

    /// The error of a call that noticed [`ModelAccess::cancelled`](crate::ModelAccess::cancelled).
    pub fn cancelled() -> Self {
        Self::new(Self::CANCELLED, "the edit was cancelled")
    }

    /// The code of a call that the other side does not know.
    pub const UNKNOWN_CALL: &'static str = "abi-op";

    /// The error of a host that does not know a call.
    pub fn unknown_call(call: &str) -> Self {
        Self::new(Self::UNKNOWN_CALL, format!("this host does not know the call `{call}`")).label("call", call)
    }

    /// Adds a named fact.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl fmt::Display) -> Self {
        self.labels.push((name.into(), value.to_string()));
        self
    }

    /// Adds advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the message of an error underneath, and those under it.
    #[must_use]
    pub fn cause(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }
}

impl fmt::Display for MethodError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        for (name, value) in &self.labels {
            write!(f, " [{name}: {value}]")?;
        }
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for MethodError {}
