//! Starting real programs, in every way that the kernel has.

#[path = "common/ways.rs"]
mod ways;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{env, process, thread};

use spawn_template::{
    Action, ChildFd, Command, Error, Mode, Open, Reason, SignalSet, Stage, Stdio, Step, Template, TemplateOptions, Via,
};
use ways::{each_way, is, output, shell, template};

fn pipe() -> (File, File) {
    let mut fds = [-1; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: the call has just made them.
    fds.map(|fd| unsafe { File::from_raw_fd(fd) }).into()
}

/// Held by tests that write a program and by those whose children get a copy of the descriptor table: such a child would
/// hold the program open for writing for a moment (`ETXTBSY`).
static WRITING: Mutex<()> = Mutex::new(());

fn writing() -> MutexGuard<'static, ()> {
    WRITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A copy of a program that the test may change.
fn copy(program: &str, name: &str) -> PathBuf {
    let path = env::temp_dir().join(format!("spawn-template-{}-{name}", process::id()));
    // Another process writes it: no child that a test makes meanwhile can hold it open for writing.
    assert!(process::Command::new("cp").arg(program).arg(&path).status().unwrap().success());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Step, stage and errno of a spawn that must fail.
fn failure(command: &Command<'_>) -> (Option<Stage>, Option<Step>, i32) {
    match command.spawn() {
        Err(Error::Spawn { stage, step, error, .. }) => (stage, step, error.raw_os_error().unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn exit_codes_and_signals() {
    each_way(|mode| {
        for code in [0, 1, 42, 255] {
            let status = shell(mode, &format!("exit {code}")).status().unwrap();
            assert_eq!((status.code(), status.signal()), (Some(code), None));
        }
        let status = shell(mode, "kill -9 $$").status().unwrap();
        assert_eq!((status.code(), status.signal()), (None, Some(9)));
    });
}

#[test]
fn the_way_is_reported() {
    each_way(|mode| {
        let mut child = shell(mode, "true").spawn().unwrap();
        assert!(is(mode, child.via()), "{:?}", child.via());
        child.wait().unwrap();
        let mut child = Command::new(&template(mode, "/bin/true")).spawn().unwrap();
        assert!(is(mode, child.via()), "{:?}", child.via());
        child.wait().unwrap();
    });
    if !spawn_template::is_supported() {
        let child = Command::new("true").spawn().map(|mut child| (child.wait().unwrap(), child.via()));
        assert_eq!(child.unwrap().1, Via::ForkExec(Reason::Unsupported));
        let mut command = Command::new("true");
        let error = command.mode(Mode::Template).spawn().unwrap_err();
        assert!(error.is_unsupported(), "{error:?}");
        assert_eq!(error.to_string(), "true: this kernel has no spawn templates");
    }
}

#[test]
fn arguments_and_environment_arrive() {
    each_way(|mode| {
        let script = r#"echo "$0,$#,$1,$2,$A,${PATH-unset}""#;
        let mut command = shell(mode, script);
        let text = output(mode, command.args(["zero", "one", ""]).env_clear().env("A", "b=c"));
        // The shell sets PATH itself when there is none, and so does not tell.
        assert!(text.starts_with("zero,2,one,,b=c,"), "{text}");
        let mut command = shell(mode, "tr '\\0' '\\n' < /proc/$$/cmdline | head -n 1");
        assert_eq!(output(mode, command.arg0("another name")), "another name\n");
    });
}

#[test]
fn input_through_a_pipe() {
    each_way(|mode| {
        let cat = template(mode, "/bin/cat");
        let ((stdin, mut input), (mut output, stdout)) = (pipe(), pipe());
        let mut child = Command::new(&cat).dup2(&stdin, 0).dup2(&stdout, 1).spawn().unwrap();
        drop((stdin, stdout));
        input.write_all(b"through the child").unwrap();
        drop(input);
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through the child");
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn only_placed_descriptors_arrive() {
    let _writing = writing();
    let file = File::open("/dev/null").unwrap();
    // One that is not close-on-exec.
    // SAFETY: plain numbers, the descriptor is open.
    let stray = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, 100) };
    // SAFETY: the call has just made it.
    let stray = unsafe { OwnedFd::from_raw_fd(stray) };
    let number = stray.as_raw_fd();
    let script = format!("for fd in 0 1 2 200 201 202 {number}; do test -e /proc/$$/fd/$fd && echo $fd; done; true");
    each_way(|mode| {
        let mut command = shell(mode, &script);
        command.fd(202, &stray).dup2(&stray, 200).dup2(ChildFd(200), 201);
        assert_eq!(output(mode, &mut command), "0\n1\n2\n200\n201\n202\n");
        let mut command = shell(mode, &script);
        command.inherit_fds(true).dup2(&stray, 200).close(2);
        assert_eq!(output(mode, &mut command), format!("0\n1\n200\n{number}\n"));
        let mut command = shell(mode, &script);
        let cloexec = Action::CloseRange { first: 3, last: None, cloexec: true };
        command.inherit_fds(true).action(cloexec);
        assert_eq!(output(mode, &mut command), "0\n1\n2\n");
    });
}

#[test]
fn a_template_of_an_open_file_is_not_in_the_way() {
    // Whatever number it has inside, the child may use, and may close everything.
    each_way(|mode| {
        let file = File::open("/bin/sh").unwrap();
        let sh = TemplateOptions::new().mode(mode).from_file(&file).unwrap();
        let null = File::open("/dev/null").unwrap();
        for target in 3..40 {
            let mut command = Command::new(&sh);
            command.args(["-c", "exit 7"]).fd(target, &null);
            assert_eq!(command.status().unwrap().code(), Some(7), "{target}");
        }
        for first in [3, 4, 100] {
            let mut command = Command::new(&sh);
            command.args(["-c", "echo $(ls /proc/self/fd)"]).close_range(first, None);
            assert_eq!(output(mode, &mut command), "0 1 2 3\n");
        }
    });
}

#[test]
fn working_directory_and_opened_files() {
    let (root, etc) = (File::open("/").unwrap(), File::open("/etc").unwrap());
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    each_way(|mode| {
        let mut command = shell(mode, "pwd; read -r line; echo \"$line\"");
        command.env_remove("PWD").fchdir(&root).open(Open::read("passwd").at(&etc), 0);
        assert_eq!(output(mode, &mut command), format!("/\n{}\n", passwd.lines().next().unwrap()));

        let path = env::temp_dir().join(format!("spawn-template-{}-log", process::id()));
        for _ in 0..2 {
            let open = Open::write(&path).create(0o600).append(true);
            assert!(shell(mode, "echo line").open(open, 1).status().unwrap().success());
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "line\nline\n");
        fs::remove_file(&path).unwrap();
    });
}

/// The signals that this process ignores. The Rust runtime has added `SIGPIPE`.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    u64::from_str_radix(line, 16).unwrap()
}

#[test]
fn signals() {
    let pipe = 1 << (libc::SIGPIPE - 1);
    let ignored = ignored();
    assert_eq!(ignored & pipe, pipe);
    let set = SignalSet::of([libc::SIGUSR1, libc::SIGTERM]).unwrap();
    each_way(|mode| {
        // Not through a shell: some change their mask.
        let grep = template(mode, "/bin/grep");
        let command = || {
            let mut command = Command::new(&grep);
            command.args(["-E", "^Sig(Blk|Ign):", "/proc/self/status"]);
            command
        };
        let text = output(mode, command().sigmask(set).sigdefault(SignalSet::full()));
        assert_eq!(text, format!("SigBlk:\t{:016x}\nSigIgn:\t{:016x}\n", set.bits(), 0));
        let ignores = |text: String, set: u64| assert!(text.ends_with(&format!("SigIgn:\t{set:016x}\n")), "{text}");
        // SIGPIPE is not passed on unless the command is told to.
        ignores(output(mode, &mut command()), ignored & !pipe);
        ignores(output(mode, command().sigignore(set)), ignored & !pipe | set.bits());
        ignores(output(mode, command().sigdefault(SignalSet::empty())), ignored);
    });
}

#[test]
fn a_running_child() {
    each_way(|mode| {
        let sleep = template(mode, "/bin/sleep");
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
    });
}

#[test]
fn a_prepared_command_serves_many_threads() {
    each_way(|mode| {
        let template = template(mode, "/bin/true");
        let mut command = Command::new(&template);
        command.args(["a", "b"]).open(Open::read("/dev/null"), 0).sigmask(SignalSet::empty()).stdout(Stdio::piped());
        let prepared = command.prepare().unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..25).for_each(|_| assert!(prepared.spawn().unwrap().wait().unwrap().success())));
            }
        });
        if mode == Mode::Template {
            let stats = template.stats().unwrap();
            assert_eq!((stats.spawns, stats.failures), (100, 0));
            assert_eq!(stats.path, fs::canonicalize("/bin/true").unwrap());
        }
    });
}

#[test]
fn errors_name_the_step() {
    each_way(|mode| {
        let template = template(mode, "/bin/true");
        let command = || Command::new(&template);
        let file = File::open("/dev/null").unwrap();
        let action = |index| Some(Step::Action(index));
        let in_child = Some(Stage::Action);

        let mut missing = command();
        missing.close(5).open(Open::read("/does/not/exist"), 0);
        assert_eq!(failure(&missing), (in_child, action(1), libc::ENOENT));
        let text = missing.spawn().unwrap_err().to_string();
        assert_eq!(text, "/bin/true: action 1: No such file or directory (os error 2)");

        let mut directory = command();
        directory.stdin(Stdio::null()).current_dir("/does/not/exist").close(5);
        assert_eq!(failure(&directory), (in_child, Some(Step::CurrentDir), libc::ENOENT));
        assert_eq!(failure(directory.current_dir("/etc/passwd")), (in_child, Some(Step::CurrentDir), libc::ENOTDIR));
        assert_eq!(failure(directory.current_dir_fd(&file)), (in_child, Some(Step::CurrentDir), libc::ENOTDIR));

        let mut closed = command();
        closed.action(Action::Close(file.as_raw_fd())).dup2(&file, 1);
        assert_eq!(failure(&closed), (in_child, action(1), libc::EBADF));
        let mut high = command();
        assert_eq!(failure(high.fd(i32::MAX, &file)), (in_child, Some(Step::Fd(i32::MAX)), libc::EBADF));

        assert_eq!(failure(command().foreground(&file)), (in_child, Some(Step::Foreground), libc::ENOTTY));
        let mut terminal = command();
        terminal.setsid(true).controlling_terminal(&file);
        assert_eq!(failure(&terminal), (in_child, Some(Step::ControllingTerminal), libc::ENOTTY));
        // No process group has the id of a process that leads none.
        let mut group = command();
        assert_eq!(failure(group.process_group(i32::MAX)), (in_child, Some(Step::ProcessGroup), libc::EPERM));

        let long = "x".repeat(200_000);
        assert_eq!(failure(command().arg(&long)).2, libc::E2BIG);
        if mode == Mode::Template {
            let stats = template.stats().unwrap();
            assert_eq!(stats.spawns, 0);
            assert!(stats.failures >= 10);
        }
    });
}

#[test]
fn a_changed_program_is_stale() {
    let _writing = writing();
    each_way(|mode| {
        let path = copy("/bin/true", "stale");
        let template = template(mode, &path);
        assert!(Command::new(&template).status().unwrap().success());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(failure(&Command::new(&template)), (Some(Stage::Identity), None, libc::ESTALE));
        fs::remove_file(&path).unwrap();
    });
}

#[test]
fn templates_of_open_files_and_of_received_descriptors() {
    each_way(|mode| {
        let options = TemplateOptions::new().mode(mode);
        let template = options.from_file(File::open("/bin/true").unwrap()).unwrap();
        assert!(Command::new(&template).status().unwrap().success());
        if mode == Mode::Template {
            let received = Template::from_owned_fd(template.as_fd().try_clone_to_owned().unwrap()).unwrap();
            assert!(Command::new(&received).status().unwrap().success());
            assert_eq!(received.stats().unwrap().spawns, 2);
        }
    });
}

#[test]
fn programs_that_cannot_be_templates() {
    let _writing = writing();
    let script = copy("/bin/true", "script");
    fs::write(&script, "#!/bin/sh\nexit 5\n").unwrap();
    each_way(|mode| {
        let cases = [
            ("/does/not/exist".into(), libc::ENOENT),
            ("/etc/passwd/x".into(), libc::ENOTDIR),
            ("/etc".into(), libc::EACCES),
            ("/etc/passwd".into(), libc::EACCES),
            (script.clone(), libc::ENOEXEC),
        ];
        for (path, errno) in cases {
            let error = TemplateOptions::new().mode(mode).open(&path).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(errno), "{}", path.display());
        }
    });
    fs::remove_file(&script).unwrap();
}
