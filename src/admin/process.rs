//! What the kernel says of this process: memory, descriptors over all tables, processor time. Reads of procfs: they never wait.

use std::fs;

/// See the module. What cannot be read is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    pub(super) resident_bytes: u64,
    pub(super) virtual_bytes: u64,
    pub(super) descriptors: u64,
    pub(super) cpu_seconds: f64,
    pub(super) threads: u64,
}

impl Process {
    /// `tables` are threads with a descriptor table of their own; empty where one table serves all.
    pub(super) fn read(tables: &[i32]) -> Self {
        let mut process = Process::default();
        let page = rustix::param::page_size() as u64;
        if let Ok(statm) = fs::read_to_string("/proc/self/statm") {
            let mut pages = statm.split_ascii_whitespace().map(|n| n.parse::<u64>().unwrap_or(0));
            process.virtual_bytes = pages.next().unwrap_or(0) * page;
            process.resident_bytes = pages.next().unwrap_or(0) * page;
        }
        if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
            // The name, in parentheses, may hold anything.
            let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split_ascii_whitespace().collect();
            let number = |index: usize| fields.get(index).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
            let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
            process.cpu_seconds = (number(11) + number(12)) as f64 / ticks;
            process.threads = number(17);
        }
        process.descriptors = match tables {
            [] => open_descriptors("/proc/self/fd"),
            threads => {
                let of = |thread: &i32| open_descriptors(&format!("/proc/self/task/{thread}/fd"));
                open_descriptors("/proc/self/fd") + threads.iter().map(of).sum::<u64>()
            }
        };
        process
    }
}

/// Since Linux 6.2 the size of that directory is the number of descriptors. Before, 100,000 entries would have to be listed, on a shard: 0.
fn open_descriptors(directory: &str) -> u64 {
    fs::metadata(directory).map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_something() {
        let before = Process::read(&[]);
        assert!(before.resident_bytes > 100_000 && before.virtual_bytes >= before.resident_bytes);
        assert!(before.threads >= 1);
        if before.descriptors == 0 {
            return;
        }
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        assert!(Process::read(&[]).descriptors >= before.descriptors + 30, "other tests close some");
        drop(files);
    }
}
