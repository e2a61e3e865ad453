//! Sessions, process groups and terminals: SETSID, SETPGID, SETCTTY, TCSETPGRP, on pseudoterminals.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::failing::{Failing, Failure, Stage};
use crate::harness::{Outcome, in_worker, refused};
use crate::os::{self, Status};
use crate::show::Show;
use crate::template::{Act, Child, Open, Template};
use crate::{ensure, same, tests};

tests!("session":
    setsid_leads_a_session, setsid_loses_the_terminal, setsid_after_setpgid, setpgid_own_group, setpgid_joins_a_group,
    setpgid_of_no_group, setpgid_in_another_session, setpgid_after_setsid, caller_stays_in_its_group, setctty,
    setctty_of_the_open_terminal, open_gives_a_controlling_terminal, open_with_noctty_does_not, setctty_without_session, setctty_second_terminal, setctty_of_another_session,
    setctty_for_writing_only, tcsetpgrp, tcsetpgrp_from_the_background, tcsetpgrp_of_a_joined_group, tcsetpgrp_without_a_terminal, tcsetpgrp_of_another_terminal,
    no_terminal_at_all, terminal_by_placed_number, terminal_after_close, terminal_signal_reaches_the_group,
);

/// A pseudoterminal: master and slave. Opening it makes it nobody's controlling terminal.
pub fn pty() -> io::Result<(OwnedFd, OwnedFd, String)> {
    let master = os::open("/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY)?;
    os::ioctl_int(master.as_raw_fd(), libc::TIOCSPTLCK, &mut 0)?;
    let mut number = -1;
    os::ioctl_int(master.as_raw_fd(), libc::TIOCGPTN, &mut number)?;
    let path = format!("/dev/pts/{number}");
    let slave = os::open(&path, libc::O_RDWR | libc::O_NOCTTY)?;
    Ok((master, slave, path))
}

/// Runs `body` in a worker that leads a session of its own and has the slave as controlling terminal.
fn on_terminal(body: impl FnOnce(&OwnedFd, &OwnedFd) -> Outcome) -> Outcome {
    in_worker(|| {
        let (master, slave, _) = pty()?;
        // The worker leads a group, which setsid() refuses; its child does not.
        let pid = os::fork()?;
        if pid == 0 {
            let outcome = os::setsid().and_then(|_| os::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0));
            let outcome = outcome.map_err(Into::into).and_then(|()| {
                // The terminal's signals are not what these tests are about, nor is its end.
                for signal in [libc::SIGTTOU, libc::SIGTTIN, libc::SIGHUP] {
                    os::set_signal(signal, libc::SIG_IGN, 0)?;
                }
                body(&master, &slave)
            });
            if let Err(stop) = &outcome {
                eprintln!("on a terminal: {stop:?}");
            }
            os::exit_now(if outcome.is_ok() { 0 } else { 1 });
        }
        same!(os::waitpid(pid, 0)?, (pid, Status::Exited(0)), "the leader of the session, whose error is on stderr");
        Ok(())
    })
}

/// Process group, session, terminal and foreground group that a child of these actions reports; and its pid.
fn places(show: &Show) -> Outcome<(i64, i64, i64, i64, i64)> {
    let number = |key| show.numbers(key).first().copied().unwrap_or(i64::MIN);
    Ok((number("pid"), number("pgid"), number("sid"), number("tty"), number("tpgid")))
}

/// Runs `show` with these actions, inheriting or not.
fn show(acts: &[Act], inherit: bool) -> Outcome<(i64, i64, i64, i64, i64)> {
    places(&Template::child("show")?.spawn().acts(acts.iter().cloned()).inherit(inherit).show()?)
}

/// A running child with these actions.
fn sleeper(acts: &[Act]) -> io::Result<Child> {
    Template::child("sleep")?.spawn().acts(acts.iter().cloned()).run()
}

fn setsid_leads_a_session() -> Outcome {
    for inherit in [false, true] {
        let (pid, pgid, sid, tty, tpgid) = show(&[Act::Setsid], inherit)?;
        same!((pgid, sid, tty, tpgid), (pid, pid, 0, -1), "group, session, terminal, foreground group of {pid}");
    }
    let child = sleeper(&[Act::Setsid])?;
    same!(os::getsid(child.pid)?, child.pid, "session as the caller sees it");
    same!(os::getpgid(child.pid)?, child.pid, "group as the caller sees it");
    Ok(())
}

fn setsid_loses_the_terminal() -> Outcome {
    on_terminal(|_, _| {
        let (_, _, sid, tty, _) = show(&[], false)?;
        same!(sid, i64::from(os::getsid(0)?), "inherited session");
        ensure!(tty != 0, "the session's terminal is not inherited");
        same!(show(&[Act::Setsid], false)?.3, 0, "terminal after SETSID");
        Ok(())
    })
}

/// setsid() is refused to the leader of a process group.
fn setsid_after_setpgid() -> Outcome {
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    failing.both("SETSID", &template.spawn().acts([Act::Setpgid(0), Act::Setsid]), Failure::action(1, libc::EPERM));
    failing.both("SETSID again", &template.spawn().acts([Act::Setsid, Act::Setsid]), Failure::action(1, libc::EPERM));
    failing.finish()
}

fn setpgid_own_group() -> Outcome {
    for inherit in [false, true] {
        let (pid, pgid, sid, ..) = show(&[Act::Setpgid(0)], inherit)?;
        same!((pgid, sid), (pid, i64::from(os::getsid(0)?)), "group and session of {pid}");
    }
    Ok(())
}

fn setpgid_joins_a_group() -> Outcome {
    let leader = sleeper(&[Act::Setpgid(0)])?;
    for inherit in [false, true] {
        let (pid, pgid, ..) = show(&[Act::Setpgid(leader.pid as u64)], inherit)?;
        same!(pgid, i64::from(leader.pid), "group of {pid}");
    }
    let own = os::getpgid(0)?;
    let (_, pgid, ..) = show(&[Act::Setpgid(0), Act::Setpgid(own as u64)], false)?;
    same!(pgid, i64::from(own), "group after leaving and coming back");
    Ok(())
}

fn setpgid_of_no_group() -> Outcome {
    let member = sleeper(&[])?;
    let template = Template::child("nothing")?;
    for (what, group) in [("no process", i32::MAX), ("a process that leads none", member.pid)] {
        for inherit in [false, true] {
            let (child, result) = template.spawn().act(Act::Setpgid(group as u64)).inherit(inherit).report();
            refused(what, child, libc::EPERM)?;
            same!((result.stage, result.action), (Stage::Action as u32, 0), "stage and action, {what}");
        }
    }
    drop(member);
    let mut failing = Failing::new()?;
    let spawn = template.spawn().act(Act::Setpgid(i32::MAX as u64));
    failing.both("no process", &spawn, Failure::action(0, libc::EPERM));
    failing.finish()
}

fn setpgid_in_another_session() -> Outcome {
    let leader = sleeper(&[Act::Setsid])?;
    let (child, result) = Template::child("nothing")?.spawn().act(Act::Setpgid(leader.pid as u64)).report();
    refused("a group of another session", child, libc::EPERM)?;
    same!((result.action, result.error), (0, libc::EPERM), "report");
    Ok(())
}

fn setpgid_after_setsid() -> Outcome {
    let template = Template::child("nothing")?;
    let own = os::getpgid(0)? as u64;
    let mut failing = Failing::new()?;
    for group in [0, own] {
        let spawn = template.spawn().acts([Act::Setsid, Act::Setpgid(group)]);
        failing.both(format!("SETPGID {group}"), &spawn, Failure::action(1, libc::EPERM));
    }
    failing.finish()
}

fn caller_stays_in_its_group() -> Outcome {
    let before = (os::getpgid(0)?, os::getsid(0)?);
    let template = Template::child("nothing")?;
    template.spawn().act(Act::Setsid).status()?;
    template.spawn().act(Act::Setpgid(0)).status()?;
    template.spawn().acts([Act::Setsid, Act::Dup2(900, 1)]).run().err();
    same!((os::getpgid(0)?, os::getsid(0)?), before, "the caller's group and session");
    Ok(())
}

/// The device number of a terminal, as /proc has it.
fn device(path: &str) -> io::Result<i64> {
    let device = std::os::unix::fs::MetadataExt::rdev(&fs::metadata(path)?);
    Ok(i64::from(libc::major(device) << 8 | libc::minor(device)))
}

fn setctty() -> Outcome {
    let (_master, slave, path) = pty()?;
    for inherit in [false, true] {
        let (pid, _, sid, tty, tpgid) = show(&[Act::Setsid, Act::Setctty(slave.as_raw_fd())], inherit)?;
        same!((sid, tty, tpgid), (pid, device(&path)?, pid), "session, terminal, foreground group of {pid}");
    }
    Ok(())
}

fn setctty_of_the_open_terminal() -> Outcome {
    let (_master, _slave, path) = pty()?;
    let acts = [Act::Setsid, Act::Open(Open::new(&path, libc::O_RDWR | libc::O_NOCTTY, 0)), Act::Setctty(0)];
    for inherit in [false, true] {
        let (pid, _, _, tty, tpgid) = show(&acts, inherit)?;
        same!((tty, tpgid), (device(&path)?, pid), "terminal and foreground group");
    }
    // Once more does no harm.
    let again: Vec<_> = acts.iter().cloned().chain([Act::Setctty(0)]).collect();
    same!(show(&again, false)?.3, device(&path)?, "terminal set twice");
    Ok(())
}

/// A leader of a session without one gets it by opening a terminal, as open(2) has it.
fn open_gives_a_controlling_terminal() -> Outcome {
    let (_master, _slave, path) = pty()?;
    for inherit in [false, true] {
        let (pid, _, _, tty, tpgid) = show(&[Act::Setsid, Act::Open(Open::new(&path, libc::O_RDWR, 5))], inherit)?;
        same!((tty, tpgid), (device(&path)?, pid), "terminal and foreground group");
    }
    same!(show(&[Act::Open(Open::new(&path, libc::O_RDWR, 5))], false)?.3, 0, "terminal without SETSID");
    let late = [Act::Open(Open::new(&path, libc::O_RDWR, 5)), Act::Setsid];
    same!(show(&late, false)?.3, 0, "terminal with SETSID after OPEN");
    Ok(())
}

fn open_with_noctty_does_not() -> Outcome {
    let (_master, _slave, path) = pty()?;
    let acts = [Act::Setsid, Act::Open(Open::new(&path, libc::O_RDWR | libc::O_NOCTTY, 5))];
    same!(show(&acts, false)?.3, 0, "terminal");
    Ok(())
}

fn setctty_without_session() -> Outcome {
    let (_master, slave, _) = pty()?;
    let template = Template::child("nothing")?;
    let tty = slave.as_raw_fd();
    let mut failing = Failing::new()?;
    failing.both("no leader", &template.spawn().act(Act::Setctty(tty)), Failure::action(0, libc::EPERM));
    let group = template.spawn().acts([Act::Setpgid(0), Act::Setctty(tty)]);
    failing.both("leader of a group only", &group, Failure::action(1, libc::EPERM));
    failing.finish()
}

fn setctty_second_terminal() -> Outcome {
    let ((_master, first, _), (_other, second, _)) = (pty()?, pty()?);
    let template = Template::child("nothing")?;
    let acts = [Act::Setsid, Act::Setctty(first.as_raw_fd()), Act::Setctty(second.as_raw_fd())];
    let mut failing = Failing::new()?;
    failing.both("a second terminal", &template.spawn().acts(acts), Failure::action(2, libc::EPERM));
    failing.finish()
}

/// An argument of 0 does not steal a terminal from another session.
fn setctty_of_another_session() -> Outcome {
    on_terminal(|_, slave| {
        let template = Template::child("nothing")?;
        let spawn = template.spawn().acts([Act::Setsid, Act::Setctty(slave.as_raw_fd())]);
        let mut failing = Failing::new()?;
        failing.both("the terminal of another session", &spawn, Failure::action(1, libc::EPERM));
        failing.finish()
    })
}

/// It takes the right to read the terminal.
fn setctty_for_writing_only() -> Outcome {
    let (_master, _slave, path) = pty()?;
    let device = device(&path)?;
    let writing = os::open(&path, libc::O_WRONLY | libc::O_NOCTTY)?;
    let acts = [Act::Setsid, Act::Setctty(writing.as_raw_fd())];
    same!(show(&acts, false)?.3, device, "terminal of a privileged child");
    in_worker(|| {
        os::become_user(12345)?;
        let template = Template::child("nothing")?;
        let mut failing = Failing::new()?;
        let spawn = template.spawn().acts(acts.clone());
        failing.both("a user's child", &spawn, Failure::action(1, libc::EPERM));
        failing.finish()
    })
}

/// The foreground process group of a terminal.
fn foreground(tty: &impl AsRawFd) -> io::Result<i32> {
    let mut group = 0;
    os::ioctl_int(tty.as_raw_fd(), libc::TIOCGPGRP, &mut group)?;
    Ok(group)
}

fn tcsetpgrp() -> Outcome {
    on_terminal(|_, slave| {
        let tty = slave.as_raw_fd();
        for inherit in [false, true] {
            let own = os::getpgid(0)?;
            os::ioctl_int(tty, libc::TIOCSPGRP, &mut { own })?;
            let (pid, pgid, _, _, tpgid) = show(&[Act::Setpgid(0), Act::Tcsetpgrp(tty)], inherit)?;
            same!((pgid, tpgid), (pid, pid), "group and foreground group of {pid}");
        }
        let child = sleeper(&[Act::Setpgid(0), Act::Tcsetpgrp(tty)])?;
        same!(foreground(slave)?, child.pid, "foreground group as soon as the spawn returns");
        Ok(())
    })
}

/// A child of a background group is not stopped by SIGTTOU, whatever the caller does with that signal.
fn tcsetpgrp_from_the_background() -> Outcome {
    on_terminal(|_, slave| {
        let tty = slave.as_raw_fd();
        os::set_signal(libc::SIGTTOU, libc::SIG_DFL, 0)?;
        // This one takes the terminal, so everybody else is in the background.
        let first = sleeper(&[Act::Setpgid(0), Act::Tcsetpgrp(tty)])?;
        same!(foreground(slave)?, first.pid, "foreground group");
        for acts in
            [&[Act::Setpgid(0), Act::Tcsetpgrp(tty)][..], &[Act::Sigmask(0), Act::Setpgid(0), Act::Tcsetpgrp(tty)]]
        {
            let second = sleeper(acts)?;
            same!(foreground(slave)?, second.pid, "foreground group after {acts:?}");
            same!(os::getsid(second.pid)?, os::getsid(0)?, "session");
        }
        Ok(())
    })
}

fn tcsetpgrp_of_a_joined_group() -> Outcome {
    on_terminal(|_, slave| {
        let tty = slave.as_raw_fd();
        let leader = sleeper(&[Act::Setpgid(0)])?;
        let (_, pgid, _, _, tpgid) = show(&[Act::Setpgid(leader.pid as u64), Act::Tcsetpgrp(tty)], false)?;
        same!((pgid, tpgid), (i64::from(leader.pid), i64::from(leader.pid)), "group and foreground group");
        // Without SETPGID it is the group that child and caller share.
        show(&[Act::Tcsetpgrp(tty)], false)?;
        same!(foreground(slave)?, os::getpgid(0)?, "foreground group");
        Ok(())
    })
}

fn tcsetpgrp_without_a_terminal() -> Outcome {
    let (_master, slave, _) = pty()?;
    let tty = slave.as_raw_fd();
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    let alone = template.spawn().act(Act::Tcsetpgrp(tty));
    failing.both("no controlling terminal", &alone, Failure::action(0, libc::ENOTTY));
    let own = template.spawn().acts([Act::Setpgid(0), Act::Tcsetpgrp(tty)]);
    failing.both("own group, no controlling terminal", &own, Failure::action(1, libc::ENOTTY));
    let left = template.spawn().acts([Act::Setsid, Act::Tcsetpgrp(tty)]);
    failing.both("own session, no controlling terminal", &left, Failure::action(1, libc::ENOTTY));
    failing.finish()
}

fn tcsetpgrp_of_another_terminal() -> Outcome {
    on_terminal(|_, slave| {
        let (_master, other, _) = pty()?;
        let template = Template::child("nothing")?;
        let mut failing = Failing::new()?;
        let not_ours = template.spawn().acts([Act::Setpgid(0), Act::Tcsetpgrp(other.as_raw_fd())]);
        failing.both("a terminal that is not the controlling one", &not_ours, Failure::action(1, libc::ENOTTY));
        let left = template.spawn().acts([Act::Setsid, Act::Tcsetpgrp(slave.as_raw_fd())]);
        failing.both("the terminal of the session it left", &left, Failure::action(1, libc::ENOTTY));
        failing.finish()
    })
}

fn no_terminal_at_all() -> Outcome {
    let (pipe, _writer) = os::pipe()?;
    let (file, folder) = (os::open("/etc/passwd", libc::O_RDONLY)?, os::open("/", libc::O_RDONLY)?);
    let path = os::open("/dev/tty", libc::O_PATH)?;
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    for (what, fd, error) in [
        ("one not open", 900, libc::EBADF),
        ("beyond any table", i32::MAX, libc::EBADF),
        ("an O_PATH one", path.as_raw_fd(), libc::EBADF),
        ("a pipe", pipe.as_raw_fd(), libc::ENOTTY),
        ("a file", file.as_raw_fd(), libc::ENOTTY),
        ("a folder", folder.as_raw_fd(), libc::ENOTTY),
        ("/dev/null", 0, libc::ENOTTY),
    ] {
        let set = template.spawn().acts([Act::Setsid, Act::Setctty(fd)]);
        failing.both(format!("SETCTTY of {what}"), &set, Failure::action(1, error));
        let foreground = template.spawn().acts([Act::Setpgid(0), Act::Tcsetpgrp(fd)]);
        failing.both(format!("TCSETPGRP of {what}"), &foreground, Failure::action(1, error));
    }
    failing.finish()
}

/// Descriptors mean what the actions before have made of them.
fn terminal_by_placed_number() -> Outcome {
    let (_master, slave, path) = pty()?;
    let tty: RawFd = slave.as_raw_fd();
    let device = device(&path)?;
    for inherit in [false, true] {
        let acts = [Act::Dup2(tty, 40), Act::Close(tty), Act::Setsid, Act::Setctty(40), Act::Tcsetpgrp(40)];
        let (pid, _, _, seen, tpgid) = show(&acts, inherit)?;
        same!((seen, tpgid), (device, pid), "terminal and foreground group");
    }
    Ok(())
}

fn terminal_after_close() -> Outcome {
    on_terminal(|_, slave| {
        let tty = slave.as_raw_fd();
        let template = Template::child("nothing")?;
        let mut failing = Failing::new()?;
        let acts = [Act::Close(tty), Act::Setpgid(0), Act::Tcsetpgrp(tty)];
        failing.both("TCSETPGRP of a closed one", &template.spawn().acts(acts), Failure::action(2, libc::EBADF));
        let acts = [Act::CloseRange(3, -1, 0), Act::Setsid, Act::Setctty(tty)];
        failing.both("SETCTTY of a closed one", &template.spawn().acts(acts), Failure::action(2, libc::EBADF));
        let acts = [Act::Dup2(0, tty), Act::Setpgid(0), Act::Tcsetpgrp(tty)];
        failing.both("TCSETPGRP of a replaced one", &template.spawn().acts(acts), Failure::action(2, libc::ENOTTY));
        failing.finish()
    })
}

/// Ctrl-C ends the child that was given the terminal, and not its caller.
fn terminal_signal_reaches_the_group() -> Outcome {
    on_terminal(|master, slave| {
        let tty = slave.as_raw_fd();
        let child = sleeper(&[Act::Setpgid(0), Act::Tcsetpgrp(tty)])?;
        let mut master = fs::File::from(master.try_clone()?);
        io::Write::write_all(&mut master, b"\x03")?;
        same!(child.wait()?, Status::Signaled(libc::SIGINT), "status");
        Ok(())
    })
}
