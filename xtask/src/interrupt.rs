//! Ctrl-C: ends every command we started, with everything those started, and leaves nothing running.
//!
//! Each command gets a process group of its own, so that one signal reaches make and all its compilers. A thread waits
//! for SIGINT, SIGTERM and SIGHUP, asks all groups to end, kills what is left after a moment, and exits. Cache entries
//! need no tidying here: what was not published is not believed (see `cache`).

use std::collections::BTreeSet;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What a signal must be sent to: negative numbers are process groups, as for kill(2).
static TARGETS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How long commands get to end by themselves. QEMU and make need far less.
const PATIENCE: Duration = Duration::from_secs(3);

/// Starts listening for the signals that end us.
pub fn install() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen for signals")?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            INTERRUPTED.store(true, Ordering::SeqCst);
            end_everything();
            crate::ui::restore_terminal();
            eprintln!("interrupted; everything that was started has been stopped");
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// Blocks for good when an interrupt is being handled, so that its thread has the last word.
pub fn wait_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

fn end_everything() {
    // Taking the lock waits for a spawn in progress; later ones see INTERRUPTED and fail.
    let targets = lock().clone();
    send(&targets, libc::SIGTERM);
    let started = Instant::now();
    while started.elapsed() < PATIENCE && targets.iter().any(|&target| alive(target)) {
        std::thread::sleep(Duration::from_millis(20));
    }
    send(&targets, libc::SIGKILL);
}

fn lock() -> std::sync::MutexGuard<'static, BTreeSet<i32>> {
    TARGETS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn send(targets: &BTreeSet<i32>, signal: i32) {
    for &target in targets {
        // SAFETY: kill(2) takes two numbers and touches no memory of ours.
        unsafe { libc::kill(target, signal) };
    }
}

fn alive(target: i32) -> bool {
    // SAFETY: as above; signal 0 only asks whether the target exists.
    unsafe { libc::kill(target, 0) == 0 }
}

/// Prepares `command` to be ended with us: a process group of its own, and a signal should we die without a word.
pub fn prepare(command: &mut Command) {
    command.process_group(0);
    end_with_parent(command);
}

fn end_with_parent(command: &mut Command) {
    let ask = || {
        // SAFETY: this prctl(2) takes two numbers and touches no memory of ours.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec the closure makes one async-signal-safe system call and allocates nothing.
    unsafe { command.pre_exec(ask) };
}

/// Keeps a target of kill(2) in the list of what an interrupt ends, for as long as it lives.
pub struct Registration(i32);

impl Drop for Registration {
    fn drop(&mut self) {
        lock().remove(&self.0);
    }
}

/// Runs `start`, which starts a process and says what to signal, so that no interrupt can fall between the two.
pub fn register<T, E: From<io::Error>>(start: impl FnOnce() -> Result<(T, i32), E>) -> Result<(T, Registration), E> {
    let mut targets = lock();
    if INTERRUPTED.load(Ordering::SeqCst) {
        return Err(io::Error::from(io::ErrorKind::Interrupted).into());
    }
    let (value, target) = start()?;
    targets.insert(target);
    Ok((value, Registration(target)))
}

/// A child process that an interrupt ends, and that is killed when this value goes away.
pub struct Guarded {
    child: Child,
    target: i32,
    _registration: Registration,
}

impl Guarded {
    /// Starts `command` in a process group of its own. For everything that does not read the terminal.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        prepare(command);
        Self::start(command, |pid| -pid)
    }

    /// Starts `command` in our own process group, which it needs in order to read the terminal.
    pub fn spawn_on_terminal(command: &mut Command) -> io::Result<Self> {
        end_with_parent(command);
        Self::start(command, |pid| pid)
    }

    fn start(command: &mut Command, target: impl FnOnce(i32) -> i32) -> io::Result<Self> {
        let ((child, target), registration) = register(|| {
            let child = command.spawn()?;
            let target = target(child.id() as i32);
            Ok::<_, io::Error>(((child, target), target))
        })?;
        Ok(Self { child, target, _registration: registration })
    }
}

impl Deref for Guarded {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}

impl DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            send(&BTreeSet::from([self.target]), libc::SIGKILL);
            // Nothing useful can be done about a failure here; the signal was sent.
            let _ = self.child.wait();
        }
    }
}
