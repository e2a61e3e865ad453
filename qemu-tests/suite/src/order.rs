//! Actions of different kinds in one list: each works on what the ones before have made, and all of them together.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};

use crate::failing::{Failing, Failure, SUCCESS, fields};
use crate::harness::Outcome;
use crate::os::{self, Status, sigbit};
use crate::show::Show;
use crate::template::{Act, Folder, Open, Sched, Template};
use crate::{same, tests};

tests!("order":
    everything_at_once, everything_before_a_failure, mask_counts_after_the_last_action, last_word_counts,
    ids_and_limits_and_files,
);

/// Signals that the list below touches.
const USR1: u64 = 1 << (libc::SIGUSR1 - 1);
const USR2: u64 = 1 << (libc::SIGUSR2 - 1);

/// What the list below works on.
struct Place {
    folder: Folder,
    cgroup: File,
    tty: OwnedFd,
    _master: OwnedFd,
}

impl Place {
    fn new(name: &str) -> Outcome<Place> {
        let folder = Folder::tmp(name)?;
        fs::create_dir(folder.join("below"))?;
        crate::template::set_mode(folder.path(), 0o755)?;
        let (master, tty, _) = crate::session::pty()?;
        Ok(Place { folder, cgroup: File::open("/sys/fs/cgroup")?, tty, _master: master })
    }
}

/// One list with all kinds of actions.
fn everything(place: &Place) -> Outcome<Vec<Act>> {
    let (folder, tty) = (&place.folder, place.tty.as_raw_fd());
    let create = |name: &str, newfd| Act::Open(Open::new(name, libc::O_WRONLY | libc::O_CREAT, newfd).mode(0o666));
    Ok(vec![
        Act::Sigmask(USR1),
        Act::Umask(0o027),
        Act::chdir(folder.path()),
        create("created", 40),
        Act::Open(Open::new(folder.join("below"), libc::O_PATH, 41)),
        Act::Fchdir(41),
        Act::Rlimit(libc::RLIMIT_NOFILE, 60, 80),
        Act::Dup2(40, 50),
        Act::Close(40),
        Act::Dup2(50, 51),
        Act::CloseRange(51, 70, 0),
        Act::Setpgid(os::getpgid(0)? as u64),
        Act::Setsid,
        Act::Setctty(tty),
        Act::Tcsetpgrp(tty),
        Act::Open(Open::new("/dev/null", libc::O_RDONLY, 42)),
        Act::Sigignore(USR2 | sigbit(40)),
        Act::Sigdefault(sigbit(libc::SIGPIPE) | sigbit(40)),
        Act::Sched(Sched { policy: libc::SCHED_BATCH as u32, nice: -3, ..Sched::default() }),
        Act::Cgroup(place.cgroup.as_raw_fd()),
        Act::Setgroups(vec![9, 8]),
        Act::Setgid(1000),
        Act::NoNewPrivs,
        Act::Setuid(1001),
        Act::Resetids,
        Act::Pdeathsig(libc::SIGHUP as u64),
    ])
}

/// What `show` must have seen after [`everything`].
fn check(show: &Show, place: &Place) -> Outcome {
    same!(show.fd_numbers(), [0, 1, 2, 41, 42, 50], "descriptors");
    same!(show.fds()[&50], place.folder.join("created"), "descriptor 50");
    same!(show.get("cwd"), place.folder.join("below"), "working directory");
    same!(show.get("umask"), "0027", "umask");
    same!(show.limit(libc::RLIMIT_NOFILE), [60, 80], "limit of open files");
    let pid = show.get("pid");
    same!((show.get("pgid"), show.get("sid"), show.get("tpgid")), (pid, pid, pid), "group, session, foreground group");
    let masks = ["status.SigBlk", "status.SigIgn", "status.SigCgt"].map(|key| show.mask(key));
    same!(masks, [USR1, USR2, 0], "masks");
    same!(show.numbers("sched"), [i64::from(libc::SCHED_BATCH), 0, -3, 0], "policy, flags, nice, priority");
    same!(show.numbers("status.Groups"), [8, 9], "groups");
    same!(show.numbers("status.Uid"), [1001; 4], "user ids");
    same!(show.numbers("status.Gid"), [1000; 4], "group ids");
    same!(show.get("status.NoNewPrivs"), "1", "NoNewPrivs");
    same!(show.get("pdeathsig"), libc::SIGHUP.to_string(), "parent-death signal");
    same!(show.get("cgroup"), "0::/", "cgroup");
    Ok(())
}

fn everything_at_once() -> Outcome {
    os::set_signal(libc::SIGPIPE, libc::SIG_IGN, 0)?;
    let template = Template::child("show")?;
    for inherit in [false, true] {
        let place = Place::new("order-all")?;
        let acts = everything(&place)?;
        let kinds: HashSet<_> = acts.iter().map(std::mem::discriminant).collect();
        same!(kinds.len(), 23, "kinds of actions in the list");
        let (reader, writer) = os::pipe()?;
        let spawn = template.spawn().act(Act::Dup2(writer.as_raw_fd(), 1)).acts(acts).inherit(inherit);
        let (child, result) = spawn.report();
        drop(writer);
        same!(fields(&result), SUCCESS, "report");
        let mut output = Vec::new();
        std::io::Read::read_to_end(&mut File::from(reader), &mut output)?;
        same!(child?.wait()?, Status::Exited(0), "show's status");
        check(&Show::parse(&output), &place)?;
        let metadata = fs::metadata(place.folder.join("created"))?;
        same!(std::os::unix::fs::MetadataExt::mode(&metadata) & 0o777, 0o640, "mode of the created file");
    }
    Ok(())
}

/// After all of them one that fails: it is the one named, and of the child nothing is left.
fn everything_before_a_failure() -> Outcome {
    let place = Place::new("order-failure")?;
    let acts = everything(&place)?;
    let last = acts.len() as i32;
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    let spawn = template.spawn().acts(acts.clone()).act(Act::Setuid(0));
    failing.both("SETUID at the end", &spawn, Failure::action(last, libc::EPERM));
    let spawn = template.spawn().acts(acts).act(Act::Close(-1));
    failing.both("a wrong one at the end", &spawn, Failure::wrong(last, libc::EINVAL));
    failing.finish()
}

/// Whatever its place, SIGMASK does not let a signal in before the program starts.
fn mask_counts_after_the_last_action() -> Outcome {
    let folder = Folder::tmp("order-mask")?;
    let path = folder.join("fifo");
    os::mkfifo(&path)?;
    let template = Template::child("nothing")?;
    os::set_sigmask(USR1)?;
    let acts = [Act::Sigmask(0), Act::Open(Open::new(&path, libc::O_RDONLY, 5))];
    let child = template.spawn().acts(acts).nowait().run()?;
    os::kill(child.pid, libc::SIGUSR1)?;
    same!(os::readable(child.pidfd.as_raw_fd(), 200)?, false, "end of a child that blocks all signals");
    File::options().write(true).open(&path)?;
    same!(child.wait()?, Status::Signaled(libc::SIGUSR1), "status");
    Ok(())
}

/// Of several that say the same, the last counts.
fn last_word_counts() -> Outcome {
    let acts = [
        Act::Umask(0o777),
        Act::Umask(0o022),
        Act::Sigmask(u64::MAX),
        Act::Sigmask(USR2),
        Act::chdir("/usr"),
        Act::chdir("/etc"),
        Act::Pdeathsig(1),
        Act::Pdeathsig(2),
        Act::Sched(Sched { nice: 5, ..Sched::default() }),
        Act::Sched(Sched { nice: 3, ..Sched::default() }),
        Act::NoNewPrivs,
        Act::NoNewPrivs,
    ];
    let show = Template::child("show")?.spawn().acts(acts).show()?;
    same!((show.get("umask"), show.get("cwd")), ("0022", "/etc"), "umask and working directory");
    same!((show.mask("status.SigBlk"), show.get("pdeathsig")), (USR2, "2"), "blocked and parent-death signal");
    same!((show.get("nice"), show.get("status.NoNewPrivs")), ("3", "1"), "nice value and NoNewPrivs");
    Ok(())
}

/// What takes privilege goes before SETUID, and fails after it with its own index.
fn ids_and_limits_and_files() -> Outcome {
    let hard = os::rlimit(libc::RLIMIT_NOFILE)?.rlim_max;
    let privileged = [
        ("RLIMIT", Act::Rlimit(libc::RLIMIT_NOFILE, 10, hard + 1), libc::EPERM),
        ("SCHED", Act::Sched(Sched { nice: -5, ..Sched::default() }), libc::EPERM),
        ("SETGROUPS", Act::Setgroups(vec![5]), libc::EPERM),
        ("SETGID", Act::Setgid(5), libc::EPERM),
        ("OPEN", Act::Open(Open::new("/etc/shadow", libc::O_RDWR, 5)), libc::EACCES),
    ];
    fs::OpenOptions::new().append(true).create(true).open("/etc/shadow")?;
    crate::template::set_mode("/etc/shadow", 0o600)?;
    let template = Template::child("nothing")?;
    let setuid = Act::Setuid(12345);
    let mut failing = Failing::new()?;
    for (what, act, error) in &privileged {
        let spawn = template.spawn().acts([setuid.clone(), act.clone()]);
        failing.both(format!("{what} after SETUID"), &spawn, Failure::action(1, *error));
    }
    failing.finish()?;
    for (what, act, _) in privileged {
        same!(template.spawn().acts([act, setuid.clone()]).status()?, Status::Exited(0), "{what} before SETUID");
    }
    Ok(())
}
