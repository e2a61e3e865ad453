//! The result structure: when it is written, how much of it, and what it says about each way to fail.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;

use crate::failing::{Failing, Failure, SUCCESS, Stage, fields};
use crate::harness::{Checks, Outcome, in_worker, refused};
use crate::os::{self, Pages, Status};
use crate::template::{
    Act, Child, Folder, Open, RawAction, RawResult, SPAWN_SIZE, SpawnArgs, Template, UNREPORTED, raw,
};
use crate::{ensure, same, tests};

tests!("result":
    success, sizes, too_small, too_large, pointer_without_size, size_without_pointer, unwritable, anywhere_in_memory,
    left_alone, no_template, reused, argument_stage, action_arguments, identity_stage, create_stage, no_file_left,
    action_stage, last_of_many_actions, exec_stage, first_problem_counts, caller_memory_of_actions,
);

fn success() -> Outcome {
    let template = Template::child("exit-code")?;
    let spawn = template.spawn().arg("7");
    for (what, spawn) in
        [("plain", spawn.clone()), ("inheriting", spawn.clone().inherit_fds()), ("not waiting", spawn.nowait())]
    {
        let (child, result) = spawn.act(Act::Close(500)).report();
        same!(fields(&result), SUCCESS, "report, {what}");
        same!(child?.wait()?, Status::Exited(7), "status, {what}");
    }
    Ok(())
}

/// The caller's structure, in memory full of ones.
struct Memory(Vec<u8>);

impl Memory {
    fn new() -> Memory {
        Memory(vec![0xff; 8192])
    }

    /// Puts it into the arguments.
    fn set(&mut self, args: &mut SpawnArgs, size: u64) {
        (args.result, args.result_size) = (self.0.as_mut_ptr() as u64, size);
    }

    fn words(&self) -> (u32, i32, i32, u32) {
        let word = |i: usize| u32::from_le_bytes([self.0[i], self.0[i + 1], self.0[i + 2], self.0[i + 3]]);
        (word(0), word(4) as i32, word(8) as i32, word(12))
    }

    fn untouched(&self) -> bool {
        self.0.iter().all(|&byte| byte == 0xff)
    }
}

/// What a caller knows beyond the kernel is cleared, what lies behind its structure is left alone.
fn sizes() -> Outcome {
    let template = Template::child("nothing")?;
    let failing = template.spawn().act(Act::Dup2(900, 1));
    for size in [16, 17, 23, 24, 64, 80, 81, 1000, 4095, 4096] {
        let mut memory = Memory::new();
        let child = template.spawn().run_changed(|args| memory.set(args, size as u64))?;
        same!(memory.words(), SUCCESS, "report of a success, {size} bytes");
        same!(child.wait()?, Status::Exited(0), "status");
        ensure!(memory.0[16..size].iter().all(|&byte| byte == 0), "the tail of {size} bytes is not cleared");
        ensure!(memory.0[size..].iter().all(|&byte| byte == 0xff), "more than {size} bytes were written");

        let mut memory = Memory::new();
        refused("DUP2", failing.run_changed(|args| memory.set(args, size as u64)), libc::EBADF)?;
        same!(memory.words(), (Stage::Action as u32, 0, libc::EBADF, 0), "report of a failure, {size} bytes");
        ensure!(memory.0[16..size].iter().all(|&byte| byte == 0), "the tail of {size} bytes is not cleared");
        ensure!(memory.0[size..].iter().all(|&byte| byte == 0xff), "more than {size} bytes were written");
    }
    Ok(())
}

/// Tries sizes that are no good, and wants this error and nothing written.
fn bad_sizes(sizes: &[u64], error: i32) -> Outcome {
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    let mut checks = Checks::default();
    for &size in sizes {
        let mut memory = Memory::new();
        checks.refused(size, template.spawn().run_changed(|args| memory.set(args, size)), &[error]);
        if !memory.untouched() {
            checks.fail(format!("{size}: something was written"));
        }
        failing.nothing_left(size);
    }
    checks.finish()?;
    failing.finish()
}

fn too_small() -> Outcome {
    bad_sizes(&[1, 2, 4, 8, 12, 15], libc::EINVAL)
}

fn too_large() -> Outcome {
    bad_sizes(&[4097, 8192, 1 << 20, u32::MAX.into(), 1 << 32, (1 << 32) + 16, 1 << 63, u64::MAX], libc::E2BIG)
}

fn pointer_without_size() -> Outcome {
    bad_sizes(&[0], libc::EINVAL)
}

fn size_without_pointer() -> Outcome {
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    for size in [1, 15, 16, 4096, 4097, u64::MAX] {
        refused(&format!("size {size}"), template.spawn().run_changed(|args| args.result_size = size), libc::EINVAL)?;
        failing.nothing_left(size);
    }
    failing.finish()
}

fn unwritable() -> Outcome {
    let template = Template::child("nothing")?;
    let pages = Pages::new(1)?;
    let read_only = Pages::new(1)?.protect()?;
    let mut failing = Failing::new()?;
    let mut checks = Checks::default();
    let hole = pages.hole();
    let kernel = [1 << 47, 1 << 63, u64::MAX - 15, u64::MAX];
    for address in [1, 4095, hole, hole - 1, hole - 15, 0x7fff_ffff_f000, read_only.start()].into_iter().chain(kernel) {
        let spawned = template.spawn().run_changed(|args| (args.result, args.result_size) = (address, 16));
        checks.refused(format!("{address:#x}"), spawned, &[libc::EFAULT]);
        failing.nothing_left(format!("{address:#x}"));
    }
    // Room for what the kernel knows, but not for the size given.
    let spawned = template.spawn().run_changed(|args| (args.result, args.result_size) = (hole - 16, 24));
    checks.refused("a tail in the hole", spawned, &[libc::EFAULT]);
    failing.nothing_left("a tail in the hole");
    checks.finish()?;
    failing.finish()
}

/// Neither alignment nor what follows matters.
fn anywhere_in_memory() -> Outcome {
    let template = Template::child("nothing")?;
    let mut pages = Pages::new(1)?;
    for offset in [0, 1, 3, 7, 4096 - 17, 4096 - 16] {
        pages.bytes().fill(0xff);
        let address = pages.start() + offset as u64;
        let child = template.spawn().run_changed(|args| (args.result, args.result_size) = (address, 16))?;
        same!(child.wait()?, Status::Exited(0), "status");
        let wanted = [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
        same!(pages.bytes()[offset..offset + 16], wanted, "bytes at offset {offset}");
    }
    Ok(())
}

/// Arguments for a call that does not go through [`crate::template::Spawn`], with a result.
fn plain_args(pidfd: &mut i32, argv: &[u64; 2], result: &mut RawResult) -> SpawnArgs {
    SpawnArgs {
        pidfd: &raw mut *pidfd as u64,
        argv: argv.as_ptr() as u64,
        result: &raw mut *result as u64,
        result_size: size_of::<RawResult>() as u64,
        ..Default::default()
    }
}

/// A call that cannot make sense of its arguments writes nothing.
fn left_alone() -> Outcome {
    let template = Template::child("nothing")?;
    let (mut pidfd, argv, mut result) = (-1, [c"child".as_ptr() as u64, 0], UNREPORTED);
    let mut page = Pages::new(1)?;
    let args = plain_args(&mut pidfd, &argv, &mut result);
    // SAFETY: the structure is 104 bytes without padding.
    let bytes = unsafe { std::slice::from_raw_parts((&raw const args).cast::<u8>(), SPAWN_SIZE) };
    page.bytes()[..SPAWN_SIZE].copy_from_slice(bytes);
    page.bytes()[SPAWN_SIZE] = 1;
    let address = page.start();
    let mut checks = Checks::default();
    let mut call = |what: &str, fd, address, size, error| {
        checks.refused(what, os::template_spawn(fd, address, size), &[error]);
    };
    call("size 103", template.raw(), address, 103, libc::EINVAL);
    call("size 4097", template.raw(), address, 4097, libc::E2BIG);
    call("unknown tail", template.raw(), address, SPAWN_SIZE + 8, libc::E2BIG);
    let at_end = page.at_end(bytes);
    call("a tail in the hole", template.raw(), at_end, SPAWN_SIZE + 8, libc::EFAULT);
    checks.finish()?;
    // SAFETY: the pointer is to a live local.
    let result = unsafe { (&raw const result).read_volatile() };
    same!(fields(&result), fields(&UNREPORTED), "the result");
    Ok(())
}

/// What is no template is a wrong argument too.
fn no_template() -> Outcome {
    let null = File::open("/dev/null")?;
    let mut pidfd = -1;
    let argv = [c"child".as_ptr() as u64, 0];
    for (what, fd, error) in [("no descriptor", 900, libc::EBADF), ("no template", null.as_raw_fd(), libc::EINVAL)] {
        let mut result = UNREPORTED;
        let args = plain_args(&mut pidfd, &argv, &mut result);
        refused(what, os::template_spawn(fd, &raw const args as u64, SPAWN_SIZE), error)?;
        // SAFETY: the pointer is to a live local.
        let result = unsafe { (&raw const result).read_volatile() };
        same!(fields(&result), (Stage::Arguments as u32, -1, error, 0), "report, {what}");
    }
    Ok(())
}

/// A result says what the last call did, not what an earlier one did.
fn reused() -> Outcome {
    let template = Template::child("nothing")?;
    let mut memory = Memory::new();
    for _ in 0..3 {
        let bad = template.spawn().acts([Act::Close(500), Act::Dup2(900, 1)]);
        refused("DUP2", bad.run_changed(|args| memory.set(args, 16)), libc::EBADF)?;
        same!(memory.words(), (Stage::Action as u32, 1, libc::EBADF, 0), "report of the failing action");
        let spawned = bad.run_changed(|args| {
            memory.set(args, 16);
            args.argv = 1;
        });
        refused("argv", spawned, libc::EFAULT)?;
        same!(memory.words(), (Stage::Arguments as u32, -1, libc::EFAULT, 0), "report of the bad pointer");
        let child = template.spawn().run_changed(|args| memory.set(args, 16))?;
        same!(memory.words(), SUCCESS, "report of the success");
        child.wait()?;
    }
    Ok(())
}

/// Whatever is wrong with the arguments but not with one action.
fn argument_stage() -> Outcome {
    let template = Template::child("nothing")?;
    let spawn = template.spawn().act(Act::Close(500));
    let long = "x".repeat(128 * 1024);
    let read_only = Pages::new(1)?.protect()?;
    let too_many = template.spawn().acts((0..257).map(|_| Act::Close(500)));
    let mut failing = Failing::new()?;
    let at = |error| Failure::at(Stage::Arguments, error);
    let mut changed = |what: &str, error, change: &dyn Fn(&mut SpawnArgs)| {
        failing.judge(what, spawn.report_changed(change), at(error));
    };
    for bit in [4, 31, 32, 63] {
        changed("an unknown flag", libc::EINVAL, &|args| args.flags = 1 << bit);
    }
    for i in 0..4 {
        changed("reserved", libc::EINVAL, &|args| args.reserved[i] = 1);
    }
    changed("an id without the flag", libc::EINVAL, &|args| args.template_id = 1);
    changed("no pidfd pointer", libc::EINVAL, &|args| args.pidfd = 0);
    changed("bad pidfd pointer", libc::EFAULT, &|args| args.pidfd = 1);
    changed("read-only pidfd", libc::EFAULT, &|args| args.pidfd = read_only.start());
    changed("argv", libc::EFAULT, &|args| args.argv = 1);
    changed("envp", libc::EFAULT, &|args| args.envp = 1);
    changed("a count without actions", libc::EINVAL, &|args| args.actions = 0);
    changed("a huge count", libc::E2BIG, &|args| args.actions_len = u64::MAX);
    failing.spawn("257 actions", &too_many, at(libc::E2BIG));
    failing.spawn("a long argument", &spawn.clone().arg(&long), at(libc::E2BIG));
    failing.spawn("a long variable", &spawn.clone().envp([&long]), at(libc::E2BIG));
    let many = std::iter::repeat_n(&long[..100_000], 80);
    failing.spawn("8 MB of arguments", &spawn.clone().argv(many.clone()), at(libc::E2BIG));
    failing.spawn("8 MB of environment", &spawn.clone().envp(many), at(libc::E2BIG));
    failing.finish()?;

    let lowest = File::open("/dev/null")?.as_raw_fd();
    let limit = os::rlimit(libc::RLIMIT_NOFILE)?.rlim_cur;
    os::set_rlimit(libc::RLIMIT_NOFILE, lowest as u64)?;
    let (child, result) = spawn.report();
    os::set_rlimit(libc::RLIMIT_NOFILE, limit)?;
    refused("no number for the pidfd", child, libc::EMFILE)?;
    same!(fields(&result), (Stage::Arguments as u32, -1, libc::EMFILE, 0), "report without a number");
    Ok(())
}

/// The limit is the whole system's, and root's processes are not held to it.
fn no_file_left() -> Outcome {
    const LIMIT: &str = "/proc/sys/fs/file-max";
    let before = fs::read_to_string(LIMIT)?;
    let (ready, go) = (os::pipe()?, os::pipe()?);
    let user = os::fork()?;
    if user == 0 {
        drop(go.1);
        let result = os::become_user(12345).and_then(|()| Template::child("nothing")).map(|template| {
            let _ = File::from(ready.1).write_all(b"x");
            let _ = os::readable(go.0.as_raw_fd(), -1);
            let errors = [template.status().err(), Template::child("nothing").err()];
            let full = errors.map(|e| e.and_then(|e| e.raw_os_error()) == Some(libc::ENFILE));
            full == [true; 2] && os::has_children().is_ok_and(|has| !has)
        });
        os::exit_now(i32::from(!result.is_ok_and(|good| good)));
    }
    drop(ready.1);
    os::readable(ready.0.as_raw_fd(), -1)?;
    fs::write(LIMIT, "0")?;
    drop(go.1);
    let status = os::waitpid(user, 0);
    fs::write(LIMIT, before)?;
    same!(status?, (user, Status::Exited(0)), "the user: template, spawn and template again");
    Ok(())
}

/// An action that cannot be read, or is wrong, is named; the first of several.
fn action_arguments() -> Outcome {
    let template = Template::child("nothing")?;
    let mut pages = Pages::new(1)?;
    // CLOSE of descriptor 500, then the hole.
    let mut close = [0; size_of::<RawAction>()];
    close[0] = spawn_template::uapi::SPAWN_TEMPLATE_ACTION_CLOSE as u8;
    close[8..10].copy_from_slice(&500u16.to_le_bytes());
    let (one, two) = (pages.at_end(&close), pages.at_end(&[close, close].concat()));
    let wrong = Act::Raw(raw(99, 0, 0, 0, 0));
    let mut failing = Failing::new()?;
    for (what, address, count, action) in [
        ("a bad array", 1, 1, 0),
        ("one of two readable", one, 2, 1),
        ("one of 256 readable", one, 256, 1),
        ("two of three readable", two, 3, 2),
        ("an unaligned array", two + 1, 2, 0),
    ] {
        let report = template.spawn().report_changed(|args| (args.actions, args.actions_len) = (address, count));
        // Off by one byte, CLOSE becomes type 0.
        let error = if what.starts_with("an unaligned") { libc::EINVAL } else { libc::EFAULT };
        failing.judge(what, report, Failure::wrong(action, error));
    }
    let acts = [Act::Close(500), wrong.clone(), Act::Close(-1), wrong];
    failing.both("two wrong ones", &template.spawn().acts(acts), Failure::wrong(1, libc::EINVAL));
    // One that would fail in the child does not hide one that is wrong.
    let acts = [Act::Dup2(900, 1), Act::Close(-1)];
    failing.both("a failing one before", &template.spawn().acts(acts), Failure::wrong(1, libc::EINVAL));
    failing.finish()
}

fn identity_stage() -> Outcome {
    let folder = Folder::tmp("result-stale")?;
    let path = folder.copy("nothing")?;
    let stale = Template::path(&path)?;
    fs::write(&path, "something else")?;
    let mut failing = Failing::new()?;
    failing.both("a changed file", &stale.spawn(), Failure::at(Stage::Identity, libc::ESTALE));
    let spawn = stale.spawn().act(Act::Dup2(0, 5));
    failing.both("a changed file, after actions", &spawn, Failure::at(Stage::Identity, libc::ESTALE));
    failing.finish()?;

    let template = Template::child("nothing")?;
    in_worker(|| {
        os::become_user(12345)?;
        let mut failing = Failing::new()?;
        failing.both("another user", &template.spawn(), Failure::at(Stage::Identity, libc::EACCES));
        failing.finish()
    })
}

fn create_stage() -> Outcome {
    in_worker(|| {
        os::become_user(12345)?;
        let template = Template::child("nothing")?;
        let mut failing = Failing::new()?;
        let before = os::rlimit(libc::RLIMIT_NPROC)?.rlim_cur;
        os::set_rlimit(libc::RLIMIT_NPROC, 1)?;
        let spawn = template.spawn().act(Act::Dup2(0, 5));
        failing.both("a user who may have one process", &spawn, Failure::at(Stage::Create, libc::EAGAIN));
        os::set_rlimit(libc::RLIMIT_NPROC, before)?;
        failing.finish()
    })?;
    in_worker(|| {
        let template = Template::child("nothing")?;
        os::unshare(libc::CLONE_NEWPID)?;
        // The first process of the namespace, with which it ends.
        template.status()?;
        let mut failing = Failing::new()?;
        failing.both("a dead pid namespace", &template.spawn(), Failure::at(Stage::Create, libc::ENOMEM));
        failing.finish()
    })
}

fn action_stage() -> Outcome {
    let template = Template::child("nothing")?;
    let missing = Act::Open(Open::new("/missing", libc::O_RDONLY, 5));
    let (good, bad, not_dir) = (Act::Dup2(0, 5), Act::Dup2(900, 1), Act::Fchdir(0));
    let mut failing = Failing::new()?;
    let mut run = |acts: &[&Act], action, error| {
        let spawn = template.spawn().acts(acts.iter().copied().cloned());
        failing.both(format!("{acts:?}"), &spawn, Failure::action(action, error));
    };
    run(&[&bad], 0, libc::EBADF);
    run(&[&missing], 0, libc::ENOENT);
    run(&[&good, &bad], 1, libc::EBADF);
    run(&[&good, &good, &not_dir, &good], 2, libc::ENOTDIR);
    run(&[&missing, &bad, &not_dir], 0, libc::ENOENT);
    run(&[&not_dir, &missing, &bad], 0, libc::ENOTDIR);
    failing.finish()
}

fn last_of_many_actions() -> Outcome {
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    for position in [1, 100, 254, 255] {
        let acts = (0..256).map(|i| if i == position { Act::Dup2(900, 1) } else { Act::Close(500) });
        let spawn = template.spawn().acts(acts);
        failing.both(format!("DUP2 as action {position}"), &spawn, Failure::action(position, libc::EBADF));
    }
    failing.finish()
}

fn exec_stage() -> Outcome {
    let folder = Folder::tmp("result-exec")?;
    let path = folder.copy("nothing")?;
    let template = Template::path(&path)?;
    let writer = OpenOptions::new().write(true).open(&path)?;
    let mut failing = Failing::new()?;
    failing.both("a file open for writing", &template.spawn(), Failure::at(Stage::Exec, libc::ETXTBSY));
    let after = template.spawn().acts([Act::Dup2(0, 5), Act::Setsid]);
    failing.both("the same after actions", &after, Failure::at(Stage::Exec, libc::ETXTBSY));
    failing.finish()?;
    drop(writer);
    same!(template.status()?, Status::Exited(0), "status after closing");

    let chunk = "x".repeat(50_000);
    let stack = Act::Rlimit(libc::RLIMIT_STACK, 1 << 20, 1 << 20);
    let spawn = template.spawn().argv(std::iter::repeat_n(chunk.as_str(), 7)).act(stack);
    let mut failing = Failing::new()?;
    failing.both("350 kB in 1 MiB of stack", &spawn, Failure::at(Stage::Exec, libc::E2BIG));
    failing.finish()
}

/// With several things wrong, the documented order says which is reported.
fn first_problem_counts() -> Outcome {
    let template = Template::child("nothing")?;
    let wrong = template.spawn().act(Act::Raw(raw(99, 0, 0, 0, 0)));
    let bad = template.spawn().act(Act::Dup2(900, 1));
    let mut failing = Failing::new()?;
    let flags = wrong.report_changed(|args| (args.flags, args.argv, args.pidfd) = (1 << 40, 1, 1));
    failing.judge("flags before all", flags, Failure::at(Stage::Arguments, libc::EINVAL));
    let action = wrong.report_changed(|args| (args.argv, args.pidfd) = (1, 1));
    failing.judge("actions before argv", action, Failure::wrong(0, libc::EINVAL));
    let long = "x".repeat(128 * 1024);
    let argv = bad.clone().arg(&long).report_changed(|args| args.pidfd = 1);
    failing.judge("argv before pidfd", argv, Failure::at(Stage::Arguments, libc::E2BIG));
    let pidfd = bad.report_changed(|args| args.pidfd = 1);
    failing.judge("pidfd before the child", pidfd, Failure::at(Stage::Arguments, libc::EFAULT));
    failing.finish()?;
    // The result itself comes before everything that it could report.
    refused("result before flags", wrong.run_changed(|args| (args.flags, args.result) = (1 << 40, 1)), libc::EINVAL)?;
    let both = wrong.run_changed(|args| (args.flags, args.result, args.result_size) = (1 << 40, 1, 16));
    refused("unwritable result before flags", both, libc::EFAULT)?;

    in_worker(|| {
        os::become_user(12345)?;
        let mut failing = Failing::new()?;
        let report = wrong.report_changed(|args| (args.flags, args.argv, args.pidfd) = (1 << 40, 1, 1));
        failing.judge("credentials before flags", report, Failure::at(Stage::Identity, libc::EACCES));
        failing.finish()
    })?;
    let folder = Folder::tmp("result-first")?;
    let path = folder.copy("nothing")?;
    let stale = Template::path(&path)?;
    fs::write(&path, "something else")?;
    let mut failing = Failing::new()?;
    let spawn = stale.spawn().act(Act::Close(-1));
    failing.both("arguments before the file", &spawn, Failure::wrong(0, libc::EINVAL));
    failing.finish()
}

/// The result may even overwrite the arguments: they have been read by then.
fn caller_memory_of_actions() -> Outcome {
    let template = Template::child("nothing")?;
    let spawned: io::Result<Child> = template.spawn().act(Act::Dup2(900, 1)).run_changed(|args| {
        args.result = &raw mut *args as u64;
        args.result_size = 16;
    });
    refused("DUP2, the result over the arguments", spawned, libc::EBADF)?;
    let child = template.spawn().run_changed(|args| {
        args.result = &raw mut *args as u64;
        args.result_size = 16;
    })?;
    same!(child.wait()?, Status::Exited(0), "status with the result over the arguments");
    Ok(())
}
