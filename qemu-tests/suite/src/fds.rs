//! Which descriptors the child has: an almost empty table, and what the actions place there, in order.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::harness::{Outcome, failed, in_worker, open_fds, refused};
use crate::os::{self, Status};
use crate::show::Show;
use crate::template::{Act, Folder, Open, Spawn, Template};
use crate::{ensure, same, tests};

tests!("fds":
    only_standard_three, standard_three_are_the_callers, cloexec_ones_among_three, missing_ones_among_three,
    none_at_all, template_itself_stays_behind, dup2_places, dup2_high, dup2_over_open, dup2_cloexec,
    dup2_same_clears_cloexec, dup2_same_of_standard, dup2_chain, dup2_after_close, swap, close_standard,
    close_then_reuse, close_range_all, close_range_hides_sources, close_range_cloexec, close_range_part, open_places_exactly,
    open_high, open_over_standard, placed_survive_without_cloexec, caller_table_untouched, inherit_all,
    inherit_honours_cloexec, inherit_with_actions, inherit_high, pipe_end_is_not_kept, many_placed,
    other_threads_do_not_interfere, pipes_of_other_threads_close [120], writers_in_other_threads_keep_nothing_busy [120],
    sources_from_high_numbers, table_is_not_shared, newfd_at_the_limit,
);

/// Opens `/dev/null` at these numbers, not close-on-exec.
fn clutter(numbers: &[RawFd]) -> Outcome<Vec<OwnedFd>> {
    let null = File::open("/dev/null")?;
    let mut fds = Vec::new();
    for &number in numbers {
        let fd = os::dup_from(null.as_raw_fd(), number, false)?;
        same!(fd.as_raw_fd(), number, "number of a descriptor");
        fds.push(fd);
    }
    Ok(fds)
}

/// Numbers of descriptors that a child from `spawn` sees.
#[track_caller]
fn numbers(spawn: Spawn<'_>) -> Outcome<Vec<RawFd>> {
    Ok(spawn.show()?.fd_numbers())
}

fn only_standard_three() -> Outcome {
    let template = Template::child("show")?;
    let _clutter = clutter(&[20, 21, 63, 64, 65, 127, 128, 255, 256, 900])?;
    same!(numbers(template.spawn())?, [0, 1, 2], "descriptors");
    Ok(())
}

fn standard_three_are_the_callers() -> Outcome {
    let template = Template::child("show")?;
    let mine = open_fds()?;
    let show = template.spawn().show()?;
    same!(show.fds()[&0], mine[&0], "standard input");
    same!(show.fds()[&2], mine[&2], "standard error");
    Ok(())
}

/// Runs `body` in a worker that changes its own descriptors 0 to 2; `show` writes into a file that it gets as 1.
fn with_standard(change: fn() -> std::io::Result<()>, extra: &[Act]) -> Outcome<Show> {
    let folder = Folder::tmp("standard")?;
    let path = folder.join("out");
    let out = Open::new(&path, libc::O_WRONLY | libc::O_CREAT, 1).mode(0o600);
    in_worker(|| {
        let template = Template::child("show")?;
        let saved = [0, 1, 2].map(|fd| os::dup_from(fd, 10, true));
        change()?;
        let status = template.spawn().open(out).acts(extra.iter().cloned()).status();
        for (fd, saved) in saved.into_iter().enumerate() {
            os::dup2(saved?.as_raw_fd(), fd as RawFd)?;
        }
        same!(status?, Status::Exited(0), "status");
        Ok(())
    })?;
    Ok(Show::parse(&fs::read(&path)?))
}

fn cloexec_ones_among_three() -> Outcome {
    let show = with_standard(|| os::set_cloexec(0, true), &[])?;
    same!(show.fd_numbers(), [1, 2], "descriptors with 0 close-on-exec");
    let show = with_standard(|| os::set_cloexec(2, true), &[Act::Dup2(2, 2)])?;
    same!(show.fd_numbers(), [0, 1, 2], "descriptors with 2 made inheritable again");
    Ok(())
}

fn missing_ones_among_three() -> Outcome {
    let show = with_standard(|| os::close(0), &[])?;
    same!(show.fd_numbers(), [1, 2], "descriptors without 0");
    let show = with_standard(|| os::close(1), &[])?;
    same!(show.fd_numbers(), [0, 1, 2], "descriptors without 1, which OPEN places");
    let show = with_standard(|| os::close(2), &[])?;
    same!(show.fd_numbers(), [0, 1], "descriptors without 2");
    Ok(())
}

fn none_at_all() -> Outcome {
    let close = || os::close(0).and_then(|()| os::close(1)).and_then(|()| os::close(2));
    let show = with_standard(close, &[])?;
    same!(show.fd_numbers(), [1], "descriptors");
    in_worker(move || {
        let template = Template::child("nothing")?;
        let saved = [0, 1, 2].map(|fd| os::dup_from(fd, 10, true));
        close()?;
        let status = template.status();
        for (fd, saved) in saved.into_iter().enumerate() {
            os::dup2(saved?.as_raw_fd(), fd as RawFd)?;
        }
        same!(status?, Status::Exited(0), "status of a child without any descriptor");
        Ok(())
    })
}

fn template_itself_stays_behind() -> Outcome {
    let template = Template::child("show")?;
    os::set_cloexec(template.raw(), false)?;
    same!(numbers(template.spawn())?, [0, 1, 2], "descriptors");
    let show = template.spawn().inherit_fds().show()?;
    let inherited = show.fds().get(&template.raw()).cloned().unwrap_or_default();
    ensure!(inherited.contains("spawn_template"), "an inherited template shows as \"{inherited}\"");
    Ok(())
}

fn dup2_places() -> Outcome {
    let template = Template::child("show")?;
    let file = File::open("/etc/passwd")?;
    let show = template.spawn().act(Act::Dup2(file.as_raw_fd(), 5)).act(Act::Dup2(file.as_raw_fd(), 3)).show()?;
    same!(show.fd_numbers(), [0, 1, 2, 3, 5], "descriptors");
    same!(show.fds()[&5], "/etc/passwd", "descriptor 5");
    same!(show.fds()[&3], "/etc/passwd", "descriptor 3");
    Ok(())
}

fn dup2_high() -> Outcome {
    os::set_rlimit(libc::RLIMIT_NOFILE, 20_000)?;
    let template = Template::child("show")?;
    let file = File::open("/etc/passwd")?;
    for number in [63, 64, 65, 255, 256, 1023, 1024, 4096, 19_999] {
        let show = template.spawn().act(Act::Dup2(file.as_raw_fd(), number)).show()?;
        same!(show.fd_numbers(), [0, 1, 2, number], "descriptors");
        same!(show.fds()[&number], "/etc/passwd", "descriptor {number}");
    }
    Ok(())
}

fn dup2_over_open() -> Outcome {
    let file = File::open("/etc/passwd")?;
    let show = Template::child("show")?.spawn().act(Act::Dup2(file.as_raw_fd(), 0)).show()?;
    same!(show.fd_numbers(), [0, 1, 2], "descriptors");
    same!(show.fds()[&0], "/etc/passwd", "descriptor 0");
    Ok(())
}

fn dup2_cloexec() -> Outcome {
    let template = Template::child("show")?;
    let file = File::open("/etc/passwd")?;
    let fd = file.as_raw_fd();
    let acts = [Act::Dup2Cloexec(fd, 5), Act::Dup2(fd, 6), Act::Dup2Cloexec(fd, 0)];
    same!(numbers(template.spawn().acts(acts.clone()))?, [1, 2, 6], "descriptors");
    // A duplicate of a close-on-exec one is not close-on-exec.
    let spawn = template.spawn().acts(acts).act(Act::Dup2(5, 7)).act(Act::Dup2(5, 5));
    same!(numbers(spawn)?, [1, 2, 5, 6, 7], "descriptors after duplicating it");
    Ok(())
}

fn dup2_same_clears_cloexec() -> Outcome {
    let template = Template::child("show")?;
    let file = File::open("/etc/passwd")?;
    let fd = file.as_raw_fd();
    ensure!(os::is_cloexec(fd)?, "std opens close-on-exec");
    let show = template.spawn().act(Act::Dup2(fd, fd)).show()?;
    same!(show.fd_numbers(), [0, 1, 2, fd], "descriptors");
    same!(show.fds()[&fd], "/etc/passwd", "descriptor {fd}");
    same!(numbers(template.spawn().inherit_fds().act(Act::Dup2(fd, fd)))?, [0, 1, 2, fd], "descriptors, inheriting");
    ensure!(os::is_cloexec(fd)?, "the caller's own flag was cleared");
    Ok(())
}

fn dup2_same_of_standard() -> Outcome {
    same!(numbers(Template::child("show")?.spawn().act(Act::Dup2(2, 2)))?, [0, 1, 2], "descriptors");
    Ok(())
}

fn dup2_chain() -> Outcome {
    let template = Template::child("show")?;
    let fd = File::open("/etc/passwd")?;
    let fd = fd.as_raw_fd();
    let acts = [Act::Dup2(fd, 50), Act::Dup2(50, 90), Act::Close(50), Act::Dup2(90, 51)];
    let show = template.spawn().acts(acts).show()?;
    same!(show.fd_numbers(), [0, 1, 2, 51, 90], "descriptors");
    same!(show.fds()[&51], "/etc/passwd", "descriptor 51");
    // What an action placed hides what the caller has there.
    let _clutter = clutter(&[60])?;
    let show = template.spawn().act(Act::Dup2(fd, 60)).act(Act::Dup2(60, 61)).show()?;
    same!(show.fds()[&61], "/etc/passwd", "descriptor 61");
    Ok(())
}

fn dup2_after_close() -> Outcome {
    let template = Template::child("nothing")?;
    let file = File::open("/etc/passwd")?;
    let fd = file.as_raw_fd();
    let acts = [Act::Dup2(fd, 50), Act::Close(fd), Act::Dup2(fd, 51)];
    for inherit in [false, true] {
        let spawn = |acts: &[Act]| {
            let spawn = template.spawn().acts(acts.iter().cloned());
            if inherit { spawn.inherit_fds() } else { spawn }
        };
        refused("DUP2 of a closed source", spawn(&acts).run(), libc::EBADF)?;
        refused("DUP2 onto itself", spawn(&[Act::Close(fd), Act::Dup2(fd, fd)]).run(), libc::EBADF)?;
        refused("DUP2 of a closed 0", spawn(&[Act::Close(0), Act::Dup2(0, 5)]).run(), libc::EBADF)?;
        let dir = File::open("/")?;
        let dir = dir.as_raw_fd();
        refused("FCHDIR to a closed one", spawn(&[Act::Close(dir), Act::Fchdir(dir)]).run(), libc::EBADF)?;
        let open = Act::Open(Open::new("etc", libc::O_RDONLY, 5).at(dir));
        refused("OPEN at a closed one", spawn(&[Act::Close(dir), open]).run(), libc::EBADF)?;
        same!(spawn(&acts[..2]).status()?, Status::Exited(0), "status without the last");
    }
    Ok(())
}

fn swap() -> Outcome {
    let template = Template::child("show")?;
    let (a, b) = (File::open("/etc/passwd")?, File::open("/etc/group")?);
    let acts = [
        Act::Dup2(a.as_raw_fd(), 10),
        Act::Dup2(b.as_raw_fd(), 11),
        Act::Dup2(10, 12),
        Act::Dup2(11, 10),
        Act::Dup2(12, 11),
        Act::Close(12),
    ];
    let show = template.spawn().acts(acts).show()?;
    same!(show.fd_numbers(), [0, 1, 2, 10, 11], "descriptors");
    same!((show.fds()[&10].as_str(), show.fds()[&11].as_str()), ("/etc/group", "/etc/passwd"), "10 and 11");
    Ok(())
}

fn close_standard() -> Outcome {
    let template = Template::child("show")?;
    same!(numbers(template.spawn().act(Act::Close(0)))?, [1, 2], "descriptors without 0");
    same!(numbers(template.spawn().act(Act::Close(0)).act(Act::Close(2)))?, [1], "descriptors without 0 and 2");
    let status = Template::child("nothing")?.spawn().acts([0, 1, 2].map(Act::Close)).status()?;
    same!(status, Status::Exited(0), "status with none");
    Ok(())
}

fn close_then_reuse() -> Outcome {
    let template = Template::child("show")?;
    let acts = [Act::Close(0), Act::Open(Open::new("/etc/passwd", libc::O_RDONLY, 0)), Act::Close(0), Act::Dup2(2, 0)];
    let show = template.spawn().acts(acts).show()?;
    same!(show.fd_numbers(), [0, 1, 2], "descriptors");
    same!(show.fds()[&0], show.fds()[&2], "descriptor 0");
    Ok(())
}

fn close_range_all() -> Outcome {
    let template = Template::child("show")?;
    let folder = Folder::tmp("close-range")?;
    let out = || Open::new(folder.join("out"), libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, 1).mode(0o600);
    let _clutter = clutter(&[40, 41])?;
    for inherit in [false, true] {
        for last in [-1, i32::MAX, 1000] {
            let spawn = template.spawn().act(Act::Dup2(2, 50)).act(Act::CloseRange(0, last, 0)).open(out());
            let spawn = if inherit { spawn.inherit_fds() } else { spawn };
            same!(spawn.status()?, Status::Exited(0), "status");
            same!(Show::parse(&fs::read(folder.join("out"))?).fd_numbers(), [1], "descriptors");
        }
    }
    Ok(())
}

fn close_range_hides_sources() -> Outcome {
    let template = Template::child("nothing")?;
    let file = File::open("/etc/passwd")?;
    let fd = file.as_raw_fd();
    for inherit in [false, true] {
        let spawn = |acts: &[Act]| {
            let spawn = template.spawn().acts(acts.iter().cloned());
            if inherit { spawn.inherit_fds() } else { spawn }
        };
        let all = Act::CloseRange(3, -1, 0);
        refused("DUP2 after CLOSE_RANGE", spawn(&[all.clone(), Act::Dup2(fd, 5)]).run(), libc::EBADF)?;
        let exact = Act::CloseRange(fd, fd, 0);
        refused("DUP2 after closing just it", spawn(&[exact.clone(), Act::Dup2(fd, 5)]).run(), libc::EBADF)?;
        let below = Act::CloseRange(0, fd - 1, 0);
        same!(spawn(&[below, Act::Dup2(fd, 5)]).status()?, Status::Exited(0), "status when those below went");
        let above = Act::CloseRange(fd + 1, -1, 0);
        same!(spawn(&[above, Act::Dup2(fd, 5)]).status()?, Status::Exited(0), "status when those above went");
        let saved = [Act::Dup2(fd, 0), all.clone(), Act::Dup2(0, 5)];
        same!(spawn(&saved).status()?, Status::Exited(0), "status when it was saved first");
        let two = [Act::CloseRange(500, 600, 0), exact, Act::CloseRange(700, -1, 0), Act::Dup2(fd, 5)];
        refused("DUP2 after several ranges", spawn(&two).run(), libc::EBADF)?;
    }
    Ok(())
}

fn close_range_cloexec() -> Outcome {
    let template = Template::child("show")?;
    let file = File::open("/etc/passwd")?;
    let fd = file.as_raw_fd();
    let cloexec = libc::CLOSE_RANGE_CLOEXEC;
    let _clutter = clutter(&[40])?;
    for inherit in [false, true] {
        let spawn = |acts: &[Act]| {
            let spawn = template.spawn().acts(acts.iter().cloned());
            if inherit { spawn.inherit_fds() } else { spawn }
        };
        // Marked ones stay open until exec, so later actions can use them.
        let acts = [Act::CloseRange(3, -1, cloexec), Act::Dup2(fd, 50)];
        same!(numbers(spawn(&acts))?, [0, 1, 2, 50], "descriptors");
        let acts = [Act::Dup2(fd, 50), Act::Dup2(fd, 51), Act::CloseRange(50, 50, cloexec), Act::Close(40)];
        same!(numbers(spawn(&acts))?, [0, 1, 2, 51], "descriptors with one marked");
        let acts = [Act::CloseRange(0, 0, cloexec), Act::Close(40)];
        same!(numbers(spawn(&acts))?, [1, 2], "descriptors with 0 marked");
        let acts = [Act::CloseRange(0, 0, cloexec), Act::Dup2(0, 0), Act::Close(40)];
        same!(numbers(spawn(&acts))?, [0, 1, 2], "descriptors with 0 marked and cleared");
    }
    Ok(())
}

fn close_range_part() -> Outcome {
    let template = Template::child("show")?;
    let place = (50..60).map(|fd| Act::Dup2(2, fd));
    let spawn = template.spawn().acts(place).act(Act::CloseRange(53, 57, 0));
    same!(numbers(spawn.clone())?, [0, 1, 2, 50, 51, 52, 58, 59], "descriptors");
    same!(numbers(spawn.inherit_fds())?, [0, 1, 2, 50, 51, 52, 58, 59], "descriptors, inheriting");
    Ok(())
}

/// No number but the wanted one is in use, whatever was free or not.
fn open_places_exactly() -> Outcome {
    let template = Template::child("show")?;
    for newfd in [3, 4, 5, 30] {
        let show = template.spawn().open(Open::new("/etc/passwd", libc::O_RDONLY, newfd)).show()?;
        same!(show.fd_numbers(), [0, 1, 2, newfd], "descriptors");
        same!(show.fds()[&newfd], "/etc/passwd", "descriptor {newfd}");
    }
    let opens = (3..20).map(|fd| Act::Open(Open::new("/etc/passwd", libc::O_RDONLY, fd)));
    same!(numbers(template.spawn().acts(opens))?, (0..20).collect::<Vec<_>>(), "descriptors after many");
    Ok(())
}

fn open_high() -> Outcome {
    os::set_rlimit(libc::RLIMIT_NOFILE, 20_000)?;
    let template = Template::child("show")?;
    for newfd in [64, 1024, 19_999] {
        let show = template.spawn().open(Open::new("/etc/passwd", libc::O_RDONLY, newfd)).show()?;
        same!(show.fd_numbers(), [0, 1, 2, newfd], "descriptors");
    }
    Ok(())
}

fn open_over_standard() -> Outcome {
    let show = Template::child("show")?.spawn().open(Open::new("/etc/passwd", libc::O_RDONLY, 0)).show()?;
    same!(show.fd_numbers(), [0, 1, 2], "descriptors");
    same!(show.fds()[&0], "/etc/passwd", "descriptor 0");
    Ok(())
}

/// Descriptors that actions place at 3 and above reach the program without any flag.
fn placed_survive_without_cloexec() -> Outcome {
    let show = Template::child("show")?.spawn().act(Act::Dup2(0, 3)).act(Act::Dup2(2, 4)).show()?;
    ensure!(show.all("fd").iter().all(|fd| fd.contains(" - ")), "a close-on-exec flag is set: {:?}", show.all("fd"));
    same!(show.fd_numbers(), [0, 1, 2, 3, 4], "descriptors");
    Ok(())
}

fn caller_table_untouched() -> Outcome {
    let template = Template::child("nothing")?;
    let _clutter = clutter(&[40, 41, 42])?;
    let before = open_fds()?;
    let acts = [
        Act::Dup2(40, 50),
        Act::Close(41),
        Act::Open(Open::new("/etc/passwd", libc::O_RDONLY, 42)),
        Act::CloseRange(0, -1, 0),
    ];
    for inherit in [false, true] {
        let spawn = template.spawn().acts(acts.clone());
        let spawn = if inherit { spawn.inherit_fds() } else { spawn };
        same!(spawn.status()?, Status::Exited(0), "status");
        refused("a failing one", spawn.act(Act::Dup2(99, 1)).run(), libc::EBADF)?;
    }
    same!(open_fds()?, before, "the caller's descriptors");
    Ok(())
}

fn inherit_all() -> Outcome {
    let template = Template::child("show")?;
    let _clutter = clutter(&[20, 64, 256, 900])?;
    let show = template.spawn().inherit_fds().show()?;
    let without_pipe: BTreeMap<RawFd, String> = open_fds()?.into_iter().filter(|(fd, _)| *fd != 1).collect();
    let inherited: BTreeMap<RawFd, String> =
        without_pipe.into_iter().filter(|(fd, _)| os::is_cloexec(*fd).is_ok_and(|c| !c)).collect();
    let seen: BTreeMap<RawFd, String> = show.fds().into_iter().filter(|(fd, _)| *fd != 1).collect();
    same!(seen, inherited, "descriptors");
    same!(show.fd_numbers(), [0, 1, 2, 20, 64, 256, 900], "numbers");
    Ok(())
}

fn inherit_honours_cloexec() -> Outcome {
    let template = Template::child("show")?;
    let clutter = clutter(&[20, 21])?;
    os::set_cloexec(clutter[0].as_raw_fd(), true)?;
    same!(numbers(template.spawn().inherit_fds())?, [0, 1, 2, 21], "descriptors");
    Ok(())
}

fn inherit_with_actions() -> Outcome {
    let template = Template::child("show")?;
    let _clutter = clutter(&[20, 21, 22, 23])?;
    let acts = [
        Act::Close(20),
        Act::Dup2(21, 30),
        Act::Open(Open::new("/etc/passwd", libc::O_RDONLY, 22)),
        Act::CloseRange(23, 25, 0),
        Act::Dup2Cloexec(21, 31),
    ];
    let show = template.spawn().inherit_fds().acts(acts).show()?;
    same!(show.fd_numbers(), [0, 1, 2, 21, 22, 30], "descriptors");
    same!(show.fds()[&22], "/etc/passwd", "descriptor 22");
    Ok(())
}

fn inherit_high() -> Outcome {
    os::set_rlimit(libc::RLIMIT_NOFILE, 20_000)?;
    let template = Template::child("show")?;
    let _clutter = clutter(&[1023, 1024, 5000, 19_999])?;
    same!(numbers(template.spawn().inherit_fds())?, [0, 1, 2, 1023, 1024, 5000, 19_999], "descriptors");
    Ok(())
}

/// A reader sees the end of file as soon as the program that was given the other end is gone.
fn pipe_end_is_not_kept() -> Outcome {
    let template = Template::path("/bin/cat")?;
    let (their_input, our_output) = os::pipe()?;
    let (our_input, their_output) = os::pipe()?;
    // Neither end is close-on-exec, as in a careless program.
    for fd in [&their_input, &our_output, &our_input, &their_output] {
        os::set_cloexec(fd.as_raw_fd(), false)?;
    }
    let acts = [Act::Dup2(their_input.as_raw_fd(), 0), Act::Dup2(their_output.as_raw_fd(), 1)];
    let child = template.spawn().acts(acts).run()?;
    drop((their_input, their_output));
    let mut writer = File::from(our_output);
    writer.write_all(b"through and back")?;
    drop(writer);
    let mut text = String::new();
    File::from(our_input).read_to_string(&mut text)?;
    same!(text, "through and back", "what cat copied");
    same!(child.wait()?, Status::Exited(0), "status");
    Ok(())
}

fn many_placed() -> Outcome {
    let template = Template::child("show")?;
    let places = (3..250).map(|fd| Act::Dup2(2, fd));
    same!(numbers(template.spawn().acts(places))?, (0..250).collect::<Vec<_>>(), "descriptors");
    let descending = (3..250).rev().map(|fd| Act::Dup2(2, fd * 4));
    let wanted: Vec<RawFd> = (0..3).chain((3..250).map(|fd| fd * 4)).collect();
    same!(numbers(template.spawn().acts(descending))?, wanted, "descriptors, placed from the top");
    Ok(())
}

/// While other threads open, close and replace descriptors all the time, no child sees one of theirs.
fn other_threads_do_not_interfere() -> Outcome {
    let template = Template::child("show")?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for base in [100, 300] {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let fds: Vec<_> = (base..base + 20).map(|number| os::dup_from(0, number, false)).collect();
                    drop(fds);
                    thread::yield_now();
                }
            });
        }
        let mut result = Ok(());
        for round in 0..15 {
            result = numbers(template.spawn()).and_then(|fds| {
                same!(fds, [0, 1, 2], "descriptors of child {round}");
                Ok(())
            });
            if result.is_err() {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        result
    })
}

/// Spawns that overlap with `body`: a thread starts long-lived children all the time until it has returned.
fn while_spawning(body: impl FnOnce() -> Outcome) -> Outcome {
    let template = Template::child("sleep")?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let spawner = scope.spawn(|| -> Outcome {
            let mut children = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                children.push(template.spawn().run()?);
                // Dropping a child kills it.
                if children.len() > 8 {
                    children.remove(0);
                }
            }
            Ok(())
        });
        let outcome = body();
        stop.store(true, Ordering::Relaxed);
        spawner.join().map_err(|_| failed("the thread panicked"))??;
        outcome
    })
}

/// A pipe that another thread makes, close-on-exec or not, ends when its writer is closed, though children made in the
/// meantime live on.
fn pipes_of_other_threads_close() -> Outcome {
    while_spawning(|| {
        for round in 0..150 {
            let (reader, writer) = os::pipe()?;
            os::set_cloexec(writer.as_raw_fd(), round % 2 == 0)?;
            thread::yield_now();
            drop(writer);
            // The end of the file counts as readable.
            ensure!(os::readable(reader.as_raw_fd(), 0)?, "a child holds the writing end of pipe {round}");
        }
        Ok(())
    })
}

/// A program that another thread writes can be started as soon as it is closed: no child has it open for writing.
fn writers_in_other_threads_keep_nothing_busy() -> Outcome {
    let folder = Folder::tmp("busy-writers")?;
    let program = fs::read(crate::template::child("nothing"))?;
    while_spawning(|| {
        for round in 0..100 {
            let path = folder.join(&format!("program-{}", round % 5));
            let mut file = File::create(&path)?;
            os::set_cloexec(file.as_raw_fd(), round % 2 == 0)?;
            file.write_all(&program)?;
            crate::template::set_mode(&path, 0o755)?;
            drop(file);
            same!(Template::path(&path)?.status()?, Status::Exited(0), "status of program {round}");
        }
        Ok(())
    })
}

fn sources_from_high_numbers() -> Outcome {
    os::set_rlimit(libc::RLIMIT_NOFILE, 20_000)?;
    let template = Template::child("show")?;
    let file = File::open("/etc/passwd")?;
    let dir = File::open("/etc")?;
    let high = os::dup_from(file.as_raw_fd(), 15_000, true)?;
    let high_dir = os::dup_from(dir.as_raw_fd(), 16_000, true)?;
    let acts = [
        Act::Dup2(high.as_raw_fd(), 3),
        Act::Fchdir(high_dir.as_raw_fd()),
        Act::Open(Open::new("group", libc::O_RDONLY, 4).at(high_dir.as_raw_fd())),
    ];
    let show = template.spawn().acts(acts).show()?;
    same!(show.fd_numbers(), [0, 1, 2, 3, 4], "descriptors");
    same!((show.fds()[&3].as_str(), show.fds()[&4].as_str()), ("/etc/passwd", "/etc/group"), "3 and 4");
    same!(show.get("cwd"), "/etc", "working directory");
    Ok(())
}

/// What a running child closes, it closes for itself.
fn table_is_not_shared() -> Outcome {
    let before = open_fds()?;
    let template = Template::path("/bin/sh")?;
    let spawn = template.spawn().argv(["sh", "-c", "exec 0<&- 2>&- 7</etc/passwd; exit 3"]);
    same!(spawn.status()?, Status::Exited(3), "status");
    same!(spawn.inherit_fds().status()?, Status::Exited(3), "status, inheriting");
    drop(template);
    same!(open_fds()?, before, "the caller's descriptors");
    Ok(())
}

/// Placing one at RLIMIT_NOFILE or above is dup2()'s EBADF; closing one there is fine.
fn newfd_at_the_limit() -> Outcome {
    let template = Template::child("nothing")?;
    os::set_rlimit(libc::RLIMIT_NOFILE, 100)?;
    for inherit in [false, true] {
        let spawn = if inherit { template.spawn().inherit_fds() } else { template.spawn() };
        for number in [100, 101, 1 << 20, i32::MAX] {
            let open = Open::new("/dev/null", libc::O_RDONLY, number);
            refused(&format!("DUP2 to {number}"), spawn.clone().act(Act::Dup2(0, number)).run(), libc::EBADF)?;
            refused(&format!("OPEN as {number}"), spawn.clone().open(open).run(), libc::EBADF)?;
            same!(spawn.clone().act(Act::Close(number)).status()?, Status::Exited(0), "CLOSE of {number}");
        }
        let open = Open::new("/dev/null", libc::O_RDONLY, 99);
        same!(spawn.clone().act(Act::Dup2(0, 99)).status()?, Status::Exited(0), "DUP2 to 99");
        same!(spawn.open(open).status()?, Status::Exited(0), "OPEN as 99");
    }
    Ok(())
}
