//! Boots a guest, runs one command in it and finds out how that ended.
//!
//! The guest's console arrives on QEMU's standard output and is watched for complaints of the kernel. The command's
//! output and what guest-init has to report arrive over virtio-serial, each port on a socket pair whose other end QEMU
//! inherits: nothing has a name in the file system, so nothing is left behind.

mod accel;
mod console;
mod cpio;
pub mod emulator;
mod libraries;
mod payload;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::context::{Accel, Context};
use crate::image::Image;
use crate::interrupt::{Guarded, wait_if_interrupted};
use console::Console;

pub use accel::{accelerator, counts_instead};
pub use console::{Finding, Kind};
pub use libraries::FOLDERS as LIBRARY_FOLDERS;
pub use payload::{CopySpec, FOLDER, Payload};

/// How long a guest may take until its init runs. Translating, with every check a debugging
/// kernel has, it is 20 s on a machine that has nothing else to do.
const BOOT_LIMIT: Duration = Duration::from_secs(300);

/// How long a guest may take to switch itself off.
const END_LIMIT: Duration = Duration::from_secs(20);

/// How long a kernel that has crashed may go on printing.
const CRASH_LIMIT: Duration = Duration::from_secs(3);

/// How often a guest is booted when QEMU itself spoils the boot; see [`Outcome::is_stale_code`].
const BOOT_ATTEMPTS: u32 = 3;

/// How often a command is run that can be run again, when QEMU itself spoils it; see [`Outcome::is_stale_code`].
const RUN_ATTEMPTS: u32 = 2;

/// How many console logs are kept.
const KEPT_LOGS: usize = 20;

/// A guest to be booted.
pub struct Guest {
    /// What the log file is called.
    pub name: String,
    /// The kernel image.
    pub kernel: PathBuf,
    /// More of the kernel's command line.
    pub kernel_args: String,
    /// More of QEMU's.
    pub qemu_args: Vec<String>,
    /// The userland.
    pub image: Image,
    /// The program that becomes PID 1.
    pub init: PathBuf,
    /// The module to load before the command starts.
    pub module: Option<PathBuf>,
    /// How many processors.
    pub smp: u32,
    /// How much memory, as QEMU reads it.
    pub mem: String,
    /// Whether guest time advances by one nanosecond per instruction; needs translation.
    pub icount: bool,
    /// What watches the guest's instructions; needs translation.
    pub plugin: Option<Plugin>,
    /// Files for the guest.
    pub payload: Payload,
    /// The command.
    pub argv: Vec<String>,
    /// Its environment, beyond the usual.
    pub env: BTreeMap<String, String>,
    /// How long the command may take.
    pub timeout: Duration,
    /// Rows and columns of a terminal that the command gets on the console, instead of having its output passed on.
    /// The console is then shown on our standard output, and fed from [`Guest::run`]'s caller.
    pub terminal: Option<(u16, u16)>,
}

/// A plugin of QEMU's translator.
pub struct Plugin {
    /// The shared library.
    pub library: PathBuf,
    /// What it is to write when QEMU ends.
    pub out: File,
}

/// How a guest ended.
#[derive(Debug)]
pub enum End {
    /// The command ended with this status.
    Exited(i32),
    /// The command was killed by this signal.
    Signaled(i32),
    /// The kernel crashed before the command ended.
    Crashed,
    /// The time was up; says waiting for what.
    TimedOut(String),
    /// QEMU could not be used or ended too early; says how.
    Qemu(String),
    /// guest-init could not do its job; says why.
    Guest(String),
}

/// What a guest left behind.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// What the kernel complained about.
    pub findings: Vec<Finding>,
    /// The console's last lines.
    pub tail: Vec<String>,
    /// The whole console.
    pub log: PathBuf,
}

impl Outcome {
    /// Whether the command ended with status 0 and the kernel stayed quiet.
    pub fn is_clean(&self) -> bool {
        matches!(self.end, End::Exited(0)) && self.findings.is_empty()
    }

    /// Whether the kernel ran into a breakpoint that it had set while patching its own code and had already removed.
    /// That is a fault of QEMU before 8.1 when it translates for several processors at once, not of the kernel.
    fn is_stale_code(&self) -> bool {
        matches!(self.end, End::Crashed)
            && self.findings.first().is_some_and(|finding| finding.line.contains("Oops: int3:"))
    }

    /// Explains on stderr what is wrong, if anything is.
    pub fn explain(&self) {
        let what = match &self.end {
            End::Exited(_) | End::Signaled(_) if self.findings.is_empty() => return,
            End::Exited(_) | End::Signaled(_) => "the command ended, but the guest's kernel complained".to_owned(),
            End::Crashed => "the guest's kernel crashed".to_owned(),
            End::TimedOut(what) => format!("the guest hangs or is too slow: {what}"),
            End::Qemu(how) => format!("QEMU: {how}"),
            End::Guest(why) => format!("the guest could not run the command: {}", why.trim_end()),
        };
        eprintln!("error: {what}");
        for finding in &self.findings {
            eprintln!("  {}: {}", finding.kind, finding.line);
        }
        eprintln!("the console's last lines:");
        for line in &self.tail {
            eprintln!("  | {line}");
        }
        eprintln!("the whole console: {}", self.log.display());
    }
}

/// Runs a guest by way of `once`, and again if QEMU spoilt it; for commands that can be run again.
pub fn run_unspoilt<T>(ctx: &Context, mut once: impl FnMut() -> Result<(T, Outcome)>) -> Result<(T, Outcome)> {
    for _ in 1..RUN_ATTEMPTS {
        let (result, outcome) = once()?;
        if !outcome.is_stale_code() {
            return Ok((result, outcome));
        }
        let log = outcome.log.display();
        ctx.ui.note(format!("note: QEMU ran code that the kernel had just replaced; beginning again ({log})"));
    }
    once()
}

/// The job as guest-init reads it.
#[derive(Serialize)]
struct Job<'a> {
    argv: &'a [String],
    env: BTreeMap<String, String>,
    cwd: &'a str,
    module: bool,
    tty: Option<Tty>,
}

#[derive(Serialize)]
struct Tty {
    name: &'static str,
    rows: u16,
    columns: u16,
}

/// What guest-init reports.
#[derive(Deserialize, Debug)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event {
    Booted,
    Started,
    Exited { code: i32, stdout: u64, stderr: u64 },
    Signaled { signal: i32, stdout: u64, stderr: u64 },
    Error { message: String },
}

/// What the reading threads pass on.
enum Message {
    Console(Vec<u8>),
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Qemu(Vec<u8>),
    Control(String),
}

/// Takes the command's output, or the console's for a guest with a terminal.
pub type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<()>;

/// A sink that keeps all it gets.
pub fn keep(kept: &mut Vec<u8>) -> impl FnMut(&[u8]) -> io::Result<()> {
    |bytes| {
        kept.extend_from_slice(bytes);
        Ok(())
    }
}

/// What the guest with a terminal is fed from; see [`Guest::run`].
pub type Input = Box<dyn FnOnce(std::process::ChildStdin) + Send>;

impl Guest {
    /// Boots, runs the command, waits for the end. A returned error means that we failed, not the guest.
    ///
    /// `on_started` gets the console's input once the command runs; only a guest with a terminal needs one.
    pub fn run(
        &mut self,
        ctx: &Context,
        on_stdout: Sink,
        on_stderr: Sink,
        mut on_started: Option<Input>,
    ) -> Result<Outcome> {
        let initramfs = self.initramfs()?;
        for _ in 1..BOOT_ATTEMPTS {
            let (outcome, started) = self.attempt(ctx, &initramfs, on_stdout, on_stderr, &mut on_started)?;
            if started || !outcome.is_stale_code() {
                return Ok(outcome);
            }
            ctx.ui.note("note: QEMU ran code that the booting kernel had just replaced; booting once more");
        }
        Ok(self.attempt(ctx, &initramfs, on_stdout, on_stderr, &mut on_started)?.0)
    }

    /// Boots once. Returns as well whether it came to starting the command.
    fn attempt(
        &self,
        ctx: &Context,
        initramfs: &File,
        on_stdout: Sink,
        on_stderr: Sink,
        on_started: &mut Option<Input>,
    ) -> Result<(Outcome, bool)> {
        let (log_path, mut log) = console_log(ctx, &self.name)?;
        let emulator = emulator::path(ctx)?;
        let mut command = Command::new(&emulator);
        self.arguments(ctx, &mut command, initramfs)?;
        let ports = ["spawn.stdout", "spawn.stderr", "spawn.control"];
        let [stdout, stderr, control] = ports.map(|name| port(&mut command, name));
        let ((stdout, far1), (stderr, far2), (control, far3)) = (stdout?, stderr?, control?);
        command.stdin(if on_started.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        writeln!(log, "$ {command:?}")?;

        let mut qemu = Guarded::spawn(&mut command).with_context(|| format!("cannot start {}", emulator.display()))?;
        // With our copies of QEMU's ends gone, the end of QEMU is the end of every stream.
        drop((far1, far2, far3, command));
        let mut input = qemu.stdin.take();

        let (sender, messages) = sync_channel(64);
        pump(qemu.stdout.take(), &sender, Message::Console);
        pump(qemu.stderr.take(), &sender, Message::Qemu);
        pump(Some(stdout), &sender, Message::Stdout);
        pump(Some(stderr), &sender, Message::Stderr);
        lines(control.try_clone()?, &sender);
        drop(sender);

        let mut session = Session {
            timeout: self.timeout,
            deadline: Instant::now() + BOOT_LIMIT,
            waiting_for: format!("it did not boot within {} s", BOOT_LIMIT.as_secs()),
            console: Console::default(),
            crashed: false,
            started: false,
            expected: None,
            received: (0, 0),
            qemu_said: Vec::new(),
            end: None,
        };
        let shows_console = self.terminal.is_some();
        let over = loop {
            match session.next(&messages) {
                Next::Message(Message::Console(bytes)) => {
                    log.write_all(&bytes)?;
                    if shows_console {
                        on_stdout(&bytes)?;
                    }
                    session.on_console(&bytes);
                }
                Next::Message(Message::Stdout(bytes)) => {
                    session.received.0 += bytes.len() as u64;
                    on_stdout(&bytes)?;
                }
                Next::Message(Message::Stderr(bytes)) => {
                    session.received.1 += bytes.len() as u64;
                    on_stderr(&bytes)?;
                }
                Next::Message(Message::Qemu(bytes)) => session.qemu_said.extend(bytes),
                Next::Message(Message::Control(line)) => {
                    if session.on_control(&line)
                        && let (Some(on_started), Some(input)) = (on_started.take(), input.take())
                    {
                        on_started(input);
                    }
                }
                Next::Ended => break true,
                Next::TimeUp => break false,
            }
            if session.has_everything() {
                // The guest may switch off now; it waits for this word.
                (&control).write_all(b"\n").ok();
            }
        };
        let status = if over { Some(qemu.wait()?) } else { None };
        drop(qemu);
        // Ctrl-C ends QEMU too; that is nobody's failure.
        wait_if_interrupted();
        session.console.finish();
        let end = session.end(status);
        let outcome = Outcome {
            end,
            findings: session.console.findings().to_vec(),
            tail: session.console.tail().map(str::to_owned).collect(),
            log: log_path,
        };
        Ok((outcome, session.started))
    }

    /// Writes the initramfs into memory.
    fn initramfs(&mut self) -> Result<File> {
        if let Some(module) = &self.module {
            self.payload.copy(module, Path::new("/payload/spawn_template.ko"))?;
        }
        let usual = [
            ("HOME", "/root"),
            ("USER", "root"),
            ("LOGNAME", "root"),
            ("SHELL", "/bin/bash"),
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/payload"),
            ("LANG", "C.UTF-8"),
        ];
        let mut env: BTreeMap<_, _> = usual.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        env.extend(self.env.clone());
        let job = Job {
            argv: &self.argv,
            env,
            cwd: FOLDER,
            module: self.module.is_some(),
            tty: self.terminal.map(|(rows, columns)| Tty { name: "ttyS0", rows, columns }),
        };
        self.payload.text("/payload/job.json", serde_json::to_vec(&job)?, 0o644);
        let file = memory_file("initramfs")?;
        let mut writer = io::BufWriter::with_capacity(1 << 20, &file);
        self.payload.write(&self.init, &mut writer)?;
        writer.flush()?;
        drop(writer);
        Ok(file)
    }

    fn arguments(&self, ctx: &Context, command: &mut Command, initramfs: &File) -> Result<()> {
        let (accel, cpu) = match (accelerator(ctx)?.0, self.icount) {
            (Accel::Kvm, true) if ctx.accel.is_some() => bail!("--icount counts translated instructions; KVM has none"),
            (_, true) => ("tcg", "max,-erms,-fsrm"),
            (Accel::Kvm, false) => ("kvm", "max"),
            (Accel::Tcg, false) => ("tcg,thread=multi", "max"),
        };
        ensure!(self.kernel.is_file(), "there is no kernel {}", self.kernel.display());
        command.args(["-nodefaults", "-no-user-config", "-machine", "q35", "-display", "none", "-no-reboot"]);
        command.args(["-accel", accel, "-cpu", cpu, "-m", &self.mem]).arg("-smp").arg(self.smp.to_string());
        if self.icount {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        if let Some(plugin) = &self.plugin {
            let out = passed_path(command, &plugin.out);
            command.arg("-plugin").arg(format!("{},out={out}", comma(&plugin.library)));
        }
        command.arg("-kernel").arg(&self.kernel);
        let path = passed_path(command, initramfs);
        command.arg("-initrd").arg(path);
        // Booting, the kernel counts timer ticks against delay loops, and panics when too few come: under emulation
        // they do on a busy machine.
        let kernel_args = format!("console=ttyS0 panic=-1 no_timer_check {}", self.kernel_args);
        command.arg("-append").arg(kernel_args.trim_end());
        command.args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
        let drive = format!("if=none,id=root,format=raw,snapshot=on,file={}", comma(&self.image.disk));
        command.args(["-drive", &drive, "-device", "virtio-blk-pci,drive=root"]);
        command.args(["-device", "virtio-serial-pci"]).args(&self.qemu_args);
        Ok(())
    }
}

/// A guest under way.
struct Session {
    timeout: Duration,
    /// When patience ends, and what then was waited for.
    deadline: Instant,
    waiting_for: String,
    console: Console,
    crashed: bool,
    started: bool,
    /// How much output the guest has sent in all, once it knows.
    expected: Option<(u64, u64)>,
    received: (u64, u64),
    qemu_said: Vec<u8>,
    end: Option<End>,
}

enum Next {
    Message(Message),
    TimeUp,
    Ended,
}

impl Session {
    fn next(&self, messages: &Receiver<Message>) -> Next {
        match messages.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
            Ok(message) => Next::Message(message),
            Err(RecvTimeoutError::Timeout) => Next::TimeUp,
            Err(RecvTimeoutError::Disconnected) => Next::Ended,
        }
    }

    fn limit(&mut self, time: Duration, waiting_for: String) {
        self.deadline = Instant::now() + time;
        self.waiting_for = waiting_for;
    }

    fn on_console(&mut self, bytes: &[u8]) {
        self.console.feed(bytes);
        if !self.crashed && self.console.findings().iter().any(|finding| !finding.kind.survivable()) {
            self.crashed = true;
            self.limit(CRASH_LIMIT, String::new());
        }
    }

    /// Returns whether the command has just started.
    fn on_control(&mut self, line: &str) -> bool {
        match serde_json::from_str(line) {
            Ok(Event::Booted) => {}
            Ok(Event::Started) => {
                self.started = true;
                let limit = format!("the command did not end within {} s", self.timeout.as_secs());
                self.limit(self.timeout, limit);
                return true;
            }
            Ok(Event::Exited { code, stdout, stderr }) => self.ending(End::Exited(code), (stdout, stderr)),
            Ok(Event::Signaled { signal, stdout, stderr }) => self.ending(End::Signaled(signal), (stdout, stderr)),
            Ok(Event::Error { message }) => self.ending(End::Guest(message), (0, 0)),
            Err(error) => self.ending(End::Guest(format!("its init said {line:?}: {error}")), (0, 0)),
        }
        false
    }

    fn ending(&mut self, end: End, expected: (u64, u64)) {
        self.end = Some(end);
        self.expected = Some(expected);
        self.limit(END_LIMIT, String::new());
    }

    /// Whether the guest is done and all it sent has arrived. True once.
    fn has_everything(&mut self) -> bool {
        self.expected.take_if(|(out, err)| self.received.0 >= *out && self.received.1 >= *err).is_some()
    }

    fn end(&mut self, status: Option<std::process::ExitStatus>) -> End {
        let survived = |kind: Kind| kind.survivable();
        match self.end.take() {
            Some(end) => end,
            None if !self.console.findings().iter().all(|finding| survived(finding.kind)) => End::Crashed,
            None => match status {
                None => End::TimedOut(self.waiting_for.clone()),
                Some(status) => {
                    let said = String::from_utf8_lossy(&self.qemu_said).trim().to_owned();
                    let said = if said.is_empty() { "it said nothing".into() } else { said };
                    End::Qemu(format!("ended before the command did ({status}): {said}"))
                }
            },
        }
    }
}

/// A log for the console of one guest among several that may be running. The last ones are kept.
fn console_log(ctx: &Context, name: &str) -> Result<(PathBuf, File)> {
    let (path, file) = ctx.cache.log(&format!("console-{name}-{}", std::process::id()))?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let is_console = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("console-"));
    let mut logs: Vec<_> = std::fs::read_dir(folder)?
        .flatten()
        .map(|item| item.path())
        .filter(|path| is_console(path))
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .collect();
    logs.sort();
    for (_, old) in logs.iter().rev().skip(KEPT_LOGS) {
        // Another run may be tidying up as well.
        std::fs::remove_file(old).ok();
    }
    Ok((path, file))
}

/// Adds a virtio-serial port and returns our end of it, and QEMU's, which must live until QEMU has started.
fn port(command: &mut Command, name: &str) -> Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let fd = theirs.as_raw_fd();
    pass(command, fd);
    command.arg("-chardev").arg(format!("socket,id={name},fd={fd}"));
    command.arg("-device").arg(format!("virtserialport,chardev={name},name={name}"));
    Ok((ours, theirs))
}

/// Lets the command inherit a descriptor under its number.
fn pass(command: &mut Command, fd: i32) {
    let keep = move || {
        // SAFETY: fcntl() with F_SETFD takes numbers only, and is allowed between fork and exec.
        match unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(keep) };
}

/// Lets the command inherit a file and returns the path under which it can open it.
fn passed_path(command: &mut Command, file: &File) -> String {
    pass(command, file.as_raw_fd());
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// A file without a name.
pub fn memory_file(name: &str) -> Result<File> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: the name is NUL-terminated.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("cannot create a file in memory");
    }
    // SAFETY: the descriptor is new, so nobody else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// A path as a value in QEMU's comma-separated lists.
fn comma(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Passes on what a stream delivers, in pieces, until it ends.
fn pump(
    stream: Option<impl Read + Send + 'static>,
    sender: &SyncSender<Message>,
    wrap: impl Fn(Vec<u8>) -> Message + Send + 'static,
) {
    let (Some(mut stream), sender) = (stream, sender.clone()) else { return };
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if sender.send(wrap(buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    });
}

/// Passes on the control port's lines.
fn lines(stream: UnixStream, sender: &SyncSender<Message>) {
    let sender = sender.clone();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { break };
            if sender.send(Message::Control(line)).is_err() {
                break;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breakpoint_nobody_knows_is_qemus_fault_and_nothing_else_is() {
        let crash = |end, log: &str| {
            let mut console = Console::default();
            console.feed(log.as_bytes());
            console.finish();
            Outcome { end, findings: console.findings().to_vec(), tail: Vec::new(), log: "log".into() }.is_stale_code()
        };
        let int3 = "[  114.726970] Oops: int3: 0000 [#1] SMP NOPTI\n[  114.75] Kernel panic - not syncing: Fatal\n";
        let page_fault = "[    4.10] Oops: Oops: 0000 [#1] SMP PTI\n[    4.11] Kernel panic - not syncing: Fatal\n";
        assert!(crash(End::Crashed, int3));
        assert!(!crash(End::Exited(0), int3));
        assert!(!crash(End::Crashed, page_fault));
        assert!(!crash(End::Crashed, &format!("{page_fault}{int3}")));
        assert!(!crash(End::Crashed, ""));
    }
}
