//! An execution that fails when there is no way back: as after execve for who does not wait, an errno for who does.

use std::fs;
use std::io;

use crate::failing::{Failing, Failure, Stage};
use crate::harness::{Outcome, in_worker, patience};
use crate::image::{BASE, Image, LOAD, Segment};
use crate::os::{self, Status};
use crate::template::{Act, Folder, Open, Template, set_mode};
use crate::tracer::{ALL_EVENTS, follow};
use crate::{ensure, same, tests};

tests!("point_of_no_return":
    waiting_caller_gets_an_errno, nowait_is_ended_by_sigsegv, nowait_that_fails_before_is_127, half_a_child_is_never_seen [120],
);

/// Programs that pass every check which comes before, and whose mappings then fail: their own, or their interpreter's.
fn programs(folder: &Folder) -> io::Result<Vec<(&'static str, Image)>> {
    let memsz = 100 << 40;
    let segment = Segment { kind: LOAD, flags: 6, vaddr: BASE + 0x10000, align: 0x1000, ..Default::default() };
    let huge = Image::new(&[Segment { memsz, ..segment }]);
    let mut interpreter = Image::dynamic();
    (interpreter.segments[0].flags, interpreter.segments[0].memsz) = (7, memsz);
    let path = folder.join("interpreter");
    fs::write(&path, interpreter.bytes())?;
    set_mode(&path, 0o755)?;
    Ok(vec![("100 TiB of memory", huge), ("an interpreter of 100 TiB", Image::with_interpreter(path.as_bytes()))])
}

/// Runs `body` with the path of each of these programs.
fn with_each(body: impl Fn(&str, &str) -> Outcome) -> Outcome {
    os::set_hard_rlimit(libc::RLIMIT_CORE, 0, 0)?;
    let folder = Folder::tmp("no-return")?;
    let path = folder.join("program");
    for (what, image) in programs(&folder)? {
        fs::write(&path, image.bytes())?;
        set_mode(&path, 0o755)?;
        let forked = os::fork()?;
        if forked == 0 {
            os::execve(&os::c_path(&path), &[c"child".to_owned()], &[]);
            os::exit_now(1);
        }
        same!(os::waitpid(forked, 0)?.1, Status::Signaled(libc::SIGSEGV), "{what}, by fork and execve");
        body(what, &path)?;
    }
    Ok(())
}

/// There is no child then, and no signal.
fn waiting_caller_gets_an_errno() -> Outcome {
    with_each(|what, path| {
        let template = Template::path(path)?;
        let (child, result) = template.spawn().report();
        let error = child.map(drop).err().and_then(|e| e.raw_os_error()).unwrap_or(0);
        ensure!([libc::ENOMEM, libc::EINVAL].contains(&error), "{what}: error {error}");
        let mut failing = Failing::new()?;
        failing.both(what, &template.spawn(), Failure::at(Stage::Exec, error));
        failing.finish()?;
        same!(result.error, error, "{what}: reported error");
        Ok(())
    })
}

/// A child that nobody waits for in the call ends as one that called execve.
fn nowait_is_ended_by_sigsegv() -> Outcome {
    with_each(|what, path| {
        let template = Template::path(path)?;
        let null = Open::new("/dev/null", libc::O_RDONLY, 9);
        let wanted = Status::Signaled(libc::SIGSEGV);
        same!(template.spawn().nowait().status()?, wanted, "{what}");
        same!(template.spawn().open(null).nowait().status()?, wanted, "{what}, after an OPEN");
        same!(template.spawn().inherit_fds().nowait().status()?, wanted, "{what}, inheriting");
        Ok(())
    })
}

/// What fails earlier still has no program to be killed in.
fn nowait_that_fails_before_is_127() -> Outcome {
    with_each(|what, path| {
        let template = Template::path(path)?;
        same!(template.spawn().act(Act::Fchdir(0)).nowait().status()?, Status::Exited(127), "{what}: an action");
        let _writer = fs::OpenOptions::new().write(true).open(path)?;
        same!(template.spawn().nowait().status()?, Status::Exited(127), "{what}, open for writing");
        Ok(())
    })
}

/// Whether this process has a child that an ordinary wait would wait for.
fn sees_a_child() -> io::Result<bool> {
    // SAFETY: all zero bytes are a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is a live local.
    match unsafe { libc::waitid(libc::P_ALL, 0, &mut info, options) } {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ECHILD) => Ok(false),
            error => Err(error),
        },
    }
}

/// A tracer holds the failed child; another thread of the caller's waits for any child meanwhile, and has none.
fn half_a_child_is_never_seen() -> Outcome {
    with_each(|what, path| {
        in_worker(|| {
            let template = Template::path(path)?;
            let shared = os::SharedPage::new()?;
            let caller = || {
                std::thread::scope(|scope| {
                    // Word 0: what the other thread has seen. Word 1: that it is to end. Word 2: that it runs.
                    scope.spawn(|| {
                        while shared.get(1) == 0 {
                            if sees_a_child().unwrap_or(true) {
                                shared.set(0, 1);
                            }
                            shared.set(2, 1);
                        }
                    });
                    while shared.get(2) == 0 {}
                    let result = template.spawn().run();
                    shared.set(1, 1);
                    i32::from(result.is_ok())
                })
            };
            let held = std::time::Duration::from_millis(200 * u64::from(patience(1)));
            let mut ends = 0;
            let options = ALL_EVENTS & !libc::PTRACE_O_TRACECLONE;
            let mut pids = Vec::new();
            follow(options, caller, |step| {
                if !pids.contains(&step.pid) {
                    pids.push(step.pid);
                }
                // The first is the caller's.
                if step.is_event(libc::PTRACE_EVENT_EXIT) && step.pid != pids[0] {
                    ends += 1;
                    std::thread::sleep(held);
                }
                Ok(libc::PTRACE_CONT)
            })?;
            same!(ends, 1, "{what}: children that were held at their end");
            same!(shared.get(0), 0, "{what}: whether the other thread saw a child");
            Ok(())
        })
    })
}
