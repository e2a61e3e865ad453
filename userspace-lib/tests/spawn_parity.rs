//! One test for each row of `PARITY.md`, under the name that stands there.

#[path = "common/ways.rs"]
mod ways;

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, process, thread};

use spawn_template::{
    Action, ChildFd, Command, Error, InvalidInput, Mode, Open, Reason, Resource, SchedAttr, Scheduler, SignalSet,
    Stage, Stdio, Step, Via,
};
use ways::{each_way, output, shell, template};

/// Whether tests may change ids and the like.
fn is_root() -> bool {
    // SAFETY: takes and changes nothing.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// The value of a line of `/proc/self/status` in a child.
fn status_line(mode: Mode, name: &str, prepare: impl FnOnce(&mut Command<'_>)) -> String {
    let mut command = Command::new("/bin/grep");
    command.args([&format!("^{name}:"), "/proc/self/status"]);
    prepare(&mut command);
    let line = output(mode, &mut command);
    line.split_once(':').unwrap().1.trim().replace('\t', " ")
}

/// The line of `/proc/self/stat` in a child: process id, group, session and terminal.
fn ids(mode: Mode, command: &mut Command<'_>) -> (i32, i32, i32, i32) {
    let text = output(mode, command);
    let fields: Vec<i32> = text.split(' ').map(|field| field.parse().unwrap_or(0)).collect();
    (fields[0], fields[4], fields[5], fields[6])
}

fn cat_stat() -> Command<'static> {
    let mut command = Command::new("/bin/cat");
    command.arg("/proc/self/stat");
    command
}

fn temporary(name: &str) -> PathBuf {
    env::temp_dir().join(format!("spawn-template-{}-{name}", process::id()))
}

fn failure(command: &Command<'_>) -> (Option<Stage>, Option<Step>, i32) {
    match command.spawn() {
        Err(Error::Spawn { stage, step, error, .. }) => (stage, step, error.raw_os_error().unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn program_args_and_arg0() {
    each_way(|mode| {
        assert_eq!(output(mode, Command::new("echo").arg("a").args(["b", "", "c d"])), "a b  c d\n");
        let mut command = Command::new("sh");
        assert_eq!(
            output(mode, command.arg0("name").args(["-c", "tr '\\0' ' ' < /proc/$$/cmdline"])).split(' ').next(),
            Some("name")
        );
        // Argument 0 is the program as it was given.
        assert!(output(mode, Command::new("sh").args(["-c", "tr '\\0' ' ' < /proc/$$/cmdline"])).starts_with("sh -c"));
    });
}

#[test]
fn env_env_remove_env_clear() {
    each_way(|mode| {
        let env = |command: &mut Command<'_>| {
            let text = output(mode, command);
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert!(env(&mut Command::new("/usr/bin/env")).iter().any(|line| line.starts_with("PATH=")));
        assert!(!env(Command::new("/usr/bin/env").env_remove("PATH")).iter().any(|line| line.starts_with("PATH=")));
        let mut command = Command::new("/usr/bin/env");
        command.env("GONE", "x").env_clear().env("A", "1=2").envs([("B", ""), ("C", "c")]).env_remove("C");
        assert_eq!(env(&mut command), ["A=1=2", "B="]);
    });
}

#[test]
fn current_dir() {
    let etc = File::open("/etc").unwrap();
    each_way(|mode| {
        let pwd = || Command::new("/bin/pwd");
        assert_eq!(output(mode, pwd().env_remove("PWD").current_dir("/usr").current_dir("/")), "/\n");
        assert_eq!(output(mode, pwd().env_remove("PWD").current_dir("/").current_dir_fd(&etc)), "/etc\n");
    });
    // A relative program is relative to the new directory, which only a child can know.
    let mut command = Command::new("./sh");
    command.current_dir("/bin").args(["-c", "exit 3"]);
    let mut child = command.mode(Mode::ForkExec).spawn().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert!(matches!(command.mode(Mode::Template).spawn(), Err(Error::Input(InvalidInput::RelativePath))));
}

#[test]
fn stdin_stdout_stderr() {
    let path = temporary("stdio");
    each_way(|mode| {
        // Pipes.
        let mut command = Command::new("cat");
        let mut child = command.mode(mode).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"through").unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), child.wait().unwrap().code()), ("through", Some(0)));

        // Nothing, a file that the command owns, and one that it borrows.
        let file = File::create(&path).unwrap();
        let mut command = shell(mode, "cat; echo out; echo err >&2");
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(&file);
        assert!(command.status().unwrap().success());
        assert_eq!(fs::read_to_string(&path).unwrap(), "out\nerr\n");

        // The output of one as the input of the next.
        let mut first = shell(mode, "echo piped");
        let mut first = first.stdout(Stdio::piped()).spawn().unwrap();
        let mut second = Command::new("cat");
        assert_eq!(output(mode, second.stdin(first.stdout.take().unwrap())), "piped\n");
        first.wait().unwrap();

        // 2>&1, and an exchange of the two.
        let both = shell(mode, "echo out; echo err >&2").stderr(ChildFd(1)).output().unwrap();
        assert_eq!((both.stdout.as_slice(), both.stderr.as_slice()), (&b"out\nerr\n"[..], &b""[..]));
        let script = "a=$(readlink /proc/$$/fd/1); b=$(readlink /proc/$$/fd/2); echo $a >&0; echo $b >&0";
        let ours = |fd| fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().display().to_string();
        let file = File::create(&path).unwrap();
        let (out, err) = (io::stdout(), io::stderr());
        let mut exchanged = shell(mode, script);
        assert!(exchanged.stdin(&file).stdout(&err).stderr(&out).status().unwrap().success());
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n{}\n", ours(2), ours(1)));
    });
    fs::remove_file(&path).unwrap();
}

#[test]
fn descriptors_at_any_number() {
    let (null, zero) = (File::open("/dev/null").unwrap(), File::open("/dev/zero").unwrap());
    each_way(|mode| {
        let mut command = shell(mode, "readlink /proc/$$/fd/7 /proc/$$/fd/300");
        command.fd(7, &null).fd(300, zero.try_clone().unwrap());
        assert_eq!(output(mode, &mut command), "/dev/null\n/dev/zero\n");
        // Each at the number of the other.
        let (first, second) = (null.as_raw_fd(), zero.as_raw_fd());
        let mut command = shell(mode, &format!("readlink /proc/$$/fd/{first} /proc/$$/fd/{second}"));
        command.fd(first, &zero).fd(second, &null);
        assert_eq!(output(mode, &mut command), "/dev/zero\n/dev/null\n");
        let mut command = shell(mode, "true");
        let error = command.fd(7, &null).fd(7, &zero).spawn().unwrap_err();
        assert!(matches!(error, Error::Input(InvalidInput::FdCollision(7))), "{error:?}");
    });
}

#[test]
fn nothing_else_is_inherited() {
    let file = File::open("/dev/null").unwrap();
    // SAFETY: plain numbers.
    let stray = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, 600) };
    // SAFETY: the call has just made it.
    let stray = unsafe { OwnedFd::from_raw_fd(stray) };
    each_way(|mode| {
        assert_eq!(output(mode, Command::new("ls").arg("/proc/self/fd")), "0\n1\n2\n3\n");
        let text = output(mode, Command::new("ls").arg("/proc/self/fd").inherit_fds(true));
        assert!(text.lines().any(|line| line == stray.as_raw_fd().to_string()), "{text}");
    });
}

#[test]
fn actions_in_order() {
    let path = temporary("actions");
    each_way(|mode| {
        let mut command = shell(mode, "pwd; readlink /proc/$$/fd/5; test -e /proc/$$/fd/6 || echo closed");
        command
            .env_remove("PWD")
            .action(Action::chdir("/usr"))
            .action(Action::chdir("bin"))
            .open(Open::write(&path).create(0o600).truncate(true), 6)
            .dup2(ChildFd(6), 5)
            .close(6);
        let directory = fs::canonicalize("/usr/bin").unwrap();
        assert_eq!(output(mode, &mut command), format!("{}\n{}\nclosed\n", directory.display(), path.display()));
        let mut command = shell(mode, "for fd in 50 51; do test -e /proc/$$/fd/$fd && echo $fd; done");
        command.open(Open::read("/dev/null"), 50).open(Open::read("/dev/null"), 51).close_range(3, Some(50));
        assert_eq!(output(mode, &mut command), "51\n");
    });
    fs::remove_file(&path).unwrap();
}

#[test]
fn spawn_status_output() {
    each_way(|mode| {
        let mut child = shell(mode, "exit 4").spawn().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(4));
        assert_eq!(shell(mode, "exit 5").status().unwrap().code(), Some(5));
        let output = shell(mode, "cat; echo out; echo err >&2; exit 6").output().unwrap();
        assert_eq!((output.status.code(), output.stdout, output.stderr), (Some(6), b"out\n".into(), b"err\n".into()));
    });
}

#[test]
fn wait_with_output() {
    each_way(|mode| {
        // More than a pipe holds, on both.
        let mut command = shell(mode, "head -c 300000 /dev/zero; head -c 400000 /dev/zero >&2; cat");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(b"end").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.stdout.len(), output.stderr.len()), (300_003, 400_000));
        assert!(output.status.success());
    });
}

#[test]
fn id_and_pidfd() {
    use std::os::fd::AsFd as _;
    each_way(|mode| {
        let mut command = shell(mode, "echo $$");
        let child = command.stdout(Stdio::piped()).spawn().unwrap();
        let id = child.id();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", child.as_fd().as_raw_fd())).unwrap();
        assert!(info.contains(&format!("Pid:\t{id}\n")), "{info}");
        assert_eq!(child.wait_with_output().unwrap().stdout, format!("{id}\n").into_bytes());
    });
}

#[test]
fn kill_wait_try_wait() {
    each_way(|mode| {
        let mut child = shell(mode, "exec sleep 100").spawn().unwrap();
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        assert_eq!((child.wait().unwrap(), child.try_wait().unwrap()), (status, Some(status)));
        child.kill().unwrap();
        let mut child = shell(mode, "exec sleep 100").spawn().unwrap();
        child.send_signal(libc::SIGUSR1).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGUSR1));
    });
}

#[test]
fn kill_on_drop() {
    each_way(|mode| {
        let child = shell(mode, "exec sleep 100").kill_on_drop(true).spawn().unwrap();
        let id = child.id() as i32;
        drop(child);
        // SAFETY: nothing is written.
        let result = unsafe { libc::waitpid(id, std::ptr::null_mut(), libc::WNOHANG) };
        assert_eq!((result, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::ECHILD)));
    });
}

#[test]
fn process_group() {
    each_way(|mode| {
        let (pid, group, ..) = ids(mode, cat_stat().process_group(0));
        assert_eq!(group, pid);
        let mut leader = shell(mode, "exec sleep 100").process_group(0).spawn().unwrap();
        let (_, group, ..) = ids(mode, cat_stat().process_group(leader.id() as i32));
        assert_eq!(group, leader.id() as i32);
        leader.kill().unwrap();
        leader.wait().unwrap();
    });
}

#[test]
fn setsid() {
    each_way(|mode| {
        let (pid, group, session, _) = ids(mode, cat_stat().setsid(true));
        assert_eq!((group, session), (pid, pid));
    });
}

/// Both ends of a new terminal.
fn terminal() -> Option<(File, File)> {
    let master = fs::OpenOptions::new().read(true).write(true).open("/dev/ptmx").ok()?;
    let mut unlock: i32 = 0;
    // SAFETY: reads the local.
    assert_eq!(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw mut unlock) }, 0);
    // SAFETY: plain numbers.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY) };
    assert!(slave >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the call has just made it.
    Some((master, unsafe { File::from_raw_fd(slave) }))
}

#[test]
fn controlling_terminal_and_foreground() {
    let Some((_master, slave)) = terminal() else {
        eprintln!("skipped: no terminals here");
        return;
    };
    each_way(|mode| {
        let mut command = cat_stat();
        let (pid, _, session, tty) = ids(mode, command.setsid(true).controlling_terminal(&slave).foreground(&slave));
        assert_eq!(session, pid);
        assert_ne!(tty, 0);
        // A terminal that is not the controlling one.
        assert_eq!(failure(cat_stat().setsid(true).foreground(&slave)).1, Some(Step::Foreground));
        // One that no session is led for.
        assert_eq!(
            failure(cat_stat().mode(mode).controlling_terminal(&slave)),
            (Some(Stage::Action), Some(Step::ControllingTerminal), libc::EPERM)
        );
    });
}

#[test]
fn uid_gid_groups() {
    if !is_root() {
        return;
    }
    each_way(|mode| {
        let ids = |prepare: &dyn Fn(&mut Command<'_>)| {
            ["Uid", "Gid", "Groups"].map(|name| status_line(mode, name, |command| prepare(command)))
        };
        let nobody = |command: &mut Command<'_>| {
            command.uid(12345).gid(54321).groups(&[7, 8]);
        };
        assert_eq!(ids(&nobody), ["12345 12345 12345 12345", "54321 54321 54321 54321", "7 8"]);
        // Without groups the old ones are dropped.
        let dropped = |command: &mut Command<'_>| {
            command.uid(12345);
        };
        assert_eq!(ids(&dropped)[2], "");
        // Nothing of that happened to this process, nor to its memory.
        // SAFETY: plain numbers.
        assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }, 1);
        // Somebody else may not, and the error says what.
        let mut command = Command::new("/bin/true");
        command.mode(mode).uid(12345).action(Action::Setuid(0));
        assert_eq!(failure(&command), (Some(Stage::Action), Some(Step::Action(0)), libc::EPERM));
        // With the new ids the directory cannot be entered.
        let path = temporary("private");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let mut command = Command::new("/bin/true");
        command.mode(mode).uid(12345).current_dir(&path);
        assert_eq!(failure(&command), (Some(Stage::Action), Some(Step::CurrentDir), libc::EACCES));
        fs::remove_dir(&path).unwrap();
    });
}

#[test]
fn reset_ids() {
    each_way(|mode| {
        assert_eq!(
            status_line(mode, "Uid", |command| {
                command.reset_ids(true);
            }),
            status_line(mode, "Uid", |_| {})
        );
    });
}

#[test]
fn umask() {
    each_way(|mode| {
        assert_eq!(output(mode, shell(mode, "umask").umask(0o137)).trim_start_matches('0').trim(), "137");
    });
}

#[test]
fn rlimits() {
    each_way(|mode| {
        let mut command = shell(mode, "ulimit -S -n; ulimit -S -c; ulimit -H -c");
        command.rlimit(Resource::Nofile, Some(40), Some(50)).rlimit(Resource::Core, Some(0), Some(512 * 9));
        let text = output(mode, &mut command);
        assert!(text.starts_with("40\n0\n"), "{text}");
        if !is_root() {
            let mut command = shell(mode, "true");
            command.rlimit(Resource::Nofile, None, None);
            assert_eq!(failure(&command).2, libc::EPERM);
        }
    });
}

#[test]
fn nice_and_scheduler() {
    // Fields 19 (nice) and 41 (policy) of the line, counted from 1.
    let field = |text: &str, number: usize| text.split(' ').nth(number - 1).unwrap().trim().to_owned();
    // SAFETY: plain numbers.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    each_way(|mode| {
        let text = output(mode, cat_stat().nice(nice + 3));
        assert_eq!((field(&text, 19), field(&text, 41)), ((nice + 3).to_string(), libc::SCHED_OTHER.to_string()));
        let text = output(mode, cat_stat().scheduler(Scheduler::Batch));
        assert_eq!((field(&text, 19), field(&text, 41)), (nice.to_string(), libc::SCHED_BATCH.to_string()));
        let text = output(mode, cat_stat().scheduler(Scheduler::Batch).nice(nice + 4));
        assert_eq!((field(&text, 19), field(&text, 41)), ((nice + 4).to_string(), libc::SCHED_BATCH.to_string()));
        let text = output(mode, cat_stat().action(Action::Sched(SchedAttr::new(Scheduler::Idle, 0))));
        assert_eq!(field(&text, 41), libc::SCHED_IDLE.to_string());
        let mut command = cat_stat();
        command.mode(mode).scheduler(Scheduler::Fifo(100));
        assert_eq!(failure(&command), (Some(Stage::Action), Some(Step::Scheduler), libc::EINVAL));
    });
}

#[test]
fn no_new_privs() {
    each_way(|mode| {
        assert_eq!(
            status_line(mode, "NoNewPrivs", |command| {
                command.no_new_privs(true);
            }),
            "1"
        );
    });
}

#[test]
fn parent_death_signal() {
    each_way(|mode| {
        let mut child = thread::spawn(move || {
            let mut command = shell(mode, "exec sleep 100");
            command.parent_death_signal(libc::SIGUSR2).spawn().unwrap()
        })
        .join()
        .unwrap();
        // The thread that started it has ended.
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGUSR2));
    });
}

#[test]
fn signal_mask_and_dispositions() {
    let set = SignalSet::of([libc::SIGUSR1, libc::SIGHUP]).unwrap();
    let hex = |bits: u64| format!("{bits:016x}");
    each_way(|mode| {
        assert_eq!(
            status_line(mode, "SigBlk", |command| {
                command.sigmask(set);
            }),
            hex(set.bits())
        );
        let ignored = status_line(mode, "SigIgn", |command| {
            command.sigignore(set);
        });
        assert_eq!(u64::from_str_radix(&ignored, 16).unwrap() & set.bits(), set.bits());
        let defaults = |command: &mut Command<'_>| {
            command.sigdefault(SignalSet::full());
        };
        assert_eq!(status_line(mode, "SigIgn", defaults), hex(0));
        // As std: SIGPIPE, which this process ignores, is not ignored in the child.
        let ignored = status_line(mode, "SigIgn", |_| {});
        assert_eq!(u64::from_str_radix(&ignored, 16).unwrap() & 1 << (libc::SIGPIPE - 1), 0);
    });
}

#[test]
fn cgroup() {
    let path = Path::new("/sys/fs/cgroup").join(format!("spawn-template-{}", process::id()));
    if !is_root() || !Path::new("/sys/fs/cgroup/cgroup.procs").exists() || fs::create_dir(&path).is_err() {
        assert!(env::var_os("SPAWN_TEMPLATE_REQUIRED").is_none(), "no cgroups here");
        eprintln!("skipped: no cgroups here");
        return;
    }
    let directory = File::open(&path).unwrap();
    let null = File::open("/dev/null").unwrap();
    each_way(|mode| {
        let text = output(mode, Command::new("cat").arg("/proc/self/cgroup").cgroup(&directory));
        assert!(text.ends_with(&format!("/{}\n", path.file_name().unwrap().display())), "{text}");
        let mut command = Command::new("/bin/true");
        command.mode(mode).cgroup(&null);
        assert_eq!(failure(&command), (Some(Stage::Arguments), Some(Step::Cgroup), libc::EBADF));
    });
    // It is empty as soon as the children are reaped, give or take their way out.
    for _ in 0..1000 {
        if fs::remove_dir(&path).is_ok() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{} is still in use", path.display());
}

#[test]
fn nowait() {
    each_way(|mode| {
        let mut command = shell(mode, "exit 9");
        assert_eq!(command.nowait(true).status().unwrap().code(), Some(9));
        // The failure is an exit status.
        let mut command = shell(mode, "exit 9");
        assert_eq!(command.nowait(true).current_dir("/does/not/exist").status().unwrap().code(), Some(127));
    });
}

#[test]
fn path_search() {
    let folder = temporary("path");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("not-executable"), "").unwrap();
    let path = format!("/does/not/exist:{}:/bin", folder.display());
    each_way(|mode| {
        let named = |name: &str| {
            let mut command = Command::new(name);
            command.mode(mode);
            command
        };
        assert!(named("true").status().unwrap().success());
        // The child's PATH counts if the command changes it.
        assert!(named("true").env("PATH", &path).status().unwrap().success());
        assert_eq!(failure(named("true").env("PATH", "/does/not/exist")), (Some(Stage::Exec), None, libc::ENOENT));
        assert!(named("true").env_clear().status().unwrap().success());
        assert_eq!(failure(named("not-executable").env("PATH", &path)), (Some(Stage::Exec), None, libc::EACCES));
        for name in ["", "no-such-program", "./no-such-program", "/no/such/program"] {
            assert_eq!(failure(&named(name)), (Some(Stage::Exec), None, libc::ENOENT), "{name:?}");
        }
        let text = named("no-such-program").spawn().unwrap_err().to_string();
        assert_eq!(text, "no-such-program: exec: No such file or directory (os error 2)");
    });
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn scripts() {
    let path = temporary("script");
    // Written by another process, so that no child of another test can have it open for writing.
    let script = format!("printf '#!/bin/sh\\nexit 8\\n' > {0}; chmod 755 {0}", path.display());
    assert!(shell(Mode::ForkExec, &script).status().unwrap().success());
    let mut command = Command::new(&path);
    assert_eq!(command.mode(Mode::ForkExec).status().unwrap().code(), Some(8));
    if env::var_os("SPAWN_TEMPLATE_REQUIRED").is_none() {
        let mut child = Command::new(&path).spawn().unwrap();
        let reason = if spawn_template::is_supported() { Reason::NotElf } else { Reason::Unsupported };
        assert_eq!(child.via(), Via::ForkExec(reason));
        assert_eq!(child.wait().unwrap().code(), Some(8));
    }
    if spawn_template::is_supported() {
        let error = Command::new(&path).mode(Mode::Template).spawn().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOEXEC));
    }
    fs::remove_file(&path).unwrap();
}

fn set_umask() -> io::Result<()> {
    // SAFETY: plain numbers.
    unsafe { libc::umask(0o123) };
    Ok(())
}

#[test]
fn pre_exec() {
    let mut command = shell(Mode::ForkExec, "umask");
    // SAFETY: the closure only makes a system call.
    unsafe { command.pre_exec(set_umask) };
    assert!(String::from_utf8(command.output().unwrap().stdout).unwrap().ends_with("123\n"));
    // SAFETY: the closure does nothing.
    unsafe { command.pre_exec(|| Err(io::Error::from_raw_os_error(libc::EXDEV))) };
    assert_eq!(failure(&command), (Some(Stage::Action), Some(Step::PreExec(1)), libc::EXDEV));
    command.mode(Mode::Template);
    assert!(matches!(command.spawn(), Err(Error::Input(InvalidInput::PreExec))));
}

#[test]
fn exec() {
    // In a child, because it replaces the process.
    each_way(|mode| {
        let mut command = Command::new("sh");
        command.mode(mode).args(["-c", "exit $A"]).env("A", "11");
        // SAFETY: the child does nothing but exec, with memory that is not shared; fork() lets it allocate.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            command.exec();
            // SAFETY: ends the child.
            unsafe { libc::_exit(99) };
        }
        let mut status = 0;
        // SAFETY: writes the local.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(libc::WEXITSTATUS(status), 11);
    });
    let error = Command::new("/does/not/exist").inherit_fds(true).exec();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn errors_name_what_failed() {
    each_way(|mode| {
        let mut command = shell(mode, "true");
        command.umask(0).current_dir("/does/not/exist");
        match command.spawn().unwrap_err() {
            Error::Spawn { program, stage, step, error, .. } => {
                assert_eq!((program.to_str(), stage), (Some("/bin/sh"), Some(Stage::Action)));
                assert_eq!((step, error.kind()), (Some(Step::CurrentDir), io::ErrorKind::NotFound));
            }
            other => panic!("{other:?}"),
        }
        let error = io::Error::from(command.spawn().unwrap_err());
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    });
}

/// Each mistake is the error that the documentation names, and the program has not run.
#[test]
fn bad_input_starts_nothing() {
    each_way(|mode| {
        let (marker, private) = (temporary("marker"), temporary("unreadable"));
        fs::create_dir(&private).unwrap();
        fs::set_permissions(&private, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let file = File::open("/dev/null").unwrap();
        let script = format!("echo > {}", marker.display());
        let command = || shell(mode, &script);
        let input = |command: &Command<'_>| match command.spawn() {
            Err(Error::Input(mistake)) => mistake,
            other => panic!("{other:?}"),
        };

        assert_eq!(input(command().arg("\0")), InvalidInput::NulInArgument(3));
        assert_eq!(input(command().env("A", "\0")), InvalidInput::NulInEnvironment);
        assert_eq!(input(command().current_dir("\0")), InvalidInput::NulInPath);
        assert_eq!(input(command().fd(7, &file).fd(7, &file)), InvalidInput::FdCollision(7));
        let nothing = input(command().dup2(ChildFd(77), 5));
        assert!(matches!(nothing, InvalidInput::NothingPlaced { step: Step::Action(0), fd: 77, .. }));
        let not_open = (Some(Stage::Action), Some(Step::Action(1)), libc::EBADF);
        assert_eq!(failure(command().action(Action::Close(file.as_raw_fd())).dup2(&file, 5)), not_open);
        assert_eq!(failure(command().current_dir("/does/not/exist")).2, libc::ENOENT);
        let missing = Command::new("/does/not/exist").mode(mode).spawn().unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
        if is_root() {
            let entering = (Some(Stage::Action), Some(Step::CurrentDir), libc::EACCES);
            assert_eq!(failure(command().uid(12345).current_dir(&private)), entering);
            let back = (Some(Stage::Action), Some(Step::Action(0)), libc::EPERM);
            assert_eq!(failure(command().uid(12345).action(Action::Setuid(0))), back);
        }
        assert!(!marker.exists(), "a program was started");

        // It would have been noticed.
        assert!(command().status().unwrap().success());
        fs::remove_file(&marker).unwrap();
        fs::remove_dir(&private).unwrap();
    });
}

#[test]
fn getters_and_debug() {
    let mut command = Command::new("ls");
    command.args(["-l", "x"]).env("SECRET", "hidden").env_remove("GONE").current_dir("/tmp");
    assert_eq!(command.get_program(), "ls");
    assert_eq!(command.get_args().collect::<Vec<_>>(), ["-l", "x"]);
    let envs: Vec<_> = command.get_envs().collect();
    assert_eq!(envs, [("GONE".as_ref(), None), ("SECRET".as_ref(), Some("hidden".as_ref()))]);
    assert_eq!(command.get_current_dir(), Some(Path::new("/tmp")));
    let text = format!("{command:?}");
    assert!(text.contains("\"-l\"") && text.contains("SECRET") && !text.contains("hidden"), "{text}");
}

#[test]
fn shared_and_used_again() {
    each_way(|mode| {
        let template = template(mode, "/bin/sh");
        let mut command = Command::new(&template);
        command.args(["-c", "exit 3"]);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5).for_each(|_| assert_eq!(command.status().unwrap().code(), Some(3))));
            }
        });
        let mut other = command.clone();
        other.arg("x");
        assert_eq!((other.status().unwrap().code(), command.get_args().count()), (Some(3), 2));
    });
}
