//! Starting real programs. Needs a kernel with spawn templates: elsewhere every test here passes without doing
//! anything, or fails when the environment variable `SPAWN_TEMPLATE_REQUIRED` is set.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{env, process, thread};

use spawn_template::{Action, Call, Child, ChildFd, Command, Error, Open, SignalSet, Template};

/// The template of a program, or `None` on a kernel without the calls.
fn template(path: &str) -> Option<Template> {
    if !spawn_template::is_supported() {
        assert!(env::var_os("SPAWN_TEMPLATE_REQUIRED").is_none(), "this kernel has no spawn templates");
        return None;
    }
    Some(Template::open(path).unwrap())
}

macro_rules! template {
    ($path:expr) => {
        match template($path) {
            Some(template) => template,
            None => return,
        }
    };
}

fn pipe() -> (File, File) {
    let mut fds = [-1; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: the call has just made them.
    fds.map(|fd| unsafe { File::from_raw_fd(fd) }).into()
}

/// Runs a program with arguments and what `prepare` adds and returns what it writes.
fn output<'a>(program: &'a Template, args: &[&str], prepare: impl FnOnce(&mut Command<'a>)) -> String {
    let mut command = Command::new(program);
    command.args(args);
    prepare(&mut command);
    let (mut reader, writer) = pipe();
    // The output goes last, so that the other descriptors are still the caller's.
    let mut child = spawn_writing_to(command, &writer);
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{args:?}: {text}");
    text
}

/// A function of its own because the pipe does not live as long as what the command borrows otherwise.
fn spawn_writing_to<'a>(mut command: Command<'a>, output: &'a File) -> Child {
    command.dup2(output, 1).spawn().unwrap()
}

/// Held by tests that write a program and by those whose children get a copy of the descriptor table: such a child would
/// hold the program open for writing for a moment (`ETXTBSY`).
static WRITING: Mutex<()> = Mutex::new(());

fn writing() -> MutexGuard<'static, ()> {
    WRITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A copy of `/bin/true` that the test may change.
fn program(name: &str) -> PathBuf {
    let path = env::temp_dir().join(format!("spawn-template-{}-{name}", process::id()));
    fs::copy("/bin/true", &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn exit_codes_and_signals() {
    let sh = template!("/bin/sh");
    for code in [0, 1, 42, 255] {
        let status = Command::new(&sh).args(["-c", &format!("exit {code}")]).status().unwrap();
        assert_eq!((status.code(), status.signal()), (Some(code), None));
    }
    let status = Command::new(&sh).args(["-c", "kill -9 $$"]).status().unwrap();
    assert_eq!((status.code(), status.signal()), (None, Some(9)));
}

#[test]
fn arguments_and_environment_arrive() {
    let sh = template!("/bin/sh");
    let script = r#"echo "$0,$#,$1,$2,$A,${PATH-unset}""#;
    let text = output(&sh, &["-c", script], |command| {
        command.args(["zero", "one", ""]).env_clear().env("A", "b=c");
    });
    // The shell sets PATH itself when there is none, and so does not tell.
    assert!(text.starts_with("zero,2,one,,b=c,"), "{text}");
    let text = output(&sh, &["-c", "tr '\\0' '\\n' < /proc/$$/cmdline | head -n 1"], |command| {
        command.arg0("another name");
    });
    assert_eq!(text, "another name\n");
}

#[test]
fn input_through_a_pipe() {
    let cat = template!("/bin/cat");
    let ((stdin, mut input), (mut output, stdout)) = (pipe(), pipe());
    let mut child = Command::new(&cat).dup2(&stdin, 0).dup2(&stdout, 1).spawn().unwrap();
    drop((stdin, stdout));
    input.write_all(b"through the child").unwrap();
    drop(input);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through the child");
    assert!(child.wait().unwrap().success());
}

#[test]
fn only_placed_descriptors_arrive() {
    let sh = template!("/bin/sh");
    let _writing = writing();
    let file = File::open("/dev/null").unwrap();
    // One that is not close-on-exec.
    // SAFETY: plain numbers, the descriptor is open.
    let stray = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, 100) };
    // SAFETY: the call has just made it.
    let stray = unsafe { OwnedFd::from_raw_fd(stray) };
    let number = stray.as_raw_fd();
    let script = format!("for fd in 0 1 2 200 201 {number}; do test -e /proc/$$/fd/$fd && echo $fd; done; true");

    let text = output(&sh, &["-c", &script], |command| {
        command.dup2(&stray, 200).dup2(ChildFd(200), 201);
    });
    assert_eq!(text, "0\n1\n2\n200\n201\n");
    let text = output(&sh, &["-c", &script], |command| {
        command.inherit_fds(true).dup2(&stray, 200).close(2);
    });
    assert_eq!(text, format!("0\n1\n200\n{number}\n"));
    let text = output(&sh, &["-c", &script], |command| {
        let cloexec = Action::CloseRange { first: 3, last: None, cloexec: true };
        command.inherit_fds(true).action(cloexec);
    });
    assert_eq!(text, "0\n1\n2\n");
}

#[test]
fn working_directory_and_opened_files() {
    let sh = template!("/bin/sh");
    let (root, etc) = (File::open("/").unwrap(), File::open("/etc").unwrap());
    let text = output(&sh, &["-c", "pwd; read -r line; echo \"$line\""], |command| {
        command.env_remove("PWD").fchdir(&root).open(Open::read("passwd").at(&etc), 0);
    });
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    assert_eq!(text, format!("/\n{}\n", passwd.lines().next().unwrap()));

    let path = env::temp_dir().join(format!("spawn-template-{}-log", process::id()));
    for _ in 0..2 {
        let open = Open::write(&path).create(0o600).append(true);
        assert!(Command::new(&sh).args(["-c", "echo line"]).open(open, 1).status().unwrap().success());
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "line\nline\n");
    fs::remove_file(&path).unwrap();
}

#[test]
fn signals() {
    // Not through a shell: some change their mask.
    let grep = template!("/bin/grep");
    let args = ["-E", "^Sig(Blk|Ign):", "/proc/self/status"];
    let set = SignalSet::of([libc::SIGUSR1, libc::SIGTERM]).unwrap();
    let text = output(&grep, &args, |command| {
        command.sigmask(set).sigdefault(SignalSet::full());
    });
    assert_eq!(text, format!("SigBlk:\t{:016x}\nSigIgn:\t{:016x}\n", set.bits(), 0));
    // The Rust runtime ignores SIGPIPE.
    let text = output(&grep, &args, |_| {});
    assert!(text.ends_with(&format!("SigIgn:\t{:016x}\n", 1 << (libc::SIGPIPE - 1))), "{text}");
}

#[test]
fn a_running_child() {
    let sleep = template!("/bin/sleep");
    let mut child = Command::new(&sleep).arg("100").spawn().unwrap();
    assert_eq!(child.try_wait().unwrap(), None);
    let flags = |fd| {
        // SAFETY: plain numbers.
        unsafe { libc::fcntl(fd, libc::F_GETFD) }
    };
    assert_eq!(flags(child.as_fd().as_raw_fd()), libc::FD_CLOEXEC);
    assert_eq!(flags(sleep.as_fd().as_raw_fd()), libc::FD_CLOEXEC);
    child.send_signal(libc::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    child.kill().unwrap();
}

#[test]
fn a_prepared_command_serves_many_threads() {
    let template = template!("/bin/true");
    let mut command = Command::new(&template);
    command.args(["a", "b"]).open(Open::read("/dev/null"), 0).sigmask(SignalSet::empty());
    let prepared = command.prepare().unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..25).for_each(|_| assert!(prepared.spawn().unwrap().wait().unwrap().success())));
        }
    });
    let stats = template.stats().unwrap();
    assert_eq!((stats.spawns, stats.failures), (100, 0));
    assert_eq!(stats.path, fs::canonicalize("/bin/true").unwrap());
}

#[test]
fn errors_come_from_spawn_and_leave_no_child() {
    let template = template!("/bin/true");
    let mut command = Command::new(&template);
    command.open(Open::read("/does/not/exist"), 0);
    let error = command.spawn().unwrap_err();
    assert!(matches!(error, Error::Os { call: Call::Spawn, .. }));
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    assert_eq!(error.to_string(), "spawn_template_spawn: No such file or directory (os error 2)");
    let stats = template.stats().unwrap();
    assert_eq!((stats.spawns, stats.failures), (0, 1));
}

#[test]
fn a_changed_program_is_stale() {
    if template("/bin/true").is_none() {
        return;
    }
    let _writing = writing();
    let path = program("stale");
    let template = Template::open(&path).unwrap();
    assert!(Command::new(&template).status().unwrap().success());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(Command::new(&template).spawn().unwrap_err().raw_os_error(), Some(libc::ESTALE));
    fs::remove_file(&path).unwrap();
}

#[test]
fn templates_of_open_files_and_of_received_descriptors() {
    if template("/bin/true").is_none() {
        return;
    }
    let template = Template::from_file(File::open("/bin/true").unwrap()).unwrap();
    assert!(Command::new(&template).status().unwrap().success());
    let received = Template::from_owned_fd(template.into()).unwrap();
    assert!(Command::new(&received).status().unwrap().success());
    assert_eq!(received.stats().unwrap().spawns, 2);
}

#[test]
fn programs_that_cannot_be_templates() {
    if template("/bin/true").is_none() {
        return;
    }
    let _writing = writing();
    let script = program("script");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    let cases = [
        (Path::new("/does/not/exist"), libc::ENOENT),
        (Path::new("/etc"), libc::EACCES),
        (Path::new("/etc/passwd"), libc::EACCES),
        (&script, libc::ENOEXEC),
    ];
    for (path, errno) in cases {
        assert_eq!(Template::open(path).unwrap_err().raw_os_error(), Some(errno), "{}", path.display());
    }
    fs::remove_file(&script).unwrap();
}
