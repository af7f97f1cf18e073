//! What can be known of a library before the system's loader runs its code: that it is a whole ELF library for this
//! processor, and exports a plugin's root symbol. (A truncated library would end the process with a bus error.)

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use engraft_plugin_api::abi::ROOT_SYMBOL;

use super::codes;
use crate::base::elf::cut_off;
use crate::base::{Error, Result};

/// ELF's number of this processor and of some others, with their names.
const MACHINES: [(u16, &str); 5] = [(3, "x86"), (40, "arm"), (62, "x86_64"), (183, "aarch64"), (243, "riscv64")];
const SHARED_OBJECT: u16 = 3;
const DYNAMIC_SYMBOLS: u32 = 11;

/// Checks the file without loading it.
///
/// # Errors
/// `plugin-file` or `plugin-not-a-plugin`.
pub(super) fn check(path: &Path) -> Result<()> {
    let wrong = |what: &str| Error::new(&codes::FILE, format!("{} {what}", path.display()));
    let unreadable = |e: io::Error| wrong("cannot be read").because(e);
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(wrong("is not a file"));
    }
    let elf = Elf { path, file, len: metadata.len() };
    match elf.inspect() {
        Ok(()) => Ok(()),
        Err(Defect::Alien(what)) => Err(wrong(&format!("is not a shared library: {what}"))),
        Err(Defect::Machine(machine)) => {
            let name = MACHINES.iter().find(|m| m.0 == machine).map_or("another processor", |m| m.1);
            Err(wrong(&format!("was built for {name}, this machine is {}", std::env::consts::ARCH)))
        }
        Err(Defect::CutOff(what)) => {
            Err(wrong(&format!("was cut off: its {what} beyond its {} bytes", elf.len)).help("copy or build it again"))
        }
        Err(Defect::NoRoot) => Err(Error::new(
            &codes::NOT_A_PLUGIN,
            format!("{} is a shared library, but exports no engraft plugin", path.display()),
        )
        .help("a plugin's crate is a `cdylib` and calls `export_method!`")),
        Err(Defect::Io(e)) => Err(unreadable(e)),
    }
}

enum Defect {
    Alien(&'static str),
    Machine(u16),
    CutOff(&'static str),
    NoRoot,
    Io(io::Error),
}

struct Elf<'a> {
    path: &'a Path,
    file: File,
    len: u64,
}

/// A section's type, the index of its string table, its offset and its size.
struct Section {
    kind: u32,
    link: u32,
    offset: u64,
    size: u64,
}

impl Elf<'_> {
    fn inspect(&self) -> Result<(), Defect> {
        let mut head = [0u8; 64];
        let known = usize::try_from(self.len).unwrap_or(usize::MAX).min(head.len());
        self.file.read_exact_at(&mut head[..known], 0).map_err(Defect::Io)?;
        if !head.starts_with(b"\x7fELF") {
            return Err(Defect::Alien("it does not begin like an ELF file"));
        }
        if known < head.len() {
            return Err(Defect::CutOff("header reaches"));
        }
        if head[5] != 1 {
            return Err(Defect::Alien("it is for machines of the other byte order"));
        }
        let machine = u16_at(&head, 18);
        if MACHINES.iter().find(|m| m.0 == machine).map(|m| m.1) != Some(std::env::consts::ARCH) {
            return Err(Defect::Machine(machine));
        }
        if head[4] != 2 {
            return Err(Defect::Alien("it is for 32-bit machines"));
        }
        if u16_at(&head, 16) != SHARED_OBJECT {
            return Err(Defect::Alien("it is a program or an object file"));
        }
        if cut_off(self.path).map_err(Defect::Io)?.is_some() {
            return Err(Defect::CutOff("code or data reaches"));
        }
        self.root_symbol(&head)
    }

    /// The root symbol is defined among the dynamic ones. A library without a section table passes.
    fn root_symbol(&self, head: &[u8; 64]) -> Result<(), Defect> {
        let (offset, size, count) = (u64_at(head, 40), u64::from(u16_at(head, 58)), u64::from(u16_at(head, 60)));
        if offset == 0 || size < 64 {
            return Ok(());
        }
        let table = self.bytes(offset, size * count, "section table reaches")?;
        let sections: Vec<Section> = table
            .chunks_exact(usize::from(u16_at(head, 58)))
            .map(|s| Section { kind: u32_at(s, 4), link: u32_at(s, 40), offset: u64_at(s, 24), size: u64_at(s, 32) })
            .collect();
        let Some(symbols) = sections.iter().find(|s| s.kind == DYNAMIC_SYMBOLS) else {
            return Err(Defect::NoRoot);
        };
        let names = sections.get(symbols.link as usize).ok_or(Defect::NoRoot)?;
        let names = self.bytes(names.offset, names.size, "names reach")?;
        let wanted = [ROOT_SYMBOL.as_bytes(), b"\0"].concat();
        let found = self.bytes(symbols.offset, symbols.size, "symbols reach")?.chunks_exact(24).any(|symbol| {
            let defined = u16_at(symbol, 6) != 0;
            defined && names.get(u32_at(symbol, 0) as usize..).is_some_and(|name| name.starts_with(&wanted))
        });
        if found { Ok(()) } else { Err(Defect::NoRoot) }
    }

    fn bytes(&self, offset: u64, size: u64, what: &'static str) -> Result<Vec<u8>, Defect> {
        if offset.checked_add(size).is_none_or(|end| end > self.len) {
            return Err(Defect::CutOff(what));
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| Defect::CutOff(what))?];
        self.file.read_exact_at(&mut bytes, offset).map_err(Defect::Io)?;
        Ok(bytes)
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}
