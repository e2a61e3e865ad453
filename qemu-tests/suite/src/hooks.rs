//! Security modules: each action calls the hooks of the system call that it stands for, as often as that call does.

use std::collections::BTreeMap;

use crate::calls::{Pairs, forked};
use crate::harness::{Checks, Outcome, failed};
use crate::template::{Act, Template};
use crate::trace::Trace;
use crate::{ensure, same, tests};

tests!("hooks": of_each_action [180], prctl_of_every_signal, of_execve);

/// Functions through which the kernel asks its security modules.
const HOOKS: &[&str] = &[
    "security_task_prctl",
    "security_task_setrlimit",
    "security_task_setnice",
    "security_task_setscheduler",
    "security_task_setpgid",
    "security_task_fix_setuid",
    "security_task_fix_setgid",
    "security_task_fix_setgroups",
    "security_file_ioctl",
    "security_file_open",
    "security_file_receive",
    "security_inode_permission",
    "security_bprm_creds_for_exec",
    "security_bprm_creds_from_file",
    "security_bprm_check",
    "security_bprm_committing_creds",
    "security_bprm_committed_creds",
];

/// How often each hook was called.
type Counts = BTreeMap<String, i64>;

/// The calls of hooks by the one child that this process makes in `body`.
fn counted(trace: &Trace, body: impl FnOnce() -> Outcome) -> Outcome<Counts> {
    trace.clear()?;
    body()?;
    let (lines, own) = (trace.lines()?, std::process::id() as i32);
    let born: Vec<i32> = lines
        .iter()
        .filter(|line| line.pid == own && line.name == "sched_process_fork")
        .filter_map(|line| line.field("child_pid").parse().ok())
        .collect();
    same!(born.len(), 1, "children");
    let mut counts = Counts::new();
    for line in lines.iter().filter(|line| line.pid == born[0] && HOOKS.contains(&line.name.as_str())) {
        *counts.entry(line.name.clone()).or_default() += 1;
    }
    Ok(counts)
}

/// What `counts` has beyond `usual`.
fn beyond(counts: &Counts, usual: &Counts) -> Counts {
    let mut difference = counts.clone();
    for (name, count) in usual {
        *difference.entry(name.clone()).or_default() -= count;
    }
    difference.retain(|_, count| *count != 0);
    difference
}

fn start() -> Outcome<Trace> {
    Trace::events(&["sched/sched_process_fork"])?.and_functions(HOOKS)
}

/// Spawns with an action, whether that succeeds or not.
fn spawned(template: &Template, acts: &[Act]) -> Outcome {
    if let Ok(child) = template.spawn().acts(acts.iter().cloned()).run() {
        child.wait()?;
    }
    Ok(())
}

fn of_each_action() -> Outcome {
    let pairs = Pairs::new()?;
    let template = Template::child("nothing")?;
    let trace = start()?;
    let by_fork = |before: &dyn Fn()| counted(&trace, || forked(before).map(drop).map_err(Into::into));
    let (usual_spawn, usual_fork) = (counted(&trace, || spawned(&template, &[]))?, by_fork(&|| {})?);
    let mut checks = Checks::default();
    let mut hooked = 0;
    for pair in &pairs.list {
        let failing = matches!(pair.act, Act::Tcsetpgrp(_) | Act::Setctty(_));
        let wanted = beyond(&by_fork(&|| pair.make())?, &usual_fork);
        // A spawn ends with the failed action, before exec calls its hooks.
        let usual = if failing { &Counts::new() } else { &usual_spawn };
        let got = beyond(&counted(&trace, || spawned(&template, std::slice::from_ref(&pair.act)))?, usual);
        hooked += usize::from(!wanted.is_empty());
        if got != wanted {
            checks.fail(format!("{}: {got:?}, not {wanted:?}", pair.what));
        }
    }
    same!(pairs.list.len(), 24, "actions");
    same!(hooked, 14, "actions whose call has hooks");
    checks.finish()
}

/// PDEATHSIG is asked about whatever its signal.
fn prctl_of_every_signal() -> Outcome {
    let template = Template::child("nothing")?;
    let trace = start()?;
    let mut checks = Checks::default();
    for signal in [0, 1, 9, 64] {
        let counts = counted(&trace, || spawned(&template, &[Act::Pdeathsig(signal), Act::NoNewPrivs]))?;
        let calls = counts.get("security_task_prctl").copied().unwrap_or(0);
        if calls != 2 {
            checks.fail(format!("signal {signal}: asked {calls} times about two calls of prctl"));
        }
    }
    checks.finish()
}

/// The hooks of execve, each as often as execve calls it.
fn of_execve() -> Outcome {
    let template = Template::child("nothing")?;
    let trace = start()?;
    let executed = counted(&trace, || forked(|| {}).map(drop).map_err(Into::into))?;
    let spawned = counted(&trace, || spawned(&template, &[]))?;
    let mut names = HOOKS.iter().filter(|name| name.contains("bprm"));
    ensure!(names.all(|name| executed.get(*name) == Some(&1)), "hooks of execve: {executed:?}");
    same!(spawned, executed, "hooks of a spawn");
    spawned.get("security_file_open").map(drop).ok_or_else(|| failed("no file was opened"))
}
