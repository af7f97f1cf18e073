//! `engraft plugins new`: a crate to begin a method with, from the files in `template`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use engraft_plugin_api::abi::API_VERSION;
use serde::Serialize;

use crate::base::codes::FOLDER_NOT_WRITABLE;
use crate::base::{Error, Result, atomic};
use crate::cli::{codes, out, shown, usage};

/// Write a crate to begin a method with: it builds, has tests, and keeps the laws.
#[derive(Args)]
#[command(after_help = "Example: engraft plugins new warm-words")]
pub(super) struct New {
    /// The name of the crate and of its method: small letters, digits and dashes.
    name: String,
    /// The folder to make [default: NAME].
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Where the crate takes engraft-plugin-api from: a folder, the URL of a git repository, or a version [default: the
    /// sources that this program was built from, where they are, else the version that it was built with].
    #[arg(long, value_name = "PATH|URL|VERSION")]
    api: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What stands in the template for the name, in three spellings.
const DASHES: &str = "my-method";
const SNAKE: &str = "my_method";
const CAMEL: &str = "MyMethod";

/// The files of a crate.
const TEMPLATE: [(&str, &str); 6] = [
    ("Cargo.toml", include_str!("template/manifest.toml")),
    ("README.md", include_str!("template/README.md")),
    ("src/lib.rs", include_str!("template/src/lib.rs")),
    ("tests/contract.rs", include_str!("template/tests/contract.rs")),
    ("presets/default.toml", include_str!("template/presets/default.toml")),
    (".gitignore", include_str!("template/ignore")),
];

/// Names that a crate cannot have: Rust's words, its own crates, what cargo makes folders of, and ours.
const RESERVED: [&str; 65] = [
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "build",
    "const",
    "continue",
    "core",
    "crate",
    "deps",
    "do",
    "dyn",
    "else",
    "engraft",
    "engraft-plugin-api",
    "enum",
    "examples",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "incremental",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "union",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
    "my-method",
    "target",
];

#[derive(Serialize)]
struct Made {
    name: String,
    folder: String,
    files: Vec<&'static str>,
    /// What `cargo build` makes, below the folder.
    library: String,
    /// Where the contract is taken from, as Cargo.toml says it.
    api: String,
}

impl New {
    pub(super) fn run(&self) -> Result<()> {
        let name = &self.name;
        check_name(name)?;
        let api = api(self.api.as_deref())?;
        let folder = self.path.clone().unwrap_or_else(|| PathBuf::from(name));
        write(&folder, name, &api)?;
        let library = format!("target/debug/lib{}.so", name.replace('-', "_"));
        let files = TEMPLATE.map(|(file, _)| file).to_vec();
        let made = Made { name: name.clone(), folder: folder.display().to_string(), files, library, api };
        if self.json {
            return out::json(&made);
        }
        out::line(format_args!("made {}, with engraft-plugin-api = {}", shown(&folder), made.api))?;
        out::line("next:")?;
        out::line(format_args!("  cd {}", shown(&folder)))?;
        out::line("  cargo test")?;
        out::line("  cargo build")?;
        out::line(format_args!("  engraft plugins check {} --preset presets/default.toml --teaches", made.library))
    }
}

fn check_name(name: &str) -> Result<()> {
    let spelled = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let whole = !name.ends_with('-') && !name.contains("--") && name.len() <= 64;
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(spelled) || !whole {
        let text =
            format!("`{name}` is no name for a method: expected small letters, digits and single dashes between");
        let near: String = name.to_lowercase().chars().map(|c| if spelled(c) { c } else { '-' }).collect();
        let near: Vec<&str> = near.split('-').filter(|part| !part.is_empty()).collect();
        let near = near.join("-");
        let error = usage(text);
        return Err(if near != name && check_name(&near).is_ok() {
            error.help(format!("how about `{near}`?"))
        } else {
            error.help("for example `warm-words`, at most 64 letters")
        });
    }
    if RESERVED.contains(&name) {
        let text = format!("`{name}` is a word of Rust, of cargo or of engraft, and cannot be the name of a crate");
        return Err(usage(text).help(format!("add a word to it, as `{name}-edit`")));
    }
    Ok(())
}

/// The package that every plugin needs.
const API: &str = "engraft-plugin-api";

/// True if the folder holds the package.
fn holds_api(folder: &Path) -> bool {
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    let manifest: toml::Table = manifest.parse().unwrap_or_default();
    manifest.get("package").and_then(|p| p.get("name")).and_then(toml::Value::as_str) == Some(API)
}

/// The value of the dependency in Cargo.toml.
fn api(given: Option<&str>) -> Result<String> {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let at = |folder: &Path| format!("{{ path = {} }}", quoted(&folder.to_string_lossy()));
    let Some(given) = given else {
        let built = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../plugin-api")).canonicalize();
        let built = built.ok().filter(|folder| holds_api(folder));
        return Ok(built.map_or_else(|| quoted(&API_VERSION.to_string()), |folder| at(&folder)));
    };
    if given.contains("://") || given.starts_with("git@") {
        return Ok(format!("{{ git = {} }}", quoted(given)));
    }
    let version = given.trim_start_matches(['^', '~', '=']);
    if version.starts_with(|c: char| c.is_ascii_digit()) && version.split('.').all(|n| n.parse::<u32>().is_ok()) {
        return Ok(quoted(given));
    }
    match Path::new(given).canonicalize() {
        Ok(folder) if holds_api(&folder) => Ok(at(&folder)),
        _ => {
            let text = format!("`{given}` is no version, no URL and no folder with the package {API}");
            Err(usage(text)
                .help("name the folder `plugin-api` of engraft's sources, https://..., or a version like 0.1"))
        }
    }
}

/// Writes the crate whole or not at all.
fn write(folder: &Path, name: &str, api: &str) -> Result<()> {
    let taken = match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => folder.symlink_metadata().is_ok(),
    };
    if taken {
        let text = format!("`{}` is there already, and is no empty folder", folder.display());
        return Err(Error::new(&codes::OUTPUT_EXISTS, text).help("name another folder with --path"));
    }
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed =
        |e| Error::new(&FOLDER_NOT_WRITABLE, format!("cannot write to the folder {}", above.display())).because(e);
    fs::create_dir_all(above).map_err(failed)?;
    let beside = tempfile::Builder::new().prefix(".engraft-new-").tempdir_in(above).map_err(failed)?;
    let camel: String = name.split('-').map(capital).collect();
    for (file, text) in TEMPLATE {
        let text = text.replace("engraft-plugin-api = API", &format!("engraft-plugin-api = {api}"));
        let text = text.replace(DASHES, name).replace(SNAKE, &name.replace('-', "_")).replace(CAMEL, &camel);
        let path = beside.path().join(file);
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
        atomic::write_bytes(&path, text.as_bytes())?;
    }
    let made = beside.keep();
    set_usual_permissions(&made).and_then(|()| fs::rename(&made, folder)).map_err(|e| {
        // What could not be put into its place is of no use.
        let _ = fs::remove_dir_all(&made);
        failed(e)
    })
}

/// Temporary folders are private; a crate is as open as any folder that is made.
fn set_usual_permissions(folder: &Path) -> std::io::Result<()> {
    let usual = fs::metadata(folder.join("src"))?.permissions();
    fs::set_permissions(folder, usual)
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_crates_and_methods() {
        for fine in ["warm-words", "x", "rome2", "a-1-b"] {
            check_name(fine).unwrap();
        }
        for (name, help) in [
            ("warm_words", "`warm-words`"),
            ("Warm words!", "`warm-words`"),
            ("-x", "`x`"),
            ("a--b", "`a-b`"),
            ("", "for example"),
            ("7up", "for example"),
            ("größe", "`gr-e`"),
            ("fn", "`fn-edit`"),
            ("engraft-plugin-api", "`engraft-plugin-api-edit`"),
        ] {
            let error = check_name(name).unwrap_err();
            assert_eq!(error.code().id, "usage", "{name}");
            assert!(error.advice().is_some_and(|advice| advice.contains(help)), "{name}: {:?}", error.advice());
        }
    }

    #[test]
    fn the_contract_is_taken_from_where_it_is_said() {
        let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugin-api");
        assert_eq!(api(None).unwrap(), api(Some(sources)).unwrap());
        assert!(api(None).unwrap().starts_with("{ path = \"/"), "{:?}", api(None));
        assert_eq!(api(Some("0.1")).unwrap(), "\"0.1\"");
        assert_eq!(api(Some("=1.2.3")).unwrap(), "\"=1.2.3\"");
        assert_eq!(api(Some("https://example.org/e.git")).unwrap(), "{ git = \"https://example.org/e.git\" }");
        for wrong in ["/absent", concat!(env!("CARGO_MANIFEST_DIR")), "1.x", ""] {
            assert_eq!(api(Some(wrong)).unwrap_err().code().id, "usage", "{wrong}");
        }
    }
}
