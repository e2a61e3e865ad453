//! One call, made from random numbers by the grammar of the interface.
//!
//! Every decision that can make a call invalid has its own probability, which depends on the call's mood: most moods
//! leave a kind of mistake out, so that calls get far enough for the other kinds.

use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::Ordering::Relaxed;

use spawn_template::uapi::{self, spawn_template_action};

use crate::arena::Arena;
use crate::rng::Rng;
use crate::sys;
use crate::world::{self, CHILDREN, Kind, SCRATCH, World};

/// What the memory for results is filled with before a call.
pub const UNTOUCHED: u8 = 0xa5;

/// A `spawn_template_create`.
#[derive(Debug)]
pub struct Create {
    /// Address and size of the arguments.
    pub args: (u64, u64),
    /// It must not succeed.
    pub must_fail: bool,
    /// The template fd shall be close-on-exec.
    pub cloexec: bool,
    /// What the kernel reads.
    #[expect(dead_code, reason = "shown when the call's outcome is wrong")]
    pub words: [u64; 9],
    /// The path, if there is one.
    #[expect(dead_code, reason = "shown when the call's outcome is wrong")]
    pub path: String,
}

/// A `spawn_template_spawn`.
#[derive(Debug)]
pub struct Spawn {
    /// The template's descriptor.
    pub template: RawFd,
    /// Which one of the world's templates it is.
    pub known: Option<usize>,
    /// Address and size of the arguments.
    pub args: (u64, u64),
    /// Where the pidfd is stored; 0 if none is wanted.
    pub pidfd: u64,
    /// Nothing is wrong with that address, so that after a failure no descriptor's number may be there.
    pub may_look: bool,
    /// Address and size of the result, if the kernel has to write one.
    pub result: Option<(u64, usize)>,
    /// The arguments and the result's address are good: the kernel looks at the template and counts the spawn.
    pub is_counted: bool,
    /// It must not succeed.
    pub must_fail: bool,
    /// The program must not be started, even if the call succeeds because it does not wait.
    pub must_not_start: bool,
    /// It returns before the outcome is known.
    pub nowait: bool,
    /// An action may keep the program from ending well.
    pub limited: bool,
    /// Only so many descriptors may be open during the call.
    pub open_files: Option<u64>,
    /// Only so many processes may the user have.
    pub processes: Option<u64>,
    /// What the kernel reads.
    #[expect(dead_code, reason = "shown when the call's outcome is wrong")]
    pub words: [u64; 13],
    /// The actions.
    pub actions: Vec<spawn_template_action>,
    /// What is open for this call only.
    #[expect(dead_code, reason = "keeps it open")]
    pub open: Vec<OwnedFd>,
}

/// Either call.
#[derive(Debug)]
pub enum Call {
    /// spawn_template_create(2)
    Create(Create),
    /// spawn_template_spawn(2)
    Spawn(Spawn),
}

/// Probabilities of mistakes, in per cent of the decisions of a kind.
#[derive(Clone, Copy, Default)]
pub struct Mood {
    /// Sizes, reserved fields, template, pointers to and in the arguments.
    pub arguments: u64,
    /// Fields of actions.
    pub fields: u64,
    /// What only the child finds out.
    pub child: u64,
}

/// Makes a call in the memory of `arena`, which is reset.
pub fn generate(rng: &mut Rng, arena: &mut Arena, world: &World) -> Call {
    arena.reset();
    // Programs that start cost the most; about one call in eight does that.
    let mood = match rng.below(100) {
        0..4 => Mood::default(),
        4..9 => Mood { child: 25, ..Mood::default() },
        9..35 => Mood { fields: 40, child: 10, arguments: 1 },
        _ => Mood { arguments: 25, fields: 2, child: 5 },
    };
    let creates = rng.percent(20);
    let mut generator = Generator { rng, arena, world, mood, must_fail: false, limited: false, open: Vec::new() };
    if creates { Call::Create(generator.create()) } else { Call::Spawn(generator.spawn()) }
}

/// What makes a call.
pub struct Generator<'a> {
    /// Where decisions come from.
    pub rng: &'a mut Rng,
    /// Where structures go.
    pub arena: &'a mut Arena,
    /// What they refer to.
    pub world: &'a World,
    /// How likely mistakes are.
    pub mood: Mood,
    /// A mistake has been made that must not go unnoticed.
    pub must_fail: bool,
    /// There is an action that may keep the program from ending well.
    pub limited: bool,
    /// What has been opened for this call.
    pub open: Vec<OwnedFd>,
}

/// The memory of a structure of 64-bit words.
pub fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Two 32-bit fields as one word.
pub fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

impl Generator<'_> {
    fn argument_mistake(&mut self) -> bool {
        self.rng.percent(self.mood.arguments)
    }

    /// Whether to have the child find a mistake here.
    pub fn child_mistake(&mut self) -> bool {
        self.rng.percent(self.mood.child)
    }

    /// An address where nothing can be read, or not enough.
    pub fn bad_address(&mut self) -> u64 {
        let kernel = [0xffff_8880_0010_0000, 0xffff_ffff_8100_0000, 0xffff_c900_0000_0000, u64::MAX, u64::MAX - 7];
        match self.rng.below(5) {
            0 => self.arena.missing(),
            1 => self.rng.pick(&kernel),
            // Neither one half of the address space nor the other, and where user space ends.
            2 => self.rng.pick(&[0x8000_0000_0000, 0x7fff_ffff_f000, 0x7fff_ffff_fff8, 1 << 63]),
            _ => self.rng.pick(&[1, 8, 4095]),
        }
    }

    /// Puts what the kernel reads where it can.
    pub fn put(&mut self, bytes: &[u8]) -> u64 {
        let at_end = if self.rng.percent(25) { self.arena.put_at_end(bytes, 0) } else { None };
        at_end.unwrap_or_else(|| self.arena.put(bytes))
    }

    /// The same, or where it cannot if `bad`.
    pub fn put_or_not(&mut self, bytes: &[u8], bad: bool) -> u64 {
        if !bad {
            return self.put(bytes);
        }
        self.must_fail = true;
        if !bytes.is_empty() && self.rng.percent(40) {
            let missing = 1 + self.rng.below(bytes.len() as u64) as usize;
            if let Some(address) = self.arena.put_at_end(bytes, missing) {
                return address;
            }
        }
        self.bad_address()
    }

    /// The arguments of a call, of which the kernel knows `known` bytes and needs `least`. Says, too, whether it reads
    /// them, and what of them.
    fn arguments<const N: usize>(&mut self, words: [u64; N], least: u64) -> ((u64, u64), bool, [u64; N]) {
        let known = (N * 8) as u64;
        let mut all = bytes(&words);
        all.resize(2 * 4096, 0);
        let mut size = match self.rng.below(10) {
            0 => known + self.rng.below(200),
            1 => self.rng.pick(&[4096, 4095, known + 1]),
            _ => known,
        };
        let mut good = true;
        if self.argument_mistake() {
            good = false;
            match self.rng.below(4) {
                0 => size = self.rng.pick(&[0, 1, 8, least - 1, least - 8]),
                1 => size = self.rng.pick(&[4097, 5000, 1 << 20, 1 << 32, u64::MAX, 1 << 63]),
                2 => {
                    size = self.rng.pick(&[known + 1, known + 8, 4096]);
                    let place = known + self.rng.below(size - known);
                    all[place as usize] = 1;
                }
                _ => {
                    self.must_fail = true;
                    let address = self.put_or_not(&all[..size as usize], true);
                    return ((address, size), false, words);
                }
            }
        }
        self.must_fail |= !good;
        let length = (size as usize).min(all.len());
        let address = self.put(&all[..length]);
        ((address, size), good, words)
    }

    fn create(&mut self) -> Create {
        let cloexec = self.rng.percent(80);
        let mut flags = u64::from(cloexec) | u64::from(self.rng.percent(20)) << 1;
        let mut execfd = -1;
        let mut filename = 0;
        let mut text = String::new();
        if self.rng.percent(30) {
            execfd = self.rng.pick(&self.world.executables);
            if self.argument_mistake() {
                self.must_fail = true;
                let other =
                    self.rng.pick(&[self.world.files.as_slice(), &self.world.folders, &[900, i32::MAX]].concat());
                execfd = other;
            }
        } else {
            let good = ["nothing", "static0", "static-pie", "dynamic0"];
            text = format!("{CHILDREN}/{}", self.rng.pick(&good));
            if self.rng.percent(25) {
                text = format!("{SCRATCH}/{}", self.rng.pick(&["nothing", "link", "../fuzz/nothing", "setuid"]));
            }
            if self.argument_mistake() {
                text = self.bad_executable();
                self.must_fail = true;
            } else if self.rng.percent(15) {
                // Nobody knows what is in it.
                text = self.corrupt_executable();
            }
            let bad = self.argument_mistake();
            filename = self.put_or_not(&[text.as_bytes(), b"\0"].concat(), bad);
        }
        let mut words = [flags, 0, filename, 0, 0, 0, 0, 0, 0];
        if self.argument_mistake() {
            self.must_fail = true;
            match self.rng.below(4) {
                0 => flags |= 4 << self.rng.below(62),
                1 if filename == 0 => execfd = self.rng.range(-5, -1),
                _ => {
                    let place = self.rng.range(3, 8) as usize;
                    words[place] = 1 << self.rng.below(64);
                }
            }
        }
        if text.starts_with('/') && self.rng.percent(20) {
            // It does not matter.
            let any = [self.world.folders.as_slice(), &self.world.files, &[-100, 900, 0]].concat();
            execfd = self.rng.pick(&any);
        }
        let follows = text.ends_with("link");
        let mut exec_flags = self.rng.pick(&[0, 0, 0, libc::AT_EMPTY_PATH, libc::AT_SYMLINK_NOFOLLOW]) as u32;
        if follows {
            exec_flags &= !(libc::AT_SYMLINK_NOFOLLOW as u32);
        }
        if self.argument_mistake() {
            self.must_fail = true;
            exec_flags |= self.rng.pick(&[1, 1 << 9, 1 << 16, 1 << 31, 0x10000]);
        }
        words[0] = flags;
        words[1] = pair(execfd as u32, exec_flags);
        let (args, _, words) = self.arguments(words, uapi::SPAWN_TEMPLATE_CREATE_ARGS_SIZE_VER0.into());
        Create { args, must_fail: self.must_fail, cloexec, words, path: text }
    }

    fn bad_executable(&mut self) -> String {
        let names = ["missing", "text", "empty", "cut", "noexec", "dir", "fifo", "loop", "file/x", "script"];
        match self.rng.below(12) {
            0 => String::new(),
            1 => "nothing".into(),
            2 => "/".repeat(5000),
            3 => format!("/{}", "n".repeat(300)),
            4 => self.rng.pick(&["/", "/dev/null", "/proc/self/status", "./x"]).into(),
            _ => format!("{SCRATCH}/{}", self.rng.pick(&names)),
        }
    }

    /// A program with some bytes of its headers changed.
    fn corrupt_executable(&mut self) -> String {
        // Files of their own for each thread need numbers; the address of its memory is one.
        let path = world::corrupt_path(std::process::id(), self.arena.missing() >> 12);
        let from = self.rng.pick(&["nothing", "static-pie", "dynamic0"]);
        let Ok(mut program) = std::fs::read(format!("{CHILDREN}/{from}")) else { return path };
        let end = if self.rng.percent(50) { 64 } else { 64 + 56 * 8 };
        for _ in 0..=self.rng.below(3) {
            let place = self.rng.below(end) as usize;
            let value = self.rng.pick(&[0, 1, 0x7f, 0x80, 0xff, self.rng.clone().next() as u8]);
            if let Some(byte) = program.get_mut(place) {
                *byte = value;
            }
        }
        if self.rng.percent(20) {
            program.truncate(self.rng.below(1000) as usize);
        }
        std::fs::remove_file(&path).ok();
        if std::fs::write(&path, program).is_ok() {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).ok();
        }
        path
    }

    fn spawn(&mut self) -> Spawn {
        let (template, known) = self.template();
        let must_not_start = known.is_some_and(|index| !self.world.templates[index].is_good);
        let nowait = self.rng.percent(15);
        self.must_fail |= must_not_start && !nowait;
        let no_pidfd = self.rng.percent(20);
        let mut flags = u64::from(self.rng.percent(20)) | u64::from(nowait) << 1 | u64::from(no_pidfd) << 2;
        let actions = self.actions(nowait);
        let mut count = actions.len() as u64;
        let encoded: Vec<u8> = actions
            .iter()
            .flat_map(|action| {
                let numbers = [pair(action.type_, action.flags), pair(action.fd as u32, action.newfd as u32)];
                bytes(&[numbers[0], numbers[1], action.arg, action.arg_size])
            })
            .collect();
        let bad = count > 0 && self.argument_mistake();
        let mut array = if count == 0 { 0 } else { self.put_or_not(&encoded, bad) };
        if self.argument_mistake() {
            self.must_fail = true;
            if self.rng.percent(40) && count > 0 {
                array = 0;
            } else {
                count = self.rng.pick(&[257, 1000, 1 << 32, 1 << 60, u64::MAX, u64::MAX / 32 + 1]);
            }
        }
        let argv = self.strings("child");
        let envp = self.strings("NAME=value");
        let place = self.arena.put(&[UNTOUCHED; 8]);
        let mut may_look = !no_pidfd;
        let pidfd = if self.argument_mistake() {
            self.must_fail = true;
            may_look = false;
            match self.rng.below(4) {
                0 if no_pidfd => place,
                0 => 0,
                1 => self.arena.read_only(),
                2 => self.arena.put_at_end(&[0; 4], 1 + self.rng.below(4) as usize).unwrap_or(1),
                _ => self.bad_address(),
            }
        } else if no_pidfd {
            0
        } else if self.rng.percent(25) {
            self.arena.put_at_end(&[UNTOUCHED; 4], 0).unwrap_or(place)
        } else {
            place
        };
        if self.argument_mistake() {
            self.must_fail = true;
            flags |= 16 << self.rng.below(60);
        }
        let mut words = [flags, pidfd, argv, envp, array, count, 0, 0, 0, 0, 0, 0, 0];
        // Only the template that is meant; a wrong id is as good as a wrong descriptor, which is drawn elsewhere.
        let id = known.map(|index| self.world.templates[index].id).filter(|_| self.rng.percent(20));
        if let Some(id) = id {
            words[0] |= u64::from(uapi::SPAWN_TEMPLATE_SPAWN_CHECK_ID);
            words[12] = id;
        }
        if self.argument_mistake() {
            self.must_fail = true;
            let place = if id.is_none() && self.rng.percent(20) { 12 } else { self.rng.range(6, 9) };
            words[place as usize] = 1 << self.rng.below(64);
        }
        let (result, writable) = self.result();
        (words[10], words[11]) = result;
        self.must_fail |= !writable;
        let least = uapi::SPAWN_TEMPLATE_SPAWN_ARGS_SIZE_VER0.into();
        let (args, readable, _) = self.arguments(words, least);
        let is_counted = readable && (words[10..12] == [0, 0] || writable);
        let alone = self.world.kind.is_alone();
        let few = |generator: &mut Self, percent| alone && generator.rng.percent(percent);
        let open_files = few(self, 2).then(|| sys::lowest_free().unwrap_or(0) as u64 + self.rng.below(2));
        let processes = (self.world.kind == Kind::User && few(self, 2)).then_some(0);
        self.limited |= open_files.is_some();
        Spawn {
            template,
            known,
            args,
            pidfd,
            may_look,
            result: (is_counted && words[11] != 0).then_some((words[10], words[11] as usize)),
            is_counted,
            must_fail: self.must_fail,
            must_not_start,
            nowait,
            limited: self.limited,
            open_files,
            processes,
            words,
            actions,
            open: std::mem::take(&mut self.open),
        }
    }

    fn template(&mut self) -> (RawFd, Option<usize>) {
        let world = self.world;
        if self.argument_mistake() {
            self.must_fail = true;
            let others = [world.files.as_slice(), &world.folders, &[-1, -100, 900, i32::MAX, i32::MIN]].concat();
            return (self.rng.pick(&others), None);
        }
        if world.kind == Kind::Threads && self.rng.percent(10) {
            return (world.volatile.load(Relaxed), None);
        }
        let index = if self.child_mistake() {
            self.rng.below(world.templates.len() as u64) as usize
        } else if self.rng.percent(85) {
            self.rng.below(4) as usize
        } else {
            self.rng.below(world.good as u64) as usize
        };
        (world.templates[index].fd, Some(index))
    }

    /// The address and size of a result, and whether they are good.
    fn result(&mut self) -> ((u64, u64), bool) {
        let size = match self.rng.below(10) {
            0 => return ((0, 0), true),
            1 => self.rng.pick(&[17, 20, 24, 64, 4096]),
            _ => 16,
        };
        let filled = vec![UNTOUCHED; size];
        if !self.argument_mistake() {
            return ((self.put(&filled), size as u64), true);
        }
        let address = self.arena.put(&filled);
        let bad = match self.rng.below(6) {
            0 => (address, 0),
            1 => (0, 16),
            2 => (address, self.rng.pick(&[1, 8, 15, 4097, 1 << 32, u64::MAX])),
            3 => (self.arena.read_only(), 16),
            4 => (self.arena.put_at_end(&[0; 16], 1 + self.rng.below(16) as usize).unwrap_or(0), 16),
            _ => (self.bad_address(), 16),
        };
        (bad, false)
    }

    /// argv or envp.
    fn strings(&mut self, usual: &str) -> u64 {
        let string = self.put(&[usual.as_bytes(), b"\0"].concat());
        let mut list = match self.rng.below(20) {
            0 => return 0,
            1 => Vec::new(),
            2 => vec![string; self.rng.below(300) as usize],
            3 => {
                let length = self.rng.below(30_000) as usize;
                vec![string, self.put(&[vec![b'x'; length], vec![0]].concat())]
            }
            4 => vec![string, self.put(b"\0"), string],
            _ => vec![string; 1 + self.rng.below(3) as usize],
        };
        if !self.argument_mistake() {
            list.push(0);
            return self.put(&bytes(&list));
        }
        self.must_fail = true;
        match self.rng.below(8) {
            // Beyond what one string may have, and what all of them may.
            0 => list.push(self.arena.put(&[vec![b'x'; 131_072], vec![0]].concat())),
            1 => {
                let long = self.arena.put(&[vec![b'x'; 120_000], vec![0]].concat());
                list.extend([long; 20]);
            }
            // A string without an end before the end.
            2 => list.push(self.arena.put_at_end(b"endless", 0).unwrap_or(1)),
            3 => return self.bad_address(),
            // No NULL.
            4 => {
                list.push(string);
                return self.arena.put_at_end(&bytes(&list), 0).filter(|_| list.len() < 1000).unwrap_or(1);
            }
            _ => list.push(self.bad_address()),
        }
        list.push(0);
        self.put(&bytes(&list))
    }
}
