//! The laws, how they are tried, and how a plugin reaches its users.
//!
//! # Laws
//!
//! A host relies on more than types. What it relies on is a list of laws, each a function that makes real calls:
//!
//! | of | every method |
//! |---|---|
//! | parameters | is refused bad ones with a coded error, and layers that the model lacks |
//! | `edit` | touches nothing; gives the same changes for the same seed, and none for no requests; changes parts that the model has; stops when it is cancelled |
//! | a commit | is undone by a rollback to the bit, whichever patch it is; makes the target more probable, where the method promises that |
//! | what it remembers | lies in patches: what edits leave folds over the active ones, and one that was rolled back plays no part in later edits |
//! | what is announced | is all that is called, and all that edits ask for |
//! | `route` | answers the same query the same way, from any thread, and leaves requests alone where no patch is active |
//! | `intercept` | leaves rows that see no patch, and the padding, as they were, to the bit |
//! | `train` | gives the same artefact for the same seed, also when it was cut off and resumed; stops when it is cancelled |
//! | an artefact | is bound to its model and its data; a damaged one is an error and no panic |
//! | the process | is not ended, printed in, or kept from ending |
//!
//! # Trying them
//!
//! ```text
//! cargo build
//! engraft plugins check target/debug/libwarm_words.so --preset presets/default.toml --teaches
//! ```
//!
//! The plugin is loaded in a process of its own. A crash, an abort or a hang of it is a finding like any other, with the
//! signal's name, and the next law is tried in a new process. The model is one that comes with engraft: tiny, with random
//! weights, so that `edit` takes milliseconds; `--model DIR` names another. `--teaches` holds the method to its promise
//! that what it was asked for becomes more probable; one that acts by routes alone is held to it on a model that you name,
//! since random weights take up no prompt. The exit code is 0 where every law is kept or says nothing, else 5;
//! `--json` prints each law with what was expected and found, for a CI to keep. A method that learns is tried with what it
//! learns from a few records that come with the laws.
//!
//! What needs no model is tested in the crate: [`ForeignModule::of`](crate::abi::ForeignModule::of) calls a plugin through
//! the whole border without a library, and a [`StillModel`](crate::testing::StillModel) has facts and weights and runs
//! nothing.
//!
//! # Names and places
//!
//! A method has a name of small letters, digits and dashes; users write it as `plugin = "warm-words"`. Its library is
//! `libwarm_words.so` or `libengraft_warm_words.so`, looked for in the folders of `--plugin-dir`, of
//! `ENGRAFT_PLUGIN_PATH`, beside the executable, and in `~/.local/share/engraft/plugins`; a path works everywhere a name
//! does. Two files with a method of the same name are an error, not a choice.
//!
//! Ship the library for each platform, with a README (equations, parameters, error codes) and a preset for each model
//! that the method was tuned on. It depends on nothing but this crate and the C library: whatever else it links has to
//! be on the user's machine.
//!
//! # Versions
//!
//! A library carries the version of this crate that it was built with, and a host reads it before anything of the plugin
//! runs. Versions [fit](crate::abi::ApiVersion::fits) by their major numbers: the contract is version 1 and closed. Then the
//! layout of every type is compared. What crosses are records that grow in data: a plugin ignores what it does
//! not know in an answer, and a call that a host does not know is an error with the code `abi-op`, which a method may take
//! for "do without". The compiler's version and the optimisation level play no part. The version of the method itself
//! ([`Descriptor::version`](crate::Descriptor::version)) is written into every patch and every report: raise it when the
//! same request gives other changes.
//!
//! # Pins
//!
//! Reports name the hash of the library that ran, and `engraft plugins list` that of each file. An embedder can insist on
//! one: `Registry::load` of the host takes the hash, and compares it with the file's bytes before the library is opened.
//!
//! # Trust
//!
//! A plugin is native code in the host's process. Panics are caught at the border and values are checked, but a crash ends
//! the process, a blocked call cannot be stopped, and nothing keeps a plugin from reading files. Loading one is running
//! it: load what you would run. Libraries are never unloaded.
