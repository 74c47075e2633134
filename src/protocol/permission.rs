//! STUB of branch `config`: the lead drops this file on merge, branch `protocol` owns it.

use serde::{Deserialize, Serialize};

/// What a user may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions(Vec<String>);

/// An entry that is not `verb:pattern`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a permission")]
pub struct PermissionError;

impl Permissions {
    /// Parses `verb:pattern` entries.
    pub fn parse<'a>(entries: impl Iterator<Item = &'a str>) -> Result<Self, PermissionError> {
        let verbs = ["send", "join", "subscribe", "publish", "presence"];
        let good =
            |e: &&str| *e == "broadcast" || e.split_once(':').is_some_and(|(v, p)| verbs.contains(&v) && !p.is_empty());
        entries
            .map(|e| if good(&e) { Ok(e.to_owned()) } else { Err(PermissionError) })
            .collect::<Result<_, _>>()
            .map(Permissions)
    }
}
