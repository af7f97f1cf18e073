//! Whether a shared library's file is whole. The system's loader maps a file without asking how long it is, and a
//! library that was cut off ends the process with a signal instead of an error: so it is asked here, before loading.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// How many bytes a library's own header says that its file must have, and how many it has, if those are fewer.
/// `None` for a file that is long enough, and for one that is not a 64-bit little-endian ELF file at all: of that the
/// loader itself says so.
///
/// # Errors
/// If the file cannot be read.
pub fn cut_off(path: &Path) -> io::Result<Option<(u64, u64)>> {
    let mut file = File::open(path)?;
    let found = file.metadata()?.len();
    let mut header = Vec::new();
    file.by_ref().take(64).read_to_end(&mut header)?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return Ok(None);
    }
    if header.len() < 64 {
        return Ok(Some((64, found)));
    }
    let (table, size, count) = (u64_at(&header, 0x20), u16_at(&header, 0x36), u16_at(&header, 0x38));
    let end = table.saturating_add(u64::from(size) * u64::from(count));
    if end > found || size < 56 {
        return Ok((end > found).then_some((end, found)));
    }
    let mut entries = vec![0; usize::from(size) * usize::from(count)];
    file.seek(SeekFrom::Start(table))?;
    file.read_exact(&mut entries)?;
    let ends = entries.chunks_exact(usize::from(size)).map(|e| u64_at(e, 8).saturating_add(u64_at(e, 0x20)));
    let wanted = ends.max().unwrap_or(0);
    Ok((wanted > found).then_some((wanted, found)))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(all(test, target_os = "linux", target_pointer_width = "64", target_endian = "little"))]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_was_cut_off_is_noticed() {
        let whole = std::env::current_exe().unwrap();
        assert_eq!(cut_off(&whole).unwrap(), None);
        let folder = tempfile::tempdir().unwrap();
        let cut = folder.path().join("cut");
        let bytes = std::fs::read(&whole).unwrap();
        for length in [10, 100, 5000] {
            std::fs::write(&cut, &bytes[..length]).unwrap();
            let (wanted, found) = cut_off(&cut).unwrap().unwrap();
            assert!(wanted > found && found == length as u64);
        }
        std::fs::write(&cut, "not a library").unwrap();
        assert_eq!(cut_off(&cut).unwrap(), None);
    }
}
