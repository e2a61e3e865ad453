//! What the actions on files and directories do.

use std::fs::{self, File};
use std::io::Seek;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};

use crate::harness::{Checks, Outcome, in_worker, refused};
use crate::os::{self, Status};
use crate::template::{Act, Folder, Open, Template, set_mode};
use crate::{same, tests};

tests!("actions":
    fchdir_changes_directory, fchdir_leaves_caller_alone,
    directory_is_inherited, open_reads, open_writes, open_creates_with_umask, open_appends, open_truncates,
    open_at_caller_folder, open_own_descriptors, open_at_placed_folder, open_after_fchdir, open_folder, open_o_path, open_resolve_flags,
    open_empty_path, open_cloexec, dup2_shares_offset, open_is_not_large_file_limited, steps_use_childs_rights,
);

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

/// `openat2(fd, "", ...)` by itself, and what it opens.
fn open_again(fd: i32, flags: u64) -> std::io::Result<(u64, u64)> {
    let how = [flags, 0, 0];
    // SAFETY: the path is a C string, and the structure is 24 bytes long.
    let fd = unsafe { libc::syscall(libc::SYS_openat2, fd, c"".as_ptr(), how.as_ptr(), 24) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    let meta = fs::metadata(format!("/proc/self/fd/{fd}"));
    os::close(fd as i32)?;
    meta.map(|meta| (meta.dev(), meta.ino()))
}

/// With O_EMPTYPATH, an empty path is what the descriptor is, as openat2() has it; without, it is an error.
fn open_empty_path() -> Outcome {
    /// `O_EMPTYPATH`.
    const EMPTY_PATH: i32 = 1 << 26;
    let (folder, file) = (os::open("/tmp", libc::O_PATH)?, os::open("/bin/true", libc::O_PATH)?);
    let template = Template::path("/usr/bin/stat")?;
    let mut checks = Checks::default();
    let mut opened = 0;
    for fd in [libc::AT_FDCWD, folder.as_raw_fd(), file.as_raw_fd(), 0, 99] {
        for flags in [0, EMPTY_PATH, EMPTY_PATH | libc::O_DIRECTORY, EMPTY_PATH | libc::O_PATH] {
            let wanted = open_again(fd, flags as u64).map_err(|e| e.raw_os_error());
            let open = Act::Open(Open::new("", flags, 9).at(fd));
            let argv = ["stat", "-L", "-c", "%d %i", "/proc/self/fd/9"];
            let got = template.spawn().argv(argv).act(open).output();
            let got = got.map(|(_, output)| String::from_utf8_lossy(&output).trim().to_owned());
            let got = got.map_err(|e| e.raw_os_error());
            opened += usize::from(wanted.is_ok());
            let wanted = wanted.map(|(dev, ino)| format!("{dev} {ino}"));
            if got != wanted {
                checks.fail(format!("fd {fd}, flags {flags:#x}: {got:?}, not {wanted:?}"));
            }
        }
    }
    same!(opened, 10, "combinations that openat2() opens");
    checks.finish()
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
