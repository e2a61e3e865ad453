//! Runs each test in a process of its own, with a time limit, and checks that it leaves nothing behind.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{self, AssertUnwindSafe, Location};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::os::{self, Status};

/// One test.
pub struct Test {
    /// Its name: file and function.
    pub name: &'static str,
    /// Its body.
    pub run: fn() -> Outcome,
    /// Seconds after which it has failed; generous, because guests are slow under emulation.
    pub seconds: u32,
}

/// Declares the tests of a file: `tests!("file": first, second [120])`, with a time limit where 60 seconds may not do.
#[macro_export]
macro_rules! tests {
    ($file:literal: $($name:ident $([$seconds:literal])?),* $(,)?) => {
        /// The tests of this file.
        pub const TESTS: &[$crate::harness::Test] = &[$($crate::harness::Test {
            name: concat!($file, "::", stringify!($name)),
            run: $name,
            seconds: [$($seconds,)? 60][0],
        }),*];
    };
}

/// Why a test did not pass.
#[derive(Debug)]
pub enum Stop {
    /// What is wrong.
    Failed(String),
    /// Why it cannot be judged here.
    Skipped(String),
}

/// What a test returns.
pub type Outcome<T = ()> = Result<T, Stop>;

/// A failure with the place it was found at.
#[track_caller]
pub fn failed(message: impl std::fmt::Display) -> Stop {
    let place = Location::caller();
    Stop::Failed(format!("{}:{}: {message}", place.file().rsplit('/').next().unwrap_or_default(), place.line()))
}

impl From<io::Error> for Stop {
    #[track_caller]
    fn from(error: io::Error) -> Stop {
        failed(error)
    }
}

/// Fails the test unless a condition holds; the rest is a message as for `format!`.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::harness::failed(format!($($message)+)));
        }
    };
}

/// Fails the test unless two values are equal; the rest says what they are.
#[macro_export]
macro_rules! same {
    ($left:expr, $right:expr, $($message:tt)+) => {
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    return Err($crate::harness::failed(format!("{}: {left:?}, not {right:?}", format!($($message)+))));
                }
            }
        }
    };
}

/// Gathers what is wrong over a table of cases, so that one run names every bad case.
#[derive(Default)]
pub struct Checks {
    bad: Vec<String>,
}

impl Checks {
    /// Notes a failure.
    pub fn fail(&mut self, message: impl Into<String>) {
        self.bad.push(message.into());
    }

    /// Checks that a call failed with one of these errors.
    pub fn refused<T>(&mut self, what: impl std::fmt::Display, result: io::Result<T>, errors: &[i32]) {
        if let Some(problem) = not_refused(result, errors) {
            self.bad.push(format!("{what}: {problem}"));
        }
    }

    /// Checks that a call succeeded, and returns its value.
    pub fn accepted<T>(&mut self, what: impl std::fmt::Display, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(e) => {
                self.bad.push(format!("{what}: refused with {}", error_name(&e)));
                None
            }
        }
    }

    /// Fails when anything was wrong.
    #[track_caller]
    pub fn finish(self) -> Outcome {
        if self.bad.is_empty() { Ok(()) } else { Err(failed(self.bad.join("; "))) }
    }
}

/// What is wrong with a result that should be one of these errors.
pub fn not_refused<T>(result: io::Result<T>, errors: &[i32]) -> Option<String> {
    let wanted = || errors.iter().map(|&e| errno_name(e)).collect::<Vec<_>>().join(" or ");
    match result {
        Ok(_) => Some(format!("accepted, not {}", wanted())),
        Err(e) if e.raw_os_error().is_some_and(|e| errors.contains(&e)) => None,
        Err(e) => Some(format!("{}, not {}", error_name(&e), wanted())),
    }
}

/// Fails the test unless a call failed with this error.
#[track_caller]
pub fn refused<T>(what: &str, result: io::Result<T>, error: i32) -> Outcome {
    match not_refused(result, &[error]) {
        Some(problem) => Err(failed(format!("{what}: {problem}"))),
        None => Ok(()),
    }
}

/// The symbol of an error number, as far as the tests expect it.
pub fn errno_name(error: i32) -> String {
    let name = match error {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::E2BIG => "E2BIG",
        libc::ENOEXEC => "ENOEXEC",
        libc::EBADF => "EBADF",
        libc::ECHILD => "ECHILD",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::EXDEV => "EXDEV",
        libc::ENOTDIR => "ENOTDIR",
        libc::EISDIR => "EISDIR",
        libc::EINVAL => "EINVAL",
        libc::ENFILE => "ENFILE",
        libc::EMFILE => "EMFILE",
        libc::ETXTBSY => "ETXTBSY",
        libc::ENAMETOOLONG => "ENAMETOOLONG",
        libc::ENOSYS => "ENOSYS",
        libc::ELOOP => "ELOOP",
        libc::ESTALE => "ESTALE",
        libc::ELIBBAD => "ELIBBAD",
        libc::EOVERFLOW => "EOVERFLOW",
        libc::ENOTTY => "ENOTTY",
        libc::ENODEV => "ENODEV",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        other => return format!("errno {other}"),
    };
    name.to_owned()
}

/// The symbol of an error.
pub fn error_name(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), errno_name)
}

/// The open descriptors of this process and what they are.
pub fn open_fds() -> io::Result<BTreeMap<RawFd, String>> {
    let mut fds = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        if let (Ok(fd), Ok(target)) = (entry.file_name().to_string_lossy().parse(), fs::read_link(entry.path())) {
            fds.insert(fd, target.to_string_lossy().into_owned());
        }
    }
    // read_dir's own descriptor is among them, and closed by now.
    fds.retain(|&fd, _| os::is_cloexec(fd).is_ok());
    Ok(fds)
}

/// Runs `body` in a forked process and takes over its outcome: for what cannot be undone, such as becoming another
/// user.
#[track_caller]
pub fn in_worker(body: impl FnOnce() -> Outcome) -> Outcome {
    in_worker_for(60, body)
}

/// The same with another time limit than 60 seconds.
#[track_caller]
pub fn in_worker_for(seconds: u32, body: impl FnOnce() -> Outcome) -> Outcome {
    let place = failed("");
    match isolated(patience(seconds), body)? {
        Ok(()) => Ok(()),
        Err(Stop::Failed(message)) => match place {
            Stop::Failed(place) | Stop::Skipped(place) => Err(Stop::Failed(format!("{place}in the worker: {message}"))),
        },
        skipped => skipped,
    }
}

/// Fails the test unless a condition holds.
#[track_caller]
pub fn ensure_that(condition: bool, message: &str) -> Outcome {
    if condition { Ok(()) } else { Err(failed(message)) }
}

/// A child that is killed and reaped when this is dropped, unless it has been already.
pub struct Ended(i32);

/// See [`Ended`].
pub fn ensure_ended(pid: i32) -> Ended {
    Ended(pid)
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = os::kill(self.0, libc::SIGKILL);
        let _ = os::waitpid(self.0, libc::__WALL);
    }
}

/// What is wrong with the process now, compared with the descriptors it started with.
fn left_behind(before: &BTreeMap<RawFd, String>) -> io::Result<Option<String>> {
    if os::has_children()? {
        return Ok(Some("a child process is left".to_owned()));
    }
    let after = open_fds()?;
    if *before != after {
        return Ok(Some(format!("open descriptors changed: {before:?} became {after:?}")));
    }
    Ok(None)
}

/// A number that xtask gives in the environment.
fn number(name: &str) -> Option<u32> {
    env::var(name).ok()?.parse().ok()
}

/// A time limit that also holds on a kernel with checks in it, where everything takes `SPAWN_TEMPLATE_SLOW` times as
/// long.
pub fn patience(seconds: u32) -> u32 {
    seconds * number("SPAWN_TEMPLATE_SLOW").unwrap_or(1)
}

/// Forks, runs `body` there with a time limit, and brings its outcome back.
fn isolated(seconds: u32, body: impl FnOnce() -> Outcome) -> io::Result<Outcome> {
    let (reader, writer) = os::pipe()?;
    let before = children()?;
    let pid = os::fork()?;
    if pid == 0 {
        drop(reader);
        let code = run_here(body, writer);
        os::exit_now(code);
    }
    drop(writer);
    let ended = os::readable(os::pidfd_open(pid)?.as_raw_fd(), seconds as i32 * 1000)?;
    if !ended {
        // The test's own process group first, then whatever it started that left the group.
        os::kill(-pid, libc::SIGKILL).or_else(|_| os::kill(pid, libc::SIGKILL))?;
    }
    let (_, status) = os::waitpid(pid, 0)?;
    let orphans = kill_children(&before)?;
    if !ended {
        return Ok(Err(Stop::Failed(format!("did not end within {seconds} seconds"))));
    }
    let mut message = String::new();
    // Nobody holds the other end any more but processes that were just killed.
    File::from(reader).read_to_string(&mut message)?;
    Ok(match (status, message.split_at_checked(1)) {
        (Status::Exited(0), _) if orphans > 0 => Err(Stop::Failed(format!("left {orphans} processes behind"))),
        (Status::Exited(0), _) => Ok(()),
        (Status::Exited(_), Some(("s", why))) => Err(Stop::Skipped(why.to_owned())),
        (Status::Exited(_), Some((_, why))) => Err(Stop::Failed(why.to_owned())),
        (status, _) => Err(Stop::Failed(format!("ended with {status:?}"))),
    })
}

/// The body of a test's process; the exit code is 0 when it passed, and `report` gets what is wrong otherwise.
fn run_here(body: impl FnOnce() -> Outcome, report: OwnedFd) -> i32 {
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        // Its own group, so that all of it can be killed, and the parent of what its children leave.
        // SAFETY: no memory is involved.
        unsafe { libc::setpgid(0, 0) };
        os::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0)?;
        os::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0)?;
        let before = open_fds()?;
        body()?;
        match left_behind(&before)? {
            Some(problem) => Err(Stop::Failed(problem)),
            None => Ok(()),
        }
    }));
    let message = match outcome {
        Ok(Ok(())) => return 0,
        Ok(Err(Stop::Failed(message))) => format!("f{message}"),
        Ok(Err(Stop::Skipped(message))) => format!("s{message}"),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
            format!("fpanicked: {}", text.unwrap_or_default())
        }
    };
    // No more than a pipe takes without a reader.
    let end = message.floor_char_boundary(message.len().min(16_000));
    let _ = File::from(report).write_all(&message.as_bytes()[..end]);
    1
}

/// Kills and reaps every process that a finished test left to us, and says how many there were. Children that we had
/// before are spared.
fn kill_children(before: &[i32]) -> io::Result<usize> {
    let mut count = 0;
    loop {
        let left: Vec<i32> = children()?.into_iter().filter(|pid| !before.contains(pid)).collect();
        if left.is_empty() {
            return Ok(count);
        }
        for pid in left {
            // One that reaps itself is listed, and nobody's, until it has done so.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") X ") {
                std::thread::sleep(std::time::Duration::from_millis(1));
                continue;
            }
            let _ = os::kill(pid, libc::SIGKILL);
            // A half-made child reaps itself, which is no error here.
            let _ = os::waitpid(pid, libc::__WALL);
            count += 1;
        }
    }
}

/// The pids of this process's children, running or not.
pub fn children() -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        // A thread that was just joined may still be listed, and gone by now.
        let text = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        pids.extend(text.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    Ok(pids)
}

/// What a test writes to the kernel log before and after something that the kernel is to complain about.
const WANTED: [&str; 2] =
    ["guest-suite: complaints are wanted from here", "guest-suite: no more complaints are wanted"];

/// Runs what the kernel warns of at length although all is as it should be, such as a process being killed for want of
/// memory. What it never says of a kernel that works is still found on the console.
pub fn with_complaints<T>(body: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let say = |what: &str| fs::write("/dev/kmsg", format!("<6>{what}"));
    say(WANTED[0])?;
    let outcome = body();
    say(WANTED[1])?;
    outcome
}

/// Follows the kernel log.
struct KernelLog {
    file: File,
    /// Whether a test wants complaints now.
    wanted: bool,
}

impl KernelLog {
    /// Starts at what comes next.
    fn open() -> io::Result<KernelLog> {
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(KernelLog { file, wanted: false })
    }

    /// What has been logged since the last call and should not have been. A test that was killed wants nothing any more.
    fn complaints(&mut self) -> Vec<String> {
        let (mut found, mut record) = (Vec::new(), [0; 8192]);
        self.wanted = false;
        loop {
            match self.file.read(&mut record) {
                Ok(0) => return found,
                Ok(n) => {
                    let record = String::from_utf8_lossy(&record[..n]);
                    match WANTED.iter().position(|mark| record.contains(mark)) {
                        Some(mark) => self.wanted = mark == 0,
                        None if self.wanted => {}
                        None => found.extend(complaint(&record)),
                    }
                }
                // The oldest records were overwritten; go on with what is there.
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => return found,
            }
        }
    }
}

/// The text of a `/dev/kmsg` record that is a warning or worse, apart from what upstream says about good programs too.
fn complaint(record: &str) -> Option<String> {
    let (head, text) = record.split_once(';')?;
    let level = head.split(',').next()?.parse::<u32>().ok()? & 7;
    let text = text.lines().next()?;
    let harmless = [
        "with NULL argv: empty string added",
        "started with executable stack",
        "not enough memory for the allocation",
        "callbacks suppressed",
        "umip: program",
        "taints kernel",
        "overlayfs: ",
        // Of a guest whose host has no time for it.
        "sched: DL replenish lagged too much",
        "sched: RT throttling activated",
        "hrtimer: interrupt took",
        "clocksource: ",
        "TSC found unstable after boot",
        "hogged CPU for",
    ];
    if level > 4 || harmless.iter().any(|h| text.contains(h)) {
        return None;
    }
    Some(text.to_owned())
}

/// Runs the tests and prints the result of each, and with `times` how long it took. Those that would begin more than
/// `SPAWN_TEMPLATE_SECONDS` after the first are left out.
pub fn run(tests: &[&Test], times: bool) -> ExitCode {
    panic::set_hook(Box::new(|_| {}));
    let _ = os::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0);
    let mut log =
        KernelLog::open().map_err(|e| println!("# /dev/kmsg cannot be read, its warnings go unseen: {e}")).ok();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let begun = Instant::now();
    let time = number("SPAWN_TEMPLATE_SECONDS").map(|seconds| Duration::from_secs(seconds.into()));
    for test in tests {
        let _ = io::stdout().flush();
        let left = time.map(|time| time.saturating_sub(begun.elapsed()).as_secs() as u32);
        if left == Some(0) {
            skipped += 1;
            println!("skipped {}: the time is up", test.name);
            continue;
        }
        let start = Instant::now();
        // The last test may overrun a little before it is given up as well.
        let usual = patience(test.seconds);
        let limit = left.map_or(usual, |left| usual.min(left + 60));
        let mut outcome = isolated(limit, test.run).unwrap_or_else(|e| Err(Stop::from(e)));
        if limit < usual && start.elapsed().as_secs() >= limit.into() {
            outcome = Err(Stop::Skipped("the time is up".to_owned()));
        }
        let complaints = log.as_mut().map(KernelLog::complaints).unwrap_or_default();
        if !complaints.is_empty() {
            let before = if let Err(Stop::Failed(message)) = outcome { format!("{message}; ") } else { String::new() };
            outcome = Err(Stop::Failed(format!("{before}kernel log: {}", complaints.join(" | "))));
        }
        if times {
            println!("# {:6.2} s {}", start.elapsed().as_secs_f64(), test.name);
        }
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("ok {}", test.name);
            }
            Err(Stop::Failed(why)) => {
                failed += 1;
                println!("FAILED {}: {}", test.name, why.replace('\n', " "));
            }
            Err(Stop::Skipped(why)) => {
                skipped += 1;
                println!("skipped {}: {}", test.name, why.replace('\n', " "));
            }
        }
    }
    let tail = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
    println!("{passed} passed, {failed} failed{tail}");
    ExitCode::from(u8::from(failed > 0))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn kernel_records() {
        assert_eq!(complaint("4,12,99,-;WARNING: CPU: 0\n KEY=1\n").as_deref(), Some("WARNING: CPU: 0"));
        assert_eq!(complaint("6,12,99,-;just so\n"), None);
        assert_eq!(complaint("12,12,99,-;facility 1, level 4\n").as_deref(), Some("facility 1, level 4"));
        assert_eq!(complaint("4,1,1,-;process 'x' launched 'y' with NULL argv: empty string added\n"), None);
    }
}
