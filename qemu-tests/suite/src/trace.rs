//! A trace buffer of the kernel's of a test's own: events, and calls of kernel functions.

use std::fs;
use std::io;

use crate::harness::{Outcome, Stop};

/// Where the tracing file system is mounted.
const TRACING: &str = "/sys/kernel/tracing";

/// The buffer, removed when dropped.
pub struct Trace(String);

/// One line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Whose.
    pub pid: i32,
    /// Event or function.
    pub name: String,
    /// The event's fields; of a function, where it was called.
    pub text: String,
}

impl Line {
    /// Reads a line: "COMM-PID \[CPU\] FLAGS TIME: NAME: FIELDS", or with "NAME <-CALLER" or "NAME(...)" at the end.
    fn parse(line: &str) -> Option<Line> {
        let (task, rest) = line.split_once(" [")?;
        let pid = task.trim_end().rsplit('-').next()?.parse().ok()?;
        let what = rest.split_once(": ")?.1.trim();
        let end = what.find([':', '(', ' '])?;
        let text = what[end..].trim_start_matches([':', ' ']);
        Some(Line { pid, name: what[..end].to_owned(), text: text.to_owned() })
    }

    /// A field of an event.
    pub fn field(&self, name: &str) -> &str {
        self.text.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
    }
}

impl Trace {
    /// Makes an empty one that records nothing.
    fn new() -> Outcome<Trace> {
        if !fs::exists(format!("{TRACING}/instances"))? {
            return Err(Stop::Skipped("no tracing file system".to_owned()));
        }
        let trace = Trace(format!("{TRACING}/instances/spawn-template"));
        // Of a test that was killed.
        if fs::exists(&trace.0)? {
            drop(Trace(trace.0.clone()));
        }
        fs::create_dir(&trace.0)?;
        Ok(trace)
    }

    /// Starts to record these events, each with its folder.
    pub fn events(events: &[&str]) -> Outcome<Trace> {
        let trace = Trace::new()?;
        for event in events {
            fs::write(format!("{}/events/{event}/enable", trace.0), "1")?;
        }
        Ok(trace)
    }

    /// Starts to record the calls of these functions, too.
    pub fn and_functions(self, functions: &[&str]) -> Outcome<Trace> {
        fs::write(format!("{}/set_ftrace_filter", self.0), functions.join("\n") + "\n")?;
        fs::write(format!("{}/current_tracer", self.0), "function")?;
        Ok(self)
    }

    /// Forgets what has been recorded, and records again.
    pub fn clear(&self) -> io::Result<()> {
        fs::write(format!("{}/trace", self.0), "")?;
        fs::write(format!("{}/tracing_on", self.0), "1")
    }

    /// All lines so far. Nothing is recorded from then on: reading might never come to an end otherwise.
    pub fn lines(&self) -> io::Result<Vec<Line>> {
        fs::write(format!("{}/tracing_on", self.0), "0")?;
        let text = fs::read_to_string(format!("{}/trace", self.0))?;
        Ok(text.lines().filter(|line| !line.starts_with('#')).filter_map(Line::parse).collect())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::write(format!("{}/current_tracer", self.0), "nop");
        let _ = fs::remove_dir(&self.0);
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn lines() {
        let line = |pid, name: &str, text: &str| Some(Line { pid, name: name.to_owned(), text: text.to_owned() });
        let event = "   guest-suite-55      [001] .....    12.345678: sched_process_fork: comm=x pid=55 child_pid=56";
        assert_eq!(Line::parse(event), line(55, "sched_process_fork", "comm=x pid=55 child_pid=56"));
        assert_eq!(Line::parse(event).unwrap().field("child_pid"), "56");
        let function = "           <...>-56      [000] ...1.    12.345678: security_task_prctl <-__x64_sys_prctl";
        assert_eq!(Line::parse(function), line(56, "security_task_prctl", "<-__x64_sys_prctl"));
        let call = "  a b-7    [000] .....     1.000001: sys_execve(filename: 1, argv: 2, envp: 3)";
        assert_eq!(Line::parse(call), line(7, "sys_execve", "(filename: 1, argv: 2, envp: 3)"));
        assert_eq!(Line::parse("  a-7  [000] .....  1.0: sys_execve -> 0x0"), line(7, "sys_execve", "-> 0x0"));
    }
}
