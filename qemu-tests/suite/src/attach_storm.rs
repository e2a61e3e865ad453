//! Tracers that try to attach just when a child execs, and stops that come just then, never make a spawn fail, as they never
//! make an execve fail.
//!
//! A tracer that attaches holds a lock that exec takes. Here processes without any right to attach try all the time, on a processor
//! that a real-time task takes away from them at any moment: so the lock is often held for long, and the child, which waits
//! for it, is stopped and continued meanwhile.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use crate::harness::{Outcome, error_name, patience};
use crate::os::{self, Shared, Status};
use crate::template::{Act, Template, child};
use crate::{ensure, tests};

tests!("attach_storm": spawns_that_do_not_wait [240], spawns_that_wait [240], fork_and_exec [240]);

/// How many processes try to attach, and how many are started meanwhile.
const ATTACKERS: usize = 3;
const ROUNDS: usize = 400;

/// How long one child may take, which is stopped for most of its time.
const SECONDS: u32 = 20;

/// Processes that run until this value is dropped.
struct Storm {
    pids: Vec<i32>,
}

impl Storm {
    /// Lets them loose on the process whose pid is in `target`.
    fn start(target: &Shared, stops: bool) -> Outcome<Storm> {
        let mut storm = Storm { pids: Vec::new() };
        for _ in 0..ATTACKERS {
            storm.add(|| {
                os::run_on(1)?;
                os::become_user(12345)?;
                loop {
                    let _ = os::ptrace(libc::PTRACE_SEIZE, target.load(Relaxed), 0, 0);
                }
            })?;
        }
        storm.add(|| {
            os::run_on(1)?;
            os::set_policy(libc::SCHED_FIFO, 10)?;
            loop {
                std::thread::sleep(Duration::from_micros(150));
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_micros(1500) {}
            }
        })?;
        if stops {
            storm.add(|| {
                os::run_on(0)?;
                loop {
                    let pid = target.load(SeqCst);
                    if pid > 0 {
                        let _ = os::kill(pid, libc::SIGSTOP);
                        let _ = os::kill(pid, libc::SIGCONT);
                    }
                    std::thread::sleep(Duration::from_micros(50));
                }
            })?;
        }
        Ok(storm)
    }

    fn add(&mut self, body: impl FnOnce() -> std::io::Result<()>) -> Outcome {
        let pid = os::fork()?;
        if pid == 0 {
            let _ = os::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0);
            let _ = body();
            os::exit_now(1);
        }
        self.pids.push(pid);
        Ok(())
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        for &pid in &self.pids {
            let _ = os::kill(pid, libc::SIGKILL);
            let _ = os::waitpid(pid, 0);
        }
    }
}

/// Waits for a child, with SIGCONT in case the last SIGSTOP came last.
fn ended(pid: i32) -> Outcome<Status> {
    let end = Instant::now() + Duration::from_secs(patience(SECONDS).into());
    loop {
        let (found, status) = os::waitpid(pid, libc::WNOHANG)?;
        if found == pid {
            return Ok(status);
        }
        ensure!(Instant::now() < end, "the child {pid} has not ended");
        let _ = os::kill(pid, libc::SIGCONT);
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// Starts children in the storm, each by a function that returns its pid, and wants all to end with 7.
fn all_start(start: impl Fn(&Shared) -> std::io::Result<i32>) -> Outcome {
    let target = Shared::new()?;
    os::run_on(0)?;
    let storm = Storm::start(&target, true)?;
    let (mut bad, mut rounds) = (Vec::new(), 0);
    let begun = Instant::now();
    while rounds < ROUNDS && begun.elapsed() < Duration::from_secs(patience(100).into()) {
        match start(&target).map(ended) {
            Ok(status) => match status? {
                Status::Exited(7) => {}
                status => bad.push(format!("{status:?}")),
            },
            Err(e) => bad.push(error_name(&e)),
        }
        target.store(0, SeqCst);
        rounds += 1;
    }
    drop(storm);
    ensure!(bad.is_empty(), "{} of {rounds} spawns failed: {bad:?}", bad.len());
    ensure!(rounds >= 50, "only {rounds} spawns in {:?}", begun.elapsed());
    Ok(())
}

fn spawns_that_do_not_wait() -> Outcome {
    let template = Template::child("exit-code")?;
    all_start(|target| {
        let (pid, _pidfd) = template.spawn().arg("7").nowait().run()?.leave();
        target.store(pid, SeqCst);
        Ok(pid)
    })
}

/// The pid of a child whose caller waits is not known in time, but can be told: the child is the next process.
fn spawns_that_wait() -> Outcome {
    let template = Template::child("exit-code")?;
    all_start(|target| {
        let probe = os::fork()?;
        if probe == 0 {
            os::exit_now(0);
        }
        os::waitpid(probe, 0)?;
        target.store(probe + 1, SeqCst);
        // Something to do first, so that the storm finds it.
        let acts = (0..20).map(|_| Act::Umask(0o22));
        template.spawn().arg("7").acts(acts).run().map(|child| child.leave().0)
    })
}

/// The same storm does not harm an execve.
fn fork_and_exec() -> Outcome {
    let (path, argv) = (os::c_path(child("exit-code")), [c"exit-code".to_owned(), c"7".to_owned()]);
    all_start(|target| {
        let pid = os::fork()?;
        if pid == 0 {
            os::execve(&path, &argv, &[]);
            os::exit_now(126);
        }
        target.store(pid, SeqCst);
        Ok(pid)
    })
}
