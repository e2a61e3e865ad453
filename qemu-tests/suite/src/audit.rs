//! Audit: the rules that record an execve record what a spawn executes, with its arguments.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::harness::{Outcome, Stop, failed, in_worker};
use crate::os::{self, Status};
use crate::template::{Template, child};
use crate::{ensure, same, tests};

tests!("audit": execve_rule, rule_on_the_call_itself, executable_watch, without_rules);

/// `AUDIT_SET`, `AUDIT_ADD_RULE` and `AUDIT_DEL_RULE`.
const SET: u16 = 1001;
/// See [`SET`].
const ADD_RULE: u16 = 1011;
/// See [`SET`].
const DELETE_RULE: u16 = 1012;
/// Types of the records wanted here.
pub const SYSCALL: u16 = 1300;
/// See [`SYSCALL`].
pub const PATH: u16 = 1302;
/// See [`SYSCALL`].
pub const EXECVE: u16 = 1309;

/// `AUDIT_ARCH_X86_64`.
const ARCH: u32 = 0xc000_003e;
/// `AUDIT_EQUAL`.
const EQUAL: u32 = 0x4000_0000;

/// `AUDIT_PERM_*`: what a watch is about.
pub const EXEC: u32 = 1;
/// See [`EXEC`].
pub const WRITE: u32 = 2;
/// See [`EXEC`].
pub const READ: u32 = 4;
/// See [`EXEC`].
pub const ATTRIBUTES: u32 = 8;

/// `struct audit_rule_data`: record always, at the exit of system calls, when all fields match.
pub struct Rule {
    calls: Vec<usize>,
    /// Field and value; a text's length where `text` is its value.
    fields: Vec<(u32, u32)>,
    text: String,
}

impl Rule {
    /// One on a system call by its number.
    fn on(number: usize) -> Rule {
        Rule::on_all(vec![number])
    }

    /// One on several system calls.
    pub fn on_all(calls: Vec<usize>) -> Rule {
        // AUDIT_ARCH
        Rule { calls, fields: vec![(11, ARCH)], text: String::new() }
    }

    /// One on the execution of a file: `-w PATH -p x`.
    fn execution_of(path: &str) -> Rule {
        Rule::watch(path, EXEC)
    }

    /// One on these uses of a file, or of what is in a folder: `-w PATH -p ...`.
    pub fn watch(path: &str, uses: u32) -> Rule {
        // AUDIT_DIR or AUDIT_WATCH, and AUDIT_PERM
        let kind = if std::path::Path::new(path).is_dir() { 107 } else { 105 };
        Rule { calls: (0..2048).collect(), fields: vec![(kind, path.len() as u32), (106, uses)], text: path.to_owned() }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut words = vec![0u32; 3 + 4 * 64 + 1];
        // AUDIT_FILTER_EXIT, AUDIT_ALWAYS
        (words[0], words[1], words[2]) = (4, 2, self.fields.len() as u32);
        for call in &self.calls {
            words[3 + call / 32] |= 1 << (call % 32);
        }
        for (i, &(field, value)) in self.fields.iter().enumerate() {
            words[3 + 64 + i] = field;
            words[3 + 2 * 64 + i] = value;
            words[3 + 3 * 64 + i] = EQUAL;
        }
        words[3 + 4 * 64] = self.text.len() as u32;
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend(self.text.as_bytes());
        bytes
    }
}

/// This process as the audit daemon, with one rule.
pub struct Daemon {
    socket: OwnedFd,
    rule: Option<Rule>,
}

/// A record: type and text, by the serial number of its event.
pub type Events = BTreeMap<String, Vec<(u16, String)>>;

impl Daemon {
    /// Starts with nothing recorded but what the rule says.
    pub fn start(rule: Option<Rule>) -> Outcome<Daemon> {
        // NETLINK_AUDIT
        // SAFETY: socket() takes numbers.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 9) };
        if fd < 0 {
            return Err(Stop::Skipped(format!("no audit in this kernel: {}", io::Error::last_os_error())));
        }
        // SAFETY: the kernel has just returned this descriptor.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let daemon = Daemon { socket, rule };
        daemon.enable(true)?;
        if let Some(rule) = &daemon.rule {
            daemon.ask(ADD_RULE, &rule.bytes())?;
        }
        Ok(daemon)
    }

    /// `AUDIT_SET` of whether it is enabled and who the daemon is.
    fn enable(&self, on: bool) -> io::Result<()> {
        let pid = if on { std::process::id() } else { 0 };
        // struct audit_status: mask (AUDIT_STATUS_ENABLED, AUDIT_STATUS_PID), enabled, failure, pid, ...
        let status = [1 | 4, u32::from(on), 0, pid, 0, 0, 0, 0, 0, 0, 0];
        self.ask(SET, &status.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>())
    }

    /// Sends a request and waits for its acknowledgement.
    fn ask(&self, kind: u16, payload: &[u8]) -> io::Result<()> {
        let mut message = Vec::new();
        message.extend((16 + payload.len() as u32).to_le_bytes());
        message.extend(kind.to_le_bytes());
        message.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_le_bytes());
        message.extend([0; 8]);
        message.extend(payload);
        let to: [u16; 6] = [libc::AF_NETLINK as u16, 0, 0, 0, 0, 0];
        let (data, length) = (message.as_ptr().cast(), message.len());
        // SAFETY: the message and the address of 12 bytes, family and zeros, are live locals.
        let sent = unsafe { libc::sendto(self.socket.as_raw_fd(), data, length, 0, to.as_ptr().cast(), 12) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        loop {
            let Some((kind, payload)) = self.receive(10_000)? else {
                return Err(io::Error::other("audit does not answer"));
            };
            if i32::from(kind) == libc::NLMSG_ERROR {
                let code = payload.first_chunk().map_or(0, |bytes| i32::from_le_bytes(*bytes));
                return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
            }
        }
    }

    /// The next message that comes within `ms`: type and contents.
    fn receive(&self, ms: i32) -> io::Result<Option<(u16, Vec<u8>)>> {
        if !os::readable(self.socket.as_raw_fd(), ms)? {
            return Ok(None);
        }
        let mut message = vec![0u8; 16384];
        // SAFETY: the buffer is as long as stated.
        let n = unsafe { libc::recv(self.socket.as_raw_fd(), message.as_mut_ptr().cast(), message.len(), 0) };
        let Ok(n) = usize::try_from(n) else { return Err(io::Error::last_os_error()) };
        message.truncate(n);
        let kind = message.get(4..6).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
        Ok(Some((kind, message.split_off(n.min(16)))))
    }

    /// All records that come until none has come for a while.
    pub fn events(&self) -> io::Result<Events> {
        let mut events = Events::new();
        while let Some((kind, payload)) = self.receive(1000)? {
            let text = String::from_utf8_lossy(&payload).trim_end_matches('\0').to_owned();
            // "audit(TIME:SERIAL): FIELD=VALUE ..."
            if let Some((serial, fields)) = text.split_once("): ") {
                events.entry(serial.to_owned()).or_default().push((kind, fields.to_owned()));
            }
        }
        Ok(events)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(rule) = self.rule.take() {
            let _ = self.ask(DELETE_RULE, &rule.bytes());
        }
        let _ = self.enable(false);
    }
}

/// A field of a record.
pub fn field<'a>(record: &'a str, name: &str) -> Option<&'a str> {
    record.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

/// The records of the event whose SYSCALL record is of this process.
fn of_process(events: &Events, pid: i32) -> Option<&Vec<(u16, String)>> {
    let pid = pid.to_string();
    events.values().find(|event| event.iter().any(|(kind, text)| *kind == SYSCALL && field(text, "pid") == Some(&pid)))
}

/// The text of a record of an event.
pub fn record(event: &[(u16, String)], wanted: u16) -> Option<&str> {
    event.iter().find(|(kind, _)| *kind == wanted).map(|(_, text)| text.as_str())
}

/// Arguments of the programs; one has a space, which audit writes as hexadecimal digits.
const ARGV: [&str; 3] = ["zeroth", "7", "two words"];

/// Runs `exit-code` once by spawn and once by fork and execve, from a process that audit knows: spawned, executed, caller.
fn run_both(daemon: &Daemon) -> Outcome<(i32, i32, i32, Events)> {
    let (reader, writer) = os::pipe()?;
    let caller = os::fork()?;
    if caller == 0 {
        let run = || -> io::Result<[i32; 2]> {
            let child = Template::child("exit-code")?.spawn().argv(ARGV).run()?;
            let spawned = child.pid;
            child.wait()?;
            let executed = os::fork()?;
            if executed == 0 {
                os::execve(&os::c_path(crate::template::child("exit-code")), &ARGV.map(os::c_path), &[]);
                os::exit_now(1);
            }
            os::waitpid(executed, 0)?;
            Ok([spawned, executed])
        };
        let pids = run().unwrap_or_default();
        let bytes: Vec<u8> = pids.iter().flat_map(|pid| pid.to_le_bytes()).collect();
        let _ = io::Write::write_all(&mut std::fs::File::from(writer), &bytes);
        os::exit_now(0);
    }
    drop(writer);
    let mut bytes = [0; 8];
    io::Read::read_exact(&mut std::fs::File::from(reader), &mut bytes)?;
    same!(os::waitpid(caller, 0)?.1, Status::Exited(0), "the caller");
    let [spawned, executed] =
        [0, 4].map(|at| i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
    ensure!(spawned > 0 && executed > 0, "the programs were not started");
    Ok((spawned, executed, caller, daemon.events()?))
}

/// Wants the records of the spawned program to be those of the executed one.
#[track_caller]
fn recorded_alike(events: &Events, spawned: i32, executed: i32) -> Outcome {
    let of = |what, pid| {
        of_process(events, pid).ok_or_else(|| failed(format!("no event of the {what} program: {events:?}")))
    };
    let (executed, spawned) = (of("executed", executed)?, of("spawned", spawned)?);
    let arguments = record(executed, EXECVE).ok_or_else(|| failed(format!("execve without EXECVE: {executed:?}")))?;
    same!(field(arguments, "argc"), Some("3"), "argc of the executed program");
    same!(record(spawned, EXECVE), Some(arguments), "EXECVE record of the spawned program");
    for name in ["arch", "syscall", "success", "exit", "ppid", "uid", "euid", "auid", "ses", "comm", "exe", "items"] {
        let value = |event| record(event, SYSCALL).and_then(|text| field(text, name));
        same!(value(spawned), value(executed), "SYSCALL record of the spawned program: {name}");
    }
    for name in ["name", "inode", "dev", "mode", "nametype"] {
        let value = |event| record(event, PATH).and_then(|text| field(text, name));
        same!(value(spawned), value(executed), "PATH record of the spawned program: {name}");
    }
    Ok(())
}

/// `-a always,exit -F arch=b64 -S execve`
fn execve_rule() -> Outcome {
    in_worker(|| {
        let daemon = Daemon::start(Some(Rule::on(libc::SYS_execve as usize)))?;
        let (spawned, executed, caller, events) = run_both(&daemon)?;
        recorded_alike(&events, spawned, executed)?;
        ensure!(of_process(&events, caller).is_none(), "an execve of the caller was recorded: {events:?}");
        Ok(())
    })
}

/// `-S 474`: the caller's call, with the child's pid as its result.
fn rule_on_the_call_itself() -> Outcome {
    in_worker(|| {
        let daemon = Daemon::start(Some(Rule::on(474)))?;
        let (spawned, _, caller, events) = run_both(&daemon)?;
        let event = of_process(&events, caller).ok_or_else(|| failed(format!("no event of the caller: {events:?}")))?;
        let call = record(event, SYSCALL).unwrap_or_default();
        let seen = ["syscall", "success", "exit"].map(|name| field(call, name).unwrap_or_default());
        same!(seen, ["474", "yes", &spawned.to_string()], "syscall, success and exit of the caller's record");
        Ok(())
    })
}

/// `-w PATH -p x`
fn executable_watch() -> Outcome {
    in_worker(|| {
        let daemon = Daemon::start(Some(Rule::execution_of(&child("exit-code"))))?;
        let (spawned, executed, _, events) = run_both(&daemon)?;
        recorded_alike(&events, spawned, executed)
    })
}

/// Without a rule nothing is recorded of either.
fn without_rules() -> Outcome {
    in_worker(|| {
        let daemon = Daemon::start(None)?;
        let (spawned, executed, caller, events) = run_both(&daemon)?;
        for (what, pid) in [("spawned", spawned), ("executed", executed), ("calling", caller)] {
            ensure!(of_process(&events, pid).is_none(), "an event of the {what} process: {events:?}");
        }
        Ok(())
    })
}
