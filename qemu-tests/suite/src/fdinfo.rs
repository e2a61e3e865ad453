//! The template's descriptor as a file: what `/proc/PID/fdinfo` says about it, and what else can be done with it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use crate::harness::{Checks, Outcome, in_worker, refused};
use crate::image::Image;
use crate::os::{self, Pages, Status};
use crate::template::{Act, Folder, Info, Template, child};
use crate::{ensure, same, tests};

tests!("fdinfo":
    keys, identity_of_file, interpreter_and_headers, counts, counts_of_templates_are_separate, path_as_given_file,
    path_of_fd_template, unusual_paths, read_by_another_process, read_while_spawning, deleted_file, link_target,
    file_operations, duplicates_share_counts, memory, program_that_may_not_be_read, program_that_may_be_read,
);

fn keys() -> Outcome {
    let info = Template::child("nothing")?.info()?;
    let keys = ["pos", "flags", "mnt_id", "ino", "path", "dev", "inode", "size", "interpreter", "program-headers"];
    for key in keys.into_iter().chain(["memory", "startup-pages"]) {
        ensure!(!info.get(key)?.is_empty(), "\"{key}\" is empty");
    }
    same!((info.number("spawns")?, info.number("failures")?), (0, 0), "spawns and failures of a new template");
    Ok(())
}

fn identity_of_file() -> Outcome {
    for parent in ["/tmp", "/var/tmp"] {
        let folder = Folder::new(parent, "fdinfo")?;
        let path = folder.copy("show")?;
        let (info, meta) = (Template::path(&path)?.info()?, fs::metadata(&path)?);
        let dev = format!("{}:{}", libc::major(meta.dev()), libc::minor(meta.dev()));
        same!(info.get("path")?, path, "path");
        same!(info.get("dev")?, dev, "dev");
        same!(info.number("inode")?, meta.ino(), "inode");
        same!(info.number("size")?, meta.size(), "size");
    }
    Ok(())
}

fn interpreter_and_headers() -> Outcome {
    for (name, interpreter) in
        [("nothing", "-"), ("static0", "-"), ("static-pie", "-"), ("dynamic0", "/lib64/ld-linux-x86-64.so.2")]
    {
        let info = Template::child(name)?.info()?;
        same!(info.get("interpreter")?, interpreter, "interpreter of {name}");
        let bytes = fs::read(child(name))?;
        same!(info.number("program-headers")?, u64::from(bytes[56]), "program headers of {name}");
    }
    Ok(())
}

fn counts() -> Outcome {
    let template = Template::child("exit-code")?;
    for round in 1..=5 {
        // A program that fails is a spawn that succeeded.
        template.spawn().arg("1").status()?;
        same!(template.counts()?, (round, round - 1), "spawns and failures");
        refused("a failing action", template.spawn().act(Act::Fchdir(0)).run(), libc::ENOTDIR)?;
        same!(template.counts()?, (round, round), "spawns and failures");
    }
    Ok(())
}

fn counts_of_templates_are_separate() -> Outcome {
    let (first, second) = (Template::child("nothing")?, Template::child("nothing")?);
    first.status()?;
    same!((first.counts()?, second.counts()?), ((1, 0), (0, 0)), "spawns and failures of both");
    Ok(())
}

fn path_as_given_file() -> Outcome {
    let folder = Folder::tmp("fdinfo-link")?;
    std::os::unix::fs::symlink(child("nothing"), folder.join("link"))?;
    let template = Template::path(folder.join("link"))?;
    let info = template.info()?;
    let (given, resolved) = (folder.join("link"), child("nothing"));
    let path = info.get("path")?;
    ensure!(path == given || path == resolved, "path of a symlink template: {path}");
    same!(info.number("inode")?, fs::metadata(resolved)?.ino(), "inode");
    Ok(())
}

fn path_of_fd_template() -> Outcome {
    let template = Template::of_fd(&File::open(child("nothing"))?)?;
    same!(template.info()?.get("path")?, child("nothing"), "path");
    Ok(())
}

/// Nobody can forge lines with a newline in a file's name.
fn unusual_paths() -> Outcome {
    let folder = Folder::tmp("fdinfo-names")?;
    for name in ["with space", "tab\there", "new\nline", "new\nspawns:\t99\nx", "back\\slash", "\u{e4}\u{20ac}"] {
        let path = folder.join(name);
        fs::copy(child("nothing"), &path)?;
        crate::template::set_mode(&path, 0o755)?;
        let template = Template::path(&path)?;
        template.status()?;
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", template.raw()))?;
        let lines = text.lines().filter(|line| line.starts_with("spawns:")).collect::<Vec<_>>();
        same!(lines, ["spawns:\t1"], "lines that count spawns of {name:?}");
    }
    let path = folder.join("interpreter");
    fs::write(&path, Image::with_interpreter(b"/new\nspawns:\t99").bytes())?;
    crate::template::set_mode(&path, 0o755)?;
    let template = Template::path(&path)?;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", template.raw()))?;
    let lines = text.lines().filter(|line| line.starts_with("spawns:")).collect::<Vec<_>>();
    same!(lines, ["spawns:\t0"], "lines that count spawns of a program with an odd interpreter");
    Ok(())
}

fn read_by_another_process() -> Outcome {
    let template = Template::child("nothing")?;
    template.status()?;
    let path = format!("/proc/{}/fdinfo/{}", std::process::id(), template.raw());
    in_worker(|| {
        same!(Info::read(&path)?.number("spawns")?, 1, "spawns, read by a child");
        template.status()?;
        same!(Info::read(&path)?.number("spawns")?, 2, "spawns after one by the child");
        Ok(())
    })?;
    same!(template.counts()?, (2, 0), "spawns and failures");
    Ok(())
}

fn read_while_spawning() -> Outcome {
    let template = Template::child("nothing")?;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| -> Outcome {
            let mut last = 0;
            while last < 50 {
                let now = template.counts()?.0;
                ensure!(now >= last, "the count fell from {last} to {now}");
                last = now;
            }
            Ok(())
        });
        let mut result = Ok(());
        for _ in 0..50 {
            if let Err(e) = template.status() {
                result = Err(e.into());
            }
        }
        reader.join().map_err(|_| crate::harness::failed("the reader panicked"))??;
        result
    })
}

fn deleted_file() -> Outcome {
    let folder = Folder::tmp("fdinfo-deleted")?;
    let path = folder.copy("nothing")?;
    let template = Template::path(&path)?;
    let inode = fs::metadata(&path)?.ino();
    fs::remove_file(&path)?;
    let info = template.info()?;
    ensure!(info.get("path")?.starts_with(&path), "path of a deleted file: {}", info.get("path")?);
    same!(info.number("inode")?, inode, "inode");
    Ok(())
}

fn link_target() -> Outcome {
    let template = Template::child("nothing")?;
    let target = fs::read_link(format!("/proc/self/fd/{}", template.raw()))?;
    let target = target.to_string_lossy();
    ensure!(target.starts_with("anon_inode:") && target.contains("spawn_template"), "the link says \"{target}\"");
    Ok(())
}

/// A template can be duplicated, closed and looked at, but not read, written, mapped or executed.
fn file_operations() -> Outcome {
    let template = Template::child("nothing")?;
    let mut pages = Pages::new(1)?;
    let fd = template.raw();
    let mut checks = Checks::default();
    let mut fails = |what: &str, result: i64| {
        let result = if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        checks.refused(
            what,
            result,
            &[
                libc::ENOTDIR,
                libc::EINVAL,
                libc::EBADF,
                libc::ENODEV,
                libc::ENOTTY,
                libc::EACCES,
                libc::ESPIPE,
                libc::EPERM,
            ],
        );
    };
    let buffer = pages.bytes().as_mut_ptr();
    // SAFETY: the buffer is a page of ours.
    fails("read", unsafe { libc::read(fd, buffer.cast(), 16) } as i64);
    // SAFETY: as above.
    fails("write", unsafe { libc::write(fd, buffer.cast(), 16) } as i64);
    // SAFETY: as above.
    fails("pread", unsafe { libc::pread(fd, buffer.cast(), 16, 0) } as i64);
    // SAFETY: ftruncate() takes numbers.
    fails("ftruncate", i64::from(unsafe { libc::ftruncate(fd, 0) }));
    // SAFETY: an unknown request with a number.
    fails("ioctl", i64::from(unsafe { libc::ioctl(fd, 0xdead_beef, 1) }));
    // SAFETY: the kernel picks the address of the mapping, if it makes one.
    fails("mmap", unsafe { libc::mmap(std::ptr::null_mut(), 4096, 1, libc::MAP_PRIVATE, fd, 0) } as i64);
    // SAFETY: getdents64() writes into our page.
    fails("getdents", unsafe { libc::syscall(libc::SYS_getdents64, fd, buffer, 64) });
    checks.refused("execveat", Err::<(), _>(os::fexecve(fd, &[c"x".into()], &[])), &[libc::EACCES]);
    checks.finish()?;
    same!(template.status()?, Status::Exited(0), "status afterwards");
    Ok(())
}

fn duplicates_share_counts() -> Outcome {
    let template = Template::child("nothing")?;
    let copy = Template { fd: os::dup_from(template.raw(), 50, true)? };
    copy.status()?;
    template.status()?;
    same!((template.counts()?, copy.counts()?), ((2, 0), (2, 0)), "spawns and failures of both");
    drop(template);
    same!(copy.status()?, Status::Exited(0), "status after the other is closed");
    same!(copy.fd.as_raw_fd(), 50, "number of the duplicate");
    Ok(())
}

/// A template takes what it says, and little: most of it for what it may learn.
fn memory() -> Outcome {
    for name in ["nothing", "dynamic0"] {
        let (learning, other) = (Template::child(name)?, Template::not_learning(name)?);
        let (with, without) = (learning.info()?.number("memory")?, other.info()?.number("memory")?);
        ensure!(with < 16 << 10, "{name}: {with} bytes");
        ensure!((300..with / 2).contains(&without), "{name}: {without} bytes without learning, {with} with");
    }
    Ok(())
}

/// What fdinfo says of a program with this mode to a user who has made the template of it.
fn said_to_a_user(mode: u32) -> Outcome {
    let folder = Folder::tmp("fdinfo-unreadable")?;
    let path = folder.copy("dynamic0")?;
    crate::template::set_mode(&path, mode)?;
    let readable = mode & 0o004 != 0;
    in_worker(|| {
        os::become_user(12345)?;
        same!(File::open(&path).is_ok(), readable, "whether the program can be read, mode {mode:o}");
        let template = Template::path(&path)?;
        for _ in 0..2 {
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", template.raw()))?;
            let shown = |key: &str| {
                let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
                value.is_some_and(|value| value != "-" && value != "0")
            };
            same!(shown("interpreter"), readable, "whether the interpreter is shown, mode {mode:o}: {text}");
            same!(shown("program-headers"), readable, "whether the headers are counted, mode {mode:o}: {text}");
            ensure!(text.contains("ld-linux") == readable, "the interpreter's name, mode {mode:o}: {text}");
            same!(template.status()?, Status::Exited(0), "status");
        }
        Ok(())
    })
}

/// What is in a program is nobody's who may only execute it.
fn program_that_may_not_be_read() -> Outcome {
    said_to_a_user(0o711)?;
    said_to_a_user(0o4711)
}

fn program_that_may_be_read() -> Outcome {
    said_to_a_user(0o755)
}
