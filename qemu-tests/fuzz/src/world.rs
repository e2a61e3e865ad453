//! What calls can refer to: files in a scratch folder, descriptors, templates of every kind.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};

use spawn_template::uapi::spawn_template_create_args;

use crate::sys;

/// Where everything lies that a run writes; a tmpfs.
pub const SCRATCH: &str = "/tmp/fuzz";
/// Where calls create files; anybody may.
pub const NEW: &str = "/tmp/fuzz/new";
/// The programs of qemu-tests/children.
pub const CHILDREN: &str = "/payload/children";
/// A cgroup to be born in, and one that takes nobody.
const CGROUP: &str = "/sys/fs/cgroup/fuzz";
const FULL_CGROUP: &str = "/sys/fs/cgroup/fuzz-full";
/// Where an attacker freezes the children of the worker in a slot.
pub fn attacked_cgroup(slot: usize) -> String {
    format!("/sys/fs/cgroup/fuzz-attacked-{slot}")
}

/// Who unprivileged workers are.
pub const USER: u32 = 1000;

/// What a worker is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Root, one thread.
    Root,
    /// An ordinary user, one thread.
    User,
    /// Root, with several threads that share everything.
    Threads,
    /// Root, ended from outside in the middle of a call: by a signal.
    Killed,
    /// The same, by a thread that calls exec.
    Execs,
    /// The same, by a thread that exits the process.
    Exits,
    /// Root, whose children another process attacks.
    Attacked,
}

impl Kind {
    /// Whether it ends before its work is done.
    pub fn is_cut_off(self) -> bool {
        matches!(self, Kind::Killed | Kind::Execs | Kind::Exits)
    }

    /// Whether nothing else happens in the process while a call is under way.
    pub fn is_alone(self) -> bool {
        self != Kind::Threads
    }
}

fn set_mode(path: &str, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn write(path: &str, text: &[u8], mode: u32) -> io::Result<()> {
    fs::write(path, text)?;
    set_mode(path, mode)
}

/// Makes the scratch folder and the cgroups. There is nothing of an earlier run.
pub fn prepare(slots: usize) -> io::Result<()> {
    fs::create_dir(SCRATCH)?;
    for (name, mode) in [("new", 0o777), ("dir", 0o755), ("locked", 0o700)] {
        let path = format!("{SCRATCH}/{name}");
        fs::create_dir(&path)?;
        set_mode(&path, mode)?;
    }
    let nothing = fs::read(format!("{CHILDREN}/nothing"))?;
    let dynamic = fs::read(format!("{CHILDREN}/dynamic0"))?;
    let at = |name: &str| format!("{SCRATCH}/{name}");
    write(&at("file"), b"text", 0o666)?;
    write(&at("secret"), b"text", 0o600)?;
    write(&at("text"), &b"no program".repeat(50), 0o755)?;
    write(&at("script"), b"#!/bin/true\n", 0o755)?;
    write(&at("empty"), b"", 0o755)?;
    write(&at("cut"), &dynamic[..600], 0o755)?;
    write(&at("noexec"), &nothing, 0o644)?;
    write(&at("nothing"), &nothing, 0o755)?;
    write(&at("setuid"), &nothing, 0o4755)?;
    symlink("nothing", at("link"))?;
    symlink("loop", at("loop"))?;
    sys::make_fifo(&at("fifo"))?;
    set_mode(&at("fifo"), 0o666)?;
    for path in [CGROUP, FULL_CGROUP] {
        fs::create_dir(path)?;
    }
    for slot in 0..slots {
        fs::create_dir(attacked_cgroup(slot))?;
    }
    // Without the controller, it is an ordinary one.
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+pids").ok();
    fs::write(format!("{FULL_CGROUP}/pids.max"), "0").ok();
    Ok(())
}

/// Removes what `prepare` made.
pub fn remove(slots: usize) -> io::Result<()> {
    for slot in 0..slots {
        fs::remove_dir(attacked_cgroup(slot))?;
    }
    fs::remove_dir_all(SCRATCH)?;
    fs::remove_dir(CGROUP)?;
    fs::remove_dir(FULL_CGROUP)
}

/// Where the worker `pid` writes executables with mistakes in them; `thread` tells its threads apart.
pub fn corrupt_path(pid: u32, thread: u64) -> String {
    format!("{NEW}/corrupt-{pid}-{thread:x}")
}

/// Removes the executables that the worker `pid` has left.
pub fn remove_corrupt(pid: u32) -> io::Result<()> {
    let prefix = format!("corrupt-{pid}-");
    for entry in fs::read_dir(NEW)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A template, and what the worker counted of its spawns.
#[derive(Debug)]
pub struct Template {
    /// The descriptor.
    pub fd: RawFd,
    /// What tells it from all others.
    pub id: u64,
    /// Whether a spawn of it can succeed.
    pub is_good: bool,
    /// Spawns that succeeded.
    pub spawns: AtomicU64,
    /// Spawns that failed after they had found the template.
    pub failures: AtomicU64,
}

/// All of it. The descriptors are open for as long as it lives.
pub struct World {
    /// What the worker is like.
    pub kind: Kind,
    /// Template descriptors; good ones come first.
    pub templates: Vec<Template>,
    /// How many of them are good.
    pub good: usize,
    /// A template that comes and goes while threads use it.
    pub volatile: AtomicI32,
    /// Executables, open in several ways.
    pub executables: Vec<RawFd>,
    /// Descriptors of all sorts.
    pub files: Vec<RawFd>,
    /// Folders in or below the scratch folder.
    pub folders: Vec<RawFd>,
    /// Cgroups, good ones first: born in, full, removed.
    pub cgroups: Vec<RawFd>,
    /// What keeps them open.
    _open: Vec<OwnedFd>,
}

/// A template of an absolute path, close-on-exec.
pub fn template_of_path(path: &str) -> io::Result<RawFd> {
    let path = sys::c_path(path);
    let args = spawn_template_create_args {
        flags: 1,
        execfd: -1,
        filename: path.as_ptr().expose_provenance() as u64,
        ..Default::default()
    };
    create(&args)
}

fn create(args: &spawn_template_create_args) -> io::Result<RawFd> {
    let address = (&raw const *args).expose_provenance() as u64;
    sys::create(address, size_of_val(args) as u64).map_err(io::Error::from_raw_os_error)
}

impl World {
    /// Opens everything; `slot` tells workers apart that live at the same time.
    pub fn new(kind: Kind, slot: usize) -> io::Result<World> {
        let mut open = Vec::new();
        let mut keep = |fd: OwnedFd| {
            let number = fd.as_raw_fd();
            open.push(fd);
            number
        };
        let child = |name: &str| format!("{CHILDREN}/{name}");
        let executables = vec![
            keep(sys::open(&child("nothing"), libc::O_RDONLY)?),
            keep(sys::open(&child("nothing"), libc::O_PATH)?),
            keep(sys::open(&child("dynamic0"), libc::O_RDONLY)?),
        ];
        let folders = vec![
            keep(sys::open(SCRATCH, libc::O_RDONLY | libc::O_DIRECTORY)?),
            keep(sys::open(&format!("{SCRATCH}/dir"), libc::O_PATH | libc::O_DIRECTORY)?),
        ];
        let gone = format!("/sys/fs/cgroup/fuzz-gone-{slot}");
        let mut cgroups = Vec::new();
        for path in [CGROUP, FULL_CGROUP] {
            cgroups.push(keep(sys::open(path, libc::O_RDONLY | libc::O_DIRECTORY)?));
        }
        if kind != Kind::User {
            fs::create_dir(&gone).or_else(ignore(io::ErrorKind::AlreadyExists))?;
            let fd = sys::open(&gone, libc::O_RDONLY | libc::O_DIRECTORY);
            fs::remove_dir(&gone)?;
            cgroups.push(keep(fd?));
        }
        let mut files = vec![
            keep(sys::open("/dev/null", libc::O_RDWR)?),
            keep(sys::open(&format!("{SCRATCH}/file"), libc::O_RDONLY)?),
            keep(sys::open(&format!("{SCRATCH}/file"), libc::O_PATH)?),
            keep(sys::open(&format!("{SCRATCH}/fifo"), libc::O_RDONLY | libc::O_NONBLOCK)?),
            keep(sys::open("/proc/self/status", libc::O_RDONLY)?),
        ];
        for socket in sys::sockets()? {
            files.push(keep(socket));
        }

        let mut templates = Vec::new();
        let mut add = |fd: RawFd, is_good: bool| -> io::Result<()> {
            templates.push(Template {
                fd,
                id: number(fd, "id:")?,
                is_good,
                spawns: AtomicU64::new(0),
                failures: AtomicU64::new(0),
            });
            Ok(())
        };
        for _ in 0..2 {
            add(template_of_path(&child("nothing"))?, true)?;
        }
        for execfd in &executables[..2] {
            add(create(&spawn_template_create_args { execfd: *execfd, ..Default::default() })?, true)?;
        }
        for name in ["static0", "static-pie", "dynamic0"] {
            add(template_of_path(&child(name))?, true)?;
        }
        let good = templates.len();
        let mut add = |fd: RawFd| -> io::Result<()> {
            templates.push(Template {
                fd,
                id: number(fd, "id:")?,
                is_good: false,
                spawns: AtomicU64::new(0),
                failures: AtomicU64::new(0),
            });
            Ok(())
        };
        // Those whose file is not what it was: written, another mode, another file at the path, none.
        let path = format!("{NEW}/program-{slot}");
        let other = format!("{NEW}/other-{slot}");
        add(fresh(&path)?)?;
        fs::write(&path, b"changed")?;
        add(fresh(&path)?)?;
        set_mode(&path, 0o711)?;
        add(fresh(&path)?)?;
        sys::close(fresh(&other)?);
        fs::rename(&other, &path)?;
        add(fresh(&path)?)?;
        fs::remove_file(&path)?;
        // One that somebody has open for writing.
        let busy = format!("{NEW}/busy-{slot}");
        add(fresh(&busy)?)?;
        keep(OpenOptions::new().append(true).custom_flags(libc::O_CLOEXEC).open(&busy)?.into());

        let volatile = AtomicI32::new(template_of_path(&child("nothing"))?);
        Ok(World { kind, templates, good, volatile, executables, files, folders, cgroups, _open: open })
    }

    /// Puts another template in the place of the one that comes and goes.
    pub fn disturb(&self) -> io::Result<()> {
        sys::close(self.volatile.swap(-1, Relaxed));
        self.volatile.store(template_of_path(&format!("{CHILDREN}/nothing"))?, Relaxed);
        Ok(())
    }

    /// What of the kernel's counts in fdinfo is not what the worker counted.
    pub fn miscounted(&self) -> io::Result<Option<String>> {
        for template in &self.templates {
            let (spawns, failures) = counts(template.fd)?;
            let own = (template.spawns.load(Relaxed), template.failures.load(Relaxed));
            if (spawns, failures) != own {
                return Ok(Some(format!(
                    "fdinfo of template {} counts {spawns} spawns and {failures} failures, the worker {} and {}",
                    template.fd, own.0, own.1
                )));
            }
        }
        Ok(None)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for template in &self.templates {
            sys::close(template.fd);
        }
        sys::close(self.volatile.load(Relaxed));
    }
}

/// A template of a new file at `path`.
fn fresh(path: &str) -> io::Result<RawFd> {
    fs::remove_file(path).or_else(ignore(io::ErrorKind::NotFound))?;
    write(path, &fs::read(format!("{CHILDREN}/nothing"))?, 0o755)?;
    template_of_path(path)
}

/// `spawns` and `failures` of a template's fdinfo.
pub fn counts(fd: RawFd) -> io::Result<(u64, u64)> {
    Ok((number(fd, "spawns:")?, number(fd, "failures:")?))
}

fn number(fd: RawFd, key: &str) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    value.ok_or_else(|| io::Error::other(format!("fdinfo has no {key:?}: {text}")))
}

fn ignore(kind: io::ErrorKind) -> impl Fn(io::Error) -> io::Result<()> {
    move |error| if error.kind() == kind { Ok(()) } else { Err(error) }
}

/// Whether the scratch folder is memory, as a run wants it.
pub fn scratch_is_tmpfs() -> io::Result<bool> {
    let [tmp, root] = ["/tmp", "/"].map(|path| File::open(path).and_then(|file| file.metadata()));
    Ok(tmp?.dev() != root?.dev())
}
