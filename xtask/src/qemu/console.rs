//! Reads the guest kernel's console and notices when the kernel complains. Pure: bytes in, findings out.

use std::collections::VecDeque;
use std::fmt;

/// How many of the console's last lines are kept for a report.
const TAIL: usize = 40;

/// What the kernel complained about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The kernel gave up.
    Panic,
    /// The kernel hit a fault in its own code.
    Oops,
    /// A check in the kernel found corrupted state.
    Bug,
    /// KASAN, kmemleak, UBSAN or the slab allocator found a memory error.
    Memory,
    /// The lock validator found a way to deadlock, or RCU used wrongly.
    Lockdep,
    /// A CPU or a task makes no progress.
    Stall,
    /// Any other warning.
    Warning,
}

impl Kind {
    /// Whether the kernel can be expected to go on with the command.
    pub fn survivable(self) -> bool {
        !matches!(self, Kind::Panic | Kind::Oops | Kind::Bug)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Panic => "kernel panic",
            Kind::Oops => "kernel oops",
            Kind::Bug => "kernel bug",
            Kind::Memory => "kernel memory error",
            Kind::Lockdep => "locking error in the kernel",
            Kind::Stall => "stall in the kernel",
            Kind::Warning => "kernel warning",
        })
    }
}

/// One complaint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind.
    pub kind: Kind,
    /// The line that says so.
    pub line: String,
}

/// Collects what the console prints.
#[derive(Default)]
pub struct Console {
    partial: Vec<u8>,
    tail: VecDeque<String>,
    findings: Vec<Finding>,
}

impl Console {
    /// Takes in more of the console's output, cut anywhere.
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.partial);
                self.line(&line);
            } else {
                self.partial.push(byte);
            }
        }
    }

    /// Takes in what follows the last line end, at the end of the output.
    pub fn finish(&mut self) {
        let line = std::mem::take(&mut self.partial);
        if !line.is_empty() {
            self.line(&line);
        }
    }

    /// Every complaint so far, in order.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The last lines.
    pub fn tail(&self) -> impl Iterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }

    fn line(&mut self, bytes: &[u8]) {
        let line = String::from_utf8_lossy(bytes).trim_end().to_owned();
        if let Some(kind) = classify(&line) {
            self.findings.push(Finding { kind, line: line.clone() });
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }
}

/// What a line complains about, if it is the kernel's and does.
fn classify(line: &str) -> Option<Kind> {
    const LOCKS: &[&str] = &[
        "locking dependency",
        "recursive locking",
        "lock state",
        "RCU usage",
        "lock held when returning",
        "unlock balance",
        "irq lock inversion",
        "unsafe lock order",
        "lock order detected",
        "held lock freed",
        "Nested lock was not taken",
        "non-static key",
        "wait context",
    ];
    let message = message(line)?;
    let starts = |prefix: &str| message.starts_with(prefix);
    let has = |part: &str| message.contains(part);

    if starts("Kernel panic - not syncing") {
        Some(Kind::Panic)
    } else if starts("BUG: KASAN")
        || starts("UBSAN:")
        // The slab allocator's own checks: "BUG name-of-the-cache (Tainted: ...): what is wrong".
        || (starts("BUG ") && has("): "))
        || (starts("kmemleak:") && has("suspected memory leak"))
    {
        Some(Kind::Memory)
    } else if has("BUG: soft lockup")
        || has("hard LOCKUP")
        || has("BUG: workqueue lockup")
        || (starts("INFO: task ") && has("blocked"))
        || (has("rcu") && has("stall") && has("detected"))
    {
        Some(Kind::Stall)
    } else if starts("Oops:") || starts("PANIC:") || starts("double fault:") {
        Some(Kind::Oops)
    } else if (starts("WARNING:") || starts("INFO:") || starts("BUG:")) && LOCKS.iter().any(|part| has(part)) {
        Some(Kind::Lockdep)
    } else if starts("BUG:") || starts("kernel BUG at") || starts("rust_kernel: panicked") || has(": BUG:") {
        Some(Kind::Bug)
    } else if starts("WARNING:") {
        Some(Kind::Warning)
    } else {
        None
    }
}

/// A kernel line without its time stamp and, where the kernel prints it, its task or CPU. Other lines are not the
/// kernel's: a shell on the console may print what it likes.
fn message(line: &str) -> Option<&str> {
    let (stamp, mut message) = line.trim_start().strip_prefix('[')?.split_once(']')?;
    stamp.trim().parse::<f64>().ok()?;
    if let Some((caller, rest)) = message.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        && caller.trim_start().starts_with(['T', 'C'])
    {
        message = rest;
    }
    Some(message.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(log: &str) -> Vec<Kind> {
        let mut console = Console::default();
        // In pieces, as a pipe delivers it.
        for piece in log.as_bytes().chunks(7) {
            console.feed(piece);
        }
        console.finish();
        console.findings().iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn an_ordinary_boot_is_quiet() {
        let log = "\
[    0.000000] Linux version 7.3.4 (root@host) #1 SMP PREEMPT_DYNAMIC\r
[    0.000000] Command line: console=ttyS0 panic=-1\r
[    0.013000] Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on, data leaks possible\r
[    0.100000] rcu: Hierarchical RCU implementation.\r
[    0.110000] rcu: RCU calculated value of scheduler-enlistment delay is 25 jiffies.\r
[    1.250000] traps: bad[77] general protection fault ip:401000 sp:7ffc error:0 in bad[401000+1000]\r
[    1.300000] show[78]: segfault at 0 ip 0000000000401000 sp 00007ffc error 4 in show[401000+1000]\r
WARNING: this is a program's own line\r
BUG: and so is this\r
";
        assert_eq!(kinds(log), []);
    }

    #[test]
    fn a_panic_is_seen_even_without_a_line_end() {
        let log = "[    1.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100";
        assert_eq!(kinds(log), [Kind::Panic]);
    }

    #[test]
    fn an_oops_and_what_follows_it() {
        let log = "\
[    4.100000] BUG: kernel NULL pointer dereference, address: 0000000000000000\r
[    4.100001] #PF: supervisor read access in kernel mode\r
[    4.100002] Oops: Oops: 0000 [#1] SMP PTI\r
[    4.100003] CPU: 0 UID: 0 PID: 55 Comm: guest-suite Not tainted 7.3.4 #1\r
[    4.100004] Kernel panic - not syncing: Fatal exception\r
";
        assert_eq!(kinds(log), [Kind::Bug, Kind::Oops, Kind::Panic]);
    }

    #[test]
    fn warnings_old_and_new() {
        assert_eq!(kinds("[    2.0] WARNING: CPU: 1 PID: 9 at fs/exec.c:12 begin_new_exec+0x1/0x2\n"), [Kind::Warning]);
        assert_eq!(kinds("[    2.0] WARNING: fs/exec.c:12 at begin_new_exec+0x1/0x2, CPU#1: sh/9\n"), [Kind::Warning]);
        assert_eq!(kinds("[    2.0][   T12] WARNING: fs/exec.c:12 at x, CPU#1: sh/9\n"), [Kind::Warning]);
    }

    #[test]
    fn checkers_have_kinds_of_their_own() {
        let log = "\
[    3.000000] WARNING: possible circular locking dependency detected
[    3.100000] WARNING: suspicious RCU usage
[    3.200000] BUG: KASAN: slab-use-after-free in template_release+0x10/0x20 [spawn_template]
[    3.300000] UBSAN: array-index-out-of-bounds in fs/exec.c:1:2
[    3.400000] kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)
[    3.500000] BUG: sleeping function called from invalid context at mm/slab.c:1
[    3.600000] rust_kernel: panicked at spawn_template.rs:10:5:
[    3.700000] BUG kmalloc-64 (Tainted: G           O      ): Object already free
[    3.800000] refcount_t: underflow; use-after-free.
[    3.800001] WARNING: lib/refcount.c:28 at refcount_warn_saturate+0x1/0x2, CPU#0: rmmod/70
";
        use Kind::*;
        assert_eq!(kinds(log), [Lockdep, Lockdep, Memory, Memory, Memory, Bug, Bug, Memory, Warning]);
    }

    #[test]
    fn stalls() {
        let log = "\
[   30.000000] rcu: INFO: rcu_preempt self-detected stall on CPU
[   30.100000] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
[   31.000000] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [guest-suite:60]
[  121.000000] INFO: task guest-suite:60 blocked for more than 120 seconds.
";
        assert_eq!(kinds(log), [Kind::Stall; 4]);
    }

    #[test]
    fn the_tail_keeps_the_last_lines() {
        let mut console = Console::default();
        for n in 0..100 {
            console.feed(format!("line {n}\r\n").as_bytes());
        }
        let tail: Vec<_> = console.tail().collect();
        assert_eq!((tail.len(), tail[0], tail[39]), (TAIL, "line 60", "line 99"));
    }
}
