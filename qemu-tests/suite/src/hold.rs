//! What holds a child up before its program starts, until it is told to let go: in an action, or in the exec itself.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::cgroup::Group;
use crate::harness::{Outcome, failed, patience};
use crate::os::{self, Status};
use crate::template::{Folder, Open, Spawn, Template};

/// Where the child is held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// In an OPEN of a FIFO. Let through, the child runs its program.
    Fifo,
    /// In exec, which opens the program: somebody has a lease on the file and does not give it back. Nobody gets a lease on
    /// a file that a template keeps open, so it is another file, and the template is stale once the child is let through.
    Exec,
}

impl Point {
    /// All of them.
    pub const ALL: [Point; 2] = [Point::Fifo, Point::Exec];
}

/// Something that holds a child up.
pub struct Hold {
    folder: Folder,
    point: Point,
    template: Template,
    lease: Option<File>,
}

impl Hold {
    /// For one child.
    pub fn new(point: Point) -> Outcome<Hold> {
        let folder = Folder::tmp("hold")?;
        let program = folder.copy("exit-code")?;
        os::mkfifo(folder.join("fifo"))?;
        let template = Template::path(&program)?;
        let mut lease = None;
        if point == Point::Exec {
            let other = folder.copy("nothing")?;
            // The signal that says that somebody wants to open the file.
            os::set_signal(libc::SIGIO, libc::SIG_IGN, 0)?;
            // Longer than any test.
            fs::write("/proc/sys/fs/lease-break-time", "100000")?;
            let file = File::open(other)?;
            os::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK)?;
            fs::rename(folder.join("nothing"), &program)?;
            lease = Some(file);
        }
        Ok(Hold { folder, point, template, lease })
    }

    /// A child by template that comes to the hold-up, and ends with 7; born in a group if there is one.
    fn spawn(&self, group: Option<&Group>) -> Spawn<'_> {
        let spawn = self.template.spawn().arg("7").acts(group.map(Group::action));
        match self.point {
            Point::Fifo => spawn.open(Open::new(self.folder.join("fifo"), libc::O_RDONLY, 60)),
            Point::Exec => spawn,
        }
    }

    fn fifo(&self) -> String {
        self.folder.join("fifo")
    }

    /// The same by `posix_spawn`.
    fn posix_spawn(&self) -> io::Result<i32> {
        let fifo = (self.point == Point::Fifo).then(|| os::c_path(self.fifo()));
        os::posix_spawn_opening(&os::c_path(self.folder.join("exit-code")), &ARGV.map(CStr::to_owned), fifo.as_deref())
    }

    /// The same by fork and exec.
    fn fork(&self) -> io::Result<i32> {
        let pid = os::fork()?;
        if pid == 0 {
            let opened = (self.point == Point::Fifo).then(|| os::open(self.fifo(), libc::O_RDONLY));
            os::execve(&os::c_path(self.folder.join("exit-code")), &ARGV.map(CStr::to_owned), &[]);
            os::exit_now(if opened.is_some() { 100 } else { 101 });
        }
        Ok(pid)
    }

    /// How a child ends that was let through, started in this way.
    fn end(&self, way: Way) -> io::Result<Status> {
        match (self.point, way) {
            (Point::Fifo, _) => Ok(Status::Exited(7)),
            // Another program, which a lookup by name alone finds.
            (Point::Exec, Way::Fork | Way::PosixSpawn) => Ok(Status::Exited(0)),
            (Point::Exec, Way::Nowait) => Ok(Status::Exited(127)),
            (Point::Exec, Way::Waiting) => Err(io::Error::from_raw_os_error(libc::ESTALE)),
        }
    }

    /// Lets the child through as long as the result lives.
    pub fn release(&self) -> io::Result<Option<OwnedFd>> {
        match &self.lease {
            Some(file) => os::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK).map(|()| None),
            None => os::open(self.fifo(), libc::O_RDWR | libc::O_NONBLOCK).map(Some),
        }
    }
}

/// The arguments of those that are started without a template.
const ARGV: [&CStr; 2] = [c"exit-code", c"7"];

/// How the child is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the test itself, with fork and exec.
    Fork,
    /// By a process of its own, which waits in `posix_spawn`.
    PosixSpawn,
    /// By a process of its own, which waits in the call.
    Waiting,
    /// By the test itself, with NOWAIT.
    Nowait,
}

impl Way {
    /// All of them. What templates are measured by comes first: where that fails, the test is wrong.
    pub const ALL: [Way; 4] = [Way::Fork, Way::PosixSpawn, Way::Waiting, Way::Nowait];

    /// Whether there is a caller that waits.
    pub fn waits(self) -> bool {
        matches!(self, Way::PosixSpawn | Way::Waiting)
    }
}

/// A child that is held up. When dropped before it was let go, it is killed with its caller.
pub struct Held {
    /// The child.
    pub child: i32,
    /// The process that waits in its call, if there is one.
    pub caller: Option<i32>,
    /// Readable once that process's call has returned.
    returned: Option<OwnedFd>,
    /// How the caller ends, or else the child.
    wanted: Status,
    over: bool,
}

impl Held {
    /// Starts a child in a group, if there is one, and waits until it is held up. Before, `first` is done in a caller that
    /// waits.
    pub fn start(
        hold: &Hold,
        way: Way,
        group: Option<&Group>,
        first: impl FnOnce() -> io::Result<()>,
    ) -> Outcome<Held> {
        let mut held = match way {
            Way::Nowait => Held::of(hold.spawn(group).nowait().run()?.leave().0),
            Way::Fork => Held::of(hold.fork()?),
            Way::Waiting | Way::PosixSpawn => {
                let (reader, writer) = os::pipe()?;
                let caller = os::fork()?;
                if caller == 0 {
                    drop(reader);
                    let spawned = first().and_then(|()| match way {
                        Way::Waiting => hold.spawn(group).run().map(|child| child.leave().0),
                        _ => hold.posix_spawn(),
                    });
                    drop(writer);
                    let status = spawned.and_then(|pid| Ok(os::waitpid(pid, 0)?.1));
                    let number = |e: &io::Error| e.raw_os_error();
                    os::exit_now(match (status, hold.end(way)) {
                        (Ok(status), Ok(wanted)) if status == wanted => 0,
                        (Err(e), Err(wanted)) if number(&e) == number(&wanted) => 0,
                        // The error is what a failing test wants to show.
                        (Err(e), _) => number(&e).unwrap_or(254),
                        (Ok(_), _) => 255,
                    });
                }
                drop(writer);
                let mut held = Held::of(only_child(caller)?);
                (held.caller, held.returned) = (Some(caller), Some(reader));
                held
            }
        };
        if !way.waits() {
            held.wanted = hold.end(way)?;
        }
        held.settled()?;
        if let Some(group) = group.filter(|_| matches!(way, Way::Fork | Way::PosixSpawn)) {
            group.set("cgroup.procs", &held.child.to_string())?;
        }
        Ok(held)
    }

    fn of(child: i32) -> Held {
        Held { child, caller: None, returned: None, wanted: Status::Exited(0), over: false }
    }

    /// Waits until the child sleeps, and goes on sleeping: it is (again) where it is held up.
    #[track_caller]
    pub fn settled(&self) -> Outcome {
        let mut count = 0;
        self.until("the child sleeps", |state| {
            count = if state == 'S' { count + 1 } else { 0 };
            count > 4
        })
    }

    /// Waits until the child is in a state that will do.
    #[track_caller]
    pub fn until(&self, what: &str, mut wanted: impl FnMut(char) -> bool) -> Outcome {
        let end = Instant::now() + Duration::from_secs(patience(8).into());
        loop {
            let state = state(self.child)?;
            if wanted(state) {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(failed(format!("in vain waited until {what}: its state is {state}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether the call of a waiting caller returns within so many milliseconds.
    pub fn returns_within(&self, ms: i32) -> io::Result<bool> {
        self.returned.as_ref().map_or(Ok(true), |fd| os::readable(fd.as_raw_fd(), ms))
    }

    /// Lets the child go, and wants it to come to the end that it comes to without all that.
    #[track_caller]
    pub fn finish(self, hold: &Hold) -> Outcome {
        let through = hold.release()?;
        let outcome = self.ended();
        drop(through);
        outcome
    }

    /// Wants the child, which is let through, to come to the end that it comes to without all that.
    #[track_caller]
    pub fn ended(mut self) -> Outcome {
        let end = Instant::now() + Duration::from_secs(patience(8).into());
        let (pid, wanted) = (self.caller.unwrap_or(self.child), self.wanted);
        loop {
            let (found, status) = os::waitpid(pid, libc::WNOHANG)?;
            if found == pid {
                self.over = true;
                if status != wanted {
                    let whose = if self.caller.is_some() { "the caller" } else { "the child" };
                    return Err(failed(format!(
                        "{whose} ended with {status:?} (a caller's is the errno), not {wanted:?}"
                    )));
                }
                return Ok(());
            }
            if Instant::now() > end {
                return Err(failed(format!(
                    "the child, let through, did not end; its state is {}",
                    state(self.child)?
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.over {
            let pids = [self.caller, Some(self.child)];
            for pid in pids.into_iter().flatten() {
                let _ = os::kill(pid, libc::SIGKILL);
            }
            // The caller first: a child that it leaves unreaped becomes ours then.
            for pid in pids.into_iter().flatten() {
                let _ = os::waitpid(pid, libc::__WALL);
            }
        }
    }
}

/// The state of a process, as /proc/PID/stat has it: S sleeping, T stopped, t traced, ...; X when it is gone.
pub fn state(pid: i32) -> Outcome<char> {
    let path = format!("/proc/{pid}/stat");
    if !fs::exists(&path)? {
        return Ok('X');
    }
    let text = fs::read_to_string(path)?;
    let state = text.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.ok_or_else(|| failed(format!("not as expected: {text:?}")))
}

/// Waits until a process has a child.
fn only_child(caller: i32) -> Outcome<i32> {
    for _ in 0..patience(1000) {
        let children = fs::read_to_string(format!("/proc/{caller}/task/{caller}/children"))?;
        if let Some(pid) = children.split_whitespace().next().and_then(|pid| pid.parse().ok()) {
            return Ok(pid);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    os::kill(caller, libc::SIGKILL)?;
    os::waitpid(caller, 0)?;
    Err(failed("the caller's child never showed"))
}
