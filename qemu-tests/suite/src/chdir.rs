//! CHDIR: the working directory by path, and what is relative to it afterwards.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;

use crate::failing::{Failing, Failure};
use crate::harness::{Outcome, in_worker};
use crate::os::{self, Status};
use crate::template::{Act, Folder, Open, Template, set_mode};
use crate::{same, tests};

tests!("chdir":
    absolute, relative, one_after_another, through_symlinks, longest_path, caller_stays, later_opens_are_relative_to_it,
    earlier_opens_are_not, with_fchdir, errors, search_permission, removed_directory, own_directory_in_proc, empty_address_space,
);

/// The working directory after these actions, inheriting or not.
fn directory(acts: &[Act], inherit: bool) -> Outcome<String> {
    let template = Template::child("show")?;
    Ok(template.spawn().acts(acts.iter().cloned()).inherit(inherit).show()?.get("cwd").to_owned())
}

fn absolute() -> Outcome {
    for path in ["/", "/usr", "/usr/bin/", "/tmp/../usr/./lib"] {
        let wanted = fs::canonicalize(path)?;
        for inherit in [false, true] {
            same!(directory(&[Act::chdir(path)], inherit)?, wanted.to_string_lossy(), "directory after {path}");
        }
    }
    Ok(())
}

fn relative() -> Outcome {
    std::env::set_current_dir("/usr")?;
    for (path, wanted) in [("bin", "/usr/bin"), (".", "/usr"), ("..", "/"), ("../etc", "/etc")] {
        same!(directory(&[Act::chdir(path)], false)?, wanted, "directory after {path}");
    }
    Ok(())
}

fn one_after_another() -> Outcome {
    let acts = ["/usr", "share", "../bin", "."].map(Act::chdir);
    same!(directory(&acts, false)?, "/usr/bin", "directory");
    same!(directory(&["/usr", "/etc"].map(Act::chdir), true)?, "/etc", "directory");
    Ok(())
}

fn through_symlinks() -> Outcome {
    let folder = Folder::tmp("chdir-link")?;
    fs::create_dir(folder.join("real"))?;
    symlink("real", folder.join("link"))?;
    symlink("link", folder.join("second"))?;
    same!(directory(&[Act::chdir(folder.join("second"))], false)?, folder.join("real"), "directory");
    Ok(())
}

fn longest_path() -> Outcome {
    same!(directory(&[Act::chdir(format!("{}usr", "/".repeat(4092)))], false)?, "/usr", "directory");
    Ok(())
}

fn caller_stays() -> Outcome {
    let before = std::env::current_dir()?;
    let template = Template::child("nothing")?;
    template.spawn().act(Act::chdir("/usr")).status()?;
    template.spawn().acts([Act::chdir("/usr"), Act::Dup2(900, 1)]).run().err();
    same!(std::env::current_dir()?, before, "the caller's working directory");
    Ok(())
}

fn later_opens_are_relative_to_it() -> Outcome {
    let folder = Folder::tmp("chdir-open")?;
    fs::write(folder.join("in"), "from there")?;
    let template = Template::path("/bin/cat")?;
    let open = Act::Open(Open::new("in", libc::O_RDONLY, 0));
    for inherit in [false, true] {
        let spawn = template.spawn().acts([Act::chdir(folder.path()), open.clone()]).inherit(inherit);
        same!(spawn.output()?.1, b"from there", "output");
    }
    Ok(())
}

fn earlier_opens_are_not() -> Outcome {
    let folder = Folder::tmp("chdir-earlier")?;
    fs::write(folder.join("in"), "")?;
    let template = Template::child("nothing")?;
    let acts = [Act::Open(Open::new("in", libc::O_RDONLY, 0)), Act::chdir(folder.path())];
    let mut failing = Failing::new()?;
    failing.both("OPEN before CHDIR", &template.spawn().acts(acts), Failure::action(0, libc::ENOENT));
    failing.finish()
}

fn with_fchdir() -> Outcome {
    let usr = File::open("/usr")?;
    let fd = usr.as_raw_fd();
    for inherit in [false, true] {
        same!(directory(&[Act::Fchdir(fd), Act::chdir("bin")], inherit)?, "/usr/bin", "CHDIR after FCHDIR");
        same!(directory(&[Act::chdir("/etc"), Act::Fchdir(fd)], inherit)?, "/usr", "FCHDIR after CHDIR");
    }
    Ok(())
}

fn errors() -> Outcome {
    let folder = Folder::tmp("chdir-errors")?;
    fs::write(folder.join("file"), "")?;
    symlink("loop", folder.join("loop"))?;
    symlink("nowhere", folder.join("dangling"))?;
    os::mkfifo(folder.join("fifo"))?;
    let long = "x".repeat(256);
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    for (name, error) in [
        ("missing", libc::ENOENT),
        ("missing/below", libc::ENOENT),
        ("dangling", libc::ENOENT),
        ("file", libc::ENOTDIR),
        ("file/", libc::ENOTDIR),
        ("file/below", libc::ENOTDIR),
        ("fifo", libc::ENOTDIR),
        ("loop", libc::ELOOP),
        (&long, libc::ENAMETOOLONG),
    ] {
        let acts = [Act::Close(500), Act::chdir(folder.join(name)), Act::Close(501)];
        failing.both(name, &template.spawn().acts(acts), Failure::action(1, error));
    }
    failing.finish()
}

/// As chdir(2): the right to search, to the folder and all before it; the right to read is not needed.
fn search_permission() -> Outcome {
    let folder = Folder::tmp("chdir-search")?;
    set_mode(folder.path(), 0o755)?;
    for (name, mode) in [("closed", 0o766), ("search", 0o711), ("before", 0o700)] {
        fs::create_dir(folder.join(name))?;
        set_mode(folder.join(name), mode)?;
    }
    fs::create_dir(folder.join("before/open"))?;
    in_worker(|| {
        os::become_user(12345)?;
        let template = Template::child("nothing")?;
        let mut failing = Failing::new()?;
        for name in ["closed", "before", "before/open"] {
            let spawn = template.spawn().act(Act::chdir(folder.join(name)));
            failing.both(name, &spawn, Failure::action(0, libc::EACCES));
        }
        failing.finish()?;
        let spawn = template.spawn().act(Act::chdir(folder.join("search")));
        same!(spawn.status()?, Status::Exited(0), "status in a folder that may only be searched");
        Ok(())
    })
}

fn removed_directory() -> Outcome {
    let folder = Folder::tmp("chdir-removed")?;
    fs::create_dir(folder.join("gone"))?;
    std::env::set_current_dir(folder.join("gone"))?;
    fs::remove_dir(folder.join("gone"))?;
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    failing.both("its parent", &template.spawn().act(Act::chdir("sub")), Failure::action(0, libc::ENOENT));
    failing.finish()?;
    same!(template.status()?, Status::Exited(0), "status in a removed directory");
    same!(directory(&[Act::chdir("/usr")], false)?, "/usr", "directory");
    std::env::set_current_dir("/")?;
    Ok(())
}

/// `/proc/self` is the child's.
fn own_directory_in_proc() -> Outcome {
    for inherit in [false, true] {
        same!(directory(&[Act::chdir("/usr"), Act::chdir("/proc/self/cwd")], inherit)?, "/usr", "directory");
        same!(directory(&[Act::chdir("/proc/self/root")], inherit)?, "/", "directory");
    }
    Ok(())
}

/// Before exec the child's program is the caller's, as after fork, and nothing is mapped.
fn empty_address_space() -> Outcome {
    let template = Template::child("show")?;
    let own = fs::read_link("/proc/self/exe")?;
    for inherit in [false, true] {
        let exe = template.spawn().open(Open::new("/proc/self/exe", libc::O_RDONLY, 5)).inherit(inherit);
        let fds = exe.show()?.fds();
        same!(fds.get(&5).map(String::as_str), own.to_str(), "the file that /proc/self/exe led to");
    }
    let mut failing = Failing::new()?;
    let folder = template.spawn().act(Act::chdir("/proc/self/exe"));
    failing.both("CHDIR to /proc/self/exe", &folder, Failure::action(0, libc::ENOTDIR));
    failing.finish()
}
