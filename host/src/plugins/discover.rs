//! Where plugins are looked for, and what a name means there.

use std::collections::BTreeSet;
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::env::{current_exe, split_paths, var_os};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use engraft_plugin_api::params::nearest;

use super::{codes, elf};
use crate::base::{Error, Result};

/// The variable that lists folders of plugins, like `PATH`.
const VARIABLE: &str = "ENGRAFT_PLUGIN_PATH";

/// What the names of plugin libraries begin with, after the system's prefix: the first that exists counts.
const STEMS: [&str; 2] = ["engraft_", ""];

/// Folders in which plugins are looked for, the first first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchPath(Vec<PathBuf>);

impl SearchPath {
    /// Only the given folders.
    pub fn new(folders: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(folders.into_iter().collect())
    }

    /// The folders of a process: the given ones, those of `ENGRAFT_PLUGIN_PATH`, the executable's with its `deps`, and
    /// `engraft/plugins` below the user's data folder.
    pub fn of_process(given: impl IntoIterator<Item = PathBuf>) -> Self {
        let exe = current_exe().and_then(|exe| exe.canonicalize()).ok();
        Self::assemble(given, var_os(VARIABLE), exe.as_deref(), var_os("XDG_DATA_HOME"), var_os("HOME"))
    }

    fn assemble(
        given: impl IntoIterator<Item = PathBuf>,
        listed: Option<OsString>,
        exe: Option<&Path>,
        data: Option<OsString>,
        home: Option<OsString>,
    ) -> Self {
        let mut folders: Vec<PathBuf> = given.into_iter().collect();
        folders.extend(listed.iter().flat_map(split_paths).filter(|folder| !folder.as_os_str().is_empty()));
        if let Some(folder) = exe.and_then(Path::parent) {
            folders.extend([folder.to_owned(), folder.join("deps")]);
        }
        // By the XDG specification a relative folder is to be ignored.
        let data = data.map(PathBuf::from).filter(|data| data.is_absolute());
        let data = data.or_else(|| home.map(|home| PathBuf::from(home).join(".local/share")));
        folders.extend(data.map(|data| data.join("engraft/plugins")));
        Self(folders)
    }

    /// The folders, the first first.
    pub fn folders(&self) -> &[PathBuf] {
        &self.0
    }

    /// The file that `plugin` means: a path (relative ones below `base`), or a name to be looked up.
    ///
    /// # Errors
    /// `plugin-missing`, saying where was looked and what similar plugin there is.
    pub fn find(&self, plugin: &str, base: &Path) -> Result<PathBuf> {
        if plugin.contains('/') || plugin.ends_with(DLL_SUFFIX) {
            return Ok(base.join(plugin));
        }
        let stem = plugin.replace('-', "_");
        let files = STEMS.map(|prefix| format!("{DLL_PREFIX}{prefix}{stem}{DLL_SUFFIX}"));
        for folder in &self.0 {
            if let Some(found) = files.iter().map(|file| folder.join(file)).find(|file| file.is_file()) {
                return Ok(found);
            }
        }
        let looked: Vec<String> = self.0.iter().map(|folder| folder.display().to_string()).collect();
        let message = format!("there is no plugin `{plugin}`: no {} in {}", files.join(" or "), looked.join(", "));
        let error = Error::new(&codes::MISSING, message);
        let names: Vec<String> = self.candidates().iter().filter_map(|file| name_of(file)).collect();
        Err(match nearest(plugin, names.iter().map(String::as_str)) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!("build it, or name its folder with --plugin-dir or {VARIABLE}")),
        })
    }

    /// Every plugin file on the path, folder by folder and sorted within each; nothing is loaded.
    pub fn candidates(&self) -> Vec<PathBuf> {
        let mut out = Vec::new();
        for folder in &self.0 {
            let entries = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
            let named = |path: &PathBuf| name_of(path).is_some();
            let files: BTreeSet<PathBuf> = entries.filter(named).filter(|path| elf::check(path).is_ok()).collect();
            out.extend(files.into_iter().filter(|file| !out.contains(file)).collect::<Vec<_>>());
        }
        out
    }
}

/// The name by which a file would be found.
fn name_of(file: &Path) -> Option<String> {
    let stem = file.file_name()?.to_str()?.strip_prefix(DLL_PREFIX)?.strip_suffix(DLL_SUFFIX)?;
    Some(stem.strip_prefix(STEMS[0]).unwrap_or(stem).replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_folders() {
        let path = |listed: Option<&str>, data: Option<&str>| {
            let text = |t: Option<&str>| t.map(OsString::from);
            SearchPath::assemble(
                ["given".into()],
                text(listed),
                Some(Path::new("/x/engraft")),
                text(data),
                text(Some("/h")),
            )
        };
        let paths = |list: &[&str]| SearchPath::new(list.iter().map(PathBuf::from));
        let home = "/h/.local/share/engraft/plugins";
        assert_eq!(path(Some("/a::/b"), None), paths(&["given", "/a", "/b", "/x", "/x/deps", home]));
        assert_eq!(path(None, Some("/d")), paths(&["given", "/x", "/x/deps", "/d/engraft/plugins"]));
        assert_eq!(path(None, Some("d")), paths(&["given", "/x", "/x/deps", home]));
    }

    #[test]
    fn a_name_means_a_file_and_a_path_means_itself() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        for name in ["libengraft_two_words.so", "libplain.so"] {
            std::fs::write(file(name), "").unwrap();
        }
        let path = SearchPath::new([file("absent"), folder.path().to_owned()]);
        let find = |plugin: &str| path.find(plugin, Path::new("/base"));
        assert_eq!(find("two-words").unwrap(), file("libengraft_two_words.so"));
        assert_eq!(find("plain").unwrap(), file("libplain.so"));
        assert_eq!(find("p/x").unwrap(), Path::new("/base/p/x"));
        assert_eq!(find("x.so").unwrap(), Path::new("/base/x.so"));
        assert_eq!(find("/x.so").unwrap(), Path::new("/x.so"));
        let error = find("rome").unwrap_err();
        assert_eq!(error.code().id, "plugin-missing");
        assert!(error.message().contains(&folder.path().display().to_string()), "{error}");
        assert!(path.candidates().is_empty(), "empty files are no plugins");
    }
}
