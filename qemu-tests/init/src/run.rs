//! Runs the job's command and does what an init has to do meanwhile.

use crate::job::{Job, Tty};
use crate::ports::{self, Control, Event};
use crate::sys::{self, End};
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

/// Runs the command to its end, ends everything it left behind, and says how it ended.
pub fn run(job: &Job, control: &mut Control) -> Result<Event, String> {
    let [program, arguments @ ..] = job.argv.as_slice() else { return Err("the job has no command".into()) };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(&job.env).current_dir(&job.cwd);
    match &job.tty {
        Some(tty) => on_terminal(&mut command, tty)?,
        None => {
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        }
    }
    let terminal = job.tty.is_some();
    // SAFETY: the closure makes system calls only, which is all that may happen between fork and exec.
    unsafe { command.pre_exec(move || sys::new_session(terminal)) };

    control.send(&Event::Started);
    let mut child = match command.spawn() {
        Ok(child) => child,
        // As a shell says it: 127 for a command that is not there, 126 for one that cannot be run.
        Err(error) => return not_started(program, &error, terminal),
    };
    drop(command);
    let relays = match (child.stdout.take(), child.stderr.take()) {
        (Some(out), Some(err)) => Some((relay(out, "spawn.stdout")?, relay(err, "spawn.stderr")?)),
        _ => None,
    };

    let end = sys::wait_for(child.id()).map_err(|error| format!("waiting for {program}: {error}"))?;
    // Whatever still runs holds the pipes open; the command is over, so is the guest.
    sys::kill_everything();
    let (stdout, stderr) = match relays {
        Some((out, err)) => (join(out)?, join(err)?),
        None => (0, 0),
    };
    Ok(match end {
        End::Code(code) => Event::Exited { code, stdout, stderr },
        End::Signal(signal) => Event::Signaled { signal, stdout, stderr },
    })
}

/// Gives the command a terminal for its three standard files.
fn on_terminal(command: &mut Command, tty: &Tty) -> Result<(), String> {
    let path = format!("/dev/{}", tty.name);
    let open = || {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        sys::set_terminal_size(&file, tty.rows, tty.columns)?;
        Ok(file)
    };
    let file = open().map_err(|error: io::Error| format!("{path}: {error}"))?;
    let copy = || file.try_clone().map_err(|error| format!("{path}: {error}"));
    command.stdin(copy()?).stdout(copy()?).stderr(copy()?);
    Ok(())
}

/// Passes on what the command writes, and counts it. The command gets pipes and not the ports themselves, because a
/// port can be opened only once: a shell's `>/dev/stderr` would fail.
fn relay(mut from: impl Read + Send + 'static, port: &'static str) -> Result<JoinHandle<io::Result<u64>>, String> {
    let mut to = ports::open(port)?;
    Ok(thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        let mut total = 0;
        loop {
            let count = from.read(&mut buffer)?;
            if count == 0 {
                return Ok(total);
            }
            to.write_all(&buffer[..count])?;
            total += count as u64;
        }
    }))
}

fn join(relay: JoinHandle<io::Result<u64>>) -> Result<u64, String> {
    match relay.join() {
        Ok(result) => result.map_err(|error| format!("passing on the command's output: {error}")),
        Err(_) => Err("passing on the command's output: the thread panicked".into()),
    }
}

fn not_started(program: &str, error: &io::Error, terminal: bool) -> Result<Event, String> {
    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    let message = format!("{program}: {error}\n");
    if terminal {
        return Err(message);
    }
    let mut port = ports::open("spawn.stderr")?;
    port.write_all(message.as_bytes()).map_err(|error| format!("spawn.stderr: {error}"))?;
    Ok(Event::Exited { code, stdout: 0, stderr: message.len() as u64 })
}
