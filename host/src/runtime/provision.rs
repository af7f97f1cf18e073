//! Where ONNX Runtime's shared library comes from: a path that was set, `ORT_DYLIB_PATH`, beside the executable, the
//! cache folder, and at last the pinned Python package, fetched with any Python's pip and checked by SHA-256.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use zip::ZipArchive;

use super::codes;
use super::environment::Event;
use crate::base::atomic::{self, check_writable, write_atomic};
use crate::base::{Error, Result};

mod pip;

/// The version of ONNX Runtime that is fetched.
pub const VERSION: &str = "1.31.1";

/// A build of ONNX Runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Build {
    /// For processors only.
    #[default]
    Cpu,
    /// For NVIDIA GPUs too.
    Cuda,
}

impl Build {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// A pinned Python package.
struct Wheel {
    build: Build,
    /// As `std::env::consts::ARCH` spells it.
    arch: &'static str,
    package: &'static str,
    platform: &'static str,
    sha256: &'static str,
    /// What is taken out of `onnxruntime/capi/`, the library itself last: where it is, everything is.
    members: &'static [&'static str],
}

const LIBRARY: &str = "libonnxruntime.so.1.31.1";
const SHARED: &str = "libonnxruntime_providers_shared.so";

/// The packages for Python 3.12; the libraries inside need no Python.
const WHEELS: [Wheel; 3] = [
    Wheel {
        build: Build::Cpu,
        arch: "x86_64",
        package: "onnxruntime",
        platform: "manylinux_2_28_x86_64",
        sha256: "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
        members: &[SHARED, LIBRARY],
    },
    Wheel {
        build: Build::Cpu,
        arch: "aarch64",
        package: "onnxruntime",
        platform: "manylinux_2_28_aarch64",
        sha256: "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
        members: &[SHARED, LIBRARY],
    },
    Wheel {
        build: Build::Cuda,
        arch: "x86_64",
        package: "onnxruntime-gpu",
        platform: "manylinux_2_28_x86_64",
        sha256: "05d548956197b9d01f59b625de740e0d6be3593f874e241a12dc0362650ecdf7",
        members: &["libonnxruntime_providers_cuda.so", SHARED, LIBRARY],
    },
];

/// What the search depends on besides its arguments.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// `ORT_DYLIB_PATH`.
    pub variable: Option<PathBuf>,
    /// The folder of the executable.
    pub beside: Option<PathBuf>,
    /// The cache folder of engraft; `None` if the user has no home.
    pub cache: Option<PathBuf>,
    /// True forbids the download.
    pub offline: bool,
}

impl Surroundings {
    /// Those of this process: its environment variables and its executable.
    pub fn of_process() -> Self {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        Self {
            variable: set("ORT_DYLIB_PATH").map(PathBuf::from),
            beside: env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned)),
            cache: cache_folder(set),
            offline: set("ENGRAFT_OFFLINE").is_some_and(|value| value != "0"),
        }
    }
}

/// The folder where engraft keeps what it can make or fetch again, or `None` if the user has no home.
pub fn cache() -> Option<PathBuf> {
    Surroundings::of_process().cache
}

fn cache_folder(set: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let home = || set("HOME").map(|home| Path::new(&home).join(".cache"));
    let own = set("ENGRAFT_CACHE").map(PathBuf::from);
    own.or_else(|| Some(set("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?.join("engraft")))
}

/// Looks for the library without fetching it. `Ok(None)` if it is nowhere and nothing was set explicitly.
///
/// # Errors
/// `runtime-missing` if a path was set explicitly and no file is there.
pub fn find(explicit: Option<&Path>, build: Build, around: &Surroundings) -> Result<Option<PathBuf>> {
    let set = [(explicit, "the setting"), (around.variable.as_deref(), "ORT_DYLIB_PATH")];
    if let Some((path, who)) = set.into_iter().find_map(|(path, who)| Some((path?, who))) {
        if path.is_file() {
            return Ok(Some(path.to_owned()));
        }
        let what = format!("{who} names {} as ONNX Runtime's library, but no file is there", path.display());
        return Err(Error::new(&codes::RUNTIME_MISSING, what).help("correct the path, or unset it to have it found"));
    }
    Ok(places(build, around).into_iter().find(|path| path.is_file()))
}

/// Looks for the library and fetches it if it is nowhere; returns its path.
///
/// # Errors
/// `runtime-missing`, `runtime-download`, `runtime-hash`, or an error of writing the cache folder.
pub fn provide(
    explicit: Option<&Path>,
    build: Build,
    around: &Surroundings,
    notify: &dyn Fn(&Event),
) -> Result<PathBuf> {
    if let Some(found) = find(explicit, build, around)? {
        return Ok(found);
    }
    let missing = |why: &str| {
        let looked: Vec<_> = places(build, around).iter().map(|p| p.display().to_string()).collect();
        let what = format!("ONNX Runtime was not found and {why}; looked at: {}", looked.join(", "));
        Error::new(&codes::RUNTIME_MISSING, what).help("run `engraft setup`, or set ORT_DYLIB_PATH to its library")
    };
    if around.offline {
        return Err(missing("may not be downloaded (ENGRAFT_OFFLINE)"));
    }
    let Some(cache) = &around.cache else {
        return Err(missing("there is no cache folder to download it to (HOME is not set)"));
    };
    let wheel = WHEELS.iter().find(|w| env::consts::OS == "linux" && w.arch == env::consts::ARCH && w.build == build);
    let Some(wheel) = wheel else {
        let (build, os, arch) = (build.name(), env::consts::OS, env::consts::ARCH);
        return Err(missing(&format!("there is no pinned package of the {build} build for {os} on {arch}")));
    };
    install(wheel, &cached(cache, build), notify)
}

/// Where an automatic search looks, in order.
fn places(build: Build, around: &Surroundings) -> Vec<PathBuf> {
    let beside = around.beside.iter().flat_map(|folder| [folder.join("libonnxruntime.so"), folder.join(LIBRARY)]);
    // A build for GPUs serves processors as well; the other way round it does not.
    let builds: &[Build] = if build == Build::Cpu { &[Build::Cpu, Build::Cuda] } else { &[Build::Cuda] };
    let cached = around.cache.iter().flat_map(|cache| builds.iter().map(|b| cached(cache, *b).join(LIBRARY)));
    beside.chain(cached).collect()
}

fn cached(cache: &Path, build: Build) -> PathBuf {
    cache.join(format!("onnxruntime-{VERSION}-{}", build.name()))
}

/// Fetches, checks and unpacks a package into `folder`, one process at a time.
fn install(wheel: &Wheel, folder: &Path, notify: &dyn Fn(&Event)) -> Result<PathBuf> {
    let library = folder.join(LIBRARY);
    check_writable(folder)?;
    let lock_path = folder.join("lock");
    let lock = File::create(&lock_path).map_err(|e| atomic::write_error(&lock_path, e))?;
    if lock.try_lock().is_err() {
        notify(&Event::Waiting { folder: folder.to_owned() });
        lock.lock().map_err(|e| atomic::write_error(&lock_path, e))?;
    }
    if library.is_file() {
        return Ok(library);
    }
    let package = format!("{}=={VERSION}", wheel.package);
    notify(&Event::Downloading { package: package.clone(), folder: folder.to_owned() });
    let download = tempfile::Builder::new().prefix("download-").tempdir_in(folder);
    let download = download.map_err(|e| atomic::write_error(folder, e))?;
    let file = pip::download(&package, wheel.platform, download.path())?;
    check_hash(&file, wheel)?;
    unpack(&file, wheel.members, folder)?;
    notify(&Event::Installed { library: library.clone() });
    Ok(library)
}

fn check_hash(file: &Path, wheel: &Wheel) -> Result<()> {
    let mut hasher = Sha256::new();
    let mut reader = io::BufReader::with_capacity(1 << 20, atomic::open(file)?);
    loop {
        let piece = io::BufRead::fill_buf(&mut reader).map_err(|e| atomic::read_error(file, e))?;
        if piece.is_empty() {
            break;
        }
        hasher.update(piece);
        let length = piece.len();
        io::BufRead::consume(&mut reader, length);
    }
    let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found == wheel.sha256 {
        return Ok(());
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let what = format!("the downloaded {name} has the SHA-256 {found}, expected {}", wheel.sha256);
    Err(Error::new(&codes::RUNTIME_HASH, what)
        .help("repeat the download, or set ORT_DYLIB_PATH to a library you trust"))
}

fn unpack(file: &Path, members: &[&str], folder: &Path) -> Result<()> {
    let broken = |e: zip::result::ZipError| {
        let what = format!("{} cannot be unpacked", file.display());
        Error::new(&codes::RUNTIME_DOWNLOAD, what).because(e)
    };
    let mut archive = ZipArchive::new(atomic::open(file)?).map_err(broken)?;
    for member in members {
        let mut entry = archive.by_name(&format!("onnxruntime/capi/{member}")).map_err(broken)?;
        let target = folder.join(member);
        write_atomic(&target, |out| {
            io::copy(&mut entry, out).and_then(|_| out.flush()).map_err(|e| atomic::write_error(&target, e))
        })?;
    }
    Ok(())
}

/// Removes what was provisioned for a build, so that it is fetched anew.
///
/// # Errors
/// `file-write` if the folder cannot be removed.
pub fn forget(build: Build, around: &Surroundings) -> Result<()> {
    let Some(folder) = around.cache.as_ref().map(|cache| cached(cache, build)) else { return Ok(()) };
    match fs::remove_dir_all(&folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(atomic::write_error(&folder, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nowhere() -> Surroundings {
        Surroundings { variable: None, beside: None, cache: None, offline: true }
    }

    fn touch(path: PathBuf) -> PathBuf {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"").unwrap();
        path
    }

    #[test]
    fn places_are_tried_in_order_and_a_set_path_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mut around = Surroundings { beside: Some(at("bin")), cache: Some(at("cache")), ..nowhere() };
        assert_eq!(find(None, Build::Cpu, &around).unwrap(), None);
        let cuda = touch(cached(&at("cache"), Build::Cuda).join(LIBRARY));
        assert_eq!(find(None, Build::Cpu, &around).unwrap(), Some(cuda.clone()));
        let cpu = touch(cached(&at("cache"), Build::Cpu).join(LIBRARY));
        assert_eq!(find(None, Build::Cpu, &around).unwrap(), Some(cpu));
        assert_eq!(find(None, Build::Cuda, &around).unwrap(), Some(cuda));
        let beside = touch(at("bin/libonnxruntime.so"));
        assert_eq!(find(None, Build::Cpu, &around).unwrap(), Some(beside));
        around.variable = Some(at("absent.so"));
        let error = find(None, Build::Cpu, &around).unwrap_err();
        assert!(error.message().contains("ORT_DYLIB_PATH") && error.message().contains("absent.so"), "{error}");
        let set = touch(at("set.so"));
        assert_eq!(find(Some(&set), Build::Cpu, &around).unwrap(), Some(set));
    }

    #[test]
    fn offline_says_where_it_looked() {
        let around = Surroundings { cache: Some("/absent/cache".into()), ..nowhere() };
        let error = provide(None, Build::Cpu, &around, &|_| {}).unwrap_err();
        assert_eq!(error.code().id, "runtime-missing");
        assert!(error.message().contains("/absent/cache/onnxruntime-"), "{error}");
    }

    #[test]
    fn the_cache_folder_follows_the_variables() {
        let folder = |vars: &[(&str, &str)]| {
            cache_folder(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)))
        };
        assert_eq!(folder(&[]), None);
        assert_eq!(folder(&[("HOME", "/h")]), Some("/h/.cache/engraft".into()));
        assert_eq!(folder(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Some("/x/engraft".into()));
        assert_eq!(folder(&[("XDG_CACHE_HOME", "/x"), ("ENGRAFT_CACHE", "/e")]), Some("/e".into()));
    }

    #[test]
    fn a_package_with_another_hash_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(check_hash(file.path(), &WHEELS[0]).unwrap_err().code().id, "runtime-hash");
    }
}
