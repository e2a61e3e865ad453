//! gdb and strace, as a user starts them, show a spawn by template as they show `posix_spawn`: the same program is run under
//! them in both ways, and what they say must be the same but for process ids and addresses.
//!
//! They are on the disk of a boot of these tests' own; elsewhere the tests are skipped.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Checks, Outcome, Stop, failed, patience};
use crate::nowait::Gate;
use crate::os::{self, Status};
use crate::template::{Folder, Template, child};
use crate::{ensure, same, tests};

tests!("debuggers":
    gdb_with_default_settings [200], gdb_following_the_child [200], gdb_that_catches_exec [200],
    gdb_that_catches_exec_of_the_child [200], gdb_that_catches_the_birth [200], gdb_with_a_breakpoint_in_both [200],
    gdb_and_nowait [200], gdb_and_nowait_with_a_breakpoint [200], gdb_attached_to_a_held_child [200], strace_following_forks [200],
    strace_attached_to_a_held_child [200], strace_with_a_filter [200],
);

/// How long a debugger may take.
const SECONDS: u32 = 45;

/// Runs a debugger until it ends or its time is up: the output with what it said of errors, and the exit code.
fn run(program: &str, arguments: &[&str]) -> Outcome<(String, Option<i32>)> {
    let path = format!("/usr/bin/{program}");
    if !fs::exists(&path)? {
        return Err(Stop::Skipped(format!("this guest has no {program}")));
    }
    let folder = Folder::tmp("debuggers")?;
    let output = File::create(folder.join("output"))?;
    let mut command = Command::new(path);
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/root").env("TERM", "dumb");
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
    let mut running = command.spawn()?;
    let end = Instant::now() + Duration::from_secs(patience(SECONDS).into());
    let mut status = running.try_wait()?;
    while status.is_none() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
        status = running.try_wait()?;
    }
    let said = || fs::read_to_string(folder.join("output"));
    let Some(status) = status else {
        // Those that it has started in its turn, too.
        os::kill(-(running.id() as i32), libc::SIGKILL)?;
        running.wait()?;
        return Err(failed(format!("{program} {arguments:?} has not ended; it said {:?}", said()?)));
    };
    Ok((said()?, status.code()))
}

/// A text without what differs from run to run: addresses are taken out, process ids numbered in their order.
fn masked(text: &str) -> String {
    let mut pids: Vec<&str> = Vec::new();
    let mut result = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let after = |prefix: &str, digit: fn(&char) -> bool| {
            let tail = rest.strip_prefix(prefix)?;
            let length = tail.chars().take_while(digit).count();
            (length > 0).then(|| tail.split_at(length))
        };
        if let Some((_, tail)) = after("0x", char::is_ascii_hexdigit) {
            result.push_str("0x_");
            rest = tail;
        } else if let Some((word, (pid, tail))) =
            ["process ", "LWP "].iter().find_map(|word| Some((word, after(word, char::is_ascii_digit)?)))
        {
            let known = pids.iter().position(|&known| known == pid);
            let number = known.unwrap_or(pids.len());
            if known.is_none() {
                pids.push(pid);
            }
            result.push_str(&format!("{word}#{number}"));
            rest = tail;
        } else {
            let length = rest.chars().next().map_or(0, char::len_utf8);
            result.push_str(&rest[..length]);
            rest = &rest[length..];
        }
    }
    result
}

/// What gdb says of the spawner, a line each, without the place in the spawning function at which it stopped, and without
/// what it says of the library for threads: it looks for that in the child's memory, which is no copy of the caller's.
fn gdb(how: &str, commands: &[&str]) -> Outcome<Vec<String>> {
    let spawner = child("spawner");
    let mut arguments = vec!["-nx", "-batch"];
    for command in commands {
        arguments.extend(["-ex", command]);
    }
    arguments.extend(["--args", &spawner, how]);
    let (said, _) = run("gdb", &arguments)?;
    // Where gdb follows the child, it leaves the parent to us.
    os::reap_all()?;
    let line = |line: &str| match line.find("forked process ") {
        Some(_) => line.split(", 0x").next().unwrap_or_default().to_owned(),
        None => line.to_owned(),
    };
    let of_threads = |line: &&str| {
        *line == "[Thread debugging using libthread_db enabled]" || line.starts_with("Using host libthread_db library ")
    };
    let lines = said.lines().filter(|line| !of_threads(line)).map(line).collect::<Vec<_>>().join("\n");
    Ok(masked(&lines).lines().map(str::to_owned).collect())
}

/// Fails unless both transcripts are the same, and this is in them: nothing would be like nothing.
#[track_caller]
fn alike(wanted: &[String], got: &[String], contains: &str) -> Outcome {
    ensure!(wanted.iter().any(|line| line.contains(contains)), "not as expected without a template: {wanted:?}");
    let first = (0..wanted.len().max(got.len())).find(|&line| wanted.get(line) != got.get(line));
    match first {
        Some(line) => Err(failed(format!(
            "from line {} on, with a template: {:?}, without: {:?}",
            line + 1,
            got.get(line..).unwrap_or_default(),
            wanted.get(line..).unwrap_or_default()
        ))),
        None => Ok(()),
    }
}

/// The same session on `posix_spawn` and on a template.
#[track_caller]
fn same_session(commands: &[&str], contains: &str) -> Outcome {
    alike(&gdb("posix_spawn", commands)?, &gdb("template", commands)?, contains)
}

fn gdb_with_default_settings() -> Outcome {
    same_session(&["run"], "[Detaching after vfork from child process #0]")
}

fn gdb_following_the_child() -> Outcome {
    same_session(
        &["set follow-fork-mode child", "run"],
        "process #1 is executing new program: /payload/children/exit-code",
    )
}

/// The parent is followed, so the child's exec is none of gdb's business.
fn gdb_that_catches_exec() -> Outcome {
    same_session(&["catch exec", "run"], "exited with code 03")
}

fn gdb_that_catches_exec_of_the_child() -> Outcome {
    let commands = ["set follow-fork-mode child", "catch exec", "run", "info inferiors", "continue"];
    same_session(&commands, "exec'd /payload/children/exit-code")
}

fn gdb_that_catches_the_birth() -> Outcome {
    same_session(&["catch vfork", "run", "continue"], "(vforked process #0)")
}

/// The breakpoint is put into the new program as well.
fn gdb_with_a_breakpoint_in_both() -> Outcome {
    let commands = ["set follow-fork-mode child", "break main", "run", "continue", "info inferiors", "continue"];
    same_session(&commands, "exited with code 03")
}

/// A caller that does not wait looks as one that forks.
fn gdb_and_nowait() -> Outcome {
    for (commands, contains) in [
        (&["run"][..], "[Detaching after fork from child process #0]"),
        (&["catch fork", "run", "continue"], "(forked process #0)"),
        (&["set follow-fork-mode child", "run"], "process #1 is executing new program"),
    ] {
        alike(&gdb("fork", commands)?, &gdb("template-nowait", commands)?, contains)?;
    }
    Ok(())
}

/// The limit of that: gdb takes the child of a fork for a copy of its parent, and cannot put a breakpoint of the parent into
/// one that has no memory before exec. It says so; without the breakpoint the child goes on.
fn gdb_and_nowait_with_a_breakpoint() -> Outcome {
    let commands = ["set follow-fork-mode child", "break main", "run", "continue", "inferior 2", "delete", "continue"];
    let said = gdb("template-nowait", &commands)?;
    let has = |text: &str| said.iter().any(|line| line.contains(text));
    ensure!(has("Cannot insert breakpoint 1."), "{said:?}");
    ensure!(has("process #1 is executing new program") && has("exited with code 03"), "{said:?}");
    Ok(())
}

/// Runs a debugger on a child that is held up in an OPEN, wants this in what it says, and the child to go on.
fn attached(name: &str, program: &str, arguments: impl FnOnce(&str) -> Vec<String>, contains: &[&str]) -> Outcome {
    let gate = Gate::new(name)?;
    let child = Template::child("exit-code")?.spawn().arg("7").act(gate.action()).nowait().run()?;
    let arguments = arguments(&child.pid.to_string());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (said, _) = run(program, &arguments)?;
    for text in contains {
        ensure!(said.contains(text), "{program} does not say {text:?}, but: {said:?}");
    }
    ensure!(!os::readable(std::os::fd::AsRawFd::as_raw_fd(&child.pidfd), 100)?, "the child has ended: {said:?}");
    gate.open()?;
    same!(child.wait()?, Status::Exited(7), "status after {program} has left");
    Ok(())
}

fn gdb_attached_to_a_held_child() -> Outcome {
    let arguments = |pid: &str| ["-nx", "-batch", "-ex", "info inferiors", "-p", pid].map(str::to_owned).to_vec();
    attached("debuggers-gdb", "gdb", arguments, &["* 1    process ", "detached]"])
}

/// `timeout` ends strace as ^C does; strace must have stopped the child by then to let go of it.
fn strace_attached_to_a_held_child() -> Outcome {
    let arguments = |pid: &str| ["--signal=INT", "5", "/usr/bin/strace", "-f", "-p", pid].map(str::to_owned).to_vec();
    attached("debuggers-strace", "timeout", arguments, &[" attached", " detached"])
}

/// What strace says of the child of the spawner from its execve on, a line for each call.
fn strace_of_the_child(how: &str) -> Outcome<Vec<String>> {
    let folder = Folder::tmp("debuggers-strace")?;
    let (path, spawner) = (folder.join("calls"), child("spawner"));
    let (said, code) = run("strace", &["-f", "-a", "1", "-o", &path, &spawner, how])?;
    same!(said, "", "what strace says beside the calls");
    same!(code, Some(3), "status of the spawner");
    let text = fs::read_to_string(path)?;
    let split = |line: &'static str| line.split_once(' ').map(|(pid, call)| (pid, call.trim_start()));
    // Lives as long as the test's process, which is not for long.
    let lines: Vec<(&str, &str)> = text.leak().lines().filter_map(split).collect();
    let parent = lines.first().map_or("", |line| line.0);
    let own = lines.iter().filter(|line| line.0 != parent).map(|line| line.1);
    let mut calls: Vec<String> = Vec::new();
    for line in own {
        // A call during which the other process did something.
        match (
            line.strip_prefix("<... "),
            calls.last_mut().and_then(|last| Some((last.strip_suffix(" <unfinished ...>")?.to_owned(), last))),
        ) {
            (Some(rest), Some((begin, last))) => *last = begin + rest.split_once(" resumed>").unwrap_or_default().1,
            _ => calls.push(line.to_owned()),
        }
    }
    let Some(begin) = calls.iter().position(|call| call.starts_with("execve(")) else {
        return Err(failed(format!("{how}: no execve in the child: {lines:?}")));
    };
    let mask = |call: &String| match call.split_once('(') {
        // The child of a template has no memory in which strace could read the strings.
        Some((name @ ("execve" | "getrandom"), rest)) => {
            format!("{name}(...) = {}", rest.rsplit_once(" = ").unwrap_or_default().1)
        }
        Some(("set_tid_address", _)) => "set_tid_address(...)".to_owned(),
        _ => masked(call),
    };
    Ok(calls[begin..].iter().map(mask).collect())
}

fn strace_following_forks() -> Outcome {
    let wanted = strace_of_the_child("posix_spawn")?;
    alike(&wanted, &strace_of_the_child("template")?, "+++ exited with 3 +++")?;
    let wanted = strace_of_the_child("fork")?;
    alike(&wanted, &strace_of_the_child("template-nowait")?, "+++ exited with 3 +++")
}

/// With `--seccomp-bpf` strace's filter wants to be asked about execve, which only a call by the task itself can do: a spawn
/// is refused, and can be done by fork and exec instead.
fn strace_with_a_filter() -> Outcome {
    let spawner = child("spawner");
    let mut checks = Checks::default();
    for (how, wanted) in [("posix_spawn", 3), ("fork", 3), ("template", 99)] {
        let arguments = ["-f", "--seccomp-bpf", "-e", "trace=execve,exit_group", "-o", "/dev/null", &spawner, how];
        let (said, code) = run("strace", &arguments)?;
        let refused = said.contains("spawner: Operation not permitted");
        if code != Some(wanted) || refused != (wanted == 99) {
            checks.fail(format!("{how}: status {code:?}, said {said:?}"));
        }
    }
    checks.finish()
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn transcripts_are_masked() {
        let text = "process 71 at 0x40_main, LWP 9, process 9, process 71 exited with code 03";
        assert_eq!(masked(text), "process #0 at 0x__main, LWP #1, process #1, process #0 exited with code 03");
    }
}
