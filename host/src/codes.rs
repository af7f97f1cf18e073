//! All error codes of the library, by folder, for `engraft explain`.

use crate::base::Code;

/// The folders that have codes, with their codes.
pub fn all() -> [(&'static str, &'static [&'static Code]); 14] {
    [
        ("base", crate::base::codes::ALL),
        ("graph", crate::graph::codes::ALL),
        ("anatomy", crate::anatomy::codes::ALL),
        ("autodiff", crate::autodiff::codes::ALL),
        ("weights", crate::weights::codes::ALL),
        ("runtime", crate::runtime::codes::ALL),
        ("hooks", crate::hooks::codes::ALL),
        ("model", crate::model::codes::ALL),
        ("plugins", crate::plugins::codes::ALL),
        ("data", crate::data::codes::ALL),
        ("metrics", crate::metrics::codes::ALL),
        ("experiment", crate::experiment::codes::ALL),
        ("cli", crate::cli::codes::ALL),
        ("plugin-api", crate::cli::contract::ALL),
    ]
}

/// A code by its identifier.
pub fn find(id: &str) -> Option<&'static Code> {
    all().into_iter().flat_map(|(_, codes)| codes).find(|c| c.id == id).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn every_code_is_spelled_once_and_explained() {
        let codes: Vec<_> = super::all().into_iter().flat_map(|(_, codes)| codes).collect();
        let ids: BTreeSet<_> = codes.iter().map(|c| c.id).collect();
        assert_eq!(ids.len(), codes.len());
        for code in codes {
            assert!(code.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{}", code.id);
            assert!(code.explanation.len() > 60, "{}", code.id);
        }
    }
}
