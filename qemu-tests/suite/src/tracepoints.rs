//! Tracing: a spawn fires the tracepoints of a fork and an exec.

use std::fs;
use std::io;

use crate::harness::{Outcome, Stop, failed};
use crate::os::{self, Status};
use crate::template::{Act, Child, Template, child};
use crate::{ensure, same, tests};

tests!("tracepoints": fork_exec_exit, failing_spawn, nowait);

/// Where the tracing file system is mounted.
const TRACING: &str = "/sys/kernel/tracing";

/// A trace buffer of a test's own, removed when dropped.
struct Trace(String);

impl Trace {
    /// Starts to record these events of the scheduler.
    fn start(events: &[&str]) -> Outcome<Trace> {
        if !fs::exists(format!("{TRACING}/instances"))? {
            return Err(Stop::Skipped("no tracing file system".to_owned()));
        }
        let trace = Trace(format!("{TRACING}/instances/spawn-template"));
        fs::create_dir(&trace.0)?;
        for event in events {
            fs::write(format!("{}/events/sched/{event}/enable", trace.0), "1")?;
        }
        Ok(trace)
    }

    /// The events so far that mention this pid: name and fields.
    fn events(&self, pid: i32) -> io::Result<Vec<(String, String)>> {
        let pid = pid.to_string();
        let text = fs::read_to_string(format!("{}/trace", self.0))?;
        let event = |line: &str| {
            let at = line.find("sched_process_")?;
            let (name, fields) = line[at..].split_once(": ")?;
            fields
                .split(' ')
                .any(|field| field.split_once('=').is_some_and(|(_, value)| value == pid))
                .then(|| (name.to_owned(), fields.to_owned()))
        };
        Ok(text.lines().filter_map(event).collect())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

const EVENTS: [&str; 3] = ["sched_process_fork", "sched_process_exec", "sched_process_exit"];

/// A field of an event.
fn field<'a>(fields: &'a str, name: &str) -> &'a str {
    fields.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
}

/// Fork, exec and exit of the child, in that order, with the right names and numbers.
#[track_caller]
fn whole_life(events: &[(String, String)], pid: i32) -> Outcome {
    let names: Vec<&str> = events.iter().map(|event| event.0.as_str()).collect();
    same!(names, EVENTS, "events of the child {pid}");
    let (parent, child_pid) = (std::process::id().to_string(), pid.to_string());
    let fork = &events[0].1;
    same!((field(fork, "pid"), field(fork, "child_pid")), (parent.as_str(), child_pid.as_str()), "sched_process_fork");
    let exec = &events[1].1;
    same!(field(exec, "filename"), child("nothing"), "file of sched_process_exec");
    same!((field(exec, "pid"), field(exec, "old_pid")), (child_pid.as_str(), child_pid.as_str()), "sched_process_exec");
    same!(field(&events[2].1, "comm"), "nothing", "comm of sched_process_exit");
    Ok(())
}

fn spawned_life(start: fn(&Template) -> io::Result<Child>) -> Outcome {
    let template = Template::child("nothing")?;
    let trace = Trace::start(&EVENTS)?;
    let running = start(&template)?;
    let pid = running.pid;
    same!(running.wait()?, Status::Exited(0), "status");
    whole_life(&trace.events(pid)?, pid)
}

fn fork_exec_exit() -> Outcome {
    spawned_life(|template| template.spawn().run())
}

fn nowait() -> Outcome {
    spawned_life(|template| template.spawn().nowait().run())
}

/// A child that fails is born and exits, without an exec.
fn failing_spawn() -> Outcome {
    let template = Template::child("nothing")?;
    let trace = Trace::start(&EVENTS)?;
    crate::harness::refused("spawn", template.spawn().act(Act::Dup2(99, 1)).run(), libc::EBADF)?;
    ensure!(!os::has_children()?, "a child is left");
    let own = std::process::id() as i32;
    let events = trace.events(own)?;
    let born = events.iter().find(|event| event.0 == EVENTS[0] && field(&event.1, "pid") == own.to_string());
    let born = born.ok_or_else(|| failed(format!("no sched_process_fork: {events:?}")))?;
    let pid = field(&born.1, "child_pid").parse().map_err(|_| failed(format!("no child_pid: {born:?}")))?;
    let names: Vec<String> = trace.events(pid)?.into_iter().map(|event| event.0).collect();
    same!(names, [EVENTS[0], EVENTS[2]], "events of the child");
    Ok(())
}
