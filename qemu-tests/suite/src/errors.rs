//! Failures in the child: the errno comes back from the call, and nothing else remains.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;

use crate::failing::{Failing, Failure};
use crate::harness::{Checks, Outcome, refused};
use crate::os::{self, Status};
use crate::template::{Act, Child, Folder, Open, Spawn, Template, child};
use crate::{ensure, same, tests};

tests!("errors":
    source_not_open, fchdir_errors, open_errors, leaves_nothing, counted_as_failures, first_failing_action_wins,
    earlier_actions_have_happened, busy_while_open_for_writing, busy_while_running,
    works_again_after_failure, error_beats_success_after_exec, no_script_fallback,
);

/// A spawn with these actions, inheriting or not.
fn with<'a>(template: &'a Template, inherit: bool, acts: &[Act]) -> Spawn<'a> {
    template.spawn().acts(acts.iter().cloned()).inherit(inherit)
}

/// Runs cases whose last action fails, with and without INHERIT_FDS.
fn failing(cases: &[(&str, &[Act], i32)]) -> Outcome {
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    for (what, acts, error) in cases {
        failing.both(what, &with(&template, false, acts), Failure::action(acts.len() as i32 - 1, *error));
    }
    failing.finish()?;
    same!(template.counts()?, (0, 2 * cases.len() as u64), "spawns and failures");
    Ok(())
}

fn source_not_open() -> Outcome {
    let relative = |dir| Act::Open(Open::new("file", libc::O_RDONLY, 5).at(dir));
    failing(&[
        ("DUP2", &[Act::Dup2(900, 1)], libc::EBADF),
        ("DUP2 with O_CLOEXEC", &[Act::Dup2Cloexec(900, 1)], libc::EBADF),
        ("DUP2 onto itself", &[Act::Dup2(900, 900)], libc::EBADF),
        ("DUP2 far beyond the table", &[Act::Dup2(i32::MAX, 1)], libc::EBADF),
        ("FCHDIR", &[Act::Fchdir(900)], libc::EBADF),
        ("FCHDIR far beyond the table", &[Act::Fchdir(i32::MAX)], libc::EBADF),
        ("OPEN", &[relative(900)], libc::EBADF),
        ("OPEN far beyond the table", &[relative(i32::MAX)], libc::EBADF),
        ("DUP2 of what was never placed", &[Act::Dup2(0, 5), Act::Dup2(6, 1)], libc::EBADF),
    ])
}

fn fchdir_errors() -> Outcome {
    let file = File::open("/etc/passwd")?;
    let (pipe, _writer) = os::pipe()?;
    let path = os::open("/etc/passwd", libc::O_PATH)?;
    failing(&[
        ("file", &[Act::Fchdir(file.as_raw_fd())], libc::ENOTDIR),
        ("O_PATH file", &[Act::Fchdir(path.as_raw_fd())], libc::ENOTDIR),
        ("pipe", &[Act::Fchdir(pipe.as_raw_fd())], libc::ENOTDIR),
        ("standard input", &[Act::Fchdir(0)], libc::ENOTDIR),
    ])
}

fn open_errors() -> Outcome {
    let folder = Folder::tmp("open-errors")?;
    symlink("loop", folder.join("loop"))?;
    fs::write(folder.join("file"), "")?;
    let file = File::open(folder.join("file"))?;
    let dir = File::open(folder.path())?;
    let (read, create) = (libc::O_RDONLY, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL);
    let open = |path: &str, flags| Act::Open(Open::new(folder.join(path), flags, 5));
    let beneath = |path: &str| Open::new(path, read, 5).at(dir.as_raw_fd()).resolve(libc::RESOLVE_BENEATH);
    failing(&[
        ("missing", &[open("missing", read)], libc::ENOENT),
        ("missing folder", &[open("missing/file", read)], libc::ENOENT),
        ("below a file", &[open("file/below", read)], libc::ENOTDIR),
        ("at a file", &[Act::Open(Open::new("x", read, 5).at(file.as_raw_fd()))], libc::ENOTDIR),
        ("not a folder", &[open("file", read | libc::O_DIRECTORY)], libc::ENOTDIR),
        ("loop", &[open("loop", read)], libc::ELOOP),
        ("symlink with O_NOFOLLOW", &[open("loop", read | libc::O_NOFOLLOW)], libc::ELOOP),
        ("folder for writing", &[open(".", libc::O_WRONLY)], libc::EISDIR),
        ("O_EXCL", &[Act::Open(Open::new(folder.join("file"), create, 5).mode(0o600))], libc::EEXIST),
        ("RESOLVE_BENEATH", &[Act::Open(beneath("../x"))], libc::EXDEV),
    ])
}

/// Fifty failures of each kind, in one go.
fn leaves_nothing() -> Outcome {
    let acts: &[Act] = &[Act::Dup2(0, 50), Act::Open(Open::new("/etc/passwd", libc::O_RDONLY, 51)), Act::Dup2(900, 1)];
    failing(&[("mixed", acts, libc::EBADF); 50])
}

fn counted_as_failures() -> Outcome {
    let template = Template::child("nothing")?;
    for wanted in [(1, 1), (2, 2), (3, 3)] {
        template.status()?;
        refused("a failing action", template.spawn().act(Act::Dup2(900, 1)).run(), libc::EBADF)?;
        same!(template.counts()?, wanted, "spawns and failures");
    }
    Ok(())
}

fn first_failing_action_wins() -> Outcome {
    let template = Template::child("nothing")?;
    let file = File::open("/etc/passwd")?;
    let (bad, not_dir) = (Act::Dup2(900, 1), Act::Fchdir(file.as_raw_fd()));
    let missing = Act::Open(Open::new("/missing", libc::O_RDONLY, 5));
    for inherit in [false, true] {
        let run = |acts: &[Act]| with(&template, inherit, acts).run();
        refused("EBADF first", run(&[bad.clone(), not_dir.clone(), missing.clone()]), libc::EBADF)?;
        refused("ENOTDIR first", run(&[not_dir.clone(), missing.clone(), bad.clone()]), libc::ENOTDIR)?;
        refused("ENOENT first", run(&[missing.clone(), bad.clone(), not_dir.clone()]), libc::ENOENT)?;
    }
    Ok(())
}

fn earlier_actions_have_happened() -> Outcome {
    let folder = Folder::tmp("earlier")?;
    let create = |name: &str| {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        Act::Open(Open::new(folder.join(name), flags, 5).mode(0o600))
    };
    let template = Template::child("nothing")?;
    let spawn = template.spawn().acts([create("before"), Act::Dup2(900, 1), create("after")]);
    refused("the second action", spawn.run(), libc::EBADF)?;
    ensure!(fs::exists(folder.join("before"))?, "the action before the failing one was not performed");
    ensure!(!fs::exists(folder.join("after"))?, "the action after the failing one was performed");
    Ok(())
}

fn busy_while_open_for_writing() -> Outcome {
    for parent in ["/tmp", "/var/tmp"] {
        let folder = Folder::new(parent, "busy-spawn")?;
        let path = folder.copy("nothing")?;
        let file = File::open(&path)?;
        let templates = [Template::path(&path)?, Template::of_fd(&file)?];
        let writer = OpenOptions::new().write(true).open(&path)?;
        for template in &templates {
            refused("open for writing", template.status(), libc::ETXTBSY)?;
        }
        drop(writer);
        // Nothing was written, so the file is the same.
        for template in &templates {
            same!(template.status()?, Status::Exited(0), "status after closing");
        }
    }
    Ok(())
}

/// A running program cannot be opened for writing, as after exec; afterwards it can.
fn busy_while_running() -> Outcome {
    let folder = Folder::tmp("busy-running")?;
    let path = folder.copy("sleep")?;
    let template = Template::path(&path)?;
    let child = template.spawn().run()?;
    refused("writing a running program", OpenOptions::new().write(true).open(&path), libc::ETXTBSY)?;
    os::kill(child.pid, libc::SIGKILL)?;
    child.wait()?;
    OpenOptions::new().write(true).open(&path)?;
    Ok(())
}

fn works_again_after_failure() -> Outcome {
    let template = Template::child("exit-code")?;
    for _ in 0..20 {
        refused("a failing action", template.spawn().act(Act::Fchdir(0)).run(), libc::ENOTDIR)?;
        same!(template.spawn().arg("3").status()?, Status::Exited(3), "status");
    }
    same!(template.counts()?, (20, 20), "spawns and failures");
    Ok(())
}

/// Once the program runs, its exit status is its own: 126 and 127 are no errors of the call.
fn error_beats_success_after_exec() -> Outcome {
    let template = Template::child("exit-code")?;
    for code in [1, 126, 127] {
        same!(template.spawn().arg(&code.to_string()).status()?, Status::Exited(code), "status");
    }
    same!(template.counts()?, (3, 0), "spawns and failures");
    Ok(())
}

/// Scripts are refused when the template is made, whatever their interpreter.
fn no_script_fallback() -> Outcome {
    let folder = Folder::tmp("script")?;
    let mut checks = Checks::default();
    for (name, text) in [
        ("sh", "#!/bin/sh\nexit 0\n".to_owned()),
        ("template", format!("#!{}\n", child("nothing"))),
        ("none", "exit 0\n".to_owned()),
        ("bare", "#!".to_owned()),
        ("padded", format!("#!/bin/sh\n{}", "#\n".repeat(500))),
    ] {
        let path = folder.join(name);
        fs::write(&path, text)?;
        crate::template::set_mode(&path, 0o755)?;
        let result: io::Result<Child> = Template::path(&path).and_then(|template| template.spawn().run());
        checks.refused(name, result, &[libc::ENOEXEC]);
        checks.refused(name, Template::of_fd(&File::open(&path)?), &[libc::ENOEXEC]);
    }
    checks.finish()
}
