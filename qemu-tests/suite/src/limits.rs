//! RLIMIT: what the child may use, from the next action on.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;

use spawn_template::uapi;

use crate::failing::{Failing, Failure, Stage};
use crate::harness::{Outcome, failed, in_worker};
use crate::os::{self, Status};
use crate::template::{Act, Open, SPAWN_SIZE, SpawnArgs, Template};
use crate::{ensure, same, tests};

tests!("limits":
    every_resource [180], infinity, last_one_wins, caller_keeps_its_limits, lowering_is_for_everybody, raising_takes_privilege,
    more_files_than_the_system_allows, open_files_count_at_once, open_from_a_folder_takes_a_number, open_files_can_be_raised, fewer_files_than_the_standard_three, stack_of_the_program, stack_and_arguments, smallest_stacks,
    stack_and_memory_layout, size_of_the_stack, core_file_size_of_zero,
);

/// Soft and hard limits that leave a dynamic program alive, for all resources there are.
const ALL: [(libc::__rlimit_resource_t, u64, u64); 16] = [
    (libc::RLIMIT_CPU, 1000, 2000),
    (libc::RLIMIT_FSIZE, 1 << 30, 1 << 31),
    (libc::RLIMIT_DATA, 1 << 31, 1 << 32),
    (libc::RLIMIT_STACK, 1 << 20, 1 << 21),
    (libc::RLIMIT_CORE, 0, 4096),
    (libc::RLIMIT_RSS, 1 << 33, 1 << 34),
    (libc::RLIMIT_NPROC, 500, 600),
    (libc::RLIMIT_NOFILE, 77, 99),
    (libc::RLIMIT_MEMLOCK, 4096, 8192),
    (libc::RLIMIT_AS, 1 << 40, 1 << 41),
    (libc::RLIMIT_LOCKS, 5, 6),
    (libc::RLIMIT_SIGPENDING, 50, 60),
    (libc::RLIMIT_MSGQUEUE, 1000, 2000),
    (libc::RLIMIT_NICE, 20, 30),
    (libc::RLIMIT_RTPRIO, 40, 50),
    (libc::RLIMIT_RTTIME, 1 << 40, 1 << 41),
];

fn every_resource() -> Outcome {
    let template = Template::child("show-static")?;
    for inherit in [false, true] {
        let spawn = template.spawn().inherit(inherit);
        for (resource, soft, hard) in ALL {
            let show = spawn.clone().act(Act::Rlimit(resource, soft, hard)).show()?;
            same!(show.limit(resource), [soft, hard], "limit {resource}");
        }
        let show = spawn.acts(ALL.map(|(resource, soft, hard)| Act::Rlimit(resource, soft, hard))).show()?;
        for (resource, soft, hard) in ALL {
            same!(show.limit(resource), [soft, hard], "limit {resource}, with all others");
        }
    }
    Ok(())
}

fn infinity() -> Outcome {
    let template = Template::child("show")?;
    for resource in [libc::RLIMIT_CORE, libc::RLIMIT_STACK, libc::RLIMIT_MEMLOCK, libc::RLIMIT_AS] {
        let show = template.spawn().act(Act::Rlimit(resource, u64::MAX, u64::MAX)).show()?;
        same!(show.limit(resource), [libc::RLIM_INFINITY; 2], "limit {resource}");
        let show = template.spawn().act(Act::Rlimit(resource, 1 << 40, u64::MAX)).show()?;
        same!(show.limit(resource), [1 << 40, libc::RLIM_INFINITY], "limit {resource}, half of it");
    }
    Ok(())
}

fn last_one_wins() -> Outcome {
    let acts = [(50, 500), (60, 400), (40, 300)].map(|(soft, hard)| Act::Rlimit(libc::RLIMIT_NOFILE, soft, hard));
    let show = Template::child("show")?.spawn().acts(acts).show()?;
    same!(show.limit(libc::RLIMIT_NOFILE), [40, 300], "limit");
    Ok(())
}

fn caller_keeps_its_limits() -> Outcome {
    let limits = || -> std::io::Result<Vec<(u64, u64)>> {
        ALL.iter().map(|&(resource, ..)| os::rlimit(resource).map(|limit| (limit.rlim_cur, limit.rlim_max))).collect()
    };
    let before = limits()?;
    let acts = ALL.map(|(resource, soft, hard)| Act::Rlimit(resource, soft, hard));
    let template = Template::child("nothing")?;
    same!(template.spawn().acts(acts.clone()).status()?, Status::Exited(0), "status");
    template.spawn().acts(acts).act(Act::Dup2(70, 1)).run().err();
    same!(limits()?, before, "the caller's limits");
    Ok(())
}

fn lowering_is_for_everybody() -> Outcome {
    in_worker(|| {
        os::become_user(12345)?;
        let template = Template::child("show")?;
        let hard = os::rlimit(libc::RLIMIT_NOFILE)?.rlim_max;
        for limit in [(10, hard), (hard, hard), (10, 20), (0, 0)] {
            let acts = [Act::Rlimit(libc::RLIMIT_CORE, 0, 0), Act::Rlimit(libc::RLIMIT_NOFILE, limit.0, limit.1)];
            if limit == (0, 0) {
                // No program could be started with it, but for one that opens nothing.
                let status = Template::child("nothing")?.spawn().acts(acts).status()?;
                same!(status, Status::Exited(0), "status without open files");
                continue;
            }
            let show = template.spawn().acts(acts).show()?;
            same!(show.limit(libc::RLIMIT_NOFILE), [limit.0, limit.1], "limit");
        }
        Ok(())
    })
}

fn raising_takes_privilege() -> Outcome {
    let template = Template::child("show")?;
    let hard = os::rlimit(libc::RLIMIT_NOFILE)?.rlim_max;
    let raise = Act::Rlimit(libc::RLIMIT_NOFILE, 10, hard + 1);
    same!(template.spawn().act(raise.clone()).show()?.limit(libc::RLIMIT_NOFILE), [10, hard + 1], "root's limit");
    in_worker(|| {
        os::become_user(12345)?;
        let template = Template::child("nothing")?;
        let mut failing = Failing::new()?;
        failing.both("one more", &template.spawn().act(raise.clone()), Failure::action(0, libc::EPERM));
        let back = [10, 20].map(|limit| Act::Rlimit(libc::RLIMIT_NOFILE, limit, limit));
        failing.both("back up again", &template.spawn().acts(back), Failure::action(1, libc::EPERM));
        failing.finish()
    })?;
    // What the child has become counts, not who asks.
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    let spawn = template.spawn().acts([Act::Setuid(12345), raise.clone()]);
    failing.both("after SETUID", &spawn, Failure::action(1, libc::EPERM));
    failing.finish()?;
    same!(template.spawn().acts([raise, Act::Setuid(12345)]).status()?, Status::Exited(0), "before SETUID");
    Ok(())
}

/// fs.nr_open holds for root too.
fn more_files_than_the_system_allows() -> Outcome {
    let most: u64 = std::fs::read_to_string("/proc/sys/fs/nr_open")?
        .trim()
        .parse()
        .map_err(|_| failed("fs.nr_open is no number"))?;
    let template = Template::child("nothing")?;
    let limit = |hard| template.spawn().act(Act::Rlimit(libc::RLIMIT_NOFILE, 10, hard));
    let mut failing = Failing::new()?;
    for hard in [most + 1, u64::MAX] {
        failing.both(format!("{hard} open files"), &limit(hard), Failure::action(0, libc::EPERM));
    }
    failing.finish()?;
    same!(limit(most).status()?, Status::Exited(0), "status with as many as the system allows");
    Ok(())
}

/// The limit of open files holds for the next action, not for those before.
fn open_files_count_at_once() -> Outcome {
    let template = Template::child("nothing")?;
    let limit = Act::Rlimit(libc::RLIMIT_NOFILE, 10, 10);
    let place = |number| [Act::Dup2(0, number), Act::Open(Open::new("/dev/null", libc::O_RDONLY, number))];
    let mut failing = Failing::new()?;
    for act in place(10) {
        let spawn = template.spawn().acts([limit.clone(), act]);
        failing.both("10 under a limit of 10", &spawn, Failure::action(1, libc::EBADF));
    }
    for (low, high) in place(9).into_iter().zip(place(10)) {
        let spawn = template.spawn().acts([high, limit.clone(), low]);
        same!(spawn.status()?, Status::Exited(0), "10 before the limit, 9 after");
        same!(spawn.inherit_fds().status()?, Status::Exited(0), "10 before the limit, 9 after, inheriting");
    }
    failing.finish()
}

/// A folder that only the caller has open gets a number of the child's while a path is resolved from it.
fn open_from_a_folder_takes_a_number() -> Outcome {
    let template = Template::child("nothing")?;
    let folder = File::open("/dev")?;
    let open = |newfd| Act::Open(Open::new("null", libc::O_RDONLY, newfd).at(folder.as_raw_fd()));
    let mut failing = Failing::new()?;
    let limit = |files| Act::Rlimit(libc::RLIMIT_NOFILE, files, files);
    let spawn = template.spawn().acts([limit(3), open(0)]);
    failing.spawn("0, 1 and 2 of 3", &spawn, Failure::action(1, libc::EMFILE));
    failing.finish()?;
    for acts in [[limit(4), open(0)], [limit(3), Act::Close(1)]] {
        same!(template.spawn().acts(acts).act(open(0)).status()?, Status::Exited(0), "with a number left");
    }
    Ok(())
}

fn open_files_can_be_raised() -> Outcome {
    os::set_rlimit(libc::RLIMIT_NOFILE, 64)?;
    let template = Template::child("nothing")?;
    let place = Act::Dup2(0, 500);
    let mut failing = Failing::new()?;
    failing.both("500 under a limit of 64", &template.spawn().act(place.clone()), Failure::action(0, libc::EBADF));
    failing.finish()?;
    let spawn = template.spawn().acts([Act::Rlimit(libc::RLIMIT_NOFILE, 1000, 1000), place]);
    same!(spawn.status()?, Status::Exited(0), "status under a higher limit");
    same!(spawn.inherit_fds().status()?, Status::Exited(0), "status under a higher limit, inheriting");
    Ok(())
}

/// A limit below what is open already takes nothing away: 0, 1 and 2 are inherited as by fork.
fn fewer_files_than_the_standard_three() -> Outcome {
    for limit in [0, 1, 2, 3] {
        for flags in [0, uapi::SPAWN_TEMPLATE_SPAWN_INHERIT_FDS] {
            in_worker(|| {
                let template = Template::child("nothing")?;
                os::set_rlimit(libc::RLIMIT_NOFILE, limit)?;
                let forked = os::fork()?;
                if forked == 0 {
                    let path = os::c_path(crate::template::child("nothing"));
                    os::execve(&path, &[c"child".to_owned()], &[]);
                    os::exit_now(1);
                }
                same!(os::waitpid(forked, 0)?.1, Status::Exited(0), "fork and execve under a limit of {limit}");
                // There is no number for a pidfd.
                let (argv, flags) = ([c"child".as_ptr() as u64, 0], flags | uapi::SPAWN_TEMPLATE_SPAWN_NO_PIDFD);
                let args = SpawnArgs { flags: flags.into(), argv: argv.as_ptr() as u64, ..Default::default() };
                let spawned = os::template_spawn(template.raw(), &raw const args as u64, SPAWN_SIZE);
                let pid =
                    spawned.map_err(|e| failed(format!("a spawn under a limit of {limit}, flags {flags}: {e}")))?;
                same!(os::waitpid(pid, 0)?.1, Status::Exited(0), "a spawn under a limit of {limit}, flags {flags}");
                // The check for what is left behind opens a file.
                Ok(os::set_rlimit(libc::RLIMIT_NOFILE, 1024)?)
            })?;
        }
    }
    Ok(())
}

/// A program that needs more than its stack is ended by SIGSEGV.
fn stack_of_the_program() -> Outcome {
    let template = Template::path("/bin/bash")?;
    // Each call of the function takes some stack.
    let script = "f() { [ $1 -gt 0 ] && f $(($1 - 1)); }; f 400; exit 5";
    let spawn = template.spawn().argv(["bash", "-c", script]).act(Act::Rlimit(libc::RLIMIT_CORE, 0, 0));
    let with = |size| spawn.clone().act(Act::Rlimit(libc::RLIMIT_STACK, size, size)).status();
    same!(with(8 << 20)?, Status::Exited(5), "status with 8 MiB");
    same!(with(192 << 10)?, Status::Signaled(libc::SIGSEGV), "status with 192 KiB");
    Ok(())
}

/// A quarter of the new program's stack limit is what its arguments may take.
fn stack_and_arguments() -> Outcome {
    let template = Template::child("nothing")?;
    let chunk = "x".repeat(50_000);
    let spawn = |count| {
        let stack = Act::Rlimit(libc::RLIMIT_STACK, 1 << 20, 1 << 20);
        template.spawn().argv(std::iter::repeat_n(chunk.as_str(), count)).act(stack)
    };
    same!(spawn(4).status()?, Status::Exited(0), "status with 200 kB of arguments in 1 MiB of stack");
    let mut failing = Failing::new()?;
    failing.both("350 kB of arguments in 1 MiB of stack", &spawn(7), Failure::at(Stage::Exec, libc::E2BIG));
    failing.finish()?;
    Ok(())
}

/// The error of fork, setrlimit and execve of `nothing` with these arguments, or 0.
fn exec_with_stack(size: u64, argv: &[CString]) -> Outcome<i32> {
    let path = os::c_path(crate::template::child("nothing"));
    let pid = os::fork()?;
    if pid == 0 {
        let error = os::set_hard_rlimit(libc::RLIMIT_STACK, size, size).map(|()| os::execve(&path, argv, &[]));
        os::exit_now(error.unwrap_or_else(|e| e).raw_os_error().unwrap_or(255));
    }
    match os::waitpid(pid, 0)?.1 {
        Status::Exited(error) => Ok(error),
        other => Err(failed(format!("the traditional way ended with {other:?}"))),
    }
}

/// With hardly any stack, the error is execve's.
fn smallest_stacks() -> Outcome {
    let template = Template::child("nothing")?;
    for (size, count) in [(4096, 1), (4096, 2), (64 << 10, 1), (64 << 10, 2), (256 << 10, 2), (256 << 10, 4)] {
        let argv = vec![os::c_path("x".repeat(50_000)); count];
        let strings = argv.iter().map(|arg| arg.to_string_lossy());
        let (child, result) = template.spawn().argv(strings).act(Act::Rlimit(libc::RLIMIT_STACK, size, size)).report();
        let error = match child {
            Ok(child) => {
                same!(child.wait()?, Status::Exited(0), "status");
                0
            }
            Err(error) => error.raw_os_error().unwrap_or_default(),
        };
        same!(error, result.error, "error reported with {size} bytes of stack and {count} arguments");
        same!(error, exec_with_stack(size, &argv)?, "error with {size} bytes of stack and {count} arguments");
    }
    Ok(())
}

/// Where a process's libraries lie, as an address, by its mappings.
fn library_address(stack: u64) -> Outcome<u64> {
    let template = Template::path("/bin/cat")?;
    let limit = Act::Rlimit(libc::RLIMIT_STACK, stack, libc::RLIM_INFINITY);
    let (status, output) = template.spawn().argv(["cat", "/proc/self/maps"]).act(limit).output()?;
    same!(status, Status::Exited(0), "cat's status");
    let text = String::from_utf8_lossy(&output);
    let line = text.lines().find(|line| line.contains("libc.so.6")).unwrap_or_default();
    u64::from_str_radix(line.split('-').next().unwrap_or_default(), 16)
        .map_err(|_| failed(format!("no libc among the mappings: {text}")))
}

/// Mappings lie below the room that the limit leaves for the stack.
fn stack_and_memory_layout() -> Outcome {
    let (low, high) = (library_address(u64::MAX)?, library_address(8 << 20)?);
    // An unlimited stack gets five sixths of the address space.
    ensure!(low < 0x2000_0000_0000, "libc at {low:#x} with an unlimited stack");
    ensure!(high > 0x7000_0000_0000, "libc at {high:#x} with a stack of 8 MiB");
    Ok(())
}

/// The size in bytes of the stack, among the mappings that a process shows of itself.
fn stack_in(maps: &[u8]) -> Outcome<u64> {
    let text = String::from_utf8_lossy(maps);
    let range = text.lines().find(|line| line.ends_with("[stack]")).and_then(|line| line.split(' ').next());
    let ends: Vec<u64> = range.into_iter().flat_map(|range| range.split('-')).map_while(hexadecimal).collect();
    match ends[..] {
        [start, end] => Ok(end - start),
        _ => Err(failed(format!("no stack among the mappings: {text}"))),
    }
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// The stack is as large as after exec, whatever the caller's limit, the child's own, and the size of the environment.
fn size_of_the_stack() -> Outcome {
    for (callers, childs) in [(8 << 20, 8 << 20), (8 << 20, 64 << 10), (8 << 20, 100_000), (64 << 10, 8 << 20)] {
        for (size, count) in [(1, 1), (3000, 1), (3000, 4), (30_000, 1)] {
            let what = format!("stack limits {callers} and {childs}, {count} variables of {size} bytes");
            let variables = || (0..count).map(|i| (format!("V{i}"), "x".repeat(size)));
            let environment = variables().map(|(name, value)| format!("{name}={value}"));
            in_worker(|| {
                os::set_rlimit(libc::RLIMIT_STACK, callers)?;
                let template = Template::path("/bin/cat")?;
                let limit = Act::Rlimit(libc::RLIMIT_STACK, childs, libc::RLIM_INFINITY);
                let spawn = template.spawn().argv(["/bin/cat", "/proc/self/maps"]).envp(environment).act(limit);
                let mut stacks = Vec::new();
                // The second one has its pages mapped beforehand.
                for _ in 0..2 {
                    let (status, output) = spawn.output()?;
                    same!(status, Status::Exited(0), "cat's status, {what}");
                    stacks.push(stack_in(&output)?);
                }
                os::set_rlimit(libc::RLIMIT_STACK, childs)?;
                let output = Command::new("/bin/cat").arg("/proc/self/maps").env_clear().envs(variables()).output()?;
                let usual = stack_in(&output.stdout)?;
                same!(stacks, [usual, usual], "size of the stack, {what}");
                Ok(())
            })?;
        }
    }
    Ok(())
}

fn core_file_size_of_zero() -> Outcome {
    let folder = crate::template::Folder::tmp("core")?;
    let directory = std::fs::File::open(folder.path())?;
    let acts = [Act::Rlimit(libc::RLIMIT_CORE, 0, 0), Act::Fchdir(directory.as_raw_fd())];
    let child = Template::child("sleep")?.spawn().acts(acts).run()?;
    os::kill(child.pid, libc::SIGABRT)?;
    same!(child.wait()?, Status::Signaled(libc::SIGABRT), "status");
    same!(std::fs::read_dir(folder.path())?.count(), 0, "files that the death left");
    Ok(())
}
