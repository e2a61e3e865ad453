//! The kernel module: it cannot go while somebody needs it, and without it the calls say ENOSYS.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::{Outcome, Stop, error_name, failed, in_worker, refused};
use crate::nowait::Gate;
use crate::os::{self, Status};
use crate::template::{Act, SPAWN_SIZE, Template, child};
use crate::{ensure, same, tests};

tests!("module":
    busy_while_template_open, busy_while_template_elsewhere, unload_and_load, unload_while_calling [180],
    children_outlive_it, busy_while_a_child_is_half_made, unload_after_killed_callers,
);

const FILE: &str = "/payload/spawn_template.ko";

/// Skips where the code is built into the kernel.
fn needs_module() -> Outcome {
    if fs::exists("/sys/module/spawn_template/initstate")? {
        Ok(())
    } else {
        Err(Stop::Skipped("the kernel has it built in".to_owned()))
    }
}

/// Unloads it. The last close of a template gives it up a moment later, so EBUSY is tried again.
fn unload() -> io::Result<()> {
    let mut result = Ok(());
    for _ in 0..100 {
        result = os::delete_module(c"spawn_template");
        match &result {
            Err(e) if e.raw_os_error() == Some(libc::EWOULDBLOCK) => thread::sleep(Duration::from_millis(20)),
            _ => break,
        }
    }
    result
}

fn load() -> io::Result<()> {
    os::finit_module(&File::open(FILE)?)
}

/// Wants it to refuse being unloaded, several times.
fn is_busy(why: &str) -> Outcome {
    for _ in 0..5 {
        match os::delete_module(c"spawn_template") {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EWOULDBLOCK | libc::EBUSY)) => {}
            Err(e) => return Err(failed(format!("{why}: {}", error_name(&e)))),
            Ok(()) => {
                load()?;
                return Err(failed(format!("{why}: it was unloaded")));
            }
        }
    }
    Ok(())
}

fn busy_while_template_open() -> Outcome {
    needs_module()?;
    let template = Template::child("nothing")?;
    is_busy("a template is open")?;
    same!(template.status()?, Status::Exited(0), "status afterwards");
    let copy = os::dup_from(template.raw(), 50, true)?;
    drop(template);
    is_busy("a duplicate is open")?;
    drop(copy);
    unload()?;
    Ok(load()?)
}

fn busy_while_template_elsewhere() -> Outcome {
    needs_module()?;
    let (ours, theirs) = os::socketpair()?;
    let template = Template::child("nothing")?;
    os::send_fd(theirs.as_raw_fd(), template.raw())?;
    drop(template);
    is_busy("a template is under way in a socket")?;
    let received = Template { fd: os::receive_fd(ours.as_raw_fd())? };
    same!(received.status()?, Status::Exited(0), "status of the one that arrived");
    let (reader, writer) = os::pipe()?;
    let worker = os::fork()?;
    if worker == 0 {
        drop(writer);
        let _ = os::readable(reader.as_raw_fd(), -1);
        os::exit_now(0);
    }
    drop((received, reader));
    is_busy("a template is open in another process")?;
    drop(writer);
    os::waitpid(worker, 0)?;
    unload()?;
    Ok(load()?)
}

fn unload_and_load() -> Outcome {
    needs_module()?;
    for _ in 0..3 {
        same!(Template::child("nothing")?.status()?, Status::Exited(0), "status");
        unload()?;
        let create = Template::child("nothing");
        let spawn = os::template_spawn(0, 0, SPAWN_SIZE);
        let odd = os::template_create(0, 0);
        load()?;
        refused("create without the module", create, libc::ENOSYS)?;
        refused("spawn without the module", spawn, libc::ENOSYS)?;
        refused("a bad create without the module", odd, libc::ENOSYS)?;
    }
    ensure!(spawn_template::is_supported(), "the module is loaded, but the crate says it is not");
    Ok(())
}

/// Unloading and loading while others create and spawn: they succeed or get ENOSYS.
fn unload_while_calling() -> Outcome {
    needs_module()?;
    let stop = AtomicBool::new(false);
    let (mut unloaded, path) = (0, child("nothing"));
    let outcome = thread::scope(|scope| {
        let callers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| -> Outcome {
                    while !stop.load(Ordering::Relaxed) {
                        match Template::path(&path).and_then(|template| template.status()) {
                            Ok(status) => same!(status, Status::Exited(0), "status"),
                            Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => {}
                            Err(e) => return Err(failed(error_name(&e))),
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let mut result = Ok(());
        for _ in 0..1500 {
            if os::delete_module(c"spawn_template").is_ok() {
                unloaded += 1;
                if let Err(e) = load() {
                    result = Err(failed(format!("loading it again: {}", error_name(&e))));
                    break;
                }
            }
            if unloaded == 40 {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            result = result.and(caller.join().map_err(|_| failed("a caller panicked")).and_then(|r| r));
        }
        result
    });
    if !spawn_template::is_supported() {
        load()?;
    }
    outcome
}

/// A started program does not need it any more.
fn children_outlive_it() -> Outcome {
    needs_module()?;
    in_worker(|| {
        let sleeping = Template::child("sleep")?.spawn().run()?;
        unload()?;
        let running = os::readable(sleeping.pidfd.as_raw_fd(), 100);
        load()?;
        ensure!(!running?, "the child ended with the module");
        os::kill(sleeping.pid, libc::SIGTERM)?;
        same!(sleeping.wait()?, Status::Signaled(libc::SIGTERM), "status");
        Ok(())
    })
}

/// A child that nobody waits for works off its actions in the module, though the template is closed.
fn busy_while_a_child_is_half_made() -> Outcome {
    needs_module()?;
    let gate = Gate::new("module-busy")?;
    let template = Template::child("exit-code")?;
    for last in [Act::Close(500), Act::Dup2(900, 1)] {
        let child = template.spawn().arg("4").acts([gate.action(), last.clone()]).nowait().run()?;
        is_busy("a child is at its actions")?;
        gate.open()?;
        let code = if matches!(last, Act::Dup2(..)) { 127 } else { 4 };
        same!(child.wait()?, Status::Exited(code), "status");
    }
    let child = template.spawn().arg("5").act(gate.action()).nowait().run()?;
    drop(template);
    is_busy("a child is at its actions, and the template closed")?;
    gate.open()?;
    same!(child.wait()?, Status::Exited(5), "status");
    unload()?;
    Ok(load()?)
}

/// Callers that die with their children leave no reference behind.
fn unload_after_killed_callers() -> Outcome {
    needs_module()?;
    let gate = Gate::new("module-killed")?;
    for _ in 0..5 {
        let template = Template::child("nothing")?;
        let worker = os::fork()?;
        if worker == 0 {
            let _ = template.spawn().act(gate.action()).run();
            os::exit_now(1);
        }
        let children = format!("/proc/{worker}/task/{worker}/children");
        while fs::read_to_string(&children)?.is_empty() {
            thread::sleep(Duration::from_millis(5));
        }
        os::kill(worker, libc::SIGKILL)?;
        os::reap_all()?;
    }
    unload()?;
    Ok(load()?)
}
