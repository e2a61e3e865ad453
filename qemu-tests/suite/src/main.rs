//! The tests of spawn templates that run inside the guest, as root, on the patched kernel with the module loaded.
//!
//! `guest-suite [--list] [--times] [--without=WORD]... [--share=N/M] [FILTER]...` runs the tests whose names contain a
//! FILTER, if there is one, and no WORD, or the N-th of M shares of them, prints one line per test and last `N passed, N failed`; the exit
//! status is 0 only when none failed. Each test is a process of its own with a time limit; it fails too when it leaves a
//! process or a descriptor behind, or when the kernel logs a warning meanwhile.

mod accounting;
mod actions;
mod arguments;
mod aslr;
mod attach_storm;
mod attack;
mod attributes;
mod audit;
mod audit_actions;
mod birth_registers;
mod calls;
mod cgroup;
mod charging;
mod chdir;
mod control_group;
mod create;
mod credentials;
mod debuggers;
mod elf;
mod errors;
mod exec_events;
mod exec_stop;
mod failing;
mod fdinfo;
mod fds;
mod fields;
mod filter;
mod fuse;
mod harness;
mod held;
mod hold;
mod hooks;
mod identification;
mod identity;
mod ids;
mod image;
mod interrupted;
mod io_ports;
mod landlock;
mod leaks;
mod learning;
mod like_exec;
mod limits;
mod manual;
mod metadata;
mod module;
mod mounts;
mod naming;
mod newtask;
mod nowait;
mod numa;
mod order;
mod os;
mod outlived;
mod own_program;
mod parallel;
mod parent_that_execs;
mod pid_namespace;
mod point_of_no_return;
mod privilege;
mod programs;
mod progress;
mod ptrace;
mod result;
mod rewriting;
#[cfg(test)]
mod rules;
mod seccomp;
mod seccomp_arguments;
mod seccomp_tsync;
mod session;
mod show;
mod signals;
mod slow_fs;
mod smack;
mod spawn;
mod stale;
mod startup_pages;
mod still_fs;
mod still_times;
mod stops;
mod syscall_tracepoints;
mod template;
mod trace;
mod tracepoints;
mod tracer;
mod twice;
mod untouched;
mod userfault;
mod wait;

use std::env;
use std::process::ExitCode;

use harness::Test;

/// All tests, in the order they run; the module's come last, because they unload it.
const FILES: &[&[Test]] = &[
    create::TESTS,
    spawn::TESTS,
    programs::TESTS,
    manual::TESTS,
    identification::TESTS,
    identity::TESTS,
    fields::TESTS,
    actions::TESTS,
    arguments::TESTS,
    fds::TESTS,
    session::TESTS,
    ids::TESTS,
    limits::TESTS,
    attributes::TESTS,
    cgroup::TESTS,
    nowait::TESTS,
    chdir::TESTS,
    order::TESTS,
    signals::TESTS,
    wait::TESTS,
    errors::TESTS,
    result::TESTS,
    elf::TESTS,
    metadata::TESTS,
    learning::TESTS,
    startup_pages::TESTS,
    stale::TESTS,
    still_times::TESTS,
    mounts::TESTS,
    rewriting::TESTS,
    untouched::TESTS,
    like_exec::TESTS,
    aslr::TESTS,
    credentials::TESTS,
    privilege::TESTS,
    ptrace::TESTS,
    stops::TESTS,
    exec_stop::TESTS,
    held::TESTS,
    attach_storm::TESTS,
    debuggers::TESTS,
    seccomp::TESTS,
    seccomp_arguments::TESTS,
    seccomp_tsync::TESTS,
    landlock::TESTS,
    smack::TESTS,
    attack::TESTS,
    attack::label::TESTS,
    outlived::TESTS,
    numa::TESTS,
    tracepoints::TESTS,
    syscall_tracepoints::TESTS,
    hooks::TESTS,
    naming::TESTS,
    newtask::TESTS,
    accounting::TESTS,
    fdinfo::TESTS,
    exec_events::TESTS,
    birth_registers::TESTS,
    charging::TESTS,
    io_ports::TESTS,
    own_program::TESTS,
    parent_that_execs::TESTS,
    pid_namespace::TESTS,
    point_of_no_return::TESTS,
    progress::TESTS,
    parallel::TESTS,
    leaks::TESTS,
    interrupted::TESTS,
    audit::TESTS,
    audit_actions::TESTS,
    module::TESTS,
];

/// Reads `N/M`.
fn share(text: &str) -> Option<(usize, usize)> {
    let (share, shares) = text.split_once('/')?;
    let (share, shares) = (share.parse().ok()?, shares.parse().ok()?);
    (1..=shares).contains(&share).then_some((share, shares))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let list = arguments.iter().any(|a| a == "--list");
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with("--")).collect();
    let without: Vec<&str> = arguments.iter().filter_map(|a| a.strip_prefix("--without=")).collect();
    let Some((share, shares)) = arguments.iter().find_map(|a| a.strip_prefix("--share=")).map_or(Some((1, 1)), share)
    else {
        println!("FAILED --share: two numbers are wanted, as in 1/2");
        return ExitCode::FAILURE;
    };
    let wanted = |test: &&Test| {
        (filters.is_empty() || filters.iter().any(|filter| test.name.contains(*filter)))
            && !without.iter().any(|word| test.name.contains(word))
    };
    let tests = FILES.iter().copied().flatten().filter(wanted);
    let tests: Vec<&Test> = tests.skip(share - 1).step_by(shares).collect();
    if list {
        for test in tests {
            println!("{}", test.name);
        }
        return ExitCode::SUCCESS;
    }
    if !spawn_template::is_supported() {
        println!("FAILED is_supported: this kernel has no spawn templates, or their module is not loaded");
        println!("0 passed, 1 failed");
        return ExitCode::FAILURE;
    }
    // Whatever we were started with, the tests know which descriptors there are.
    if let Err(error) = os::close_from_3() {
        println!("FAILED close_range: {error}");
        return ExitCode::FAILURE;
    }
    harness::run(&tests, arguments.iter().any(|a| a == "--times"))
}
