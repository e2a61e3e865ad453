//! Control groups (version 2) of a test's own.

use std::fs::{self, File};
use std::io;
use std::time::Duration;

use crate::harness::{Outcome, Stop, failed};

/// Where the hierarchy is mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// A control group, removed when dropped; its processes must be gone by then.
pub struct Cgroup(String);

impl Cgroup {
    /// Makes one below the root with these controllers.
    pub fn new(name: &str, controllers: &[&str]) -> Outcome<Cgroup> {
        let present = fs::read_to_string(format!("{ROOT}/cgroup.controllers"))?;
        for controller in controllers {
            if !present.split_whitespace().any(|name| name == *controller) {
                return Err(Stop::Skipped(format!("no \"{controller}\" controller in {ROOT}: {}", present.trim())));
            }
            fs::write(format!("{ROOT}/cgroup.subtree_control"), format!("+{controller}"))?;
        }
        let cgroup = Cgroup(format!("{ROOT}/spawn-template-{name}"));
        // One of an earlier run that failed.
        let _ = fs::remove_dir(&cgroup.0);
        fs::create_dir(&cgroup.0)?;
        Ok(cgroup)
    }

    /// Moves the calling process into it.
    pub fn join(&self) -> io::Result<()> {
        self.write("cgroup.procs", "0")
    }

    /// Its folder, opened.
    pub fn open(&self) -> io::Result<File> {
        File::open(&self.0)
    }

    /// The path of one of its files.
    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.0)
    }

    /// One of its files.
    pub fn read(&self, name: &str) -> io::Result<String> {
        Ok(fs::read_to_string(self.path(name))?.trim_end().to_owned())
    }

    /// Sets one of its files.
    pub fn write(&self, name: &str, value: &str) -> io::Result<()> {
        fs::write(self.path(name), value)
    }

    /// A number in one of its files: the whole of it, or what stands behind `key` in a line.
    #[track_caller]
    pub fn number(&self, name: &str, key: &str) -> Outcome<u64> {
        let text = self.read(name)?;
        let value = if key.is_empty() {
            Some(text.as_str())
        } else {
            text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        };
        value.and_then(|value| value.parse().ok()).ok_or_else(|| failed(format!("{name}: no number {key:?}: {text}")))
    }

    /// The pids in it.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        Ok(self.read("cgroup.procs")?.lines().filter_map(|line| line.parse().ok()).collect())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..100 {
            // A process that was just reaped may not have left yet.
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
