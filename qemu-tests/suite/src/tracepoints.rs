//! Tracing: a spawn fires the tracepoints of a fork and an exec.

use std::io;

use crate::harness::{Outcome, failed};
use crate::os::{self, Status};
use crate::template::{Act, Child, Template, child};
use crate::trace::{Line, Trace};
use crate::{ensure, same, tests};

tests!("tracepoints": fork_exec_exit, failing_spawn, nowait);

/// The events so far that mention this pid: name and fields.
fn events_of(trace: &Trace, pid: i32) -> Outcome<Vec<(String, String)>> {
    let pid = pid.to_string();
    let mentions = |line: &Line| line.text.split(' ').any(|field| field.split_once('=').is_some_and(|(_, v)| v == pid));
    Ok(trace.lines()?.into_iter().filter(mentions).map(|line| (line.name, line.text)).collect())
}

/// Starts to record these events of the scheduler.
fn start_trace() -> Outcome<Trace> {
    let events = EVENTS.map(|event| format!("sched/{event}"));
    Trace::events(&events.each_ref().map(String::as_str))
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
    let trace = start_trace()?;
    let running = start(&template)?;
    let pid = running.pid;
    same!(running.wait()?, Status::Exited(0), "status");
    whole_life(&events_of(&trace, pid)?, pid)
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
    let trace = start_trace()?;
    crate::harness::refused("spawn", template.spawn().act(Act::Dup2(99, 1)).run(), libc::EBADF)?;
    ensure!(!os::has_children()?, "a child is left");
    let own = std::process::id() as i32;
    let events = events_of(&trace, own)?;
    let born = events.iter().find(|event| event.0 == EVENTS[0] && field(&event.1, "pid") == own.to_string());
    let born = born.ok_or_else(|| failed(format!("no sched_process_fork: {events:?}")))?;
    let pid = field(&born.1, "child_pid").parse().map_err(|_| failed(format!("no child_pid: {born:?}")))?;
    let names: Vec<String> = events_of(&trace, pid)?.into_iter().map(|event| event.0).collect();
    same!(names, [EVENTS[0], EVENTS[2]], "events of the child");
    Ok(())
}
