//! The one ONNX Runtime of the process: loaded once, with one pool of threads and one arena of memory that all
//! programs share, so that a further program costs only what it holds.

use std::fmt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ort::AsPointer;
use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::logging::LogLevel;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};

use super::provision::{self, Build, Surroundings};
use super::{Device, codes};
use crate::base::elf::cut_off;
use crate::base::{Error, Result};

/// Something that the runtime tells while it works.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// ONNX Runtime's package is being taken with pip: it takes a while and uses the network.
    Downloading {
        /// The package and its version, as pip spells it.
        package: String,
        /// Where it is kept from now on.
        folder: PathBuf,
    },
    /// Another process is taking the package; this one waits for it.
    Waiting {
        /// The folder that the other process holds.
        folder: PathBuf,
    },
    /// The library is in its place.
    Installed {
        /// Its path.
        library: PathBuf,
    },
    /// ONNX Runtime reported an error in its log.
    Log {
        /// Its words.
        message: String,
    },
    /// A pass is about to run that may not fit into the memory that is free.
    MemoryShort {
        /// What it is estimated to need, in bytes, the model's weights included.
        needed: u64,
        /// What is free or can be freed, in bytes.
        available: u64,
    },
}

/// Who hears the events. It may be called from any thread, for as long as the process runs.
pub type Notify = Arc<dyn Fn(&Event) + Send + Sync>;

/// A listener that ignores everything.
pub fn silent() -> Notify {
    Arc::new(|_| {})
}

/// How to open the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeSettings {
    /// The library to load; `None` looks for it (see [`provision`]).
    pub library: Option<PathBuf>,
    /// Which build to look for.
    pub build: Build,
    /// True forbids the download, as `ENGRAFT_OFFLINE=1` does.
    pub offline: bool,
    /// How many threads compute; `None` leaves it to the runtime: one for each physical core.
    pub threads: Option<usize>,
}

impl RuntimeSettings {
    /// The settings for programs on a device.
    pub fn for_device(device: Device) -> Self {
        let build = if device == Device::Cpu { Build::Cpu } else { Build::Cuda };
        Self { build, ..Self::default() }
    }
}

/// The loaded ONNX Runtime. Clones are the same; it stays loaded until the process ends.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Inner {
    environment: Environment,
    library: PathBuf,
    threads: Option<usize>,
    notify: Notify,
}

static OPEN: Mutex<Option<Runtime>> = Mutex::new(None);
static LOADED: AtomicBool = AtomicBool::new(false);

impl Runtime {
    /// Opens the runtime of this process, or returns it if it is open.
    ///
    /// # Errors
    /// `runtime-missing`, `runtime-download` or `runtime-hash` if the library cannot be had; `runtime-unusable` if the
    /// file is not a usable ONNX Runtime; `runtime-conflict` if another library, or another number of threads, is
    /// asked for than the process runs with.
    pub fn open(settings: &RuntimeSettings, notify: Notify) -> Result<Self> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*open {
            runtime.check_same(settings)?;
            return Ok(runtime.clone());
        }
        let mut around = Surroundings::of_process();
        around.offline |= settings.offline;
        let library = provision::provide(settings.library.as_deref(), settings.build, &around, &*notify)?;
        let runtime = Self::load(library, settings.threads, notify)?;
        LOADED.store(true, Ordering::SeqCst);
        Ok(open.insert(runtime).clone())
    }

    /// The file that is loaded.
    pub fn library(&self) -> &Path {
        &self.0.library
    }

    /// The version of the library and how it was built, in its own words.
    pub fn description(&self) -> &'static str {
        ort::info()
    }

    /// Tells the listener that the process opened the runtime with.
    pub(crate) fn tell(&self, event: &Event) {
        (self.0.notify)(event);
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.0.environment
    }

    fn load(library: PathBuf, threads: Option<usize>, notify: Notify) -> Result<Self> {
        let unusable = |e: String| {
            Error::new(&codes::RUNTIME_UNUSABLE, format!("{} is not a usable ONNX Runtime", library.display()))
                .help("set ORT_DYLIB_PATH to another library, or delete this one and run `engraft setup`")
                .because(e)
        };
        if let Some((wanted, found)) = cut_off(&library).map_err(|e| unusable(e.to_string()))? {
            return Err(unusable(format!("the file is cut off: it should have {wanted} bytes and has {found}")));
        }
        let builder = ort::init_from(&library).map_err(|e| unusable(words(&e)))?;
        let start = || -> ort::Result<Environment> {
            let pool =
                GlobalThreadPoolOptions::default().with_intra_threads(threads.unwrap_or(0))?.with_inter_threads(1)?;
            let notify = notify.clone();
            let log = move |level: LogLevel, _: &str, _: &str, _: &str, message: &str| {
                if level >= LogLevel::Error {
                    notify(&Event::Log { message: message.to_owned() });
                }
            };
            let environment =
                builder.with_name("engraft").with_global_thread_pool(pool).with_logger(Arc::new(log)).build()?;
            environment.set_log_level(LogLevel::Error);
            share_arena(&environment)?;
            Ok(environment)
        };
        let environment = start().map_err(|e| unusable(e.to_string()))?;
        Ok(Self(Arc::new(Inner { environment, library, threads, notify })))
    }

    fn check_same(&self, settings: &RuntimeSettings) -> Result<()> {
        let conflict = |what: String| Err(Error::new(&codes::RUNTIME_CONFLICT, what));
        let loaded = self.0.library.display();
        match &settings.library {
            Some(path) if !same_file(path, &self.0.library) => {
                return conflict(format!("{} is asked for, but the process has loaded {loaded}", path.display()));
            }
            _ => {}
        }
        match settings.threads {
            Some(threads) if self.0.threads != settings.threads => conflict(format!(
                "{threads} threads are asked for, but the process runs with {}",
                self.0.threads.map_or("the runtime's own choice".to_owned(), |n| n.to_string())
            )),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("library", &self.0.library).field("threads", &self.0.threads).finish()
    }
}

/// The guard before every call into the library that needs no [`Runtime`] at hand: without it, the first such call
/// would look for a library by itself and panic if there is none.
pub(super) fn require_loaded() -> Result<()> {
    if LOADED.load(Ordering::SeqCst) {
        return Ok(());
    }
    Err(Error::new(&codes::RUNTIME_MISSING, "no ONNX Runtime is open in this process yet")
        .help("open it with `Runtime::open` first"))
}

/// What a failed load says: the system's loader gives its reason one level deeper than the library's error shows.
fn words(error: &ort::LoadDynamicError) -> String {
    use std::error::Error as _;
    match error {
        ort::LoadDynamicError::Dlopen { error: inner, .. } => match inner.source() {
            Some(reason) => format!("{error}: {reason}"),
            None => error.to_string(),
        },
        _ => error.to_string(),
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

/// Registers one arena with the environment. Sessions that use the environment's allocators then reuse each other's
/// scratch memory: it is as large as the largest run needs, not as the sum over all programs.
fn share_arena(environment: &Environment) -> ort::Result<()> {
    let cpu = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Arena, MemoryType::Default)?;
    // SAFETY: both pointers belong to live objects of the loaded library; a null configuration means the defaults, and
    // the environment takes a copy of what `cpu` describes. The status that comes back is consumed exactly once.
    unsafe {
        let status = (ort::api().CreateAndRegisterAllocator)(environment.ptr().cast_mut(), cpu.ptr(), ptr::null());
        ort::Error::result_from_status(status)
    }
}

/// The runtime that this crate's tests share. Before it is loaded, a wrong file is tried, once: that must fail at once
/// and leave the process able to load the right one.
#[cfg(test)]
pub(crate) fn for_tests() -> Runtime {
    static WRONG_FILE: std::sync::Once = std::sync::Once::new();
    WRONG_FILE.call_once(|| {
        let folder = tempfile::tempdir().unwrap();
        let wrong = folder.path().join("libonnxruntime.so");
        let started = std::time::Instant::now();
        for bytes in [&b"not a library"[..], b"\x7fELF\x02\x01 cut off"] {
            std::fs::write(&wrong, bytes).unwrap();
            assert_eq!(Runtime::load(wrong.clone(), None, silent()).unwrap_err().code().id, "runtime-unusable");
        }
        assert!(started.elapsed() < std::time::Duration::from_secs(5));
    });
    Runtime::open(&RuntimeSettings::default(), silent()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_one_library_and_one_pool_of_threads() {
        let runtime = for_tests();
        assert!(runtime.description().contains("ORT Build Info"), "{}", runtime.description());
        assert_eq!(for_tests().library(), runtime.library());
        let library = Some("/absent/libonnxruntime.so".into());
        for other in [
            RuntimeSettings { library, ..RuntimeSettings::default() },
            RuntimeSettings { threads: Some(99), ..RuntimeSettings::default() },
        ] {
            assert_eq!(Runtime::open(&other, silent()).unwrap_err().code().id, "runtime-conflict");
        }
    }
}
