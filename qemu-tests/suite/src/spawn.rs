//! `spawn_template_spawn`: arguments and environment, and every way the call itself refuses.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use spawn_template::uapi;

use crate::harness::{Checks, Outcome, error_name, failed, refused};
use crate::os::{self, Pages, Status};
use crate::show::Show;
use crate::template::{Act, Child, Folder, Open, RawAction, SPAWN_SIZE, Spawn, SpawnArgs, Template};
use crate::{ensure, same, tests};

tests!("spawn":
    arguments, environment, empty_environment, null_environment, empty_argv, null_argv, empty_strings, many_arguments,
    a_megabyte_of_arguments, argument_too_long, arguments_too_large [180], environment_too_large, arguments_against_stack_limit,
    bad_argv_pointer, bad_envp_pointer, structure_size, zero_tail, nonzero_tail, not_a_template, bad_argument_pointer,
    unknown_flags, reserved_fields, no_pidfd_pointer, unwritable_pidfd_pointer, no_pidfd_after_failure, too_many_actions, action_count_without_array,
    unreadable_actions, pidfd_is_cloexec, out_of_fds, without_pidfd, without_pidfd_but_with_pointer,
    without_pidfd_and_fds, failing_without_pidfd,
);

fn arguments() -> Outcome {
    let template = Template::child("show")?;
    let argv = ["zero", "one", "", "white space", "utf-8 \u{e4}\u{20ac}", "-n", "a=b"];
    let show = template.spawn().argv(argv).show()?;
    same!(show.all("arg"), argv, "arguments");
    Ok(())
}

fn environment() -> Outcome {
    let template = Template::child("show")?;
    let envp = ["A=1", "EMPTY=", "NOVALUE", "A=2", "=odd", "LONG=".repeat(100).leak()];
    let show = template.spawn().envp(envp).show()?;
    same!(show.all("env"), envp, "environment");
    Ok(())
}

fn empty_environment() -> Outcome {
    let show = Template::child("show")?.spawn().show()?;
    same!(show.all("env").len(), 0, "variables");
    Ok(())
}

/// Output of `show` for arguments that only raw pointers can express.
fn show_changed(spawn: &Spawn<'_>, change: impl FnOnce(&mut SpawnArgs)) -> Outcome<Show> {
    let (reader, writer) = os::pipe()?;
    let child = spawn.clone().act(Act::Dup2(writer.as_raw_fd(), 1)).run_changed(change)?;
    drop(writer);
    let mut output = Vec::new();
    io::Read::read_to_end(&mut File::from(reader), &mut output)?;
    same!(child.wait()?, Status::Exited(0), "show's status");
    Ok(Show::parse(&output))
}

fn null_environment() -> Outcome {
    let template = Template::child("show")?;
    let show = show_changed(&template.spawn(), |args| args.envp = 0)?;
    same!(show.all("env").len(), 0, "variables");
    Ok(())
}

/// As execve() does: a program always gets an argument, if an empty one.
fn empty_argv() -> Outcome {
    let show = Template::child("show")?.spawn().argv::<&str>([]).show()?;
    same!(show.all("arg"), [""], "arguments");
    same!(show.get("argc"), "1", "argc");
    Ok(())
}

fn null_argv() -> Outcome {
    let template = Template::child("show")?;
    let show = show_changed(&template.spawn(), |args| args.argv = 0)?;
    same!(show.all("arg"), [""], "arguments");
    same!(show.get("argc"), "1", "argc");
    Ok(())
}

fn empty_strings() -> Outcome {
    let show = Template::child("show")?.spawn().argv(["", "", ""]).envp(["", ""]).show()?;
    same!(show.all("arg"), ["", "", ""], "arguments");
    same!(show.all("env"), ["", ""], "environment");
    Ok(())
}

fn many_arguments() -> Outcome {
    let argv = (0..20_000).map(|i| format!("{i}"));
    let bytes: usize = argv.clone().map(|a| a.len() + 1).sum();
    let spawn = Template::child("show")?;
    let show = spawn.spawn().argv(["show".into(), "--sizes".into()].into_iter().chain(argv));
    let show = show.show()?;
    same!(show.get("argc"), "20002", "argc");
    same!(show.get("argbytes"), (bytes + "show --sizes ".len()).to_string(), "bytes");
    Ok(())
}

fn a_megabyte_of_arguments() -> Outcome {
    let long = "x".repeat(128 * 1024 - 1);
    let template = Template::child("show")?;
    let argv = ["show", "--sizes"].into_iter().chain(std::iter::repeat_n(long.as_str(), 8));
    let show = template.spawn().argv(argv).envp([long.as_str()]).show()?;
    same!(show.get("argbytes"), (8 * 128 * 1024 + "show --sizes ".len()).to_string(), "bytes of arguments");
    same!(show.get("envbytes"), (128 * 1024).to_string(), "bytes of environment");
    Ok(())
}

fn argument_too_long() -> Outcome {
    let long = "x".repeat(128 * 1024);
    let template = Template::child("nothing")?;
    refused("an argument of 128 KiB", template.spawn().arg(&long).run(), libc::E2BIG)?;
    refused("a variable of 128 KiB", template.spawn().envp([long]).run(), libc::E2BIG)?;
    nothing_left(&template)
}

fn arguments_too_large() -> Outcome {
    let long = "x".repeat(100_000);
    let template = Template::child("nothing")?;
    let argv = std::iter::repeat_n(long.as_str(), 80);
    refused("8 MB of arguments", template.spawn().argv(argv).run(), libc::E2BIG)?;
    let many = std::iter::repeat_n("", 1_000_000);
    refused("a million empty arguments", template.spawn().argv(many).run(), libc::E2BIG)?;
    nothing_left(&template)
}

fn environment_too_large() -> Outcome {
    let long = "x".repeat(100_000);
    let template = Template::child("nothing")?;
    let envp = std::iter::repeat_n(long.as_str(), 80);
    refused("8 MB of environment", template.spawn().envp(envp).run(), libc::E2BIG)?;
    nothing_left(&template)
}

/// A quarter of the stack limit is what arguments may take, but 128 KiB are always allowed.
fn arguments_against_stack_limit() -> Outcome {
    os::set_rlimit(libc::RLIMIT_STACK, 1 << 20)?;
    let template = Template::child("nothing")?;
    let chunk = "x".repeat(50_000);
    let spawn = |count| template.spawn().argv(std::iter::repeat_n(chunk.as_str(), count));
    same!(spawn(4).status()?, Status::Exited(0), "200 kB in 1 MiB of stack");
    refused("350 kB in 1 MiB of stack", spawn(7).run(), libc::E2BIG)?;
    nothing_left(&template)
}

/// After a refusal: no child, and the template still works.
fn nothing_left(template: &Template) -> Outcome {
    ensure!(!os::has_children()?, "a refused spawn left a child");
    same!(template.status()?, Status::Exited(0), "status of a good spawn afterwards");
    Ok(())
}

/// Addresses that are good for nothing.
fn bad_addresses(pages: &Pages) -> [u64; 7] {
    [1, 4095, pages.hole(), 0x7fff_ffff_f000, 1 << 47, 1 << 63, u64::MAX]
}

/// Checks argv or envp: `set` stores the address of the vector.
fn bad_vector(set: fn(&mut SpawnArgs, u64)) -> Outcome {
    let template = Template::child("nothing")?;
    let (mut vector, mut string) = (Pages::new(1)?, Pages::new(1)?);
    let mut checks = Checks::default();
    for address in bad_addresses(&vector) {
        let result = template.spawn().run_changed(|args| set(args, address));
        checks.refused(format!("vector at {address:#x}"), result, &[libc::EFAULT]);
    }
    let good = string.at_end(b"good\0");
    for address in bad_addresses(&Pages::new(1)?) {
        for before in [0, 1, 3] {
            let words = [vec![good; before], vec![address, 0]].concat();
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            let start = vector.at_end(&bytes);
            let result = template.spawn().run_changed(|args| set(args, start));
            checks.refused(format!("string {before} at {address:#x}"), result, &[libc::EFAULT]);
        }
    }
    let start = vector.at_end(&good.to_le_bytes());
    let result = template.spawn().run_changed(|args| set(args, start));
    checks.refused("no terminator before the hole", result, &[libc::EFAULT]);
    let start = vector.at_end(&[good.to_le_bytes(), 0u64.to_le_bytes()].concat());
    let result = template.spawn().run_changed(|args| set(args, start)).and_then(Child::wait);
    checks.accepted("right up to the hole", result);
    let endless = string.at_end(b"no NUL");
    let start = vector.at_end(&[endless.to_le_bytes(), 0u64.to_le_bytes()].concat());
    let result = template.spawn().run_changed(|args| set(args, start));
    checks.refused("string that runs into the hole", result, &[libc::EFAULT]);
    checks.finish()?;
    nothing_left(&template)
}

fn bad_argv_pointer() -> Outcome {
    bad_vector(|args, address| args.argv = address)
}

fn bad_envp_pointer() -> Outcome {
    bad_vector(|args, address| args.envp = address)
}

/// Valid arguments in pages of their own, and what they point to.
struct Arguments {
    page: Pages,
    pidfd: Box<i32>,
    _argv: Box<[u64; 2]>,
    template: Template,
}

impl Arguments {
    fn new(pages: usize) -> Outcome<Arguments> {
        let mut page = Pages::new(pages)?;
        let argv = Box::new([c"child".as_ptr() as u64, 0]);
        let mut pidfd = Box::new(-1);
        let words = [0, &raw mut *pidfd as u64, &raw const *argv as u64];
        for (slot, word) in page.bytes().chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&u64::to_le_bytes(word));
        }
        Ok(Arguments { page, pidfd, _argv: argv, template: Template::child("nothing")? })
    }

    /// Spawns with the arguments at `address`, and waits for the child.
    fn run_at(&mut self, address: u64, size: usize) -> io::Result<Status> {
        *self.pidfd = -1;
        let pid = os::template_spawn(self.template.raw(), address, size)?;
        // The kernel wrote behind the compiler's back.
        // SAFETY: the pointer is the box's own.
        let pidfd = unsafe { (&raw const *self.pidfd).read_volatile() };
        // SAFETY: the call succeeded, so the descriptor is new and ours.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        match os::wait_pidfd(pidfd.as_raw_fd(), 0)? {
            Some((waited, status)) if waited == pid => Ok(status),
            other => Err(io::Error::other(format!("pid {pid}, but waited for {other:?}"))),
        }
    }

    fn run(&mut self, size: usize) -> io::Result<Status> {
        self.run_at(self.page.start(), size)
    }
}

fn structure_size() -> Outcome {
    let mut arguments = Arguments::new(2)?;
    same!(SPAWN_SIZE, 104, "size of the structure");
    let mut checks = Checks::default();
    for size in [0, 1, 8, 48, 80, 96, 103] {
        checks.refused(format!("size {size}"), arguments.run(size), &[libc::EINVAL]);
    }
    for size in [4097, 8192, 1 << 20, u32::MAX as usize, 1 << 32, (1 << 32) + 104, usize::MAX] {
        checks.refused(format!("size {size}"), arguments.run(size), &[libc::E2BIG]);
    }
    checks.accepted("size 104", arguments.run(104));
    checks.finish()?;
    nothing_left(&arguments.template)
}

fn zero_tail() -> Outcome {
    let mut arguments = Arguments::new(1)?;
    let mut checks = Checks::default();
    for size in [105, 111, 112, 1000, 4095, 4096] {
        checks.accepted(format!("size {size}"), arguments.run(size));
    }
    checks.finish()
}

fn nonzero_tail() -> Outcome {
    let mut checks = Checks::default();
    for (offset, size) in [(104, 105), (104, 112), (111, 112), (104, 4096), (1000, 4096), (4095, 4096)] {
        let mut arguments = Arguments::new(1)?;
        arguments.page.bytes()[offset] = 1;
        checks.refused(format!("byte {offset} of {size}"), arguments.run(size), &[libc::E2BIG]);
        checks.accepted(format!("size {offset}"), arguments.run(offset));
    }
    checks.finish()
}

fn not_a_template() -> Outcome {
    let arguments = Arguments::new(1)?;
    let (reader, writer) = os::pipe()?;
    let (socket, _peer) = os::socketpair()?;
    let child = Template::child("sleep")?.spawn().run()?;
    let mut checks = Checks::default();
    let mut try_fd = |what: &str, fd: i32, error: i32| {
        checks.refused(what, os::template_spawn(fd, arguments.page.start(), SPAWN_SIZE), &[error]);
    };
    try_fd("-1", -1, libc::EBADF);
    try_fd("AT_FDCWD", libc::AT_FDCWD, libc::EBADF);
    try_fd("i32::MIN", i32::MIN, libc::EBADF);
    try_fd("closed", 1000, libc::EBADF);
    try_fd("far beyond the table", i32::MAX, libc::EBADF);
    try_fd("pipe", reader.as_raw_fd(), libc::EINVAL);
    try_fd("pipe's other end", writer.as_raw_fd(), libc::EINVAL);
    try_fd("socket", socket.as_raw_fd(), libc::EINVAL);
    try_fd("program", File::open(crate::template::child("nothing"))?.as_raw_fd(), libc::EINVAL);
    try_fd("folder", File::open("/")?.as_raw_fd(), libc::EINVAL);
    try_fd("device", File::open("/dev/null")?.as_raw_fd(), libc::EINVAL);
    try_fd("pidfd", child.pidfd.as_raw_fd(), libc::EINVAL);
    let path = os::open(crate::template::child("nothing"), libc::O_PATH)?;
    checks.refused(
        "O_PATH",
        os::template_spawn(path.as_raw_fd(), arguments.page.start(), SPAWN_SIZE),
        &[libc::EBADF, libc::EINVAL],
    );
    checks.finish()
}

fn bad_argument_pointer() -> Outcome {
    let mut arguments = Arguments::new(1)?;
    let whole = arguments.page.bytes()[..SPAWN_SIZE].to_vec();
    let hole = arguments.page.hole();
    let mut checks = Checks::default();
    for address in [0, 1, hole, 0x7fff_ffff_f000, 1 << 47, 1 << 63, u64::MAX - 100, u64::MAX] {
        checks.refused(format!("{address:#x}"), arguments.run_at(address, SPAWN_SIZE), &[libc::EFAULT]);
    }
    for missing in [1, 8, 79, 95] {
        let address = arguments.page.at_end(&whole[..SPAWN_SIZE - missing]);
        checks.refused(format!("last {missing}"), arguments.run_at(address, SPAWN_SIZE), &[libc::EFAULT]);
    }
    let address = arguments.page.at_end(&whole);
    checks.accepted("right up to the hole", arguments.run_at(address, SPAWN_SIZE));
    checks.refused("a tail in the hole", arguments.run_at(address, SPAWN_SIZE + 8), &[libc::EFAULT]);
    checks.finish()
}

fn unknown_flags() -> Outcome {
    let template = Template::child("nothing")?;
    let mut checks = Checks::default();
    for bit in 4..64 {
        for known in [0, 1, 2, 3] {
            let result = template.spawn().run_changed(|args| args.flags = known | 1 << bit);
            checks.refused(format!("flag bit {bit}"), result, &[libc::EINVAL]);
        }
    }
    checks.finish()?;
    nothing_left(&template)
}

fn reserved_fields() -> Outcome {
    let template = Template::child("nothing")?;
    let mut checks = Checks::default();
    for i in 0..4 {
        for value in [1, 1 << 32, u64::MAX] {
            let result = template.spawn().run_changed(|args| args.reserved[i] = value);
            checks.refused(format!("reserved[{i}]"), result, &[libc::EINVAL]);
        }
    }
    checks.finish()?;
    nothing_left(&template)
}

fn no_pidfd_pointer() -> Outcome {
    let template = Template::child("nothing")?;
    refused("no pidfd pointer", template.spawn().run_changed(|args| args.pidfd = 0), libc::EINVAL)?;
    nothing_left(&template)
}

fn unwritable_pidfd_pointer() -> Outcome {
    let template = Template::child("nothing")?;
    let pages = Pages::new(1)?;
    let mut checks = Checks::default();
    let read_only = Pages::new(1)?.protect()?;
    for address in bad_addresses(&pages).into_iter().chain([read_only.start(), pages.hole() - 2]) {
        let result = template.spawn().run_changed(|args| args.pidfd = address);
        checks.refused(format!("{address:#x}"), result, &[libc::EFAULT]);
    }
    checks.finish()?;
    nothing_left(&template)
}

/// A caller that looks at the number alone finds no descriptor, which could be another thread's.
fn no_pidfd_after_failure() -> Outcome {
    const BEFORE: i32 = 12345;
    let template = Template::child("nothing")?;
    let spawn = template.spawn();
    let failing = spawn.clone().open(Open::new("/missing", libc::O_RDONLY, 5));
    let null = File::open("/dev/null")?;
    let mut checks = Checks::default();
    let mut after = |what: &str, spawn: &Spawn<'_>, fd: i32, wanted: i32, change: &dyn Fn(&mut SpawnArgs)| {
        let mut pidfd = BEFORE;
        let address = &raw mut pidfd as u64;
        let result = spawn.run_at(fd, |args| {
            args.pidfd = address;
            change(args);
        });
        // The kernel wrote behind the compiler's back.
        // SAFETY: the pointer is to a live local.
        let pidfd = unsafe { (&raw const pidfd).read_volatile() };
        if result.is_ok() || pidfd != wanted {
            checks.fail(format!("{what}: {:?} and {pidfd}, not {wanted}", result.map(|_| ())));
        }
    };
    let fd = template.raw();
    after("a failing action", &failing, fd, -1, &|_| {});
    after("a wrong action", &spawn.clone().act(Act::Close(-1)), fd, -1, &|_| {});
    after("bad arguments", &spawn, fd, -1, &|args| args.argv = 1);
    after("a bad result", &spawn, fd, -1, &|args| (args.result, args.result_size) = (8, 16));
    after("a small result", &spawn, fd, -1, &|args| (args.result, args.result_size) = (8, 8));
    after("no template", &spawn, null.as_raw_fd(), -1, &|_| {});
    after("no descriptor", &spawn, 900, -1, &|_| {});
    after("a reserved field", &spawn, fd, -1, &|args| args.reserved[0] = 1);
    let folder = Folder::tmp("no-pidfd")?;
    let stale = Template::path(folder.copy("nothing")?)?;
    std::fs::remove_file(folder.join("nothing"))?;
    after("a stale template", &stale.spawn(), stale.raw(), -1, &|_| {});
    // It may mean something else then.
    after("an unknown flag", &spawn, fd, BEFORE, &|args| args.flags = 1 << 40);
    after("no pidfd wanted", &spawn, fd, BEFORE, &|args| args.flags = uapi::SPAWN_TEMPLATE_SPAWN_NO_PIDFD.into());
    checks.finish()?;
    nothing_left(&template)
}

fn too_many_actions() -> Outcome {
    let template = Template::child("nothing")?;
    let many = |count| template.spawn().acts((0..count).map(|_| Act::Close(500)));
    same!(many(256).status()?, Status::Exited(0), "status with 256 actions");
    refused("257 actions", many(257).run(), libc::E2BIG)?;
    for count in [1000, u64::from(u32::MAX), 1 << 32, (1 << 32) + 1, u64::MAX / 24 + 2, 1 << 63, u64::MAX] {
        let result = template.spawn().act(Act::Close(500)).run_changed(|args| args.actions_len = count);
        refused(&format!("{count} actions"), result, libc::E2BIG)?;
    }
    nothing_left(&template)
}

fn action_count_without_array() -> Outcome {
    let template = Template::child("nothing")?;
    for count in [1, 256] {
        let result = template.spawn().run_changed(|args| args.actions_len = count);
        refused("a count without an array", result, libc::EINVAL)?;
    }
    nothing_left(&template)
}

fn unreadable_actions() -> Outcome {
    let template = Template::child("nothing")?;
    let mut pages = Pages::new(1)?;
    let mut checks = Checks::default();
    for address in bad_addresses(&pages) {
        let result = template.spawn().run_changed(|args| (args.actions, args.actions_len) = (address, 1));
        checks.refused(format!("{address:#x}"), result, &[libc::EFAULT]);
    }
    // CLOSE of descriptor 500, then the hole.
    let mut close = [0; size_of::<RawAction>()];
    close[0] = uapi::SPAWN_TEMPLATE_ACTION_CLOSE as u8;
    close[8..10].copy_from_slice(&500u16.to_le_bytes());
    let one = pages.at_end(&close);
    let result = template.spawn().run_changed(|args| (args.actions, args.actions_len) = (one, 1));
    checks.accepted("one action", result.and_then(Child::wait));
    for count in [2, 256] {
        let result = template.spawn().run_changed(|args| (args.actions, args.actions_len) = (one, count));
        checks.refused(format!("{count} actions where one is readable"), result, &[libc::EFAULT]);
    }
    checks.finish()?;
    nothing_left(&template)
}

fn pidfd_is_cloexec() -> Outcome {
    let child = Template::child("nothing")?.spawn().run()?;
    ensure!(os::is_cloexec(child.pidfd.as_raw_fd())?, "the pidfd is not close-on-exec");
    same!(child.wait()?, Status::Exited(0), "status");
    Ok(())
}

fn out_of_fds() -> Outcome {
    let template = Template::child("nothing")?;
    let lowest = File::open("/dev/null")?.as_raw_fd();
    let limit = os::rlimit(libc::RLIMIT_NOFILE)?.rlim_cur;
    os::set_rlimit(libc::RLIMIT_NOFILE, lowest as u64)?;
    let result = template.spawn().run();
    let left = os::has_children();
    os::set_rlimit(libc::RLIMIT_NOFILE, limit)?;
    refused("no number left for the pidfd", result, libc::EMFILE)?;
    ensure!(!left?, "a refused spawn left a child");
    os::set_rlimit(libc::RLIMIT_NOFILE, lowest as u64 + 1)?;
    let result = template.status();
    os::set_rlimit(libc::RLIMIT_NOFILE, limit)?;
    match result {
        Ok(Status::Exited(0)) => Ok(()),
        Ok(status) => Err(failed(format!("status {status:?}"))),
        Err(e) => Err(failed(format!("with one number left: {}", error_name(&e)))),
    }
}

/// The child is known by its process id alone: no descriptor is used.
fn without_pidfd() -> Outcome {
    let template = Template::child("nothing")?;
    let spawns = template.counts()?.0;
    for spawn in [template.spawn(), template.spawn().nowait(), template.spawn().inherit_fds()] {
        let lowest = File::open("/dev/null")?.as_raw_fd();
        let argv = os::pointers(&[c"nothing".to_owned()]);
        let envp = os::pointers(&[]);
        let flags = spawn.no_pidfd().flags();
        let args = SpawnArgs { flags, argv: argv.as_ptr() as u64, envp: envp.as_ptr() as u64, ..Default::default() };
        let pid = os::template_spawn(template.raw(), &raw const args as u64, SPAWN_SIZE)?;
        let next = File::open("/dev/null")?.as_raw_fd();
        same!(os::waitpid(pid, 0)?, (pid, Status::Exited(0)), "the child");
        same!(next, lowest, "lowest free descriptor after the call");
    }
    same!(template.counts()?.0, spawns + 3, "spawns");
    Ok(())
}

fn without_pidfd_but_with_pointer() -> Outcome {
    let template = Template::child("nothing")?;
    let mut pidfd = -1;
    let address = &raw mut pidfd as u64;
    for spawn in [template.spawn().no_pidfd(), template.spawn().no_pidfd().nowait()] {
        refused("a pidfd pointer", spawn.run_changed(|args| args.pidfd = address), libc::EINVAL)?;
    }
    nothing_left(&template)
}

/// No number is needed, so that none is left does not matter.
fn without_pidfd_and_fds() -> Outcome {
    let template = Template::child("nothing")?;
    let lowest = File::open("/dev/null")?.as_raw_fd();
    let argv = os::pointers(&[c"nothing".to_owned()]);
    let flags = template.spawn().no_pidfd().flags();
    let args = SpawnArgs { flags, argv: argv.as_ptr() as u64, ..Default::default() };
    let limit = os::rlimit(libc::RLIMIT_NOFILE)?.rlim_cur;
    os::set_rlimit(libc::RLIMIT_NOFILE, lowest as u64)?;
    let pid = os::template_spawn(template.raw(), &raw const args as u64, SPAWN_SIZE);
    os::set_rlimit(libc::RLIMIT_NOFILE, limit)?;
    let pid = pid?;
    same!(os::waitpid(pid, 0)?, (pid, Status::Exited(0)), "the child");
    Ok(())
}

/// A failure is told as ever.
fn failing_without_pidfd() -> Outcome {
    let template = Template::child("nothing")?;
    let spawn = template.spawn().no_pidfd();
    let (child, result) = spawn.clone().act(Act::chdir("/missing")).report();
    refused("a folder that is not there", child, libc::ENOENT)?;
    same!((result.error, result.action), (libc::ENOENT, 0), "error and action reported");
    let many = Act::Rlimit(libc::RLIMIT_STACK, 4096, 4096);
    let (child, result) = spawn.clone().argv(vec!["x".repeat(100_000); 2]).act(many).report();
    refused("more arguments than the stack may hold", child, libc::E2BIG)?;
    same!(result.error, libc::E2BIG, "error reported");
    ensure!(!os::has_children()?, "a failed spawn left a child");
    // Nobody waits: the failure is the child's status.
    same!(spawn.nowait().act(Act::chdir("/missing")).status()?, Status::Exited(127), "status");
    Ok(())
}
