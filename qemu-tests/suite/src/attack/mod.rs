//! Attacks from outside on a child that is held up between its birth and its exec: by another process of the caller's
//! user, or by another thread of the caller.
//!
//! A table drives them: each interface, against a child that is held up in each way, on its way to each kind of program.
//! A cell passes if the attempt fails or shows what is the child's own, an empty address space, and if what was kept of it
//! is worth nothing once the program runs. The program of each cell has to have come to run; and nothing can be got anew
//! then, as after execve.

mod caller;
mod calls;
mod exploit;
pub mod holdup;
pub mod interface;
pub mod label;
pub mod program;
pub mod stops;

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;

use caller::{Caller, Starts, serve};
use holdup::{HOLD_UPS, HoldUp, Means};
use interface::{INTERFACES, Interface, Kept, Target, mappings};
use program::{Program, Report};

use crate::harness::{Checks, Outcome, Stop, failed, in_worker, in_worker_for};
use crate::os::{self, Status};
use crate::template::{Act, Folder, Template, set_mode};
use crate::{same, tests};

tests!("attack":
    set_user_id_program [180], program_with_a_file_capability [180], execute_only_program [180], by_another_thread [180],
    on_a_set_user_id_program_for_root, every_interface_works,
    killed_while_held_up,
);

/// Who attacks, and whose child it is.
pub const USER: u32 = 1000;

/// How many cells there are for a kind of program.
const CELLS: usize = 65;

/// Milliseconds that a program may take to come to its first line.
const TIME: u64 = 5000;

fn set_user_id_program() -> Outcome {
    by_another_process(Program::SetUserId)
}

fn program_with_a_file_capability() -> Outcome {
    by_another_process(Program::FileCapability)
}

fn execute_only_program() -> Outcome {
    by_another_process(Program::ExecuteOnly)
}

fn on_a_set_user_id_program_for_root() -> Outcome {
    exploit::run()
}

/// Yama's rule that only ancestors attach, switched off while this lives: no protection may depend on it.
pub struct WithoutYama(String);

impl WithoutYama {
    const FILE: &str = "/proc/sys/kernel/yama/ptrace_scope";

    /// Switches it off, if there is Yama.
    pub fn new() -> WithoutYama {
        let was = fs::read_to_string(WithoutYama::FILE).unwrap_or_default();
        let _ = fs::write(WithoutYama::FILE, "0");
        WithoutYama(was)
    }
}

impl Drop for WithoutYama {
    fn drop(&mut self) {
        let _ = fs::write(WithoutYama::FILE, &self.0);
    }
}

/// The attacker's ends of the program's standard output and input.
struct Talk {
    output: File,
    input: File,
}

/// All that a kind of program is attacked with. Made by root.
struct Scene {
    program: Program,
    means: Means,
    starts: Starts,
    talk: Talk,
    _folder: Folder,
    _yama: WithoutYama,
}

impl Scene {
    fn new(program: Program) -> Outcome<Scene> {
        os::private_mounts()?;
        let folder = Folder::new("/var/tmp", "attack")?;
        set_mode(folder.path(), 0o755)?;
        let means = Means::new(&folder, "attack")?;
        let ((input, to), (from, output)) = (os::pipe()?, os::pipe()?);
        let starts = Starts {
            program: program.make(&folder)?,
            gate: means.gate.clone(),
            file: means.fuse.file(),
            ends: (input, output),
        };
        let talk = Talk { output: from.into(), input: to.into() };
        Ok(Scene { program, means, starts, talk, _folder: folder, _yama: WithoutYama::new() })
    }

    /// Attacks with every interface in these ways, and returns how many cells there were.
    fn cells(&self, caller: &Caller, hold_ups: &[HoldUp]) -> Outcome<usize> {
        let (mut checks, mut count) = (Checks::default(), 0);
        let mut known = Vec::new();
        for hold_up in hold_ups {
            let works = Cell::new(true);
            for interface in INTERFACES {
                let name = format!("{}, {}, {}", interface.name(), hold_up.name(), self.program.name());
                count += 1;
                match self.cell(caller, *hold_up, interface, &works, &mut known) {
                    Ok(wrong) if wrong.is_empty() => {}
                    Ok(wrong) => checks.fail(format!("{name}: {}", wrong.join(", "))),
                    // A cell that breaks off leaves too much behind for the next.
                    Err(Stop::Failed(why)) => {
                        checks.fail(format!("{name}: {why}"));
                        return checks.finish().map(|()| count);
                    }
                    Err(other) => return Err(other),
                }
            }
        }
        checks.finish()?;
        Ok(count)
    }

    /// One cell: what is wrong. `known` are the places that the program before had.
    fn cell(
        &self,
        caller: &Caller,
        hold_up: HoldUp,
        interface: Interface,
        works: &Cell<bool>,
        known: &mut Vec<u64>,
    ) -> Outcome<Vec<String>> {
        let held = hold_up.hold(&self.means, caller, works.get())?;
        let mut wrong = Vec::new();
        if !held.is_held {
            works.set(false);
            wrong.push("the child is not held up".to_owned());
        }
        let mut target = Target {
            pid: held.pid,
            pidfd: os::pidfd_open(held.pid)?,
            caller: caller.pid,
            places: [known.clone(), places(held.pid)].concat(),
            has_executed: false,
        };
        let (kept, seen) = interface.attempt(&target);
        wrong.extend(seen.into_iter().map(|what| format!("before exec {what}")));
        let traces = matches!(kept, Kept::Traced);
        hold_up.release(&self.means, &held, traces)?;
        let (report, ended) = self.first_line(&target, traces)?;
        match &report {
            Some(report) => {
                let raised = self.program.is_raised(report);
                match (self.program, traces) {
                    (Program::ExecuteOnly, _) => {}
                    (_, true) if raised => wrong.push("exec under a tracer gives privileges".into()),
                    (_, false) if !raised => wrong.push("the program has not got what it gives".into()),
                    _ => {}
                }
                // What a program without privileges shows to the tracer that it started under is its own.
                let is_open = traces && !raised && self.program != Program::ExecuteOnly;
                target.places = vec![report.text, report.stack & !7];
                target.has_executed = true;
                known.clone_from(&target.places);
                if !is_open {
                    let seen = interface.again(&kept, &target);
                    wrong.extend(seen.into_iter().map(|what| format!("after exec {what}, by what was kept")));
                }
                if !traces {
                    wrong.extend(interface.attempt(&target).1.into_iter().map(|what| format!("after exec {what}")));
                }
                (&self.talk.input).write_all(b"x")?;
            }
            None if traces => {}
            None => wrong.push("the program has not started".into()),
        }
        let status = self.end(&target, caller, traces, ended)?;
        if report.is_some() && status != Status::Exited(0) {
            wrong.push(format!("the program ended with {status:?}, because somebody has changed its memory"));
        }
        Ok(wrong)
    }

    /// Waits until the program says something, or has ended without; what a tracer was told about its end comes second. A
    /// tracee goes on whenever it stops; one that is not to be traced any more is let go when it stops.
    fn first_line(&self, target: &Target, traces: bool) -> Outcome<(Option<Report>, Option<Status>)> {
        let mut ended = None;
        let speaks = stops::eventually(TIME, || {
            if ended.is_some() {
                return Ok(true);
            }
            if traces {
                ended = stops::go_on(target.pid)?;
            } else if stops::is_mine(target.pid) && stops::next(target.pid, 0)?.is_some() {
                let _ = os::ptrace(libc::PTRACE_DETACH, target.pid, 0, 0);
            }
            Ok([target.pidfd.as_raw_fd(), self.talk.output.as_raw_fd()]
                .into_iter()
                .any(|fd| os::readable(fd, 0).unwrap_or(false)))
        })?;
        if !speaks {
            return Err(failed(format!("the program does not start: state {}", holdup::state(target.pid))));
        }
        if !os::readable(self.talk.output.as_raw_fd(), 0)? {
            return Ok((None, ended));
        }
        let mut line = [0; 200];
        let length = (&self.talk.output).read(&mut line)?;
        let line = String::from_utf8_lossy(&line[..length]);
        match Report::parse(&line) {
            Some(report) => Ok((Some(report), ended)),
            None => Err(failed(format!("the program said {line:?}"))),
        }
    }

    /// Waits for the child's end. Its tracer is told first, and takes what the parent would be told if it is a thread of that.
    fn end(&self, target: &Target, caller: &Caller, traces: bool, mut ended: Option<Status>) -> Outcome<Status> {
        if traces && ended.is_none() {
            let gone = stops::eventually(TIME, || {
                ended = stops::go_on(target.pid)?;
                Ok(ended.is_some())
            })?;
            if !gone {
                os::kill(target.pid, libc::SIGKILL)?;
                ended = stops::next(target.pid, TIME)?;
            }
        }
        match ended {
            Some(status) if caller.pid == std::process::id() as i32 => Ok(status),
            _ => caller.wait(),
        }
    }
}

/// Every cell of a kind of program; the attacker is another process than the caller.
fn by_another_process(program: Program) -> Outcome {
    let scene = Scene::new(program)?;
    with_caller(&scene, |caller| {
        same!(scene.cells(caller, &HOLD_UPS)?, CELLS, "number of cells");
        Ok(())
    })
}

/// Starts a caller and an attacker, both processes of the user.
fn with_caller(scene: &Scene, attack: impl FnOnce(&Caller) -> Outcome) -> Outcome {
    let (ours, theirs) = os::socketpair()?;
    let pid = os::fork()?;
    if pid == 0 {
        drop(ours);
        let served = os::become_user(USER).and_then(|()| serve(theirs, &scene.starts));
        os::exit_now(i32::from(served.is_err()));
    }
    drop(theirs);
    let caller = Caller::new(pid, ours);
    let outcome = in_worker_for(180, || {
        os::become_user(USER)?;
        attack(&caller)
    });
    // The caller ends when nobody is left to tell it what to do.
    drop(caller);
    let status = os::waitpid(pid, 0)?.1;
    outcome?;
    same!(status, Status::Exited(0), "status of the caller");
    Ok(())
}

/// A child that opens a FIFO, attacked by a thread of its caller, on its way to each kind of program.
fn by_another_thread() -> Outcome {
    for program in [Program::SetUserId, Program::FileCapability, Program::ExecuteOnly] {
        let scene = Scene::new(program)?;
        in_worker(|| {
            os::become_user(USER)?;
            let (ours, theirs): (OwnedFd, OwnedFd) = os::socketpair()?;
            let caller = Caller::new(std::process::id() as i32, ours);
            let cells = thread::scope(|scope| {
                let attacker = scope.spawn(|| {
                    // The other thread goes on until this end is closed.
                    let caller = caller;
                    scene.cells(&caller, &[HoldUp::Fifo])
                });
                serve(theirs, &scene.starts)?;
                attacker.join().unwrap_or_else(|_| Err(failed("the attacker panicked")))
            })?;
            same!(cells, INTERFACES.len(), "number of cells");
            Ok(())
        })?;
    }
    Ok(())
}

/// A child is killed wherever it is held up, and leaves nothing.
fn killed_while_held_up() -> Outcome {
    const REFERENCES: &str = "/sys/module/spawn_template/refcnt";
    const TIMES: usize = 3;
    let scene = Scene::new(Program::SetUserId)?;
    // What is built in counts none.
    let references = || if fs::exists(REFERENCES)? { fs::read_to_string(REFERENCES) } else { Ok(String::new()) };
    with_caller(&scene, |caller| {
        let mut checks = Checks::default();
        for hold_up in HOLD_UPS {
            let mut before = String::new();
            for time in 0..TIMES {
                let held = hold_up.hold(&scene.means, caller, true)?;
                if !held.is_held {
                    checks.fail(format!("{}: the child is not held up", hold_up.name()));
                }
                os::kill(held.pid, libc::SIGKILL)?;
                if stops::is_mine(held.pid) {
                    stops::next(held.pid, TIME)?;
                }
                // The file system has its request already, and is waited for.
                if hold_up == HoldUp::Fuse {
                    scene.means.fuse.release()?;
                }
                let status = caller.wait()?;
                if hold_up == HoldUp::Freezer {
                    scene.means.thaw()?;
                }
                same!(status, Status::Signaled(libc::SIGKILL), "{}: status", hold_up.name());
                if fs::exists(format!("/proc/{}", held.pid))? {
                    checks.fail(format!("{}: the child is still there", hold_up.name()));
                }
                if time == 0 {
                    before = references()?;
                }
            }
            let after = references()?;
            if after != before {
                checks.fail(format!("{}: {before} references to the module became {after}", hold_up.name()));
            }
        }
        checks.finish()
    })
}

/// That nothing is seen means something only where there is something to be seen: root sees all of a running program.
fn every_interface_works() -> Outcome {
    let ((input, to), (from, output)) = (os::pipe()?, os::pipe()?);
    let template = Template::child("privileged")?;
    let spawn = template.spawn().envp(["SECRET=of the program"]);
    let child = spawn.act(Act::Dup2(input.as_raw_fd(), 0)).act(Act::Dup2(output.as_raw_fd(), 1)).run()?;
    let mut line = [0; 200];
    let length = File::from(from).read(&mut line)?;
    let report = Report::parse(&String::from_utf8_lossy(&line[..length])).ok_or_else(|| failed("no first line"))?;
    let target = Target {
        pid: child.pid,
        pidfd: os::pidfd_open(child.pid)?,
        caller: std::process::id() as i32,
        places: vec![report.text, report.stack & !7],
        has_executed: true,
    };
    let mut checks = Checks::default();
    for interface in INTERFACES {
        if interface.attempt(&target).1.is_empty() {
            checks.fail(format!("{} shows nothing of a running program", interface.name()));
        }
    }
    File::from(to).write_all(b"x")?;
    child.wait()?;
    checks.finish()
}

/// Where the child has memory, as far as its maps file says: the beginnings and ends of its mappings.
fn places(pid: i32) -> Vec<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    mappings(&maps).into_iter().flat_map(|(start, end)| [start, end - 16]).collect()
}
