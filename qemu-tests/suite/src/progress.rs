//! A spawn gets on whatever signals its caller takes: reading long arguments is not begun again for each.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use spawn_template::uapi;

use crate::harness::{Outcome, failed, in_worker, refused};
use crate::os::{self, Status};
use crate::template::{Act, SPAWN_SIZE, SpawnArgs, Template};
use crate::userfault::Held;
use crate::{ensure, same, tests};

tests!("progress": long_arguments_under_a_timer [240], signal_does_not_start_it_over, signal_to_the_process_does_neither);

/// How many signals came.
static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_signal: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// 3.9 MB of arguments, and an interval timer that is faster than they are copied.
fn long_arguments_under_a_timer() -> Outcome {
    in_worker(|| {
        os::set_rlimit(libc::RLIMIT_STACK, 64 << 20)?;
        os::set_signal(libc::SIGALRM, count as *const () as libc::sighandler_t, libc::SA_RESTART)?;
        let template = Template::child("nothing")?;
        let argument = os::c_path("x".repeat(64));
        let mut argv = vec![argument.as_ptr() as u64; 60_000];
        argv.push(0);
        let no_pidfd = u64::from(uapi::SPAWN_TEMPLATE_SPAWN_NO_PIDFD);
        let good = SpawnArgs { flags: no_pidfd, argv: argv.as_ptr() as u64, ..Default::default() };
        // The arguments have been copied when the kernel finds out that it cannot tell the pidfd.
        let wrong = SpawnArgs { flags: 0, pidfd: 8, ..good };
        let spawn = |args: &SpawnArgs| os::template_spawn(template.raw(), &raw const *args as u64, SPAWN_SIZE);
        let mut shortest = i64::MAX;
        for _ in 0..5 {
            let begun = Instant::now();
            refused("no room for a pidfd", spawn(&wrong), libc::EFAULT)?;
            shortest = shortest.min(begun.elapsed().as_micros() as i64);
        }
        ensure!(shortest > 1000, "copying takes {shortest} us only");
        let worker = os::fork()?;
        if worker == 0 {
            let spawned = os::set_timer(shortest / 2).and_then(|()| spawn(&good));
            let _ = os::set_timer(0);
            let status = spawned.and_then(|pid| os::waitpid(pid, 0));
            let good = status.is_ok_and(|(_, status)| status == Status::Exited(0));
            os::exit_now(i32::from(!good || SIGNALS.load(Ordering::Relaxed) == 0));
        }
        let pidfd = os::pidfd_open(worker)?;
        // As often as it could have been done without the timer, many times over.
        let patience = (shortest / 1000 * 50).max(20_000) as i32;
        let ended = os::readable(pidfd.as_raw_fd(), patience)?;
        if !ended {
            os::kill(worker, libc::SIGKILL)?;
        }
        let status = os::waitpid(worker, 0)?.1;
        ensure!(ended, "not done after {patience} ms, a timer of {} us, where {shortest} us are needed", shortest / 2);
        same!(status, Status::Exited(0), "the caller under the timer");
        Ok(())
    })
}

/// An argument, as eight bytes.
static WORD: AtomicU64 = AtomicU64::new(u64::from_le_bytes(*b"once\0\0\0\0"));
/// The thread that spawns.
static THREAD: AtomicI32 = AtomicI32::new(0);

/// What a caller does on a signal: here it changes the argument.
extern "C" fn change(_signal: i32) {
    WORD.store(u64::from_le_bytes(*b"again\0\0\0"), Ordering::Relaxed);
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Sends a signal while a thread's arguments are read. The program gets them as they were first, and the handler runs.
fn signalled(send: fn() -> std::io::Result<()>) -> Outcome {
    in_worker(|| {
        os::set_signal(libc::SIGUSR1, change as *const () as libc::sighandler_t, libc::SA_RESTART)?;
        let template = Template::path("/bin/echo")?;
        let (reader, writer) = os::pipe()?;
        let spawn = template.spawn().act(Act::Dup2(writer.as_raw_fd(), 1));
        let held = Held::new()?;
        // The kernel reads the arguments from the last to the first.
        let argv = [c"echo".as_ptr() as u64, held.address(), WORD.as_ptr() as u64, 0];
        let status = thread::scope(|scope| {
            let spawning = scope.spawn(|| {
                // SAFETY: gettid() has no arguments.
                THREAD.store(unsafe { libc::gettid() }, Ordering::Relaxed);
                spawn.run_changed(|args| args.argv = argv.as_ptr() as u64)?.wait()
            });
            let waits = held.somebody_waits(20_000);
            let sent = send();
            thread::sleep(Duration::from_millis(100));
            let filled = held.fill(b"held\0");
            let status = spawning.join().map_err(|_| failed("the spawning thread panicked"))?;
            ensure!(waits?, "nobody read the argument");
            sent.map_err(|e| failed(format!("the signal: {e}")))?;
            filled.map_err(|e| failed(format!("the argument: {e}")))?;
            status.map_err(|e| failed(format!("the spawn: {e}")))
        })?;
        drop(writer);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(reader), &mut text)?;
        same!(status, Status::Exited(0), "status");
        same!(SIGNALS.load(Ordering::Relaxed), 1, "signals that were handled");
        same!(text, "held once\n", "arguments of the program");
        Ok(())
    })
}

fn signal_does_not_start_it_over() -> Outcome {
    signalled(|| {
        let (process, thread) = (std::process::id(), THREAD.load(Ordering::Relaxed));
        // SAFETY: tgkill() takes numbers.
        match unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    })
}

/// One to the process may be taken by any thread; only the one that spawns does not block it here.
fn signal_to_the_process_does_neither() -> Outcome {
    signalled(|| {
        os::set_sigmask(os::sigbit(libc::SIGUSR1))?;
        os::kill(std::process::id() as i32, libc::SIGUSR1)
    })
}
