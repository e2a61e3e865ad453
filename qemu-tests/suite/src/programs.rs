//! Real programs, started through the crate as its users would.

use std::fs::File;
use std::io::{Read, Write};

use spawn_template::{Command, Fd, Open, SignalSet, Template};

use crate::harness::{Outcome, failed};
use crate::os;
use crate::template::{Folder, child};
use crate::{ensure, same, tests};

tests!("programs":
    true_and_false, echo_into_pipe, cat_through_pipes, shell, shell_pipeline, environment, static_programs,
    static_pie_program, dynamic_program, interpreters_loaded_by_hand, working_directory, redirections,
    large_output, kill_and_try_wait, error_has_errno, many_in_a_row, prepared,
);

impl From<spawn_template::Error> for crate::harness::Stop {
    #[track_caller]
    fn from(error: spawn_template::Error) -> Self {
        failed(error)
    }
}

/// Both ends of a pipe, the reader as a file.
fn pipe() -> Outcome<(File, std::os::fd::OwnedFd)> {
    let (reader, writer) = os::pipe()?;
    Ok((File::from(reader), writer))
}

/// Output and exit code of a program with arguments; its spawn must be counted.
fn run(path: &str, arguments: &[&str]) -> Outcome<(Option<i32>, String)> {
    let template = Template::open(path)?;
    let (reader, writer) = pipe()?;
    let target = writer.try_clone()?;
    let mut command = Command::new(&template);
    command.args(arguments).dup2(&target, 1);
    let mut child = command.spawn()?;
    drop((writer, target));
    let mut text = String::new();
    File::read_to_string(&mut { reader }, &mut text)?;
    let status = child.wait()?;
    let stats = template.stats()?;
    same!((stats.spawns, stats.failures), (1, 0), "spawns and failures of {path}");
    Ok((status.code(), text))
}

fn true_and_false() -> Outcome {
    same!(run("/bin/true", &[])?, (Some(0), String::new()), "true");
    same!(run("/bin/false", &[])?, (Some(1), String::new()), "false");
    Ok(())
}

fn echo_into_pipe() -> Outcome {
    same!(run("/bin/echo", &["hello", "", "two  words"])?, (Some(0), "hello  two  words\n".into()), "echo");
    Ok(())
}

fn cat_through_pipes() -> Outcome {
    let template = Template::open("/bin/cat")?;
    let (their_input, our_output) = os::pipe()?;
    let (our_input, their_output) = pipe()?;
    let mut child = Command::new(&template).dup2(&their_input, 0).dup2(&their_output, 1).spawn()?;
    drop((their_input, their_output));
    let mut writer = File::from(our_output);
    let text = "one line and another\n".repeat(1000);
    writer.write_all(text.as_bytes())?;
    drop(writer);
    let mut back = String::new();
    File::read_to_string(&mut { our_input }, &mut back)?;
    ensure!(back == text, "cat gave {} bytes back, not {}", back.len(), text.len());
    ensure!(child.wait()?.success(), "cat failed");
    Ok(())
}

fn shell() -> Outcome {
    for shell in ["/bin/sh", "/bin/bash"] {
        same!(run(shell, &["-c", "echo $((6 * 7)); exit 3"])?, (Some(3), "42\n".into()), "{shell}");
    }
    Ok(())
}

fn shell_pipeline() -> Outcome {
    let script = "PATH=/bin:/usr/bin; seq 100 | sort -n | tail -n 1; kill -TERM $$";
    same!(run("/bin/sh", &["-c", script])?, (None, "100\n".into()), "a shell that runs a pipeline and kills itself");
    Ok(())
}

fn environment() -> Outcome {
    let template = Template::open("/usr/bin/env")?;
    let (reader, writer) = pipe()?;
    let target = writer.try_clone()?;
    let mut command = Command::new(&template);
    command.env_clear().env("ONLY", "this").dup2(&target, 1);
    let mut child = command.spawn()?;
    drop((writer, target));
    let mut text = String::new();
    File::read_to_string(&mut { reader }, &mut text)?;
    ensure!(child.wait()?.success(), "env failed");
    same!(text, "ONLY=this\n", "the environment");
    Ok(())
}

fn static_programs() -> Outcome {
    for name in ["nothing", "static0"] {
        same!(run(&child(name), &[])?, (Some(0), String::new()), "{name}");
    }
    same!(run(&child("exit-code"), &["77"])?.0, Some(77), "exit code of a static program");
    ensure!(run(&child("show-static"), &["x"])?.1.ends_with("end=\n"), "show-static was cut off");
    Ok(())
}

fn static_pie_program() -> Outcome {
    same!(run(&child("static-pie"), &[])?, (Some(0), String::new()), "static-pie");
    let text = run(&child("show-static-pie"), &["x"])?.1;
    ensure!(text.contains("\nbase=no\n"), "a static-pie program has an interpreter: {text}");
    Ok(())
}

fn dynamic_program() -> Outcome {
    same!(run(&child("dynamic0"), &[])?, (Some(0), String::new()), "dynamic0");
    let text = run(&child("show"), &["x"])?.1;
    ensure!(text.contains("\nbase=yes\n"), "a dynamic program has no interpreter: {text}");
    Ok(())
}

/// The dynamic loader is a program too.
fn interpreters_loaded_by_hand() -> Outcome {
    let loader = "/lib64/ld-linux-x86-64.so.2";
    same!(run(loader, &["/bin/echo", "by hand"])?, (Some(0), "by hand\n".into()), "the loader with a program");
    Ok(())
}

fn working_directory() -> Outcome {
    let template = Template::open("/bin/pwd")?;
    let (reader, writer) = pipe()?;
    let target = writer.try_clone()?;
    let directory = File::open("/usr/lib")?;
    let mut command = Command::new(&template);
    command.fchdir(&directory).dup2(&target, 1);
    drop(writer);
    let mut child = command.spawn()?;
    drop(command);
    drop(target);
    let mut text = String::new();
    File::read_to_string(&mut { reader }, &mut text)?;
    ensure!(child.wait()?.success(), "pwd failed");
    same!(text, "/usr/lib\n", "working directory");
    Ok(())
}

fn redirections() -> Outcome {
    let folder = Folder::tmp("redirections")?;
    std::fs::write(folder.join("in"), "b\na\n")?;
    let template = Template::open("/usr/bin/sort")?;
    let status = Command::new(&template)
        .open(Open::read(folder.join("in")), 0)
        .open(Open::write(folder.join("out")).create(0o600), 1)
        .dup2(Fd::Child(spawn_template::ChildFd(1)), 2)
        .sigdefault(SignalSet::full())
        .status()?;
    ensure!(status.success(), "sort failed");
    same!(std::fs::read_to_string(folder.join("out"))?, "a\nb\n", "the sorted file");
    Ok(())
}

fn large_output() -> Outcome {
    let (code, text) = run("/usr/bin/head", &["-c", "1000000", "/dev/zero"])?;
    same!((code, text.len()), (Some(0), 1_000_000), "exit code and bytes");
    Ok(())
}

fn kill_and_try_wait() -> Outcome {
    let template = Template::open(child("sleep"))?;
    let mut sleeping = Command::new(&template).spawn()?;
    ensure!(sleeping.try_wait()?.is_none(), "a sleeping child has ended");
    sleeping.kill()?;
    let status = sleeping.wait()?;
    same!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL), "signal");
    same!(sleeping.wait()?, status, "a second wait");
    same!(sleeping.try_wait()?, Some(status), "a look afterwards");
    Ok(())
}

fn error_has_errno() -> Outcome {
    let error = |result: Result<Template, spawn_template::Error>| result.err().and_then(|e| e.raw_os_error());
    same!(error(Template::open("/missing")), Some(libc::ENOENT), "a missing program");
    same!(error(Template::open("/etc/passwd")), Some(libc::EACCES), "a file that is no program");
    let template = Template::open("/bin/true")?;
    let result = Command::new(&template).open(Open::read("/missing"), 5).spawn();
    same!(result.err().and_then(|e| e.raw_os_error()), Some(libc::ENOENT), "a missing file to open");
    let stats = template.stats()?;
    same!((stats.spawns, stats.failures), (0, 1), "spawns and failures");
    Ok(())
}

fn many_in_a_row() -> Outcome {
    let template = Template::open("/bin/true")?;
    let command = Command::new(&template);
    for _ in 0..40 {
        ensure!(command.status()?.success(), "true failed");
    }
    same!(template.stats()?.spawns, 40, "spawns");
    Ok(())
}

fn prepared() -> Outcome {
    let template = Template::open("/bin/echo")?;
    let (reader, writer) = pipe()?;
    let target = writer.try_clone()?;
    let mut command = Command::new(&template);
    command.arg("again").dup2(&target, 1);
    let prepared = command.prepare()?;
    for _ in 0..3 {
        ensure!(prepared.spawn()?.wait()?.success(), "echo failed");
    }
    drop(prepared);
    drop(command);
    drop((writer, target));
    let mut text = String::new();
    File::read_to_string(&mut { reader }, &mut text)?;
    same!(text, "again\n".repeat(3), "output of three");
    Ok(())
}
