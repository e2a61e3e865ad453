//! Many spawns at once, and things that happen at the same time.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::harness::{Outcome, failed, in_worker};
use crate::os::{self, Status};
use crate::template::{Act, Child, Folder, Template};
use crate::{ensure, same, tests};

tests!("parallel":
    threads_with_one_template [180], threads_with_their_own [180], processes_with_one_template [180], many_running_at_once,
    successes_and_failures_mixed [180], close_while_spawning [180], replace_while_spawning [180], arguments_changing,
    callers_killed_at_any_time [180], exec_of_a_threaded_caller,
);

/// Runs `body` in `count` threads, each with its number, and returns the first failure.
fn in_threads(count: usize, body: impl Fn(usize) -> Outcome + Sync) -> Outcome {
    thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = (0..count).map(|i| scope.spawn(move || body(i))).collect();
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        results.into_iter().try_for_each(|result| result.map_err(|_| failed("a thread panicked"))?)
    })
}

fn threads_with_one_template() -> Outcome {
    let template = Template::child("exit-code")?;
    in_threads(4, |thread| {
        for i in 0..50 {
            let code = thread * 50 + i;
            same!(template.spawn().arg(&code.to_string()).status()?, Status::Exited(code as i32), "status");
        }
        Ok(())
    })?;
    same!(template.counts()?, (200, 0), "spawns and failures");
    Ok(())
}

fn threads_with_their_own() -> Outcome {
    in_threads(4, |thread| {
        let name = ["nothing", "static0", "static-pie", "dynamic0"][thread];
        for _ in 0..30 {
            let template = Template::child(name)?;
            same!(template.status()?, Status::Exited(0), "status of {name}");
            same!(template.counts()?, (1, 0), "spawns and failures");
        }
        Ok(())
    })
}

fn processes_with_one_template() -> Outcome {
    let template = Template::child("nothing")?;
    let mut workers = Vec::new();
    for _ in 0..4 {
        let pid = os::fork()?;
        if pid == 0 {
            let good = (0..50).all(|_| template.status().is_ok_and(|status| status == Status::Exited(0)));
            os::exit_now(if good { 0 } else { 1 });
        }
        workers.push(pid);
    }
    for pid in workers {
        same!(os::waitpid(pid, 0)?.1, Status::Exited(0), "a worker");
    }
    same!(template.counts()?, (200, 0), "spawns and failures");
    Ok(())
}

fn many_running_at_once() -> Outcome {
    let template = Template::child("sleep")?;
    let children = (0..100).map(|_| template.spawn().run()).collect::<std::io::Result<Vec<Child>>>()?;
    let mut pids: Vec<i32> = children.iter().map(|child| child.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    same!(pids.len(), 100, "different pids");
    for child in &children {
        ensure!(!os::readable(child.pidfd.as_raw_fd(), 0)?, "child {} has ended", child.pid);
        os::pidfd_kill(child.pidfd.as_raw_fd(), libc::SIGTERM)?;
    }
    for child in children {
        same!(child.wait()?, Status::Signaled(libc::SIGTERM), "status");
    }
    Ok(())
}

fn successes_and_failures_mixed() -> Outcome {
    let template = Template::child("nothing")?;
    in_threads(4, |thread| {
        for i in 0..50 {
            if (thread + i) % 2 == 0 {
                same!(template.status()?, Status::Exited(0), "status");
            } else {
                crate::harness::refused(
                    "a failing action",
                    template.spawn().act(Act::Dup2(999, 1)).run(),
                    libc::EBADF,
                )?;
            }
        }
        Ok(())
    })?;
    same!(template.counts()?, (100, 100), "spawns and failures");
    Ok(())
}

/// One thread closes and makes templates at a number that others spawn from: they get a child, EBADF or EINVAL.
fn close_while_spawning() -> Outcome {
    let number = Template::child("nothing")?.raw();
    let stop = AtomicBool::new(false);
    let started = AtomicU64::new(0);
    in_threads(3, |thread| {
        if thread == 0 {
            let path = os::c_path(crate::template::child("nothing"));
            for _ in 0..200 {
                let template = crate::template::create(&crate::template::create_by_path(&path))?;
                thread::yield_now();
                drop(template);
            }
            stop.store(true, Ordering::Relaxed);
            return Ok(());
        }
        // A descriptor that this thread does not own, on purpose.
        let pid_or_error = || {
            let mut pidfd = -1;
            let argv = [c"child".as_ptr() as u64, 0];
            let args = crate::template::SpawnArgs {
                pidfd: &raw mut pidfd as u64,
                argv: argv.as_ptr() as u64,
                ..Default::default()
            };
            os::template_spawn(number, &raw const args as u64, crate::template::SPAWN_SIZE).map(|_| {
                // SAFETY: the kernel has written the number there.
                unsafe { (&raw const pidfd).read_volatile() }
            })
        };
        while !stop.load(Ordering::Relaxed) {
            match pid_or_error() {
                Ok(pidfd) => {
                    started.fetch_add(1, Ordering::Relaxed);
                    os::wait_pidfd(pidfd, 0)?;
                    os::close(pidfd)?;
                }
                Err(e) if matches!(e.raw_os_error(), Some(libc::EBADF | libc::EINVAL)) => {}
                Err(e) => return Err(failed(crate::harness::error_name(&e))),
            }
        }
        Ok(())
    })
}

/// The program is replaced by rename all the time; a spawn runs the file its template was made of or is ESTALE.
fn replace_while_spawning() -> Outcome {
    let folder = Folder::tmp("replaced")?;
    let path = folder.copy("exit-code")?;
    let stop = AtomicBool::new(false);
    in_threads(3, |thread| {
        if thread == 0 {
            for _ in 0..100 {
                fs::rename(folder.copy("nothing")?, &path)?;
                thread::yield_now();
                fs::copy(crate::template::child("exit-code"), folder.join("next"))?;
                crate::template::set_mode(folder.join("next"), 0o755)?;
                fs::rename(folder.join("next"), &path)?;
            }
            stop.store(true, Ordering::Relaxed);
            return Ok(());
        }
        while !stop.load(Ordering::Relaxed) {
            let template = Template::path(&path)?;
            let inode = template.info()?.number("size")?;
            let wanted = if inode == fs::metadata(crate::template::child("nothing"))?.len() { 0 } else { 7 };
            for _ in 0..3 {
                match template.spawn().arg("7").status() {
                    Ok(status) => same!(status, Status::Exited(wanted), "status"),
                    Err(e) if e.raw_os_error() == Some(libc::ESTALE) => {}
                    Err(e) => return Err(failed(crate::harness::error_name(&e))),
                }
            }
        }
        Ok(())
    })
}

/// Another thread rewrites the argument vector during the call: the child gets some of it, or the call fails; no more.
fn arguments_changing() -> Outcome {
    let template = Template::child("nothing")?;
    let stop = AtomicBool::new(false);
    let words: Vec<AtomicU64> = (0..64).map(|_| AtomicU64::new(c"argument".as_ptr() as u64)).collect();
    words[63].store(0, Ordering::Relaxed);
    thread::scope(|scope| {
        scope.spawn(|| {
            let values = [c"a".as_ptr() as u64, c"another, longer".as_ptr() as u64, 1, 0, u64::MAX];
            for i in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                words[i % 63].store(values[i % values.len()], Ordering::Relaxed);
            }
        });
        let mut result = Ok(());
        for _ in 0..200 {
            let spawned = template.spawn().run_changed(|args| args.argv = words.as_ptr() as u64).and_then(Child::wait);
            match spawned {
                Ok(Status::Exited(0)) => {}
                Err(e) if e.raw_os_error() == Some(libc::EFAULT) => {}
                other => result = Err(failed(format!("{other:?}"))),
            }
        }
        stop.store(true, Ordering::Relaxed);
        result
    })
}

/// Callers that spawn in a loop are killed at arbitrary moments; what they started ends, and the template lives on.
fn callers_killed_at_any_time() -> Outcome {
    let template = Template::child("nothing")?;
    for round in 0..30 {
        let pid = os::fork()?;
        if pid == 0 {
            loop {
                let _ = template.status();
                let _ = template.spawn().act(Act::Dup2(999, 1)).run();
            }
        }
        thread::sleep(std::time::Duration::from_micros(1500 + 700 * round));
        os::kill(pid, libc::SIGKILL)?;
        // The caller and, if it had one, the child that came to us.
        os::reap_all()?;
    }
    same!(template.status()?, Status::Exited(0), "status of a spawn afterwards");
    Ok(())
}

/// A thread calls exec while another spawns: the process goes on as one program.
fn exec_of_a_threaded_caller() -> Outcome {
    let template = Template::child("nothing")?;
    for _ in 0..10 {
        let pid = os::fork()?;
        if pid == 0 {
            thread::scope(|scope| {
                scope.spawn(|| {
                    loop {
                        let _ = template.status();
                    }
                });
                thread::sleep(std::time::Duration::from_millis(5));
                let path = os::c_path(crate::template::child("exit-code"));
                os::execve(&path, &[c"exit-code".into(), c"21".into()], &[]);
                os::exit_now(1);
            });
        }
        same!(os::waitpid(pid, 0)?, (pid, Status::Exited(21)), "the caller that became another program");
        os::reap_all()?;
    }
    in_worker(|| {
        same!(File::open("/dev/null").is_ok(), true, "this process still works");
        Ok(())
    })
}
