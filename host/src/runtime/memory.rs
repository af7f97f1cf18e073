//! How much memory this process has, as the kernel counts it. Linux tells; elsewhere the answers are `None`.

/// Anonymous resident memory in bytes (`RssAnon`): what the process allocated, without the mapped pages of files.
pub fn anonymous_bytes() -> Option<u64> {
    field("RssAnon:")
}

/// The most resident memory that the process has had so far, in bytes (`VmHWM`), mapped files included.
pub fn peak_bytes() -> Option<u64> {
    field("VmHWM:")
}

/// The memory of the machine that is free or can be freed, in bytes (`MemAvailable`).
pub fn available_bytes() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

fn field(name: &str) -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/self/status").ok()?, name)
}

fn parse(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read_in_kibibytes() {
        let status = "Name:\tengraft\nVmHWM:\t    2048 kB\nRssAnon:\t     100 kB\n";
        assert_eq!(parse(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(parse(status, "RssAnon:"), Some(102_400));
        assert_eq!(parse(status, "Absent:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory() {
        assert!(available_bytes().unwrap() > 0);
        assert!(peak_bytes().unwrap() >= anonymous_bytes().unwrap().min(1 << 20));
    }
}
