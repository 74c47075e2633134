//! What is set for the whole process or for a thread of it.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, disable_transparent_huge_pages, sched_getaffinity, sched_setaffinity};

/// Turns transparent huge pages off for this process: they double the memory of small objects at rest. Where that is forbidden it stays as
/// it is.
pub fn disable_huge_pages() {
    let _ = disable_transparent_huge_pages(true);
}

/// Raises the soft limit of open files to the hard one; returns what holds then.
pub fn raise_open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum || setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_err() {
        return current.unwrap_or(u64::MAX);
    }
    maximum.unwrap_or(u64::MAX)
}

/// Pins this thread to the `index`th of the cores that it may run on, counting round.
///
/// # Errors
///
/// When the kernel refuses.
pub fn pin(index: usize) -> io::Result<()> {
    let allowed = sched_getaffinity(None)?;
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect();
    let Some(&core) = cores.get(index % cores.len().max(1)) else { return Ok(()) };
    let mut one = CpuSet::new();
    one.set(core);
    Ok(sched_setaffinity(None, &one)?)
}

/// While this lives, the thread and those that it spawns take no signals, so that the control thread gets them all.
#[derive(Debug)]
pub struct SignalsBlocked {
    before: libc::sigset_t,
}

impl SignalsBlocked {
    /// Blocks them.
    pub fn new() -> Self {
        // SAFETY: both sets are plain data that the calls fill; the mask is the thread's own.
        unsafe {
            let mut all = std::mem::zeroed();
            let mut before = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            SignalsBlocked { before }
        }
    }
}

impl Default for SignalsBlocked {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set is the one that was in effect before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinning_leaves_one_core_of_those_allowed() {
        std::thread::spawn(|| {
            let allowed = sched_getaffinity(None).unwrap();
            pin(1).unwrap();
            let now = sched_getaffinity(None).unwrap();
            assert_eq!(now.count(), 1);
            assert!((0..CpuSet::MAX_CPU).all(|core| !now.is_set(core) || allowed.is_set(core)));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn open_files_are_raised_to_the_hard_limit() {
        let limit = raise_open_files();
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), limit);
    }
}
