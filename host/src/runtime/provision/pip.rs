//! Fetching one file with `pip download`, whichever Python has a pip. The user's own configuration decides about
//! indexes, proxies and certificates.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::base::atomic::read_error;
use crate::base::{Error, Result};
use crate::runtime::codes;

/// Ways to call pip; the first that works is used, the others only if it fails.
const CALLS: [&[&str]; 4] = [&["python3", "-m", "pip"], &["pip3"], &["pip"], &["python", "-m", "pip"]];

/// Downloads the file of a package for Python 3.12 on a platform, whatever Python pip itself runs in.
pub(super) fn download(package: &str, platform: &str, folder: &Path) -> Result<PathBuf> {
    let mut known = Vec::new();
    let mut words = Vec::new();
    for call in CALLS {
        // pip names its own place: the same pip under another name would only fail again.
        let Some(version) = run(call, &["--version"]).ok().filter(|o| o.status.success()).map(|o| o.stdout) else {
            continue;
        };
        if known.contains(&version) {
            continue;
        }
        known.push(version);
        let target = folder.to_string_lossy();
        let arguments =
            [
                &[
                    "download",
                    "--quiet",
                    "--disable-pip-version-check",
                    "--no-input",
                    "--no-deps",
                    "--only-binary=:all:",
                ][..],
                &["--implementation", "cp", "--python-version", "3.12", "--abi", "cp312", "--platform", platform],
                &["--dest", &target, package],
            ]
            .concat();
        match run(call, &arguments) {
            Ok(output) if output.status.success() => return the_wheel(folder),
            Ok(output) => words.push(format!("`{}` said: {}", call.join(" "), last_lines(&output.stderr))),
            Err(e) => words.push(format!("`{}`: {e}", call.join(" "))),
        }
    }
    let error = Error::new(&codes::RUNTIME_DOWNLOAD, format!("{package} for {platform} could not be downloaded"))
        .help("repair pip or its configuration, or install ONNX Runtime otherwise and set ORT_DYLIB_PATH");
    if words.is_empty() {
        let tried: Vec<_> = CALLS.iter().map(|call| format!("`{}`", call.join(" "))).collect();
        return Err(error.because(format!("no pip was found; tried {}", tried.join(", "))));
    }
    Err(error.because(words.join("\n")))
}

fn run(call: &[&str], arguments: &[&str]) -> std::io::Result<Output> {
    Command::new(call[0]).args(&call[1..]).args(arguments).stdin(Stdio::null()).output()
}

fn the_wheel(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).map_err(|e| read_error(folder, e))?;
    let mut wheels = entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "whl"));
    wheels.next().ok_or_else(|| Error::new(&codes::RUNTIME_DOWNLOAD, "pip reported success but left no file"))
}

/// The end of what pip said: its reason stands there.
fn last_lines(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join(" / ")
}
