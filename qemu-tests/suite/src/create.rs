//! `spawn_template_create`: what it accepts, and every way it refuses.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use spawn_template::uapi;

use crate::harness::{Checks, Outcome, in_worker, refused};
use crate::os::{self, Pages, Status};
use crate::template::{CREATE_SIZE, CreateArgs, Folder, Template, child, create, create_by_path, set_mode};
use crate::{ensure, same, tests};

tests!("create":
    by_path, by_fd, by_o_path_fd, by_memfd, through_symlink, cloexec_on_request, lowest_fd, structure_size,
    zero_tail, nonzero_tail, unknown_flags, unused_fields, bad_argument_pointer,
    bad_path_pointer, path_walk, path_permission, path_too_long, execfd_not_open, execfd_of_other_kinds,
    not_regular_by_path, not_executable, not_executable_for_user, execute_only, noexec_mount, open_for_writing, out_of_fds,
    leaves_writers_alone, no_fd_on_failure,
);

fn by_path() -> Outcome {
    let template = Template::child("nothing")?;
    same!(template.status()?, Status::Exited(0), "status");
    same!(template.counts()?, (1, 0), "spawns and failures");
    Ok(())
}

fn by_fd() -> Outcome {
    let file = File::open(child("exit-code"))?;
    let template = Template::of_fd(&file)?;
    // The template keeps the file itself.
    drop(file);
    same!(template.spawn().arg("7").status()?, Status::Exited(7), "status");
    same!(template.counts()?, (1, 0), "spawns and failures");
    Ok(())
}

fn by_o_path_fd() -> Outcome {
    let file = os::open(child("exit-code"), libc::O_PATH)?;
    let template = Template::of_fd(&file)?;
    same!(template.spawn().arg("8").status()?, Status::Exited(8), "status");
    Ok(())
}

fn by_memfd() -> Outcome {
    let mut file = os::memfd(c"program")?;
    std::io::copy(&mut File::open(child("nothing"))?, &mut file)?;
    // The descriptor that memfd_create() returns does not count as a writer.
    same!(Template::of_fd(&file)?.status()?, Status::Exited(0), "status of a memfd that can be written");
    let readable = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    drop(file);
    let template = Template::of_fd(&readable)?;
    same!(template.status()?, Status::Exited(0), "status");
    Ok(())
}

fn through_symlink() -> Outcome {
    let folder = Folder::tmp("symlink")?;
    symlink(child("nothing"), folder.join("one"))?;
    symlink("one", folder.join("two"))?;
    same!(Template::path(folder.join("two"))?.status()?, Status::Exited(0), "status");
    Ok(())
}

fn cloexec_on_request() -> Outcome {
    let path = os::c_path(child("nothing"));
    let template = create(&create_by_path(&path))?;
    ensure!(os::is_cloexec(template.raw())?, "FD_CLOEXEC was asked for and is not set");
    let template = create(&CreateArgs { flags: 0, ..create_by_path(&path) })?;
    ensure!(!os::is_cloexec(template.raw())?, "FD_CLOEXEC was not asked for and is set");
    same!(template.status()?, Status::Exited(0), "status");
    Ok(())
}

fn lowest_fd() -> Outcome {
    let lowest = File::open("/dev/null")?.as_raw_fd();
    let template = Template::child("nothing")?;
    same!(template.raw(), lowest, "the template's number");
    Ok(())
}

/// A page whose start holds valid arguments and the rest is `fill`; the path must outlive it.
fn page_of_arguments(path: &std::ffi::CString, pages: usize, fill: u8) -> std::io::Result<Pages> {
    let mut page = Pages::new(pages)?;
    page.bytes().fill(fill);
    let args = create_by_path(path);
    let words = [args.flags, u64::from(args.execfd as u32), args.filename, 0, 0, 0, 0, 0, 0];
    for (slot, word) in page.bytes().chunks_exact_mut(8).zip(words) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    Ok(page)
}

fn structure_size() -> Outcome {
    let path = os::c_path(child("nothing"));
    let page = page_of_arguments(&path, 2, 0)?;
    let mut checks = Checks::default();
    same!(CREATE_SIZE, 72, "size of the structure");
    for size in [0, 1, 8, 16, 40, 64, 71] {
        checks.refused(format!("size {size}"), os::template_create(page.start(), size), &[libc::EINVAL]);
    }
    for size in [4097, 8192, 1 << 20, u32::MAX as usize, 1 << 32, usize::MAX - 7, usize::MAX] {
        checks.refused(format!("size {size}"), os::template_create(page.start(), size), &[libc::E2BIG]);
    }
    // The low 32 bits alone would be a good size.
    checks.refused("size 2^32 + 72", os::template_create(page.start(), (1 << 32) + 72), &[libc::E2BIG]);
    checks.accepted("size 72", os::template_create(page.start(), 72));
    checks.finish()
}

fn zero_tail() -> Outcome {
    let path = os::c_path(child("nothing"));
    let page = page_of_arguments(&path, 1, 0)?;
    let mut checks = Checks::default();
    for size in [73, 79, 80, 88, 1000, 4095, 4096] {
        checks.accepted(format!("size {size}"), os::template_create(page.start(), size));
    }
    checks.finish()
}

fn nonzero_tail() -> Outcome {
    let path = os::c_path(child("nothing"));
    let mut checks = Checks::default();
    for (offset, size) in [(72, 73), (72, 80), (79, 80), (72, 4096), (200, 4096), (4095, 4096)] {
        let mut page = page_of_arguments(&path, 1, 0)?;
        page.bytes()[offset] = 1;
        let result = os::template_create(page.start(), size);
        checks.refused(format!("byte {offset} of {size}"), result, &[libc::E2BIG]);
        checks.accepted(format!("size {offset}"), os::template_create(page.start(), offset));
    }
    checks.finish()
}

fn unknown_flags() -> Outcome {
    let path = os::c_path(child("nothing"));
    let mut checks = Checks::default();
    for bit in 2..64 {
        let known = uapi::SPAWN_TEMPLATE_CREATE_CLOEXEC | uapi::SPAWN_TEMPLATE_CREATE_NO_LEARNING;
        for known in [0, u64::from(known)] {
            let args = CreateArgs { flags: known | 1 << bit, ..create_by_path(&path) };
            checks.refused(format!("flag bit {bit}"), create(&args), &[libc::EINVAL]);
        }
    }
    checks.finish()
}

fn unused_fields() -> Outcome {
    let path = os::c_path(child("nothing"));
    let good = create_by_path(&path);
    let mut checks = Checks::default();
    for value in [1, 1 << 32, &raw const good as u64, u64::MAX] {
        checks.refused("actions", create(&CreateArgs { actions: value, ..good }), &[libc::EINVAL]);
        checks.refused("actions_len", create(&CreateArgs { actions_len: value, ..good }), &[libc::EINVAL]);
        for i in 0..4 {
            let mut args = good;
            args.reserved[i] = value;
            checks.refused(format!("reserved[{i}]"), create(&args), &[libc::EINVAL]);
        }
    }
    checks.finish()
}

fn bad_argument_pointer() -> Outcome {
    let path = os::c_path(child("nothing"));
    let mut page = page_of_arguments(&path, 1, 0)?;
    let whole = page.bytes()[..CREATE_SIZE].to_vec();
    let mut checks = Checks::default();
    for address in [0, 1, 72, page.hole(), 0x7fff_ffff_f000, 1 << 47, 1 << 63, u64::MAX - 100, u64::MAX] {
        checks.refused(format!("{address:#x}"), os::template_create(address, CREATE_SIZE), &[libc::EFAULT]);
    }
    for missing in [1, 8, 71] {
        let address = page.at_end(&whole[..CREATE_SIZE - missing]);
        checks.refused(format!("last {missing}"), os::template_create(address, CREATE_SIZE), &[libc::EFAULT]);
    }
    let address = page.at_end(&whole);
    checks.accepted("right up to the hole", os::template_create(address, CREATE_SIZE));
    checks.refused("a tail in the hole", os::template_create(address, CREATE_SIZE + 8), &[libc::EFAULT]);
    checks.finish()
}

fn bad_path_pointer() -> Outcome {
    let path = os::c_path(child("nothing"));
    let mut page = Pages::new(1)?;
    let good = create_by_path(&path);
    let mut checks = Checks::default();
    for address in [1, 4095, page.hole(), 0x7fff_ffff_f000, 1 << 47, 1 << 63, u64::MAX] {
        let result = create(&CreateArgs { filename: address, ..good });
        checks.refused(format!("{address:#x}"), result, &[libc::EFAULT]);
    }
    let filename = page.at_end(path.as_bytes());
    checks.refused("no NUL before the hole", create(&CreateArgs { filename, ..good }), &[libc::EFAULT]);
    let filename = page.at_end(path.as_bytes_with_nul());
    checks.accepted("right up to the hole", create(&CreateArgs { filename, ..good }));
    checks.finish()
}

fn path_walk() -> Outcome {
    let folder = Folder::tmp("walk")?;
    symlink("loop", folder.join("loop"))?;
    symlink("nowhere", folder.join("dangling"))?;
    let mut checks = Checks::default();
    checks.refused("missing", Template::path(folder.join("missing")), &[libc::ENOENT]);
    checks.refused("missing folder", Template::path(folder.join("missing/file")), &[libc::ENOENT]);
    checks.refused("dangling symlink", Template::path(folder.join("dangling")), &[libc::ENOENT]);
    checks.refused("symlink loop", Template::path(folder.join("loop")), &[libc::ELOOP]);
    checks.refused("below a file", Template::path(child("nothing/below")), &[libc::ENOTDIR]);
    checks.refused("slash after a file", Template::path(child("nothing/")), &[libc::ENOTDIR]);
    checks.finish()
}

fn path_permission() -> Outcome {
    let folder = Folder::tmp("search")?;
    let path = folder.copy("nothing")?;
    set_mode(folder.path(), 0o700)?;
    in_worker(|| {
        os::become_user(12345)?;
        refused("a folder that may not be searched", Template::path(&path), libc::EACCES)
    })
}

fn path_too_long() -> Outcome {
    let mut checks = Checks::default();
    let component = format!("/tmp/{}", "x".repeat(256));
    checks.refused("component of 256", Template::path(component), &[libc::ENAMETOOLONG]);
    for length in [4096, 5000, 1 << 20] {
        let path = format!("{}{}", "/".repeat(length - 3), "tmp");
        checks.refused(format!("path of {length}"), Template::path(path), &[libc::ENAMETOOLONG]);
    }
    let program = child("nothing");
    let longest = format!("{}{program}", "/".repeat(4095 - program.len()));
    checks.accepted("path of 4095", Template::path(longest));
    checks.finish()
}

fn execfd_not_open() -> Outcome {
    let mut checks = Checks::default();
    for fd in [100, 1023, 1 << 20, i32::MAX] {
        let args = CreateArgs { execfd: fd, ..Default::default() };
        checks.refused(format!("fd {fd}"), create(&args), &[libc::EBADF]);
    }
    checks.finish()
}

fn execfd_of_other_kinds() -> Outcome {
    let folder = Folder::tmp("kinds")?;
    let text = folder.join("text");
    fs::write(&text, "no program")?;
    let (pipe, _writer) = os::pipe()?;
    let (socket, _peer) = os::socketpair()?;
    let template = Template::child("nothing")?;
    let mut checks = Checks::default();
    checks.refused("folder", Template::of_fd(&File::open("/")?), &[libc::EACCES]);
    checks.refused("O_PATH folder", Template::of_fd(&os::open("/", libc::O_PATH)?), &[libc::EACCES]);
    checks.refused("character device", Template::of_fd(&File::open("/dev/null")?), &[libc::EACCES]);
    checks.refused("pipe", Template::of_fd(&pipe), &[libc::EACCES]);
    checks.refused("socket", Template::of_fd(&socket), &[libc::EACCES]);
    checks.refused("template", Template::of_fd(&template.fd), &[libc::EACCES]);
    checks.refused("file without x", Template::of_fd(&File::open(&text)?), &[libc::EACCES]);
    let link = folder.join("link");
    symlink(child("nothing"), &link)?;
    let link = os::open(&link, libc::O_PATH | libc::O_NOFOLLOW)?;
    // What execveat() says about a symbolic link itself.
    checks.refused("O_PATH symlink", Template::of_fd(&link), &[libc::ELOOP, libc::EACCES]);
    checks.finish()
}

fn not_regular_by_path() -> Outcome {
    let folder = Folder::tmp("irregular")?;
    let (fifo, socket) = (folder.join("fifo"), folder.join("socket"));
    os::mkfifo(&fifo)?;
    set_mode(&fifo, 0o777)?;
    let _listener = UnixListener::bind(&socket)?;
    let mut checks = Checks::default();
    for path in [folder.path(), "/", "/dev/null", &fifo, &socket, "/dev/vda"] {
        checks.refused(path, Template::path(path), &[libc::EACCES]);
    }
    checks.finish()
}

fn not_executable() -> Outcome {
    let folder = Folder::tmp("mode")?;
    let path = folder.copy("nothing")?;
    let mut checks = Checks::default();
    for mode in [0o644, 0o600, 0o000, 0o4644] {
        set_mode(&path, mode)?;
        checks.refused(format!("mode {mode:o}"), Template::path(&path), &[libc::EACCES]);
        checks.refused(format!("mode {mode:o}, fd"), Template::of_fd(&File::open(&path)?), &[libc::EACCES]);
    }
    // Root may execute what anybody may.
    set_mode(&path, 0o001)?;
    checks.accepted("mode 001", Template::path(&path));
    checks.finish()
}

fn not_executable_for_user() -> Outcome {
    let folder = Folder::tmp("user-mode")?;
    set_mode(folder.path(), 0o755)?;
    let path = folder.copy("nothing")?;
    set_mode(&path, 0o744)?;
    in_worker(|| {
        os::become_user(12345)?;
        refused("by path", Template::path(&path), libc::EACCES)?;
        refused("by fd", Template::of_fd(&File::open(&path)?), libc::EACCES)
    })
}

fn execute_only() -> Outcome {
    let folder = Folder::tmp("execute-only")?;
    set_mode(folder.path(), 0o755)?;
    let path = folder.copy("nothing")?;
    set_mode(&path, 0o711)?;
    in_worker(|| {
        os::become_user(12345)?;
        refused("reading", File::open(&path), libc::EACCES)?;
        same!(Template::path(&path)?.status()?, Status::Exited(0), "status by path");
        same!(Template::of_fd(&os::open(&path, libc::O_PATH)?)?.status()?, Status::Exited(0), "status by O_PATH fd");
        Ok(())
    })
}

fn noexec_mount() -> Outcome {
    os::private_mounts()?;
    let folder = Folder::tmp("noexec")?;
    os::mount("tmpfs", folder.path(), "tmpfs", libc::MS_NOEXEC, "")?;
    let path = folder.copy("nothing")?;
    let mut checks = Checks::default();
    checks.refused("by path", Template::path(&path), &[libc::EACCES]);
    checks.refused("by fd", Template::of_fd(&File::open(&path)?), &[libc::EACCES]);
    os::mount("", folder.path(), "", libc::MS_REMOUNT, "")?;
    checks.accepted("remounted exec", Template::path(&path));
    os::unmount(folder.path())?;
    checks.finish()
}

fn open_for_writing() -> Outcome {
    let folder = Folder::tmp("busy")?;
    let path = folder.copy("nothing")?;
    let mut checks = Checks::default();
    for read in [false, true] {
        let writer = OpenOptions::new().read(read).write(true).open(&path)?;
        checks.refused("by path", Template::path(&path), &[libc::ETXTBSY]);
        checks.refused("by the writer itself", Template::of_fd(&writer), &[libc::ETXTBSY]);
        checks.refused("by another fd", Template::of_fd(&File::open(&path)?), &[libc::ETXTBSY]);
    }
    checks.accepted("after closing", Template::path(&path));
    checks.finish()
}

fn out_of_fds() -> Outcome {
    let lowest = File::open("/dev/null")?.as_raw_fd();
    let limit = os::rlimit(libc::RLIMIT_NOFILE)?.rlim_cur;
    os::set_rlimit(libc::RLIMIT_NOFILE, lowest as u64)?;
    let result = Template::child("nothing");
    os::set_rlimit(libc::RLIMIT_NOFILE, limit)?;
    refused("no number left", result, libc::EMFILE)?;
    os::set_rlimit(libc::RLIMIT_NOFILE, lowest as u64 + 1)?;
    let result = Template::child("nothing").map(drop);
    os::set_rlimit(libc::RLIMIT_NOFILE, limit)?;
    Ok(result?)
}

/// A template that just exists denies nobody to write its file.
fn leaves_writers_alone() -> Outcome {
    let folder = Folder::tmp("writers")?;
    let path = folder.copy("nothing")?;
    let _template = Template::path(&path)?;
    OpenOptions::new().write(true).open(&path)?;
    Ok(())
}

/// Many failures in a row leave no descriptor behind (the harness compares).
fn no_fd_on_failure() -> Outcome {
    let folder = Folder::tmp("no-fd")?;
    let text = folder.join("text");
    fs::write(
        &text,
        "no program at all, but executable, and longer than a header would be if it were one; ".repeat(4),
    )?;
    set_mode(&text, 0o755)?;
    let file = File::open(&text)?;
    for _ in 0..50 {
        refused("text by path", Template::path(&text), libc::ENOEXEC)?;
        refused("text by fd", Template::of_fd(&file), libc::ENOEXEC)?;
        refused("missing", Template::path("/missing"), libc::ENOENT)?;
    }
    Ok(())
}
