//! The actions of a spawn, and the structures that they point to.

use std::os::fd::{AsRawFd, RawFd};

use spawn_template::uapi::{self, spawn_template_action};

use crate::call::{Generator, bytes, pair};
use crate::sys;
use crate::world::{Kind, NEW, SCRATCH, USER};

impl Generator<'_> {
    /// Some actions. None of them waits for long, but OPEN of a FIFO in a worker that is killed or attacked.
    pub fn actions(&mut self, nowait: bool) -> Vec<spawn_template_action> {
        let count = match self.rng.below(100) {
            0..20 => 0,
            20..85 => 1 + self.rng.below(4),
            85..99 => 5 + self.rng.below(8),
            _ => self.rng.pick(&[100, 255, 256]),
        };
        let mut actions: Vec<spawn_template_action> = Vec::new();
        for _ in 0..count {
            let mut action = self.action(nowait, &actions);
            if self.rng.percent(self.mood.fields) {
                self.spoil(&mut action);
            }
            actions.push(action);
        }
        actions
    }

    /// Makes a field wrong, most of the time.
    fn spoil(&mut self, action: &mut spawn_template_action) {
        match self.rng.below(9) {
            0 => {
                self.must_fail = true;
                action.type_ = self.rng.pick(&[0, 24, 100, 1 << 16, 1 << 31, u32::MAX]);
            }
            1 => action.fd = self.rng.pick(&[-1, -2, -99, -101, i32::MIN, 1 << 20, i32::MAX]),
            2 => action.newfd = self.rng.pick(&[-1, -2, i32::MIN, 1 << 20, i32::MAX]),
            3 => action.flags = self.rng.pick(&[1, 2, 4, 0x80, 1 << 19, 1 << 31, u32::MAX]),
            4 => action.arg = self.bad_address(),
            5 => action.arg = 0,
            6 => action.arg = self.rng.next(),
            7 => {
                // Too small or too large for any of them, and not to be set for those without a structure.
                self.must_fail = true;
                action.arg_size = self.rng.pick(&[1, 7, 15, 4097, 1 << 32, u64::MAX]);
            }
            _ => {
                action.flags = self.rng.next() as u32;
                action.newfd = self.rng.next() as i32;
            }
        }
    }

    /// A descriptor that is open in the caller, or one that is not.
    fn source(&mut self) -> RawFd {
        if self.child_mistake() {
            return self.rng.pick(&[900, 901, 1 << 20, i32::MAX]);
        }
        let world = self.world;
        let all = [world.files.as_slice(), &world.folders, &world.executables, &[0, 1, 2]].concat();
        self.rng.pick(&all)
    }

    /// A number for the child, most of the time one that no action takes something from.
    fn target(&mut self) -> RawFd {
        if self.child_mistake() {
            return self.rng.pick(&[1024, 1 << 20, i32::MAX, 3, 4, 5, 6]);
        }
        match self.rng.below(10) {
            0..3 => self.rng.range(0, 2),
            3 => self.rng.range(900, 1023),
            _ => self.rng.range(100, 160),
        }
    }

    fn is_root(&self) -> bool {
        self.world.kind != Kind::User
    }

    /// An action, as it should be; `before` are those before it.
    fn action(&mut self, nowait: bool, before: &[spawn_template_action]) -> spawn_template_action {
        let mut action = spawn_template_action { type_: 1 + self.rng.below(23) as u32, ..Default::default() };
        match action.type_ {
            uapi::SPAWN_TEMPLATE_ACTION_CLOSE => action.fd = self.target(),
            uapi::SPAWN_TEMPLATE_ACTION_DUP2 => {
                (action.fd, action.newfd) = (self.source(), self.target());
                if self.rng.percent(10) {
                    action.newfd = action.fd;
                } else if self.rng.percent(20) {
                    action.flags = libc::O_CLOEXEC as u32;
                }
            }
            uapi::SPAWN_TEMPLATE_ACTION_FCHDIR => {
                action.fd = if self.child_mistake() { self.source() } else { self.rng.pick(&self.world.folders) };
            }
            uapi::SPAWN_TEMPLATE_ACTION_OPEN => self.open_action(&mut action, nowait),
            uapi::SPAWN_TEMPLATE_ACTION_CLOSE_RANGE => {
                action.fd = if self.child_mistake() { self.rng.range(0, 20) } else { self.rng.range(100, 200) };
                action.newfd = if self.rng.percent(50) { -1 } else { action.fd + self.rng.range(0, 1000) };
                action.flags = self.rng.pick(&[0, 0, libc::CLOSE_RANGE_CLOEXEC, libc::CLOSE_RANGE_UNSHARE]);
            }
            uapi::SPAWN_TEMPLATE_ACTION_SIGMASK
            | uapi::SPAWN_TEMPLATE_ACTION_SIGDEFAULT
            | uapi::SPAWN_TEMPLATE_ACTION_SIGIGNORE => {
                let signals = self.rng.pick(&[0, 1, u64::MAX, 1 << 16, self.rng.clone().next()]);
                let bad = self.rng.percent(self.mood.fields / 2);
                let set = self.put_or_not(&signals.to_le_bytes(), bad);
                let size = if self.rng.percent(self.mood.fields / 2) { self.rng.pick(&[0, 4, 16, 128]) } else { 8 };
                self.must_fail |= size != 8;
                self.payload_of(&mut action, &[set, size]);
            }
            uapi::SPAWN_TEMPLATE_ACTION_CHDIR => {
                let path = if self.child_mistake() {
                    self.rng.pick(&["missing", "/tmp/fuzz/file", "/tmp/fuzz/loop", "/tmp/fuzz/locked", ""]).into()
                } else {
                    self.rng.pick(&["/tmp/fuzz/dir", "/tmp/fuzz", ".", "..", "/proc/self", "/"]).to_owned()
                };
                action.arg = self.path(path);
            }
            uapi::SPAWN_TEMPLATE_ACTION_SETPGID => {
                action.arg =
                    if self.child_mistake() { self.rng.pick(&[1, 2, i32::MAX as u64, 1 << 31, u64::MAX]) } else { 0 };
            }
            uapi::SPAWN_TEMPLATE_ACTION_TCSETPGRP | uapi::SPAWN_TEMPLATE_ACTION_SETCTTY => {
                let leads = before.iter().any(|action| action.type_ == uapi::SPAWN_TEMPLATE_ACTION_SETSID);
                if !(leads || self.rng.percent(self.mood.child)) {
                    // Without a session of its own it would fail.
                    action.type_ = uapi::SPAWN_TEMPLATE_ACTION_SETSID;
                } else {
                    action.fd = if self.child_mistake() { self.source() } else { self.terminal() };
                }
            }
            uapi::SPAWN_TEMPLATE_ACTION_UMASK => {
                action.arg = if self.rng.percent(self.mood.fields / 3) { 0o1000 } else { self.rng.below(0o1000) };
            }
            uapi::SPAWN_TEMPLATE_ACTION_RLIMIT => self.limit_action(&mut action),
            uapi::SPAWN_TEMPLATE_ACTION_SCHED => self.sched_action(&mut action),
            uapi::SPAWN_TEMPLATE_ACTION_SETUID | uapi::SPAWN_TEMPLATE_ACTION_SETGID => {
                let own = if self.is_root() { 0 } else { USER.into() };
                action.arg = if self.child_mistake() {
                    self.rng.pick(&[0, 1000, 65534, 0xffff_fffe, 0xffff_ffff, 1 << 32, u64::MAX])
                } else {
                    own
                };
            }
            uapi::SPAWN_TEMPLATE_ACTION_SETGROUPS => {
                if self.is_root() || self.child_mistake() {
                    self.groups_action(&mut action);
                } else {
                    action.type_ = uapi::SPAWN_TEMPLATE_ACTION_RESETIDS;
                }
            }
            uapi::SPAWN_TEMPLATE_ACTION_PDEATHSIG => {
                action.arg = if self.rng.percent(self.mood.fields / 3) { 65 } else { self.rng.below(65) };
            }
            uapi::SPAWN_TEMPLATE_ACTION_CGROUP => {
                let cgroups = &self.world.cgroups;
                action.fd = if self.child_mistake() {
                    self.rng.pick(&[cgroups.as_slice(), &self.world.files, &[900]].concat())
                } else {
                    cgroups[0]
                };
                let again = before.iter().any(|action| action.type_ == uapi::SPAWN_TEMPLATE_ACTION_CGROUP);
                if again || !(self.is_root() || self.rng.percent(self.mood.child)) {
                    action.type_ = uapi::SPAWN_TEMPLATE_ACTION_NO_NEW_PRIVS;
                    action.fd = 0;
                }
            }
            // SETSID, RESETIDS, NO_NEW_PRIVS have no fields.
            _ => {}
        }
        // Who leads a session cannot have another group, and who leads a group cannot start a session.
        let alone = [uapi::SPAWN_TEMPLATE_ACTION_SETSID, uapi::SPAWN_TEMPLATE_ACTION_SETPGID];
        let fails = alone.contains(&action.type_) && before.iter().any(|action| alone.contains(&action.type_));
        if fails && !self.child_mistake() {
            action = spawn_template_action { type_: uapi::SPAWN_TEMPLATE_ACTION_RESETIDS, ..Default::default() };
        }
        action
    }

    /// The structure of an action, as it is or in a later version, in which what is new is not used.
    fn payload_of(&mut self, action: &mut spawn_template_action, words: &[u64]) {
        let mut memory = bytes(words);
        let known = memory.len();
        match self.rng.below(4) {
            0 | 1 => {}
            2 => action.arg_size = known as u64,
            _ => {
                memory.resize(known + 1 + self.rng.below(32) as usize, 0);
                action.arg_size = memory.len() as u64;
                if self.rng.percent(self.mood.fields / 2) {
                    self.must_fail = true;
                    let place = self.rng.range(known as i32, memory.len() as i32 - 1);
                    memory[place as usize] = 1;
                }
            }
        }
        let bad = self.rng.percent(self.mood.fields / 2);
        action.arg = self.put_or_not(&memory, bad);
    }

    /// The structure of an action.
    fn payload(&mut self, words: &[u64]) -> u64 {
        let bad = self.rng.percent(self.mood.fields / 2);
        self.put_or_not(&bytes(words), bad)
    }

    fn path(&mut self, path: String) -> u64 {
        let bad = self.rng.percent(self.mood.fields / 3);
        self.must_fail |= path.is_empty() || path.len() > 4095;
        self.put_or_not(&[path.as_bytes(), b"\0"].concat(), bad)
    }

    fn terminal(&mut self) -> RawFd {
        if let [_, slave] = self.open.as_slice() {
            return slave.as_raw_fd();
        }
        let Ok(sides) = sys::terminal() else { return 900 };
        self.open.extend(sides);
        self.open[1].as_raw_fd()
    }

    /// OPEN. Only files in the scratch folder are opened for writing or made, by their absolute paths.
    fn open_action(&mut self, action: &mut spawn_template_action, nowait: bool) {
        action.newfd = self.target();
        action.fd = if self.rng.percent(60) { libc::AT_FDCWD } else { self.rng.pick(&self.world.folders) };
        let extra = [0, libc::O_CLOEXEC, libc::O_NOFOLLOW, libc::O_NONBLOCK, libc::O_NOCTTY, libc::O_NOATIME];
        let mut flags = libc::O_RDONLY | self.rng.pick(&extra);
        let mut mode = 0;
        let mut resolve = 0;
        let path = match self.rng.below(10) {
            _ if self.child_mistake() => {
                action.fd = if self.rng.percent(30) { self.source() } else { action.fd };
                resolve = self.rng.pick(&[0, 1, 2, 4, 8, 0x10, 0x20]);
                flags |= self.rng.pick(&[0, libc::O_DIRECTORY, libc::O_PATH]);
                let paths = ["missing", "loop", "file/x", "secret", "locked/x", "/dev/tty", "text", "dir", "..", ""];
                match self.rng.below(12) {
                    0 => "n".repeat(300),
                    1 => "./".repeat(2100),
                    2 => "./".repeat(2000),
                    _ => self.rng.pick(&paths).into(),
                }
            }
            0..3 => {
                flags |= libc::O_CREAT | self.rng.pick(&[libc::O_WRONLY, libc::O_RDWR]);
                flags |= self.rng.pick(&[0, libc::O_TRUNC, libc::O_APPEND]);
                if self.rng.percent(self.mood.child) {
                    flags |= libc::O_EXCL;
                }
                mode = self.rng.pick(&[0o666, 0o600, 0o777, 0o4755]);
                // Unprivileged workers have files of their own.
                format!("{NEW}/created-{}-{}", self.is_root(), self.rng.below(16))
            }
            3 => {
                flags = libc::O_TMPFILE | libc::O_RDWR;
                mode = 0o600;
                NEW.into()
            }
            4 => {
                let kind = self.world.kind;
                // An attacker lets those go on that wait.
                let is_ended = kind == Kind::Attacked || (kind == Kind::Killed && !nowait);
                let blocks = is_ended && self.rng.percent(50);
                flags |= if blocks { 0 } else { libc::O_NONBLOCK };
                format!("{SCRATCH}/fifo")
            }
            _ => self
                .rng
                .pick(&["/dev/null", "/etc/passwd", "/proc/self/status", "/proc/self/maps", "/", "/tmp/fuzz/file"])
                .into(),
        };
        if flags & libc::O_NOATIME != 0 && !self.is_root() {
            flags &= !libc::O_NOATIME;
        }
        let mut how = [flags as u64, mode, resolve];
        if self.rng.percent(self.mood.fields / 2) {
            // Nothing that openat2() knows, so nothing that it would make.
            self.must_fail = true;
            let place = self.rng.below(3) as usize;
            how[place] |= 1 << self.rng.range(36, 63);
        }
        let path = self.path(path);
        self.payload_of(action, &[path, how[0], how[1], how[2]]);
    }

    fn limit_action(&mut self, action: &mut spawn_template_action) {
        self.limited = true;
        let mut resource = self.rng.below(16);
        let (mut soft, mut hard) = (1 << 26, 1 << 27);
        match self.rng.below(6) {
            // No cores.
            _ if resource == u64::from(libc::RLIMIT_CORE) => (soft, hard) = (0, 0),
            0 => (soft, hard) = (0, self.rng.pick(&[0, 4096, u64::MAX])),
            1 => soft = self.rng.pick(&[1, 10, 4096, 65536, 1 << 20]),
            2 if self.is_root() => hard = u64::MAX,
            3 if self.rng.percent(self.mood.child) => hard = u64::MAX,
            _ => {}
        }
        if self.rng.percent(self.mood.fields / 2) {
            self.must_fail = true;
            if self.rng.percent(50) {
                resource = self.rng.pick(&[16, 17, 1 << 32, u64::MAX]);
            } else {
                (soft, hard) = (5, 4);
            }
        }
        self.payload_of(action, &[resource, soft, hard]);
    }

    fn sched_action(&mut self, action: &mut spawn_template_action) {
        let fails = self.child_mistake();
        let mut policy = self.rng.pick(&[libc::SCHED_OTHER, libc::SCHED_BATCH, libc::SCHED_IDLE]) as u32;
        let (mut nice, mut priority, mut flags, mut times) = (self.rng.range(0, 19), 0, 0, [0, 0, 0]);
        if fails || (self.is_root() && self.rng.percent(40)) {
            policy = self.rng.pick(&[libc::SCHED_FIFO, libc::SCHED_RR, libc::SCHED_OTHER]) as u32;
            nice = self.rng.range(-20, 19);
            priority = if policy == libc::SCHED_OTHER as u32 { 0 } else { self.rng.range(1, 99) as u32 };
            flags = self.rng.pick(&[0, 0, 1]);
        }
        if fails {
            match self.rng.below(5) {
                0 => {
                    // Half of a processor; the kernel counts how much is given away.
                    policy = libc::SCHED_DEADLINE as u32;
                    priority = 0;
                    times = [10_000_000, 20_000_000, 20_000_000];
                }
                1 => policy = self.rng.pick(&[4, 7, 8, 100, u32::MAX, 1 << 31]),
                2 => priority = self.rng.pick(&[0, 1, 100, u32::MAX]),
                3 => nice = self.rng.pick(&[-21, 20, i32::MIN, i32::MAX]),
                _ => flags = 1 << self.rng.below(64),
            }
        }
        let mut size = self.rng.pick(&[48, 48, 0, 56]);
        if self.rng.percent(self.mood.fields / 2) {
            self.must_fail = true;
            size = self.rng.pick(&[1, 47, 4097, u32::MAX]);
        }
        let [runtime, deadline, period] = times;
        let clamps = if self.rng.percent(self.mood.child) { pair(100, 1024) } else { 0 };
        let words = [pair(size, policy), flags, pair(nice as u32, priority), runtime, deadline, period, clamps];
        // The kernel reads no more than the size says; 0 is that of the first version.
        let length = if matches!(size, 0 | 48) { 6 } else { 7 };
        action.arg = self.payload(&words[..length]);
    }

    fn groups_action(&mut self, action: &mut spawn_template_action) {
        let mut count = self.rng.pick(&[0, 1, 3, 32, 1000]);
        let mut groups: Vec<u8> = Vec::new();
        for _ in 0..count {
            groups.extend((self.rng.below(5000) as u32).to_le_bytes());
        }
        if self.rng.percent(self.mood.fields / 2) {
            self.must_fail = true;
            if count > 0 && self.rng.percent(50) {
                groups[..4].copy_from_slice(&u32::MAX.to_le_bytes());
            } else {
                count = self.rng.pick(&[65_537, 1 << 32, u64::MAX, 1 << 62]);
            }
        }
        let bad = !groups.is_empty() && self.rng.percent(self.mood.fields / 3);
        let address = if groups.is_empty() { 0 } else { self.put_or_not(&groups, bad) };
        self.payload_of(action, &[address, count]);
    }
}
