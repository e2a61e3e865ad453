//! Attributes of the process that are one number each: UMASK, SCHED, PDEATHSIG.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::thread;

use crate::failing::{Failing, Failure, Stage, fields};
use crate::harness::{Outcome, Stop, failed, in_worker};
use crate::nowait::{Gate, left_alone};
use crate::os::{self, Status};
use crate::show::Show;
use crate::template::{Act, Folder, Open, Sched, Template, set_mode};
use crate::{ensure, same, tests};

tests!("attributes":
    umask, umask_counts_for_later_opens, umask_leaves_caller_alone, sched_policies, sched_nice_values, sched_nice_is_clamped,
    sched_deadline, sched_reset_on_fork, sched_of_a_caller_that_resets_on_fork, sched_leaves_caller_alone, sched_wrong_values, sched_admission, sched_takes_privilege,
    pdeathsig_values, pdeathsig_fires, pdeathsig_fires_when_the_thread_ends, pdeathsig_of_a_caller_that_is_gone, pdeathsig_is_not_inherited, pdeathsig_last_one_wins, pdeathsig_and_ids,
    pdeathsig_and_setuid_program,
);

/// What `show` sees after these actions, inheriting or not.
fn show(acts: &[Act], inherit: bool) -> Outcome<Show> {
    Template::child("show")?.spawn().acts(acts.iter().cloned()).inherit(inherit).show()
}

fn umask() -> Outcome {
    os::umask(0o022);
    for mask in [0, 0o7, 0o027, 0o777] {
        for inherit in [false, true] {
            let show = show(&[Act::Umask(mask)], inherit)?;
            same!(show.get("umask"), format!("{mask:04o}"), "umask");
            same!(show.get("status.Umask"), format!("{mask:04o}"), "umask in /proc");
        }
    }
    same!(show(&[Act::Umask(0o1), Act::Umask(0o2)], false)?.get("umask"), "0002", "the second of two");
    Ok(())
}

fn umask_counts_for_later_opens() -> Outcome {
    let folder = Folder::tmp("umask-order")?;
    os::umask(0o022);
    let create = |name: &str| {
        Act::Open(Open::new(folder.join(name), libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, 5).mode(0o666))
    };
    let acts = [create("before"), Act::Umask(0o077), create("after"), Act::Umask(0), create("last")];
    same!(Template::child("nothing")?.spawn().acts(acts).status()?, Status::Exited(0), "status");
    for (name, wanted) in [("before", 0o644), ("after", 0o600), ("last", 0o666)] {
        same!(fs::metadata(folder.join(name))?.mode() & 0o7777, wanted, "mode of {name}");
    }
    Ok(())
}

fn umask_leaves_caller_alone() -> Outcome {
    os::umask(0o031);
    let template = Template::child("nothing")?;
    template.spawn().act(Act::Umask(0o777)).status()?;
    template.spawn().acts([Act::Umask(0o777), Act::Dup2(900, 1)]).run().err();
    same!(os::umask(0o031), 0o031, "the caller's umask");
    Ok(())
}

/// Policy, nice value and priority.
fn sched(policy: i32, nice: i32, priority: u32) -> Sched {
    Sched { policy: policy as u32, nice, priority, ..Sched::default() }
}

/// Checks policy, flags, nice value and priority after SCHED.
fn sets(attr: Sched, wanted: [i64; 4]) -> Outcome {
    for inherit in [false, true] {
        same!(show(&[Act::Sched(attr)], inherit)?.numbers("sched"), wanted, "policy, flags, nice, priority: {attr:?}");
    }
    Ok(())
}

fn sched_policies() -> Outcome {
    sets(sched(libc::SCHED_OTHER, 0, 0), [0, 0, 0, 0])?;
    sets(sched(libc::SCHED_FIFO, 0, 1), [1, 0, 0, 1])?;
    sets(sched(libc::SCHED_FIFO, 0, 99), [1, 0, 0, 99])?;
    sets(sched(libc::SCHED_RR, 0, 50), [2, 0, 0, 50])?;
    sets(sched(libc::SCHED_BATCH, 7, 0), [3, 0, 7, 0])?;
    let idle = show(&[Act::Sched(sched(libc::SCHED_IDLE, 0, 0))], false)?;
    same!(idle.numbers("sched")[0], 5, "policy");
    Ok(())
}

fn sched_nice_values() -> Outcome {
    for nice in [-20, -1, 1, 19] {
        sets(sched(libc::SCHED_OTHER, nice, 0), [0, 0, nice.into(), 0])?;
        let seen = show(&[Act::Sched(sched(libc::SCHED_OTHER, nice, 0))], false)?;
        same!(seen.get("nice"), nice.to_string(), "getpriority()");
    }
    // The caller's value is inherited, and an action replaces it.
    // SAFETY: nice() takes a number.
    unsafe { libc::nice(5) };
    same!(show(&[], false)?.get("nice"), "5", "inherited nice value");
    sets(sched(libc::SCHED_OTHER, 0, 0), [0, 0, 0, 0])
}

/// As sched_setattr(2) does, out of range values become the nearest.
fn sched_nice_is_clamped() -> Outcome {
    sets(sched(libc::SCHED_OTHER, -100, 0), [0, 0, -20, 0])?;
    sets(sched(libc::SCHED_OTHER, i32::MAX, 0), [0, 0, 19, 0])
}

fn sched_deadline() -> Outcome {
    let times = [20_000_000, 50_000_000, 100_000_000];
    let attr = Sched { policy: 6, times, ..Sched::default() };
    let show = show(&[Act::Sched(attr)], false)?;
    same!(show.numbers("sched")[0], 6, "policy");
    same!(show.numbers("deadline"), times.map(|time| time as i64), "runtime, deadline, period");
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    let bad = Sched { times: [50, 20, 100], ..attr };
    failing.both("runtime above deadline", &template.spawn().act(Act::Sched(bad)), Failure::action(0, libc::EINVAL));
    failing.finish()
}

/// SCHED_FLAG_RESET_ON_FORK: the child has the policy, and its children have not.
fn sched_reset_on_fork() -> Outcome {
    sets(Sched { flags: 1, ..sched(libc::SCHED_FIFO, 0, 5) }, [1, 1, 0, 5])?;
    let script = "cut -d' ' -f41 /proc/$$/stat; cut -d' ' -f41 /proc/self/stat";
    let template = Template::path("/bin/sh")?;
    let spawn = template.spawn().argv(["sh", "-c", script]).envp(["PATH=/bin:/usr/bin"]);
    let run = |flags| -> std::io::Result<Vec<u8>> {
        let attr = Sched { flags, ..sched(libc::SCHED_FIFO, 0, 5) };
        Ok(spawn.clone().act(Act::Sched(attr)).output()?.1)
    };
    same!(run(1)?, b"1\n0\n", "policies of the shell and its child");
    same!(run(0)?, b"1\n1\n", "policies without the flag");
    Ok(())
}

/// `sched_setattr(0)` of this process.
fn set_scheduling(attr: &Sched) -> std::io::Result<()> {
    let words = attr.words(48);
    // SAFETY: the structure is 48 bytes long, as it says.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, words.as_ptr(), 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// What a caller with SCHED_RESET_ON_FORK passes on is reset, as by fork; SCHED then sets what it is given.
fn sched_of_a_caller_that_resets_on_fork() -> Outcome {
    let callers = [
        Sched { flags: 1, ..sched(libc::SCHED_OTHER, -5, 0) },
        Sched { flags: 1, ..sched(libc::SCHED_OTHER, 5, 0) },
        Sched { flags: 1, ..sched(libc::SCHED_FIFO, 0, 7) },
    ];
    // Sets what it has; keeps policy and parameters; keeps the parameters.
    let actions = [
        None,
        Some(sched(libc::SCHED_OTHER, -5, 0)),
        Some(sched(libc::SCHED_BATCH, 0, 0)),
        Some(sched(libc::SCHED_FIFO, 0, 3)),
        Some(Sched { flags: 0x18, ..sched(libc::SCHED_OTHER, 0, 0) }),
        Some(Sched { flags: 0x10, ..sched(libc::SCHED_BATCH, 0, 0) }),
    ];
    for user in [0, 12345] {
        for caller in &callers {
            for action in &actions {
                let what = format!("user {user}, caller {caller:?}, action {action:?}");
                in_worker(|| {
                    set_scheduling(caller)?;
                    if user != 0 {
                        os::become_user(user)?;
                    }
                    let template = Template::child("show")?;
                    let forked = crate::template::show_by_exec(|| {
                        if let Some(Err(error)) = action.as_ref().map(set_scheduling) {
                            os::exit_now(if error.raw_os_error() == Some(libc::EPERM) { 77 } else { 78 });
                        }
                        let path = os::c_path(crate::template::child("show"));
                        os::execve(&path, &[c"child".to_owned()], &[])
                    });
                    let spawned = template.spawn().acts(action.map(Act::Sched)).show();
                    match (forked, spawned) {
                        (Ok(forked), Ok(spawned)) => {
                            same!(spawned.get("sched"), forked.get("sched"), "scheduling, {what}");
                        }
                        (Err(Stop::Failed(forked)), Err(Stop::Failed(spawned))) => {
                            let refused = (forked.contains("Exited(77)"), spawned.contains("EPERM"));
                            same!(refused, (true, true), "{what}: {forked}, {spawned}");
                        }
                        (forked, spawned) => return Err(failed(format!("{what}: {spawned:?}, not {forked:?}"))),
                    }
                    Ok(())
                })?;
            }
        }
    }
    Ok(())
}

fn sched_leaves_caller_alone() -> Outcome {
    let template = Template::child("nothing")?;
    template.spawn().act(Act::Sched(sched(libc::SCHED_FIFO, 0, 5))).status()?;
    template.spawn().acts([Act::Sched(sched(libc::SCHED_BATCH, 9, 0)), Act::Dup2(900, 1)]).run().err();
    // SAFETY: sched_getscheduler() takes a number.
    same!(unsafe { libc::sched_getscheduler(0) }, libc::SCHED_OTHER, "the caller's policy");
    same!(show(&[], false)?.numbers("sched"), [0, 0, 0, 0], "a later child's");
    Ok(())
}

fn sched_wrong_values() -> Outcome {
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    let mut refused = |what: &str, attr, error| {
        let spawn = template.spawn().acts([Act::Close(500), Act::Sched(attr)]);
        failing.both(what, &spawn, Failure::action(1, error));
    };
    refused("an unknown policy", sched(99, 0, 0), libc::EINVAL);
    refused("a negative policy", sched(-1, 0, 0), libc::EINVAL);
    refused("policy 4", sched(4, 0, 0), libc::EINVAL);
    refused("a FIFO of priority 0", sched(libc::SCHED_FIFO, 0, 0), libc::EINVAL);
    refused("a FIFO of priority 100", sched(libc::SCHED_FIFO, 0, 100), libc::EINVAL);
    refused("SCHED_OTHER with a priority", sched(libc::SCHED_OTHER, 0, 1), libc::EINVAL);
    refused("an unknown flag", Sched { flags: 1 << 20, ..Sched::default() }, libc::EINVAL);
    refused("the highest flag", Sched { flags: 1 << 63, ..Sched::default() }, libc::EINVAL);
    failing.finish()
}

/// Some of the processors' time is left to others: they cannot all be promised to SCHED_DEADLINE.
fn sched_admission() -> Outcome {
    let template = Template::child("sleep")?;
    let always = Act::Sched(Sched { policy: 6, times: [1 << 30; 3], ..Sched::default() });
    let spawn = template.spawn().act(always);
    let mut promised = Vec::new();
    let (error, result) = loop {
        match spawn.report() {
            (Ok(child), _) => promised.push(child),
            (Err(error), result) => break (error, result),
        }
        ensure!(promised.len() <= 64, "more processors were promised than there are");
    };
    same!(error.raw_os_error(), Some(libc::EBUSY), "error after {} children", promised.len());
    same!(fields(&result), (Stage::Action as u32, 0, libc::EBUSY, 0), "report");
    Ok(())
}

fn sched_takes_privilege() -> Outcome {
    let rules = |acts_before: &[Act]| -> Outcome {
        let template = Template::child("nothing")?;
        let spawn = |attr| template.spawn().acts(acts_before.iter().cloned()).act(Act::Sched(attr));
        let mut failing = Failing::new()?;
        let failure = Failure::action(acts_before.len() as i32, libc::EPERM);
        failing.both("SCHED_FIFO", &spawn(sched(libc::SCHED_FIFO, 0, 1)), failure);
        failing.both("nice -1", &spawn(sched(libc::SCHED_OTHER, -1, 0)), failure);
        failing.both(
            "SCHED_DEADLINE",
            &spawn(Sched { policy: 6, times: [1 << 20, 1 << 25, 1 << 25], ..Sched::default() }),
            failure,
        );
        failing.finish()?;
        same!(spawn(sched(libc::SCHED_OTHER, 5, 0)).status()?, Status::Exited(0), "nice 5");
        same!(spawn(sched(libc::SCHED_BATCH, 0, 0)).status()?, Status::Exited(0), "SCHED_BATCH");
        Ok(())
    };
    rules(&[Act::Setuid(12345)])?;
    in_worker(|| {
        os::become_user(12345)?;
        rules(&[])
    })?;
    // Before SETUID it is root who asks; and a limit set before may allow it.
    let nice = Act::Sched(sched(libc::SCHED_OTHER, -5, 0));
    same!(show(&[nice.clone(), Act::Setuid(12345)], false)?.get("nice"), "-5", "nice value set before SETUID");
    let allowed = [Act::Rlimit(libc::RLIMIT_NICE, 25, 25), Act::Setuid(12345), nice];
    same!(show(&allowed, false)?.get("nice"), "-5", "nice value that the limit allows");
    Ok(())
}

fn pdeathsig_values() -> Outcome {
    for signal in [0, 1, 9, 19, 64] {
        for inherit in [false, true] {
            same!(show(&[Act::Pdeathsig(signal)], inherit)?.get("pdeathsig"), signal.to_string(), "signal");
        }
    }
    Ok(())
}

/// Spawns a `sleep` with these actions from a process that is gone when this returns; a child of ours by then.
fn orphan(acts: &[Act], in_thread: bool) -> Outcome<i32> {
    let template = Template::child("sleep")?;
    let (reader, writer) = os::pipe()?;
    let worker = os::fork()?;
    if worker == 0 {
        let run = || template.spawn().acts(acts.iter().cloned()).run();
        let spawned = if in_thread { thread::scope(|scope| scope.spawn(run).join().ok()) } else { Some(run()) };
        if let Some(Ok(child)) = spawned {
            let (pid, _pidfd) = child.leave();
            let _ = File::from(writer).write_all(&pid.to_le_bytes());
        }
        os::exit_now(0);
    }
    drop(writer);
    let mut pid = [0; 4];
    File::from(reader).read_exact(&mut pid).map_err(|_| failed("the worker could not spawn"))?;
    same!(os::waitpid(worker, 0)?, (worker, Status::Exited(0)), "the caller");
    Ok(i32::from_le_bytes(pid))
}

fn pdeathsig_fires() -> Outcome {
    for signal in [libc::SIGUSR1, libc::SIGTERM, libc::SIGKILL] {
        let pid = orphan(&[Act::Pdeathsig(signal as u64)], false)?;
        same!(os::waitpid(pid, 0)?, (pid, Status::Signaled(signal)), "a child whose parent exited");
    }
    // Without the action, or with one that takes it back, the orphan lives on.
    for acts in [&[][..], &[Act::Pdeathsig(libc::SIGUSR1 as u64), Act::Pdeathsig(0)]] {
        let pid = orphan(acts, false)?;
        thread::sleep(std::time::Duration::from_millis(100));
        same!(os::waitpid(pid, libc::WNOHANG)?.0, 0, "an orphan that ended, {acts:?}");
        os::kill(pid, libc::SIGKILL)?;
        os::waitpid(pid, 0)?;
    }
    Ok(())
}

/// prctl(2): the parent is the thread that made the child.
fn pdeathsig_fires_when_the_thread_ends() -> Outcome {
    let template = Template::child("sleep")?;
    let acts = [Act::Pdeathsig(libc::SIGUSR2 as u64)];
    let spawned = thread::scope(|scope| scope.spawn(|| template.spawn().acts(acts).run()).join());
    let child = spawned.map_err(|_| failed("the thread panicked"))??;
    same!(child.wait()?, Status::Signaled(libc::SIGUSR2), "a child whose thread ended");
    Ok(())
}

/// The caller did not wait and has exited when the action's turn comes: the signal is sent then.
fn pdeathsig_of_a_caller_that_is_gone() -> Outcome {
    let gate = Gate::new("pdeathsig-gone")?;
    for signal in [libc::SIGUSR1, libc::SIGTERM] {
        let pid = left_alone(&gate, &[Act::Pdeathsig(signal as u64)], || os::exit_now(0))?;
        gate.open()?;
        same!(os::waitpid(pid, 0)?, (pid, Status::Signaled(signal)), "a child whose parent had gone");
    }
    let pid = left_alone(&gate, &[Act::Pdeathsig(0)], || os::exit_now(0))?;
    gate.open()?;
    same!(os::waitpid(pid, 0)?, (pid, Status::Exited(9)), "a child that asked for none");
    Ok(())
}

fn pdeathsig_is_not_inherited() -> Outcome {
    os::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM as u64, 0)?;
    for inherit in [false, true] {
        same!(show(&[], inherit)?.get("pdeathsig"), "0", "signal");
    }
    let mut own = 0;
    os::prctl(libc::PR_GET_PDEATHSIG, &raw mut own as u64, 0)?;
    Template::child("nothing")?.spawn().act(Act::Pdeathsig(libc::SIGUSR1 as u64)).status()?;
    os::prctl(libc::PR_GET_PDEATHSIG, &raw mut own as u64, 0)?;
    same!(own, libc::SIGTERM, "the caller's signal");
    // The harness's own.
    os::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0)?;
    Ok(())
}

fn pdeathsig_last_one_wins() -> Outcome {
    let seen = show(&[Act::Pdeathsig(10), Act::Pdeathsig(12)], false)?;
    same!(seen.get("pdeathsig"), "12", "signal");
    Ok(())
}

/// As prctl(2) has it, a change of ids clears it.
fn pdeathsig_and_ids() -> Outcome {
    let usr1 = Act::Pdeathsig(libc::SIGUSR1 as u64);
    let later = show(&[usr1.clone(), Act::Setuid(12345)], false)?;
    same!(later.get("pdeathsig"), "0", "signal set before SETUID");
    let before = show(&[Act::Setuid(12345), usr1.clone()], false)?;
    same!(before.get("pdeathsig"), "10", "signal set after SETUID");
    let same_ids = show(&[usr1, Act::Setuid(0), Act::Setgid(0), Act::Resetids], false)?;
    same!(same_ids.get("pdeathsig"), "10", "signal set before ids that do not change");
    Ok(())
}

fn pdeathsig_and_setuid_program() -> Outcome {
    let folder = Folder::new("/var/tmp", "pdeathsig-setuid")?;
    set_mode(folder.path(), 0o755)?;
    let path = folder.copy("show-static")?;
    let signal = |mode| -> Outcome<String> {
        chown(&path, Some(0), Some(0))?;
        set_mode(&path, mode)?;
        let template = Template::path(&path)?;
        let spawn = template.spawn().acts([Act::Setuid(12345), Act::Pdeathsig(libc::SIGUSR1 as u64)]);
        Ok(spawn.show()?.get("pdeathsig").to_owned())
    };
    same!(signal(0o755)?, "10", "signal of an ordinary program");
    same!(signal(0o4755)?, "0", "signal of a set-user-ID program");
    Ok(())
}
