//! One error for the library: a stable code, a sentence that names the thing, advice, and the error underneath.
//!
//! Every folder declares its codes in a `codes.rs` with [`codes!`], and `engraft explain CODE` prints the paragraph
//! that stands beside the declaration.

use std::fmt;

use engraft_plugin_api::MethodError;

/// The result of a fallible call of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who has to act on an error; decides the exit code of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The command line was used wrongly: exit code 2.
    Usage,
    /// A configuration or data file is wrong: exit code 3.
    Config,
    /// A model, or a file bound to one, is wrong: exit code 4.
    Model,
    /// A plugin is wrong or failed: exit code 5.
    Plugin,
    /// The runtime, the device or the file system failed: exit code 6.
    Runtime,
    /// The user interrupted: exit code 130.
    Interrupted,
}

impl Class {
    /// The exit code of the command line.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Config => 3,
            Self::Model => 4,
            Self::Plugin => 5,
            Self::Runtime => 6,
            Self::Interrupted => 130,
        }
    }
}

/// A stable error code.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// The identifier, in kebab case; it never changes its meaning.
    pub id: &'static str,
    /// Who has to act.
    pub class: Class,
    /// What it means, why it happens and what to do.
    pub explanation: &'static str,
}

/// Declares codes and the list of them: `codes! { Class; NAME "id" "explanation"; ... }`.
macro_rules! codes {
    ($($class:ident $name:ident $id:literal $text:literal;)*) => {
        $(
            #[doc = $text]
            pub static $name: $crate::base::Code =
                $crate::base::Code { id: $id, class: $crate::base::Class::$class, explanation: $text };
        )*
        /// Every code of this folder.
        pub static ALL: &[&$crate::base::Code] = &[$(&$name),*];
    };
}
pub(crate) use codes;

/// An error of this library.
pub struct Error {
    code: &'static Code,
    message: String,
    help: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error with a code and a sentence that names the thing, what was expected and what was found.
    pub fn new(code: &'static Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None, source: None }
    }

    /// Adds advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the error underneath.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The stable code.
    pub fn code(&self) -> &'static Code {
        self.code
    }

    /// The sentence, without code, advice and causes.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The advice, if there is any.
    pub fn advice(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.code.id, self.message)?;
        if let Some(help) = &self.help {
            write!(f, " (help: {help})")?;
        }
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// How the host's errors reach a method: the code with the prefix `host-`, so that they can come back unharmed.
impl From<Error> for MethodError {
    fn from(error: Error) -> Self {
        let mut out = MethodError::new(format!("host-{}", error.code.id), error.message.clone());
        out.help = error.help.clone();
        match std::error::Error::source(&error) {
            Some(source) => out.cause(source),
            None => out,
        }
    }
}

/// The plain types of the contract check themselves; what they refuse is an error like any other here.
impl From<MethodError> for Error {
    fn from(error: MethodError) -> Self {
        Self::new(&super::codes::PLAIN_TYPE, error.message.clone()).because(error)
    }
}
