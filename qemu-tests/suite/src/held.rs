//! A child that is held up before its program starts is a process like any other: it freezes with its cgroup, stops, can be
//! traced, and goes on afterwards with what held it up.

use std::time::{Duration, Instant};

use crate::cgroup::Group;
use crate::harness::{Outcome, failed, patience};
use crate::hold::{Held, Hold, Point, Way, state};
use crate::os::{self, Status};
use crate::tracer::registers;
use crate::{ensure, same, tests};

tests!("held":
    frozen_with_its_group [120], frozen_with_its_caller [120], caller_frozen_alone [120], killed_while_frozen [120],
    stopped_and_continued [120], let_through_while_stopped [120], killed_while_stopped [120], attached_and_left [120],
    seized_and_interrupted [120], traced_until_exec [120], again_and_again [240],
);

/// Runs `body` for every point at which a child can be held up and each way to spawn.
fn everywhere(mut body: impl FnMut(Point, Way) -> Outcome) -> Outcome {
    for point in Point::ALL {
        for way in Way::ALL {
            body(point, way).map_err(|stop| match stop {
                crate::harness::Stop::Failed(why) => crate::harness::Stop::Failed(format!("{point:?}, {way:?}: {why}")),
                skipped => skipped,
            })?;
        }
    }
    Ok(())
}

/// A child that was just started and is held up.
fn held(hold: &Hold, way: Way) -> Outcome<Held> {
    Held::start(hold, way, None, || Ok(()))
}

/// Freezes or thaws a group and waits until the kernel says that all of it is.
#[track_caller]
fn freeze(group: &Group, on: bool) -> Outcome {
    group.set("cgroup.freeze", if on { "1" } else { "0" })?;
    let wanted = format!("frozen {}", u8::from(on));
    let end = Instant::now() + Duration::from_secs(patience(8).into());
    while !group.get("cgroup.events")?.contains(&wanted) {
        if Instant::now() > end {
            let procs = group.procs()?;
            group.set("cgroup.freeze", "0")?;
            return Err(failed(format!("in vain waited for {wanted:?} of a group with the processes {procs:?}")));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The child alone is in the group; a waiting caller is not.
fn frozen_with_its_group() -> Outcome {
    everywhere(|point, way| {
        let (hold, group) = (Hold::new(point)?, Group::new("held")?);
        let held = Held::start(&hold, way, Some(&group), || Ok(()))?;
        same!(group.procs()?, [held.child], "processes in the group");
        freeze(&group, true)?;
        ensure!(!way.waits() || !held.returns_within(100)?, "the call returned");
        freeze(&group, false)?;
        held.settled()?;
        // Let through while it is frozen, it goes on when it is thawed.
        freeze(&group, true)?;
        let through = hold.release()?;
        std::thread::sleep(Duration::from_millis(200));
        same!(group.procs()?, [held.child], "processes in the frozen group");
        ensure!(!way.waits() || !held.returns_within(0)?, "the call returned while the child was frozen");
        freeze(&group, false)?;
        held.ended()?;
        drop(through);
        Ok(())
    })
}

/// Both are in the group, which counts as frozen only when the caller in its call is frozen as well.
fn frozen_with_its_caller() -> Outcome {
    everywhere(|point, way| {
        if !way.waits() {
            return Ok(());
        }
        let (hold, group) = (Hold::new(point)?, Group::new("held-both")?);
        let held = Held::start(&hold, way, None, || group.set("cgroup.procs", "0"))?;
        same!(group.procs()?.len(), 2, "processes in the group");
        for _ in 0..3 {
            freeze(&group, true)?;
            ensure!(!held.returns_within(50)?, "the call returned");
            freeze(&group, false)?;
            held.settled()?;
        }
        held.finish(&hold)
    })
}

/// The caller is in the group, the child in another one. The child goes on while its caller is frozen.
fn caller_frozen_alone() -> Outcome {
    everywhere(|point, way| {
        if !way.waits() {
            return Ok(());
        }
        let (hold, group, other) = (Hold::new(point)?, Group::new("held-caller")?, Group::new("held-child")?);
        let held = Held::start(&hold, way, Some(&other), || group.set("cgroup.procs", "0"))?;
        same!(group.procs()?, [held.caller.unwrap_or(0)], "processes in the group");
        freeze(&group, true)?;
        let through = hold.release()?;
        held.until("the child has ended", |state| matches!(state, 'Z' | 'X'))?;
        freeze(&group, false)?;
        held.ended()?;
        drop(through);
        Ok(())
    })
}

/// SIGKILL ends a frozen child, and a caller that waits for it goes on.
fn killed_while_frozen() -> Outcome {
    everywhere(|point, way| {
        let (hold, group) = (Hold::new(point)?, Group::new("held-killed")?);
        let held = Held::start(&hold, way, Some(&group), || Ok(()))?;
        freeze(&group, true)?;
        killed(held)
    })
}

/// Kills a child that is held up, and wants it and its caller's call to end.
#[track_caller]
fn killed(held: Held) -> Outcome {
    os::kill(held.child, libc::SIGKILL)?;
    ensure!(held.returns_within(patience(8) as i32 * 1000)?, "the call did not return after the child was killed");
    if held.caller.is_none() {
        let end = Instant::now() + Duration::from_secs(patience(8).into());
        while !os::has_news(held.child, libc::WEXITED)? {
            ensure!(Instant::now() < end, "SIGKILL did not end the child; its state is {}", state(held.child)?);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

/// SIGSTOP stops it, and its parent is told, which is the caller: with NOWAIT the test, which can wait for it.
fn stopped_and_continued() -> Outcome {
    everywhere(|point, way| {
        let hold = Hold::new(point)?;
        let held = held(&hold, way)?;
        for _ in 0..3 {
            os::kill(held.child, libc::SIGSTOP)?;
            held.until("it is stopped", |state| state == 'T')?;
            if !way.waits() {
                let (pid, status) = os::waitpid(held.child, libc::WUNTRACED | libc::WNOHANG)?;
                same!(
                    (pid, status),
                    (held.child, Status::Other(libc::SIGSTOP << 8 | 0x7f)),
                    "what waitpid says of the stop"
                );
            }
            ensure!(!way.waits() || !held.returns_within(50)?, "the call returned");
            os::kill(held.child, libc::SIGCONT)?;
            held.settled()?;
            if !way.waits() {
                let (pid, status) = os::waitpid(held.child, libc::WCONTINUED | libc::WNOHANG)?;
                same!((pid, status), (held.child, Status::Other(0xffff)), "what waitpid says of going on");
            }
        }
        held.finish(&hold)
    })
}

/// What held it up is over while it is stopped; it stays stopped until SIGCONT.
fn let_through_while_stopped() -> Outcome {
    everywhere(|point, way| {
        let hold = Hold::new(point)?;
        let held = held(&hold, way)?;
        os::kill(held.child, libc::SIGSTOP)?;
        held.until("it is stopped", |state| state == 'T')?;
        let through = hold.release()?;
        std::thread::sleep(Duration::from_millis(200));
        same!(state(held.child)?, 'T', "state of the child that nothing but the stop holds up");
        os::kill(held.child, libc::SIGCONT)?;
        held.ended()?;
        drop(through);
        Ok(())
    })
}

fn killed_while_stopped() -> Outcome {
    everywhere(|point, way| {
        let hold = Hold::new(point)?;
        let held = held(&hold, way)?;
        os::kill(held.child, libc::SIGSTOP)?;
        held.until("it is stopped", |state| state == 'T')?;
        killed(held)
    })
}

/// Waits for the next stop of a tracee, and returns its signal and event.
#[track_caller]
fn stop(pid: i32) -> Outcome<(i32, i32)> {
    let end = Instant::now() + Duration::from_secs(patience(8).into());
    loop {
        match os::waitpid(pid, libc::__WALL | libc::WNOHANG)? {
            (0, _) if Instant::now() > end => {
                return Err(failed(format!("in vain waited for a stop of the child; its state is {}", state(pid)?)));
            }
            (0, _) => std::thread::sleep(Duration::from_millis(5)),
            (_, Status::Other(raw)) if libc::WIFSTOPPED(raw) => return Ok((libc::WSTOPSIG(raw), raw >> 16)),
            (_, status) => return Err(failed(format!("instead of a stop of the child: {status:?}"))),
        }
    }
}

/// PTRACE_ATTACH stops it; the tracer looks at it and leaves.
fn attached_and_left() -> Outcome {
    everywhere(|point, way| {
        let hold = Hold::new(point)?;
        let held = held(&hold, way)?;
        for _ in 0..2 {
            os::ptrace(libc::PTRACE_ATTACH, held.child, 0, 0)?;
            same!(stop(held.child)?, (libc::SIGSTOP, 0), "signal and event of the stop");
            same!(state(held.child)?, 't', "state of the stopped child");
            registers(held.child)?;
            os::ptrace(libc::PTRACE_DETACH, held.child, 0, 0)?;
            held.settled()?;
        }
        held.finish(&hold)
    })
}

/// PTRACE_SEIZE does not stop it, PTRACE_INTERRUPT does, and it goes on each time.
fn seized_and_interrupted() -> Outcome {
    everywhere(|point, way| {
        let hold = Hold::new(point)?;
        let held = held(&hold, way)?;
        let pid = held.child;
        os::ptrace(libc::PTRACE_SEIZE, pid, 0, 0)?;
        for _ in 0..3 {
            held.settled()?;
            os::ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0)?;
            same!(stop(pid)?, (libc::SIGTRAP, libc::PTRACE_EVENT_STOP), "signal and event after PTRACE_INTERRUPT");
            os::ptrace(libc::PTRACE_CONT, pid, 0, 0)?;
        }
        held.settled()?;
        os::ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0)?;
        same!(stop(pid)?, (libc::SIGTRAP, libc::PTRACE_EVENT_STOP), "signal and event after PTRACE_INTERRUPT");
        os::ptrace(libc::PTRACE_DETACH, pid, 0, 0)?;
        held.settled()?;
        held.finish(&hold)
    })
}

/// A tracer that came while the child was held up sees its exec.
fn traced_until_exec() -> Outcome {
    for way in Way::ALL {
        let hold = Hold::new(Point::Fifo)?;
        let held = held(&hold, way)?;
        let pid = held.child;
        os::ptrace(libc::PTRACE_ATTACH, pid, 0, 0)?;
        same!(stop(pid)?, (libc::SIGSTOP, 0), "signal and event of the stop");
        os::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, libc::PTRACE_O_TRACEEXEC as u64)?;
        os::ptrace(libc::PTRACE_CONT, pid, 0, 0)?;
        held.settled()?;
        let through = hold.release()?;
        same!(stop(pid)?, (libc::SIGTRAP, libc::PTRACE_EVENT_EXEC), "signal and event of exec");
        os::ptrace(libc::PTRACE_DETACH, pid, 0, 0)?;
        held.ended()?;
        drop(through);
    }
    Ok(())
}

/// However often it is frozen, stopped and attached to, it goes on.
fn again_and_again() -> Outcome {
    everywhere(|point, way| {
        let (hold, group) = (Hold::new(point)?, Group::new("held-again")?);
        let held = Held::start(&hold, way, Some(&group), || Ok(()))?;
        for _ in 0..8 {
            freeze(&group, true)?;
            freeze(&group, false)?;
            os::kill(held.child, libc::SIGSTOP)?;
            held.until("it is stopped", |state| state == 'T')?;
            freeze(&group, true)?;
            os::kill(held.child, libc::SIGCONT)?;
            freeze(&group, false)?;
            held.settled()?;
            os::ptrace(libc::PTRACE_ATTACH, held.child, 0, 0)?;
            same!(stop(held.child)?, (libc::SIGSTOP, 0), "signal and event of the stop");
            os::ptrace(libc::PTRACE_DETACH, held.child, 0, 0)?;
        }
        held.settled()?;
        held.finish(&hold)
    })
}
