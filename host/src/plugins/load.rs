//! Loading one library, each check before the step that it protects: bytes, file format, the header's versions, the
//! layout of every type at the border, and only then the plugin's first function.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use abi_stable::library::{AbiHeader, LibHeader, LibraryError, lib_header_from_path};
use engraft_plugin_api::abi::{API_VERSION, ApiVersion, ForeignModule, MethodModuleRef};
use engraft_plugin_api::{Artefact, Calls, Descriptor, Params};
use libloading::os::unix::{Library as RawLibrary, RTLD_LOCAL, RTLD_NOW};

use super::artefact::ArtefactFile;
use super::foreign::{Method, explain, untaught};
use super::pin::Pin;
use super::{codes, elf, params};
use crate::base::{Error, Hash, Result, atomic};

/// A loaded plugin library. It stays loaded until the process ends.
pub struct Library {
    file: Identified,
    module: ForeignModule,
    descriptor: Descriptor,
    calls: Calls,
}

impl Library {
    /// Loads the library at a path. Its bytes must be those of one of the pins, if there are any.
    ///
    /// Prefer [`Registry::load`](super::Registry::load), which keeps libraries apart.
    ///
    /// # Errors
    /// `plugin-missing`, `plugin-pin`, `plugin-file` and `plugin-not-a-plugin` before anything of the library ran;
    /// `plugin-load`, `plugin-abi-stable`, `plugin-version` and `plugin-layout` before a function of it was called;
    /// `plugin-panicked`, `plugin-record` and `plugin-descriptor` for what it says of itself.
    pub fn load(path: &Path, pins: &[Pin]) -> Result<Self> {
        Self::load_identified(Identified::of(path, pins)?)
    }

    pub(super) fn load_identified(file: Identified) -> Result<Self> {
        let path = &file.path;
        elf::check(path)?;
        let header = open(path)?;
        check_version(path, ApiVersion::parse(header.version_strings().version.as_str()), || {
            header.version_strings().version.to_string()
        })?;
        if header.layout().is_none() {
            let message = format!("{} was built without the description of its types", path.display());
            return Err(Error::new(&codes::LAYOUT, message));
        }
        let module = header.init_root_module::<MethodModuleRef>().map_err(|e| refused(path, e))?;
        let module = ForeignModule::new(module);
        let version = module.api_version();
        check_version(path, Some(version), || version.to_string())?;
        let descriptor = module.describe().map_err(|e| explain(path, "describe", e))?;
        let calls = module.calls().map_err(|e| explain(path, "describe", e))?;
        check_descriptor(path, &descriptor, calls)?;
        Ok(Self { file, module, descriptor, calls })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// The hash of the file's bytes, by which manifests name it.
    pub fn hash(&self) -> Hash {
        self.file.hash
    }

    /// What the file's bytes are pinned with.
    pub fn pin(&self) -> Pin {
        self.file.pin
    }

    /// The version of the plugin API that the plugin was built with.
    pub fn api_version(&self) -> ApiVersion {
        self.module.api_version()
    }

    /// What the plugin says of its method.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Which calls the method implements besides `edit`.
    pub fn calls(&self) -> Calls {
        self.calls
    }

    /// Checks the parameters of a configuration and fills in the defaults.
    ///
    /// # Errors
    /// `param-unknown`, `param-missing`, `param-type` or `param-range`, naming the key.
    pub fn configure(&self, given: &toml::Table) -> Result<Params> {
        params::resolve(&self.descriptor, given)
    }

    /// Checks what the method is to be used with, before it is created: an artefact of its own, where it needs one.
    ///
    /// # Errors
    /// `artefact-missing`, `artefact-method`, or `plugin-call` if the method learns nothing.
    pub fn check_artefact(&self, artefact: Option<&ArtefactFile>) -> Result<()> {
        match artefact {
            None if self.calls.needs_artefact => Err(untaught(&self.descriptor.name)),
            None => Ok(()),
            Some(_) if !self.calls.train => Err(self.learns_nothing()),
            Some(file) => file.check(self),
        }
    }

    fn learns_nothing(&self) -> Error {
        let text = format!("the method `{}` learns nothing and takes no artefact", self.descriptor.name);
        Error::new(&codes::CALL, text).help("leave the artefact out")
    }

    /// Creates the method as it is used: with the artefact that it was given, or without one.
    ///
    /// # Errors
    /// As [`check_artefact`](Self::check_artefact), [`create`](Self::create) and
    /// [`create_trained`](Self::create_trained).
    pub fn create_with(self: &Arc<Self>, params: Params, artefact: Option<&ArtefactFile>) -> Result<Method> {
        self.check_artefact(artefact)?;
        match artefact {
            Some(file) => self.create_trained(params, &file.artefact),
            None => self.create(params),
        }
    }

    /// Creates the method from checked parameters.
    ///
    /// # Errors
    /// `plugin-failed` if the plugin refuses them, or `plugin-panicked`.
    pub fn create(self: &Arc<Self>, params: Params) -> Result<Method> {
        let method = self.module.create(&params).map_err(|e| explain(self.path(), "create", e))?;
        Ok(Method::new(self.clone(), params, method, None))
    }

    /// Creates the method from checked parameters and from what it learnt before. That the artefact belongs to a
    /// model is checked when the method is used with one.
    ///
    /// # Errors
    /// As [`create`](Self::create); `plugin-call` if the method learns nothing.
    pub fn create_trained(self: &Arc<Self>, params: Params, artefact: &Artefact) -> Result<Method> {
        if !self.calls.train {
            return Err(self.learns_nothing());
        }
        let method = self.module.create_trained(&params, artefact).map_err(|e| explain(self.path(), "create", e))?;
        Ok(Method::new(self.clone(), params, method, Some(artefact)))
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("method", &self.descriptor.name).field("path", &self.file.path).finish()
    }
}

/// A file that may be a plugin: its real path, and what identifies its bytes.
pub(super) struct Identified {
    pub(super) path: PathBuf,
    pub(super) hash: Hash,
    pin: Pin,
}

impl Identified {
    /// Reads the file, which must have one of the pins, if there are any.
    pub(super) fn of(path: &Path, pins: &[Pin]) -> Result<Self> {
        let path = path
            .canonicalize()
            .map_err(|e| Error::new(&codes::MISSING, format!("there is no plugin at {}", path.display())).because(e))?;
        if path.is_dir() {
            return Err(Error::new(&codes::FILE, format!("{} is a folder, not a shared library", path.display())));
        }
        let bytes = atomic::read_bytes(&path)?;
        let (hash, pin) = (Hash::of(&bytes), Pin::of(&bytes));
        if !pins.is_empty() && !pins.contains(&pin) {
            let pins: Vec<String> = pins.iter().map(ToString::to_string).collect();
            let message = format!("{} is {pin}, pinned is {}", path.display(), pins.join(" or "));
            return Err(Error::new(&codes::PIN, message).help("if it was rebuilt on purpose, pin what it is now"));
        }
        Ok(Self { path, hash, pin })
    }
}

/// Opens the library for good and returns its header.
fn open(path: &Path) -> Result<&'static LibHeader> {
    // SAFETY: this runs the library's initializers, which nobody can check: a plugin is trusted code, and the policy
    // on its bytes was applied. The path is absolute, so that no other file is found.
    let library = unsafe { RawLibrary::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|e| {
        Error::new(&codes::LOAD, format!("the system cannot load the plugin {}", path.display())).because(e)
    })?;
    // A library whose thread-local destructors may still run must not be unloaded.
    std::mem::forget(library);
    lib_header_from_path(path).map_err(|e| refused(path, e))
}

fn check_version(path: &Path, plugin: Option<ApiVersion>, spelling: impl Fn() -> String) -> Result<()> {
    if plugin.is_some_and(|plugin| plugin.fits(API_VERSION)) {
        return Ok(());
    }
    let message = format!(
        "{} was built with engraft-plugin-api {}, which does not fit this host's {API_VERSION}",
        path.display(),
        spelling()
    );
    Err(Error::new(&codes::VERSION, message)
        .help(format!("rebuild the plugin with engraft-plugin-api {}", API_VERSION.major)))
}

fn refused(path: &Path, error: LibraryError) -> Error {
    let shown = path.display();
    let dump = error.to_string().trim().to_owned();
    match error {
        LibraryError::InvalidAbiHeader(found) if found.magic_string == AbiHeader::VALUE.magic_string => Error::new(
            &codes::ABI_STABLE,
            format!(
                "{shown} was built with abi_stable {}.{}, this host with {}.{}",
                found.abi_major,
                found.abi_minor,
                AbiHeader::VALUE.abi_major,
                AbiHeader::VALUE.abi_minor
            ),
        )
        .help(format!("rebuild the plugin with engraft-plugin-api {API_VERSION}")),
        LibraryError::InvalidAbiHeader(_) | LibraryError::GetSymbolError { .. } => {
            Error::new(&codes::NOT_A_PLUGIN, format!("{shown} exports no engraft plugin")).because(dump)
        }
        LibraryError::OpenError { .. } => {
            Error::new(&codes::LOAD, format!("the system cannot load the plugin {shown}")).because(dump)
        }
        LibraryError::ParseVersionError(_) | LibraryError::IncompatibleVersionNumber { .. } => Error::new(
            &codes::VERSION,
            format!(
                "{shown} was built with a version of engraft-plugin-api that does not fit this host's {API_VERSION}"
            ),
        )
        .because(dump),
        LibraryError::RootModule { .. } => {
            Error::new(&codes::PANICKED, format!("{shown} failed before it could describe itself")).because(dump)
        }
        LibraryError::AbiInstability(_) | LibraryError::InvalidCAbi { .. } | LibraryError::Many(_) => Error::new(
            &codes::LAYOUT,
            format!("the types at the border of {shown} are laid out in another way than this host's"),
        )
        .help(format!("rebuild the plugin with an unchanged engraft-plugin-api {API_VERSION}"))
        .because(dump),
    }
}

fn check_descriptor(path: &Path, descriptor: &Descriptor, calls: Calls) -> Result<()> {
    let wrong =
        |what: String| Error::new(&codes::DESCRIPTOR, format!("{} describes itself wrongly: {what}", path.display()));
    let name = &descriptor.name;
    let spelled = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || !name.chars().all(spelled) {
        return Err(wrong(format!("the name `{name}` is not made of lower-case letters, digits and dashes")));
    }
    if calls.needs_artefact && !calls.train {
        return Err(wrong("it needs an artefact and has no training that makes one".into()));
    }
    for (i, spec) in descriptor.params.iter().enumerate() {
        if descriptor.params[..i].iter().any(|earlier| earlier.name == spec.name) {
            return Err(wrong(format!("it has two parameters `{}`", spec.name)));
        }
        if let Some(default) = &spec.default {
            let given = BTreeMap::from([(spec.name.clone(), default.clone())]);
            Params::resolve(&given, std::slice::from_ref(spec))
                .map_err(|e| wrong(format!("the default of a parameter does not fit it: {}", e.message)))?;
        }
    }
    Ok(())
}
