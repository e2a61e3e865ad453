//! Starts a program twice, by fork and execve and by template, from the same caller, and compares what it prints.

use std::ffi::CString;

use crate::harness::{Outcome, failed};
use crate::os;
use crate::show::Show;
use crate::template::{Spawn, Template, show_by_exec};

/// What one of the children `report` and `first` printed, each way.
pub struct Twice {
    /// After fork and execve.
    pub executed: Show,
    /// Started from a template.
    pub spawned: Show,
}

/// Arguments of both runs.
const ARGV: [&str; 3] = ["zeroth", "first", ""];
/// Environment of both runs.
const ENVP: [&str; 2] = ["A=1", "LANG=C"];

impl Twice {
    /// Starts the program at `path` both ways.
    #[track_caller]
    pub fn run(path: &str) -> Outcome<Twice> {
        Twice::run_with(path, |spawn| spawn, || Ok(()))
    }

    /// Starts it both ways, the template's with what `add` adds, the other after `before` has done the same in the child.
    #[track_caller]
    pub fn run_with(
        path: &str,
        add: impl FnOnce(Spawn<'_>) -> Spawn<'_>,
        before: impl FnOnce() -> std::io::Result<()>,
    ) -> Outcome<Twice> {
        let (c_path, argv, envp) = (os::c_path(path), ARGV.map(os::c_path), ENVP.map(os::c_path));
        let exec = |argv: &[CString], envp: &[CString]| match before() {
            Ok(()) => os::execve(&c_path, argv, envp),
            Err(error) => error,
        };
        let executed = show_by_exec(|| exec(&argv, &envp))?;
        let template = Template::path(path)?;
        let spawned = add(template.spawn().argv(ARGV).envp(ENVP)).show()?;
        Ok(Twice { executed, spawned })
    }

    /// Fails unless both printed the same, line by line, but for what is a process's own.
    #[track_caller]
    pub fn compare(&self) -> Outcome {
        let lines = |show: &Show| show.without_prefix("own.");
        let (executed, spawned) = (lines(&self.executed), lines(&self.spawned));
        if executed.is_empty() || !executed.iter().any(|(key, _)| key == "end" || key == "rseq.result") {
            return Err(failed("the program did not print everything"));
        }
        if executed == spawned {
            return Ok(());
        }
        let missing = executed.iter().filter(|line| !spawned.contains(line));
        let extra = spawned.iter().filter(|line| !executed.contains(line));
        Err(failed(format!(
            "executed: {:?}, but spawned: {:?}",
            missing.collect::<Vec<_>>(),
            extra.collect::<Vec<_>>()
        )))
    }

    /// Fails unless it saw this, whichever way it was started; so that the comparison is not of nothing.
    #[track_caller]
    pub fn saw(&self, key: &str, value: &str) -> Outcome {
        match (self.executed.get(key), self.spawned.get(key)) {
            (a, b) if a == value && b == value => Ok(()),
            both => Err(failed(format!("{key}: (executed, spawned) {both:?}, not {value:?}"))),
        }
    }
}

/// Starts the program both ways, wants the same from both and returns it.
#[track_caller]
pub fn compare(path: &str) -> Outcome<Twice> {
    let twice = Twice::run(path)?;
    twice.compare()?;
    Ok(twice)
}
