//! A second process that does to a worker's children what anybody may do who has the right to: opens their files, attaches
//! to them, stops, freezes and kills them, at random, and takes all of it back.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::rng::Rng;
use crate::sys;
use crate::world::{SCRATCH, attacked_cgroup};

/// What attackers have done, by the names in [`NAMES`].
pub type Counts = [AtomicU64; NAMES.len()];

/// The kinds of attacks.
pub const NAMES: [&str; 6] = ["opened", "attached", "stopped", "frozen", "killed", "stuck"];
/// Those that did not stop for their tracer, which must not be.
pub const STUCK: usize = 5;

/// The files that are opened, of which each can be read.
const FILES: [&str; 9] = ["mem", "maps", "pagemap", "smaps", "environ", "auxv", "stat", "cmdline", "exe"];

/// How long an attacker waits where there is nothing to do, or for something to take effect.
const PAUSE: Duration = Duration::from_micros(300);

/// How long a tracee may take to stop; with all checks in the kernel, that is long.
const STOP: Duration = Duration::from_secs(10);

/// Attacks the children of `worker` until that has ended.
pub fn main(worker: libc::pid_t, slot: usize, mut rng: Rng, counts: &Counts) -> i32 {
    // The end of this program ends the attacks as well.
    if sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64).is_err() {
        return 1;
    }
    let Some(end) = open_process(worker) else { return 0 };
    while !sys::ends_within(raw(&end), 0).unwrap_or(true) {
        // Those that wait for somebody to write go on now and then.
        drop(sys::open(&format!("{SCRATCH}/fifo"), libc::O_WRONLY | libc::O_NONBLOCK));
        let children = fs::read_to_string(format!("/proc/{worker}/task/{worker}/children")).unwrap_or_default();
        let children: Vec<libc::pid_t> = children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        if children.is_empty() {
            sleep(PAUSE);
            continue;
        }
        let child = rng.pick(&children);
        // With a pidfd in the hand, it is that process and no other, if it is still a child of the worker's.
        let Some(pidfd) = open_process(child) else { continue };
        if parent(child) != Some(worker) {
            continue;
        }
        let kind = match rng.below(100) {
            0..40 => 0,
            40..60 => 1,
            60..75 => 2,
            75..88 => 3,
            _ => 4,
        };
        let done = match kind {
            0 => look(child, &mut rng),
            1 => attach(child, &mut rng, counts),
            2 => stop(&pidfd),
            3 => freeze(child, slot),
            _ => sys::pidfd_kill(raw(&pidfd), libc::SIGKILL).is_ok(),
        };
        counts[kind].fetch_add(u64::from(done), Relaxed);
    }
    0
}

fn raw(fd: &OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

fn open_process(pid: libc::pid_t) -> Option<OwnedFd> {
    let fd = sys::pidfd_open(pid.into()).ok()?;
    // SAFETY: the call succeeded, so this is a new descriptor.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn parent(pid: libc::pid_t) -> Option<libc::pid_t> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
}

/// Opens a file of the child's and reads from it, now and a little later.
fn look(child: libc::pid_t, rng: &mut Rng) -> bool {
    let name = rng.pick(&FILES);
    let Ok(mut file) = File::open(format!("/proc/{child}/{name}")) else { return false };
    for _ in 0..2 {
        if name == "mem" || name == "pagemap" {
            file.seek(SeekFrom::Start(rng.pick(&[0, 0x40_0000, 0x7fff_ffff_e000]))).ok();
        }
        // How much it is does not matter.
        let _ = file.read(&mut [0; 256]).unwrap_or_default();
        sleep(PAUSE);
    }
    true
}

/// Attaches, has the child stop, looks into it and lets it go.
fn attach(child: libc::pid_t, rng: &mut Rng, counts: &Counts) -> bool {
    if sys::ptrace(libc::PTRACE_SEIZE, child).is_err() {
        return false;
    }
    sys::ptrace(libc::PTRACE_INTERRUPT, child).ok();
    let begun = Instant::now();
    while begun.elapsed() < STOP {
        match sys::stopped_or_gone(child) {
            Ok(None) => sleep(PAUSE),
            Ok(Some(false)) => {
                sys::peek(child, rng.pick(&[0x40_0000, 0x7fff_ffff_e000]));
                sys::ptrace(libc::PTRACE_DETACH, child).ok();
                return true;
            }
            _ => return true,
        }
    }
    // The kernel lets it go when its tracer ends.
    counts[STUCK].fetch_add(1, Relaxed);
    println!("FAILED attacker: process {child} does not stop for its tracer");
    sys::exit(1)
}

/// Stops it for a moment.
fn stop(pidfd: &OwnedFd) -> bool {
    let stopped = sys::pidfd_kill(raw(pidfd), libc::SIGSTOP).is_ok();
    sleep(PAUSE);
    sys::pidfd_kill(raw(pidfd), libc::SIGCONT).ok();
    stopped
}

/// Moves it to a control group that is frozen for a moment.
fn freeze(child: libc::pid_t, slot: usize) -> bool {
    let group = attacked_cgroup(slot);
    let file = |name: &str| Path::new(&group).join(name);
    let moved = fs::write(file("cgroup.procs"), child.to_string()).is_ok();
    fs::write(file("cgroup.freeze"), "1").ok();
    sleep(PAUSE);
    fs::write(file("cgroup.freeze"), "0").ok();
    moved
}
