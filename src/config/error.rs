//! What is wrong with a configuration, in words that say how to put it right.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    #[default]
    Default,
    /// A file, with the line where that is known.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: Option<usize>,
    },
    /// An environment variable of that name.
    Environment(String),
    /// `--set` on the command line.
    Set,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Origin::File { path, line: None } => write!(f, "{}", path.display()),
            Origin::Environment(name) => write!(f, "environment variable {name}"),
            Origin::Set => f.write_str("--set"),
        }
    }
}

/// One thing that is wrong. Its text holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, where it is about one.
    pub key: Option<String>,
    /// Key, value, origin, and what would be right.
    pub text: String,
}

impl Problem {
    /// About a key.
    pub(super) fn key(key: &str, text: String) -> Self {
        Problem { key: Some(key.to_owned()), text }
    }

    /// About no key: an unreadable file, a bad argument.
    pub(super) fn other(text: String) -> Self {
        Problem { key: None, text }
    }
}

/// All that is wrong with a configuration; at least one problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// What is wrong, in the order of the sources.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// `value`, or all the problems that were found on the way to it.
    pub(super) fn unless_empty<T>(problems: Vec<Problem>, value: T) -> Result<T, ConfigError> {
        if problems.is_empty() { Ok(value) } else { Err(ConfigError { problems }) }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&problem.text)?;
        }
        Ok(())
    }
}
