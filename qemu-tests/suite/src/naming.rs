//! How the executable of a template is named: as execveat(2) takes it, and by a descriptor alone.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};

use crate::harness::{Checks, Outcome, refused};
use crate::os::{self, Status};
use crate::template::{CreateArgs, Folder, Template, child, create, create_by_path, show_by_exec};
use crate::{ensure, same, tests};

tests!("naming":
    like_execveat [120], without_a_path, unknown_exec_flags, symlink_that_comes_later, relative_path_is_kept_open,
    relative_path_to_another_file, name_in_the_child, names_of_relative_paths, handler_of_binfmt_misc,
);

const EMPTY: i32 = libc::AT_EMPTY_PATH;
const NOFOLLOW: i32 = libc::AT_SYMLINK_NOFOLLOW;

/// How a program ends that is executed by this name, or why it is not.
fn execveat(fd: i32, path: &CStr, flags: i32) -> io::Result<Status> {
    // Above all that the program returns.
    const FAILED: i32 = 100;
    let (argv, envp) = ([c"child".as_ptr(), c"7".as_ptr(), std::ptr::null()], [std::ptr::null::<u8>()]);
    let pid = os::fork()?;
    if pid == 0 {
        // SAFETY: path and vectors are C strings and arrays that end with a null pointer, and outlive the call.
        unsafe { libc::syscall(libc::SYS_execveat, fd, path.as_ptr(), argv.as_ptr(), envp.as_ptr(), flags) };
        os::exit_now(FAILED + io::Error::last_os_error().raw_os_error().unwrap_or(0));
    }
    match os::waitpid(pid, 0)? {
        (_, Status::Exited(code)) if code > FAILED => Err(io::Error::from_raw_os_error(code - FAILED)),
        (_, status) => Ok(status),
    }
}

/// A template of what these three name, without any other flag.
fn template(fd: i32, path: Option<&CStr>, flags: i32) -> io::Result<Template> {
    let filename = path.map_or(0, |path| path.as_ptr() as u64);
    create(&CreateArgs { execfd: fd, filename, exec_flags: flags as u32, ..Default::default() })
}

/// Each kind of descriptor with each kind of path and each flag; execveat() says what is right.
fn like_execveat() -> Outcome {
    let folder = Folder::tmp("naming")?;
    let program = folder.copy("exit-code")?;
    symlink("exit-code", folder.join("link"))?;
    symlink(".", folder.join("self"))?;
    std::env::set_current_dir("/payload/children")?;
    let (directory, file) = (File::open(folder.path())?, File::open(&program)?);
    let handle = os::open(&program, libc::O_PATH)?;
    let link = os::open(folder.join("link"), libc::O_PATH | libc::O_NOFOLLOW)?;
    let descriptors = [
        ("-1", -1),
        ("-2", -2),
        ("AT_FDCWD", libc::AT_FDCWD),
        ("a directory", directory.as_raw_fd()),
        ("a file", file.as_raw_fd()),
        ("an O_PATH file", handle.as_raw_fd()),
        ("an O_PATH link", link.as_raw_fd()),
        ("one not open", 900),
    ];
    let mut paths: Vec<String> =
        ["", "exit-code", "./exit-code", "link", "self/link", "missing", "exit-code/", ".", " /"]
            .map(String::from)
            .into();
    paths.extend(["exit-code", "link", "missing", "", "../naming"].map(|name| folder.join(name)));
    let (mut checks, mut started, mut not) = (Checks::default(), 0, 0);
    for (what, fd) in descriptors {
        for path in &paths {
            let path = os::c_path(path);
            for flags in [0, EMPTY, NOFOLLOW, EMPTY | NOFOLLOW] {
                let what = format!("{path:?} from {what}, flags {flags:#x}");
                let spawned = template(fd, Some(&path), flags).and_then(|t| t.spawn().arg("7").status());
                match execveat(fd, &path, flags) {
                    Ok(status) => {
                        same!(status, Status::Exited(7), "execveat() of {what}");
                        started += 1;
                        checks.accepted(&what, spawned.map(|status| assert_eq!(status, Status::Exited(7))));
                    }
                    Err(error) => {
                        not += 1;
                        checks.refused(&what, spawned, &[error.raw_os_error().unwrap_or(0)]);
                    }
                }
            }
        }
    }
    checks.finish()?;
    ensure!(started > 50 && not > 200, "{started} were executed, {not} were not");
    Ok(())
}

/// A null pointer is no path: the descriptor is meant, if there is one.
fn without_a_path() -> Outcome {
    let (directory, file) = (File::open("/payload/children")?, File::open(child("exit-code"))?);
    let mut checks = Checks::default();
    let mut wanted = |what: &str, fd, flags, error| checks.refused(what, template(fd, None, flags), &[error]);
    wanted("-1", -1, 0, libc::EINVAL);
    wanted("-1 with AT_EMPTY_PATH", -1, EMPTY, libc::EBADF);
    wanted("AT_FDCWD", libc::AT_FDCWD, 0, libc::EINVAL);
    wanted("AT_FDCWD with AT_EMPTY_PATH", libc::AT_FDCWD, EMPTY, libc::EACCES);
    wanted("a directory", directory.as_raw_fd(), 0, libc::EACCES);
    wanted("a directory with AT_EMPTY_PATH", directory.as_raw_fd(), EMPTY, libc::EACCES);
    wanted("one not open", 900, 0, libc::EBADF);
    for flags in [0, EMPTY, NOFOLLOW, EMPTY | NOFOLLOW] {
        let spawned = template(file.as_raw_fd(), None, flags)?.spawn().arg("7").status()?;
        same!(spawned, Status::Exited(7), "status with flags {flags:#x}");
    }
    checks.finish()
}

fn unknown_exec_flags() -> Outcome {
    let path = os::c_path(child("nothing"));
    let mut checks = Checks::default();
    for flag in (0..32).map(|bit| 1 << bit).filter(|flag| ![EMPTY as u32, NOFOLLOW as u32].contains(flag)) {
        let result = create(&CreateArgs { exec_flags: flag, ..create_by_path(&path) });
        checks.refused(format!("{flag:#x}"), result, &[libc::EINVAL]);
    }
    checks.finish()
}

/// AT_SYMLINK_NOFOLLOW holds for each spawn, which looks the path up again.
fn symlink_that_comes_later() -> Outcome {
    let folder = Folder::tmp("later")?;
    let (first, second) = (folder.join("first"), folder.join("second"));
    fs::create_dir(&first)?;
    fs::rename(folder.copy("exit-code")?, format!("{first}/program"))?;
    let path = os::c_path(format!("{first}/program"));
    let (follows, does_not) = (template(-1, Some(&path), 0)?, template(-1, Some(&path), NOFOLLOW)?);
    for template in [&follows, &does_not] {
        same!(template.spawn().arg("7").status()?, Status::Exited(7), "status before");
    }
    // The file itself stays as it is.
    fs::rename(&first, &second)?;
    fs::create_dir(&first)?;
    symlink(format!("{second}/program"), format!("{first}/program"))?;
    same!(follows.spawn().arg("7").status()?, Status::Exited(7), "status through the link");
    refused("through the link", does_not.spawn().arg("7").status(), libc::ESTALE)?;
    refused("a new one", template(-1, Some(&path), NOFOLLOW), libc::ELOOP)
}

/// What a relative path leads to is kept open: neither the working directory nor the name matters later.
fn relative_path_is_kept_open() -> Outcome {
    let folder = Folder::tmp("relative")?;
    fs::create_dir(folder.join("inner"))?;
    fs::rename(folder.copy("exit-code")?, folder.join("inner/exit-code"))?;
    std::env::set_current_dir(folder.join("inner"))?;
    let inner = File::open(".")?;
    let templates = [
        template(libc::AT_FDCWD, Some(c"exit-code"), 0)?,
        template(inner.as_raw_fd(), Some(c"exit-code"), 0)?,
        template(inner.as_raw_fd(), Some(c"../inner/exit-code"), NOFOLLOW)?,
    ];
    std::env::set_current_dir("/")?;
    drop(inner);
    for (index, template) in templates.iter().enumerate() {
        same!(template.spawn().arg("7").status()?, Status::Exited(7), "status of template {index}");
    }
    // A directory's name is none of the file's business.
    fs::rename(folder.join("inner"), folder.join("renamed"))?;
    for (index, template) in templates.iter().enumerate() {
        same!(template.spawn().arg("8").status()?, Status::Exited(8), "status of template {index}, moved");
    }
    Ok(())
}

/// A file that takes the place of the old one takes its name away, which changes it.
fn relative_path_to_another_file() -> Outcome {
    let folder = Folder::tmp("replaced")?;
    let program = folder.copy("exit-code")?;
    let other = folder.copy("nothing")?;
    let directory = File::open(folder.path())?;
    let template = template(directory.as_raw_fd(), Some(c"exit-code"), 0)?;
    same!(template.spawn().arg("7").status()?, Status::Exited(7), "status");
    fs::rename(other, program)?;
    refused("after the replacement", template.spawn().arg("7").status(), libc::ESTALE)
}

/// AT_EXECFN opens the program in the child, if the path was absolute or there was none.
fn name_in_the_child() -> Outcome {
    let file = File::open(child("show"))?;
    let inode = file.metadata()?.ino().to_string();
    let templates = [("path", Template::child("show")?), ("descriptor", Template::of_fd(&file)?)];
    drop(file);
    for (what, template) in templates {
        let show = template.spawn().show()?;
        same!(show.get("execfn.inode"), inode, "inode of AT_EXECFN {:?}, by {what}", show.get("execfn"));
        same!(show.get("comm"), "show", "comm, by {what}");
    }
    Ok(())
}

/// A program with many names is told which one was meant, as by execveat().
fn names_of_relative_paths() -> Outcome {
    let folder = Folder::tmp("applets")?;
    folder.copy("show")?;
    for name in ["applet", "gr\u{fc}n", "tab\tline\nDEL\x7f"] {
        symlink("show", folder.join(name))?;
    }
    std::env::set_current_dir(folder.path())?;
    let directory = File::open(".")?;
    let directory = directory.as_raw_fd();
    for (fd, path) in [
        (libc::AT_FDCWD, c"applet"),
        (libc::AT_FDCWD, c"./applet"),
        (directory, c"applet"),
        (directory, c"gr\u{fc}n"),
        (directory, c"tab\tline\nDEL\x7f"),
    ] {
        let executed = show_by_exec(|| {
            let (argv, envp) = ([c"child".as_ptr(), std::ptr::null()], [std::ptr::null::<u8>()]);
            // SAFETY: path and vectors are C strings and arrays that end with a null pointer, and outlive the call.
            unsafe { libc::syscall(libc::SYS_execveat, fd, path.as_ptr(), argv.as_ptr(), envp.as_ptr(), 0) };
            io::Error::last_os_error()
        })?;
        let show = template(fd, Some(path), 0)?.spawn().show()?;
        for key in ["execfn", "comm", "exe"] {
            same!(show.get(key), executed.get(key), "{key} of {path:?} from {fd}");
        }
    }
    Ok(())
}

/// A handler that matches by the end of the name gets an absolute path; what has none is not opened by its name.
fn handler_of_binfmt_misc() -> Outcome {
    const REGISTER: &str = "/proc/sys/fs/binfmt_misc/register";
    os::private_mounts()?;
    os::mount("binfmt_misc", "/proc/sys/fs/binfmt_misc", "binfmt_misc", 0, "")?;
    let folder = Folder::tmp("handler")?;
    let program = folder.join("program.handled");
    fs::rename(folder.copy("exit-code")?, &program)?;
    let (directory, file) = (File::open(folder.path())?, File::open(&program)?);
    std::env::set_current_dir(folder.path())?;
    let templates = [
        ("absolute path", Template::path(&program)?, None),
        ("relative path", template(libc::AT_FDCWD, Some(c"program.handled"), 0)?, Some(libc::ENOENT)),
        ("path from a directory", template(directory.as_raw_fd(), Some(c"program.handled"), 0)?, Some(libc::ENOENT)),
    ];
    for (what, template, _) in &templates {
        same!(template.spawn().arg("7").status()?, Status::Exited(7), "status before, by {what}");
    }
    fs::write(REGISTER, format!(":suite:E::handled::{}:", child("show")))?;
    let mut result = templates.iter().try_for_each(|(what, template, error)| match error {
        None => {
            let show = template.spawn().show()?;
            same!(show.all("arg"), [child("show"), program.clone()], "arguments of the handler, by {what}");
            Ok(())
        }
        Some(error) => refused(what, template.spawn().arg("7").status(), *error),
    });
    fs::write("/proc/sys/fs/binfmt_misc/suite", "-1")?;
    // By what stands in the file, so that no name matters; the handler itself is another kind of executable.
    let head: String = fs::read(&program)?[..18].iter().map(|byte| format!("\\x{byte:02x}")).collect();
    let by_descriptor = Template::of_fd(&file)?;
    fs::write(REGISTER, format!(":suite:M::{head}::{}:", child("show")))?;
    let spawned = by_descriptor.spawn().arg("7").status();
    fs::write("/proc/sys/fs/binfmt_misc/suite", "-1")?;
    result = result.and_then(|()| refused("by a descriptor", spawned, libc::ENOENT));
    os::unmount("/proc/sys/fs/binfmt_misc")?;
    result
}
