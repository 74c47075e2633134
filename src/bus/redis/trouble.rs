//! What an error of Redis means for whoever asked: try again, wait, or leave.

use redis::{ServerError, ServerErrorKind, Value};

/// An error reply, by what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The script cache was lost: load the scripts and ask again.
    NoScript,
    /// No writes here: this became a replica, or has lost its master. Connect anew, the address may lead elsewhere by then.
    Replica,
    /// Not yet, or not now: it is loading its data, or busy with a script. Wait.
    Busy,
    /// No more memory, or no disk to save to: writes are refused, reads are not. Wait.
    Full,
    /// Not allowed: wrong password, or the user may not do this. Only an operator can help.
    Denied,
    /// Anything else: this command is wrong, which is a bug.
    Other,
}

impl Trouble {
    /// What an error reply means.
    pub fn of(error: &ServerError) -> Self {
        match error.kind() {
            Some(ServerErrorKind::NoScript) => Trouble::NoScript,
            Some(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) => Trouble::Replica,
            Some(ServerErrorKind::BusyLoading | ServerErrorKind::TryAgain | ServerErrorKind::ClusterDown) => {
                Trouble::Busy
            }
            Some(ServerErrorKind::NoPerm) => Trouble::Denied,
            _ => match error.code() {
                "OOM" | "MISCONF" | "NOREPLICAS" => Trouble::Full,
                "BUSY" => Trouble::Busy,
                "NOAUTH" | "WRONGPASS" => Trouble::Denied,
                "UNKILLABLE" => Trouble::Busy,
                // From inside a script an error keeps its code, except where an older server wraps it.
                "ERR" => Trouble::wrapped(error.details().unwrap_or_default()),
                _ => Trouble::Other,
            },
        }
    }

    /// The trouble that a reply is, if it is one.
    pub fn in_reply(reply: &Value) -> Option<Self> {
        match reply {
            Value::ServerError(error) => Some(Trouble::of(error)),
            _ => None,
        }
    }

    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Trouble::NoScript => "no_script",
            Trouble::Replica => "replica",
            Trouble::Busy => "busy",
            Trouble::Full => "full",
            Trouble::Denied => "denied",
            Trouble::Other => "other",
        }
    }

    /// Whether the connection is to be made anew.
    pub fn is_fatal(self) -> bool {
        match self {
            Trouble::Replica | Trouble::Denied => true,
            Trouble::NoScript | Trouble::Busy | Trouble::Full | Trouble::Other => false,
        }
    }

    fn wrapped(detail: &str) -> Self {
        let names = |code: &str| detail.contains(code);
        if names("-READONLY") || names("READONLY You can't write") {
            Trouble::Replica
        } else if names("-OOM") || names("-MISCONF") || names("OOM command not allowed") {
            Trouble::Full
        } else if names("invalid username-password pair") || names("AUTH") && names("without any password") {
            Trouble::Denied
        } else {
            Trouble::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::redis::resp::value;

    #[test]
    fn errors_are_told_apart_by_what_can_be_done() {
        for (reply, trouble) in [
            ("NOSCRIPT No matching script. Please use EVAL.", Trouble::NoScript),
            ("READONLY You can't write against a read only replica.", Trouble::Replica),
            (
                "READONLY You can't write against a read only replica. script: 1f2e, on @user_script:3.",
                Trouble::Replica,
            ),
            ("ERR Error running script (call to f_1): @user_script:1: -READONLY You can't write", Trouble::Replica),
            ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", Trouble::Replica),
            ("LOADING Redis is loading the dataset in memory", Trouble::Busy),
            ("BUSY Redis is busy running a script.", Trouble::Busy),
            ("OOM command not allowed when used memory > 'maxmemory'.", Trouble::Full),
            ("MISCONF Redis is configured to save RDB snapshots", Trouble::Full),
            ("NOAUTH Authentication required.", Trouble::Denied),
            ("WRONGPASS invalid username-password pair or user is disabled.", Trouble::Denied),
            ("NOPERM User gate has no permissions to run the 'get' command", Trouble::Denied),
            ("ERR unknown command 'x'", Trouble::Other),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", Trouble::Other),
        ] {
            let value = value(format!("-{reply}\r\n").as_bytes()).unwrap();
            assert_eq!(Trouble::in_reply(&value), Some(trouble), "{reply}");
        }
        assert_eq!(Trouble::in_reply(&Value::Okay), None);
    }
}
