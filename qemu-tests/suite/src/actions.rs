//! What each action does with its fields: every rule broken alone, and the effect when none is.

use std::fs::{self, File};
use std::io::Seek;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};

use spawn_template::uapi;

use crate::harness::{Checks, Outcome, in_worker, refused};
use crate::os::{self, Pages, Status};
use crate::template::{Act, Folder, Open, RawAction, RawOpen, RawSigset, Template, raw, set_mode};
use crate::{ensure, same, tests};

tests!("actions":
    fields_of_close, fields_of_dup2, fields_of_fchdir, fields_of_open, fields_of_close_range, fields_of_sigmask,
    fields_of_sigdefault, unknown_types, bad_payload_pointers, open_how_rules, open_path_rules,
    checked_before_anything_happens, wrong_one_is_found_anywhere, fchdir_changes_directory, fchdir_leaves_caller_alone,
    directory_is_inherited, open_reads, open_writes, open_creates_with_umask, open_appends, open_truncates,
    open_at_caller_folder, open_own_descriptors, open_at_placed_folder, open_after_fchdir, open_folder, open_o_path, open_resolve_flags,
    open_cloexec, dup2_shares_offset, open_is_not_large_file_limited, steps_use_childs_rights,
);

/// Puts each action alone, and after a good one, and wants EINVAL.
fn all_invalid(actions: &[(&str, RawAction)]) -> Outcome {
    let template = Template::child("nothing")?;
    let mut checks = Checks::default();
    for (what, action) in actions {
        let spawn = template.spawn();
        checks.refused(what, spawn.clone().act(Act::Raw(*action)).run(), &[libc::EINVAL]);
        let spawn = spawn.inherit_fds().act(Act::Close(500)).act(Act::Raw(*action));
        checks.refused(format!("{what}, second"), spawn.run(), &[libc::EINVAL]);
    }
    ensure!(!os::has_children()?, "a refused spawn left a child");
    checks.finish()
}

/// Puts each action alone and wants success.
fn all_valid(actions: &[(&str, RawAction)]) -> Outcome {
    let template = Template::child("nothing")?;
    let mut checks = Checks::default();
    for (what, action) in actions {
        checks.accepted(what, template.spawn().act(Act::Raw(*action)).status());
        checks.accepted(format!("{what}, inheriting"), template.spawn().inherit_fds().act(Act::Raw(*action)).status());
    }
    checks.finish()
}

fn fields_of_close() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_CLOSE;
    all_valid(&[
        ("CLOSE 0", raw(kind, 0, 0, 0, 0)),
        ("CLOSE of one not open", raw(kind, 0, 1000, 0, 0)),
        ("CLOSE beyond any table", raw(kind, 0, i32::MAX, 0, 0)),
    ])?;
    all_invalid(&[
        ("CLOSE -1", raw(kind, 0, -1, 0, 0)),
        ("CLOSE AT_FDCWD", raw(kind, 0, libc::AT_FDCWD, 0, 0)),
        ("CLOSE with newfd", raw(kind, 0, 0, 1, 0)),
        ("CLOSE with newfd -1", raw(kind, 0, 0, -1, 0)),
        ("CLOSE with flags", raw(kind, libc::O_CLOEXEC as u32, 0, 0, 0)),
        ("CLOSE with arg", raw(kind, 0, 0, 0, 1)),
    ])
}

fn fields_of_dup2() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_DUP2;
    let cloexec = libc::O_CLOEXEC as u32;
    all_valid(&[
        ("DUP2 0 5", raw(kind, 0, 0, 5, 0)),
        ("DUP2 0 5 O_CLOEXEC", raw(kind, cloexec, 0, 5, 0)),
        ("DUP2 0 0", raw(kind, 0, 0, 0, 0)),
    ])?;
    all_invalid(&[
        ("DUP2 -1 5", raw(kind, 0, -1, 5, 0)),
        ("DUP2 AT_FDCWD 5", raw(kind, 0, libc::AT_FDCWD, 5, 0)),
        ("DUP2 0 -1", raw(kind, 0, 0, -1, 0)),
        ("DUP2 0 AT_FDCWD", raw(kind, 0, 0, libc::AT_FDCWD, 0)),
        ("DUP2 with flag 1", raw(kind, 1, 0, 5, 0)),
        ("DUP2 with O_NONBLOCK", raw(kind, cloexec | libc::O_NONBLOCK as u32, 0, 5, 0)),
        ("DUP2 with all flags", raw(kind, u32::MAX, 0, 5, 0)),
        ("DUP2 0 0 O_CLOEXEC", raw(kind, cloexec, 0, 0, 0)),
        ("DUP2 with arg", raw(kind, 0, 0, 5, 1)),
    ])
}

fn fields_of_fchdir() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_FCHDIR;
    let root = File::open("/")?;
    let fd = root.as_raw_fd();
    all_valid(&[("FCHDIR", raw(kind, 0, fd, 0, 0))])?;
    all_invalid(&[
        ("FCHDIR -1", raw(kind, 0, -1, 0, 0)),
        ("FCHDIR AT_FDCWD", raw(kind, 0, libc::AT_FDCWD, 0, 0)),
        ("FCHDIR with newfd", raw(kind, 0, fd, 1, 0)),
        ("FCHDIR with flags", raw(kind, 1, fd, 0, 0)),
        ("FCHDIR with arg", raw(kind, 0, fd, 0, 1)),
    ])
}

/// An OPEN payload for reading `/dev/null`.
fn open_null() -> RawOpen {
    RawOpen { path: c"/dev/null".as_ptr() as u64, ..Default::default() }
}

fn fields_of_open() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_OPEN;
    let payload = open_null();
    let arg = &raw const payload as u64;
    let root = File::open("/")?;
    all_valid(&[
        ("OPEN as 5", raw(kind, 0, libc::AT_FDCWD, 5, arg)),
        ("OPEN as 0", raw(kind, 0, libc::AT_FDCWD, 0, arg)),
        ("OPEN at a folder", raw(kind, 0, root.as_raw_fd(), 5, arg)),
    ])?;
    all_invalid(&[
        ("OPEN at -1", raw(kind, 0, -1, 5, arg)),
        ("OPEN at -99", raw(kind, 0, -99, 5, arg)),
        ("OPEN at i32::MIN", raw(kind, 0, i32::MIN, 5, arg)),
        ("OPEN as -1", raw(kind, 0, libc::AT_FDCWD, -1, arg)),
        ("OPEN as AT_FDCWD", raw(kind, 0, libc::AT_FDCWD, libc::AT_FDCWD, arg)),
        ("OPEN with flags", raw(kind, libc::O_CLOEXEC as u32, libc::AT_FDCWD, 5, arg)),
        ("OPEN without arg", raw(kind, 0, libc::AT_FDCWD, 5, 0)),
    ])
}

fn fields_of_close_range() -> Outcome {
    let kind = uapi::SPAWN_TEMPLATE_ACTION_CLOSE_RANGE;
    let cloexec = libc::CLOSE_RANGE_CLOEXEC;
    all_valid(&[
        ("CLOSE_RANGE 3 -1", raw(kind, 0, 3, -1, 0)),
        ("CLOSE_RANGE 3 3", raw(kind, 0, 3, 3, 0)),
        ("CLOSE_RANGE 0 -1", raw(kind, 0, 0, -1, 0)),
        ("CLOSE_RANGE 5 i32::MAX", raw(kind, 0, 5, i32::MAX, 0)),
        ("CLOSE_RANGE i32::MAX -1", raw(kind, 0, i32::MAX, -1, 0)),
        ("CLOSE_RANGE CLOEXEC", raw(kind, cloexec, 3, -1, 0)),
    ])?;
    all_invalid(&[
        ("CLOSE_RANGE -1 -1", raw(kind, 0, -1, -1, 0)),
        ("CLOSE_RANGE -2 5", raw(kind, 0, -2, 5, 0)),
        ("CLOSE_RANGE 5 4", raw(kind, 0, 5, 4, 0)),
        ("CLOSE_RANGE 1 0", raw(kind, 0, 1, 0, 0)),
        ("CLOSE_RANGE 3 -2", raw(kind, 0, 3, -2, 0)),
        ("CLOSE_RANGE 3 i32::MIN", raw(kind, 0, 3, i32::MIN, 0)),
        ("CLOSE_RANGE with flag 1", raw(kind, 1, 3, -1, 0)),
        ("CLOSE_RANGE with flag 8", raw(kind, 8, 3, -1, 0)),
        ("CLOSE_RANGE with O_CLOEXEC", raw(kind, libc::O_CLOEXEC as u32, 3, -1, 0)),
        ("CLOSE_RANGE with arg", raw(kind, 0, 3, -1, 1)),
    ])
}

/// The same rules hold for both actions with a signal set.
fn fields_of_sigset(kind: u32) -> Outcome {
    let set = os::sigbit(libc::SIGUSR1);
    let sized = |sigsetsize| RawSigset { sigset: &raw const set as u64, sigsetsize };
    let good = sized(8);
    let arg = &raw const good as u64;
    all_valid(&[("set", raw(kind, 0, 0, 0, arg))])?;
    all_invalid(&[
        ("set with fd", raw(kind, 0, 1, 0, arg)),
        ("set with fd -1", raw(kind, 0, -1, 0, arg)),
        ("set with newfd", raw(kind, 0, 0, 1, arg)),
        ("set with newfd -1", raw(kind, 0, 0, -1, arg)),
        ("set with flags", raw(kind, 1, 0, 0, arg)),
        ("set without arg", raw(kind, 0, 0, 0, 0)),
    ])?;
    for size in [0, 1, 4, 7, 9, 16, 128, 1 << 32, (1 << 32) + 8, u64::MAX] {
        let payload = sized(size);
        all_invalid(&[(&format!("sigsetsize {size}"), raw(kind, 0, 0, 0, &raw const payload as u64))])?;
    }
    // All signals, the two that cannot be caught among them, are no error.
    for set in [u64::MAX, 0] {
        let good = RawSigset { sigset: &raw const set as u64, sigsetsize: 8 };
        all_valid(&[(&format!("set {set:#x}"), raw(kind, 0, 0, 0, &raw const good as u64))])?;
    }
    Ok(())
}

fn fields_of_sigmask() -> Outcome {
    fields_of_sigset(uapi::SPAWN_TEMPLATE_ACTION_SIGMASK)
}

fn fields_of_sigdefault() -> Outcome {
    fields_of_sigset(uapi::SPAWN_TEMPLATE_ACTION_SIGDEFAULT)
}

fn unknown_types() -> Outcome {
    for kind in [7, 8, 64, 255, 256, 1 << 16, 1 << 31, u32::MAX] {
        all_invalid(&[(&format!("type {kind}"), raw(kind, 0, 0, 0, 0))])?;
    }
    Ok(())
}

fn bad_payload_pointers() -> Outcome {
    let template = Template::child("nothing")?;
    let mut pages = Pages::new(1)?;
    let mut checks = Checks::default();
    let mut faults = |what: String, kind: u32, fd: i32, newfd: i32, arg: u64| {
        let result = template.spawn().act(Act::Raw(raw(kind, 0, fd, newfd, arg))).run();
        checks.refused(what, result, &[libc::EFAULT]);
    };
    let open = uapi::SPAWN_TEMPLATE_ACTION_OPEN;
    let sets = [uapi::SPAWN_TEMPLATE_ACTION_SIGMASK, uapi::SPAWN_TEMPLATE_ACTION_SIGDEFAULT];
    let addresses = [1, 4095, pages.hole(), pages.hole() - 8, 0x7fff_ffff_f000, 1 << 47, 1 << 63, u64::MAX];
    for address in addresses {
        faults(format!("OPEN arg {address:#x}"), open, libc::AT_FDCWD, 5, address);
        for kind in sets {
            faults(format!("set arg {address:#x}"), kind, 0, 0, address);
        }
    }
    // A payload that can be read, and what it points to cannot.
    let unterminated = pages.at_end(b"/dev/null");
    for address in [0, 1, 4095, pages.hole(), 1 << 47, 1 << 63, u64::MAX, unterminated] {
        let payload = RawOpen { path: address, ..open_null() };
        faults(format!("OPEN path {address:#x}"), open, libc::AT_FDCWD, 5, &raw const payload as u64);
    }
    for address in [0, 1, 4095, pages.hole(), pages.hole() - 4, 1 << 47, 1 << 63, u64::MAX] {
        let payload = RawSigset { sigset: address, sigsetsize: 8 };
        for kind in sets {
            faults(format!("sigset {address:#x}"), kind, 0, 0, &raw const payload as u64);
        }
    }
    ensure!(!os::has_children()?, "a refused spawn left a child");
    checks.finish()
}

/// What openat2() says about `how`, the action says.
fn open_how_rules() -> Outcome {
    let template = Template::child("nothing")?;
    let mut checks = Checks::default();
    let mut try_how = |what: &str, flags: u64, mode: u64, resolve: u64, error: i32| {
        let mut payload = open_null();
        (payload.how.flags, payload.how.mode, payload.how.resolve) = (flags, mode, resolve);
        let action = raw(uapi::SPAWN_TEMPLATE_ACTION_OPEN, 0, libc::AT_FDCWD, 5, &raw const payload as u64);
        checks.refused(what, template.spawn().act(Act::Raw(action)).run(), &[error]);
    };
    try_how("unknown flag", 1 << 40, 0, 0, libc::EINVAL);
    try_how("unknown low flag", 1 << 30, 0, 0, libc::EINVAL);
    try_how("highest flag", 1 << 63, 0, 0, libc::EINVAL);
    try_how("mode without O_CREAT", 0, 0o644, 0, libc::EINVAL);
    try_how("mode beyond 07777", libc::O_CREAT as u64, 0o10644, 0, libc::EINVAL);
    try_how("huge mode", libc::O_CREAT as u64, 1 << 32, 0, libc::EINVAL);
    try_how("unknown resolve flag", 0, 0, 1 << 6, libc::EINVAL);
    try_how("highest resolve flag", 0, 0, 1 << 63, libc::EINVAL);
    try_how("BENEATH and IN_ROOT", 0, 0, libc::RESOLVE_BENEATH | libc::RESOLVE_IN_ROOT, libc::EINVAL);
    try_how("O_PATH with O_RDWR and O_TRUNC", (libc::O_PATH | libc::O_TRUNC) as u64, 0, 0, libc::EINVAL);
    try_how("O_CREAT with O_DIRECTORY", (libc::O_CREAT | libc::O_DIRECTORY) as u64, 0o600, 0, libc::EINVAL);
    ensure!(!os::has_children()?, "a refused spawn left a child");
    checks.finish()
}

fn open_path_rules() -> Outcome {
    let template = Template::child("nothing")?;
    let open = |path: &str| template.spawn().open(Open::new(path, libc::O_RDONLY, 5)).run();
    let mut checks = Checks::default();
    checks.refused("empty path", open(""), &[libc::ENOENT]);
    checks.refused("path of 4096", open(&"/".repeat(4096)), &[libc::ENAMETOOLONG]);
    checks.refused("path of 1 MiB", open(&"/".repeat(1 << 20)), &[libc::ENAMETOOLONG]);
    checks.refused("component of 256", open(&"x".repeat(256)), &[libc::ENAMETOOLONG]);
    checks.accepted("path of 4095", template.spawn().open(Open::new("/".repeat(4095), libc::O_RDONLY, 5)).status());
    checks.finish()
}

/// A wrong last action keeps the first from creating a file.
fn checked_before_anything_happens() -> Outcome {
    let folder = Folder::tmp("checked-first")?;
    let path = folder.join("created");
    let template = Template::child("nothing")?;
    let create = Open::new(&path, libc::O_CREAT | libc::O_WRONLY, 5).mode(0o600);
    let spawn = template.spawn().open(create);
    let mut wrong = vec![
        Act::Raw(raw(99, 0, 0, 0, 0)),
        Act::Close(-1),
        Act::Dup2(0, -1),
        Act::CloseRange(5, 4, 0),
        Act::Raw(raw(uapi::SPAWN_TEMPLATE_ACTION_OPEN, 0, libc::AT_FDCWD, 6, 1)),
        Act::Raw(raw(uapi::SPAWN_TEMPLATE_ACTION_SIGMASK, 0, 0, 0, 1)),
    ];
    let mut how = open_null();
    how.how.resolve = 1 << 40;
    wrong.push(Act::Raw(raw(uapi::SPAWN_TEMPLATE_ACTION_OPEN, 0, libc::AT_FDCWD, 6, &raw const how as u64)));
    for act in wrong {
        let result = spawn.clone().act(act.clone()).run();
        ensure!(result.is_err(), "{act:?} was accepted");
        ensure!(!fs::exists(&path)?, "the actions before a wrong {act:?} were performed");
    }
    for change in ["argv", "envp"] {
        let result = spawn.run_changed(|args| if change == "argv" { args.argv = 1 } else { args.envp = 1 });
        refused(change, result, libc::EFAULT)?;
        ensure!(!fs::exists(&path)?, "actions were performed although {change} is bad");
    }
    same!(spawn.status()?, Status::Exited(0), "status of the good spawn");
    ensure!(fs::exists(&path)?, "OPEN did not create the file");
    Ok(())
}

fn wrong_one_is_found_anywhere() -> Outcome {
    let template = Template::child("nothing")?;
    for position in [0, 1, 100, 170, 171, 254, 255] {
        let acts = (0..256).map(|i| if i == position { Act::Close(-1) } else { Act::Close(500) });
        refused(&format!("CLOSE -1 as action {position}"), template.spawn().acts(acts).run(), libc::EINVAL)?;
    }
    Ok(())
}

fn fchdir_changes_directory() -> Outcome {
    let folder = Folder::tmp("fchdir")?;
    let template = Template::child("show")?;
    let dir = File::open(folder.path())?;
    let show = template.spawn().act(Act::Fchdir(dir.as_raw_fd())).show()?;
    same!(show.get("cwd"), folder.path(), "working directory");
    same!(show.fd_numbers(), [0, 1, 2], "descriptors");
    let (tmp, path) = (File::open("/tmp")?, os::open(folder.path(), libc::O_PATH)?);
    let acts = [Act::Fchdir(tmp.as_raw_fd()), Act::Fchdir(path.as_raw_fd())];
    same!(template.spawn().acts(acts).show()?.get("cwd"), folder.path(), "the last of two, O_PATH");
    Ok(())
}

fn fchdir_leaves_caller_alone() -> Outcome {
    let before = std::env::current_dir()?;
    let dir = File::open("/usr")?;
    Template::child("nothing")?.spawn().act(Act::Fchdir(dir.as_raw_fd())).status()?;
    same!(std::env::current_dir()?, before, "the caller's working directory");
    Ok(())
}

fn directory_is_inherited() -> Outcome {
    std::env::set_current_dir("/usr/bin")?;
    same!(Template::child("show")?.spawn().show()?.get("cwd"), "/usr/bin", "working directory");
    Ok(())
}

fn open_reads() -> Outcome {
    let folder = Folder::tmp("open-reads")?;
    fs::write(folder.join("in"), "from the file\n")?;
    let template = Template::path("/bin/cat")?;
    let open = Open::new(folder.join("in"), libc::O_RDONLY, 0);
    let (status, output) = template.spawn().open(open).output()?;
    same!(status, Status::Exited(0), "status");
    same!(output, b"from the file\n", "output");
    Ok(())
}

fn open_writes() -> Outcome {
    let folder = Folder::tmp("open-writes")?;
    let path = folder.join("out");
    let template = Template::path("/bin/echo")?;
    let open = Open::new(&path, libc::O_WRONLY | libc::O_CREAT, 1).mode(0o600);
    same!(template.spawn().arg("hello").open(open).status()?, Status::Exited(0), "status");
    same!(fs::read(&path)?, b"hello\n", "the file's content");
    Ok(())
}

fn open_creates_with_umask() -> Outcome {
    let folder = Folder::tmp("open-umask")?;
    let template = Template::child("nothing")?;
    os::umask(0o027);
    for (name, mode, wanted) in [("a", 0o666, 0o640), ("b", 0o777, 0o750), ("c", 0o4711, 0o4710), ("d", 0, 0)] {
        let open = Open::new(folder.join(name), libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, 1).mode(mode);
        template.spawn().open(open).status()?;
        same!(fs::metadata(folder.join(name))?.mode() & 0o7777, wanted, "mode {mode:o} under umask 027");
    }
    Ok(())
}

fn open_appends() -> Outcome {
    let folder = Folder::tmp("open-appends")?;
    let path = folder.join("log");
    let template = Template::path("/bin/echo")?;
    for word in ["one", "two"] {
        let open = Open::new(&path, libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND, 1).mode(0o600);
        template.spawn().arg(word).open(open).status()?;
    }
    same!(fs::read(&path)?, b"one\ntwo\n", "the file's content");
    Ok(())
}

fn open_truncates() -> Outcome {
    let folder = Folder::tmp("open-truncates")?;
    let path = folder.join("file");
    fs::write(&path, "much longer than what comes")?;
    let open = Open::new(&path, libc::O_WRONLY | libc::O_TRUNC, 1);
    Template::path("/bin/echo")?.spawn().arg("short").open(open).status()?;
    same!(fs::read(&path)?, b"short\n", "the file's content");
    Ok(())
}

fn open_at_caller_folder() -> Outcome {
    let folder = Folder::tmp("open-at")?;
    fs::write(folder.join("in"), "relative")?;
    let dir = File::open(folder.path())?;
    let path = os::open(folder.path(), libc::O_PATH)?;
    let template = Template::path("/bin/cat")?;
    for fd in [dir.as_raw_fd(), path.as_raw_fd()] {
        let open = Open::new("in", libc::O_RDONLY, 0).at(fd);
        same!(template.spawn().open(open).output()?.1, b"relative", "output");
    }
    // An absolute path does not look at the folder, but the number must be right all the same.
    let open = Open::new(folder.join("in"), libc::O_RDONLY, 0).at(dir.as_raw_fd());
    same!(template.spawn().open(open).output()?.1, b"relative", "output for an absolute path");
    let show = Template::child("show")?.spawn().open(Open::new("in", libc::O_RDONLY, 9).at(dir.as_raw_fd())).show()?;
    same!(show.fd_numbers(), [0, 1, 2, 9], "descriptors");
    Ok(())
}

/// `/proc/self` is the child's, and so are the descriptors there.
fn open_own_descriptors() -> Outcome {
    let folder = Folder::tmp("open-own")?;
    fs::write(folder.join("in"), "its own")?;
    let file = File::open(folder.join("in"))?;
    let template = Template::path("/bin/cat")?;
    for path in ["/dev/fd/40", "/proc/self/fd/40", "/proc/thread-self/fd/40"] {
        let spawn = template.spawn().act(Act::Dup2(file.as_raw_fd(), 40)).open(Open::new(path, libc::O_RDONLY, 0));
        same!(spawn.output()?.1, b"its own", "output from {path}");
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let spawn = template.spawn().open(Open::new(&path, libc::O_RDONLY, 0));
    refused("a descriptor of the caller that was not placed", spawn.run(), libc::ENOENT)?;
    same!(spawn.inherit_fds().output()?.1, b"its own", "output from an inherited one");
    Ok(())
}

fn open_at_placed_folder() -> Outcome {
    let folder = Folder::tmp("open-placed")?;
    fs::write(folder.join("in"), "placed")?;
    let template = Template::path("/bin/cat")?;
    let acts = [
        Act::Open(Open::new(folder.path(), libc::O_RDONLY | libc::O_DIRECTORY, 40)),
        Act::Open(Open::new("in", libc::O_RDONLY, 0).at(40)),
        Act::Close(40),
    ];
    same!(template.spawn().acts(acts).output()?.1, b"placed", "output");
    let acts = [
        Act::Open(Open::new(folder.path(), libc::O_PATH, 40)),
        Act::Fchdir(40),
        Act::Open(Open::new("in", libc::O_RDONLY, 0)),
    ];
    same!(template.spawn().acts(acts).output()?.1, b"placed", "output after FCHDIR to it");
    Ok(())
}

fn open_after_fchdir() -> Outcome {
    let folder = Folder::tmp("open-fchdir")?;
    fs::write(folder.join("in"), "after fchdir")?;
    let dir = File::open(folder.path())?;
    let template = Template::path("/bin/cat")?;
    let open = Act::Open(Open::new("in", libc::O_RDONLY, 0));
    let spawn = template.spawn().act(Act::Fchdir(dir.as_raw_fd())).act(open.clone());
    same!(spawn.output()?.1, b"after fchdir", "output");
    let spawn = template.spawn().act(open).act(Act::Fchdir(dir.as_raw_fd()));
    refused("OPEN before FCHDIR", spawn.run(), libc::ENOENT)?;
    Ok(())
}

fn open_folder() -> Outcome {
    let open = Open::new("/usr", libc::O_RDONLY | libc::O_DIRECTORY, 7);
    let show = Template::child("show")?.spawn().open(open).show()?;
    same!(show.fds().get(&7).map(String::as_str), Some("/usr"), "descriptor 7");
    Ok(())
}

fn open_o_path() -> Outcome {
    let show = Template::child("show")?.spawn().open(Open::new("/etc/passwd", libc::O_PATH, 7)).show()?;
    same!(show.fds().get(&7).map(String::as_str), Some("/etc/passwd"), "descriptor 7");
    Ok(())
}

fn open_resolve_flags() -> Outcome {
    let folder = Folder::tmp("resolve")?;
    fs::create_dir(folder.join("root"))?;
    fs::write(folder.join("root/file"), "inside")?;
    fs::write(folder.join("file"), "outside")?;
    symlink("file", folder.join("root/link"))?;
    symlink("/file", folder.join("root/absolute"))?;
    let root = File::open(folder.join("root"))?;
    let slash = File::open("/")?;
    let template = Template::path("/bin/cat")?;
    let open = |at: &File, path: &str, resolve| {
        template.spawn().open(Open::new(path, libc::O_RDONLY, 0).at(at.as_raw_fd()).resolve(resolve))
    };
    let mut checks = Checks::default();
    let (beneath, in_root) = (libc::RESOLVE_BENEATH, libc::RESOLVE_IN_ROOT);
    let (no_links, no_xdev) = (libc::RESOLVE_NO_SYMLINKS, libc::RESOLVE_NO_XDEV);
    checks.refused("BENEATH ..", open(&root, "../file", beneath).run(), &[libc::EXDEV]);
    checks.refused("BENEATH absolute link", open(&root, "absolute", beneath).run(), &[libc::EXDEV]);
    checks.refused("NO_SYMLINKS", open(&root, "link", no_links).run(), &[libc::ELOOP]);
    checks.refused("NO_XDEV", open(&slash, "proc/version", no_xdev).run(), &[libc::EXDEV]);
    checks.refused("NO_MAGICLINKS", open(&slash, "proc/self/root", libc::RESOLVE_NO_MAGICLINKS).run(), &[libc::ELOOP]);
    checks.finish()?;
    for (path, resolve) in
        [("file", beneath), ("link", beneath), ("absolute", in_root), ("../file", in_root), ("/file", in_root)]
    {
        let (status, output) = open(&root, path, resolve).output()?;
        same!((status, output.as_slice()), (Status::Exited(0), &b"inside"[..]), "{path} with {resolve}");
    }
    same!(open(&root, "../file", 0).output()?.1, b"outside", "without resolve flags");
    Ok(())
}

fn open_cloexec() -> Outcome {
    let template = Template::child("show")?;
    let open = |flags, newfd| Open::new("/dev/null", flags, newfd);
    let spawn = template.spawn().open(open(libc::O_RDONLY | libc::O_CLOEXEC, 5)).open(open(libc::O_RDONLY, 6));
    same!(spawn.show()?.fd_numbers(), [0, 1, 2, 6], "descriptors");
    same!(spawn.inherit_fds().show()?.fd_numbers(), [0, 1, 2, 6], "descriptors, inheriting");
    Ok(())
}

/// A duplicate refers to the caller's open file, offset and all.
fn dup2_shares_offset() -> Outcome {
    let folder = Folder::tmp("offset")?;
    let mut file = File::create_new(folder.join("out"))?;
    let template = Template::path("/bin/echo")?;
    for (word, offset) in [("one", 4), ("three", 10)] {
        template.spawn().arg(word).act(Act::Dup2(file.as_raw_fd(), 1)).status()?;
        same!(file.stream_position()?, offset, "the caller's offset");
    }
    same!(fs::read(folder.join("out"))?, b"one\nthree\n", "the file's content");
    Ok(())
}

/// As openat2() from a 64-bit program: big files open without O_LARGEFILE.
fn open_is_not_large_file_limited() -> Outcome {
    let folder = Folder::tmp("large")?;
    let path = folder.join("large");
    File::create_new(&path)?.set_len(5 << 30)?;
    let template = Template::child("nothing")?;
    same!(template.spawn().open(Open::new(&path, libc::O_RDONLY, 0)).status()?, Status::Exited(0), "status");
    Ok(())
}

/// The child may open and enter no more than the caller.
fn steps_use_childs_rights() -> Outcome {
    let folder = Folder::tmp("rights")?;
    fs::write(folder.join("secret"), "secret")?;
    set_mode(folder.join("secret"), 0o600)?;
    fs::create_dir(folder.join("closed"))?;
    set_mode(folder.join("closed"), 0o700)?;
    set_mode(folder.path(), 0o755)?;
    let (secret, closed) = (folder.join("secret"), folder.join("closed"));
    in_worker(|| {
        os::become_user(12345)?;
        let template = Template::child("nothing")?;
        let closed = os::open(&closed, libc::O_PATH)?;
        let mut checks = Checks::default();
        let open = |path: &str, flags| template.spawn().open(Open::new(path, flags, 5).mode(0)).run();
        checks.refused("reading", open(&secret, libc::O_RDONLY), &[libc::EACCES]);
        checks.refused("writing", open("/etc/passwd", libc::O_WRONLY), &[libc::EACCES]);
        let create = Open::new("/etc/new", libc::O_WRONLY | libc::O_CREAT, 5).mode(0o600);
        checks.refused("creating", template.spawn().open(create).run(), &[libc::EACCES]);
        let enter = template.spawn().act(Act::Fchdir(closed.as_raw_fd())).run();
        checks.refused("entering", enter, &[libc::EACCES]);
        checks.finish()
    })
}
