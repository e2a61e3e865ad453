//! A child has none of its caller's registers: it begins in the kernel, and what it has before exec is nobody's.

use std::os::fd::AsRawFd;

use crate::harness::{Checks, Outcome, ensure_that};
use crate::os;
use crate::template::{Act, Template};
use crate::tests;
use crate::tracer::{ALL_EVENTS, What, floating_point, follow, registers};

tests!("birth_registers": of_a_failing_child, of_a_child);

/// Where the caller's template is: a number that no action here has.
const TEMPLATE: i32 = 0x7777;

/// What a tracer sees at each stop of a child before its exec.
fn before_exec(acts: &[Act]) -> Outcome {
    let template = Template::child("nothing")?;
    os::set_rlimit(libc::RLIMIT_NOFILE, 1 << 16)?;
    let template = Template { fd: os::dup_from(template.fd.as_raw_fd(), TEMPLATE, true)? };
    let mut checks = Checks::default();
    let (mut stops, mut caller, mut executed) = (0, 0, false);
    let run = || {
        if let Ok(child) = template.spawn().acts(acts.iter().cloned()).run() {
            let _ = child.wait();
        }
        0
    };
    follow(ALL_EVENTS, run, |step| {
        if caller == 0 {
            caller = step.pid;
        }
        executed |= step.is_event(libc::PTRACE_EVENT_EXEC);
        if step.pid == caller || executed || matches!(step.what, What::Ended(_)) {
            return Ok(libc::PTRACE_CONT);
        }
        stops += 1;
        let r = registers(step.pid)?;
        let zeros = [
            ("rip", r.rip),
            ("rsp", r.rsp),
            ("rbp", r.rbp),
            ("rbx", r.rbx),
            ("rcx", r.rcx),
            ("r11", r.r11),
            ("r12", r.r12),
            ("r13", r.r13),
            ("r14", r.r14),
            ("r15", r.r15),
            ("fs_base", r.fs_base),
            ("gs_base", r.gs_base),
        ];
        for (name, value) in zeros {
            if value != 0 {
                checks.fail(format!("{:?}: {name} is {value:#x}", step.what));
            }
        }
        // These may be those of the call that an action stands for; they are not those of the caller's call.
        if r.rdi == TEMPLATE as u64 || r.rsi > 1 << 32 || r.rdx == crate::template::SPAWN_SIZE as u64 {
            checks.fail(format!(
                "{:?}: arguments of the caller's call: {:#x} {:#x} {:#x}",
                step.what, r.rdi, r.rsi, r.rdx
            ));
        }
        if floating_point(step.pid)?.xmm_space.iter().any(|word| *word != 0) {
            checks.fail(format!("{:?}: xmm registers of the caller", step.what));
        }
        Ok(libc::PTRACE_CONT)
    })?;
    ensure_that(stops > 0, "the child did not stop before exec")?;
    checks.finish()
}

/// It stops at its birth and at its end.
fn of_a_failing_child() -> Outcome {
    before_exec(&[Act::Fchdir(0)])
}

fn of_a_child() -> Outcome {
    before_exec(&[Act::Umask(0)])
}
